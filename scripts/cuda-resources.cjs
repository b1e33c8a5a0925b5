'use strict'
// Reads what nvcc makes of each kernel: registers, blocks a multiprocessor, instructions, and those of the loop that multiplies.
//   node scripts/cuda-resources.cjs            prints the table of native/cuda/README.md
//   node scripts/cuda-resources.cjs --write    writes it there
// Registers are what ptxas says. Instructions are counted in the machine code itself, as neither cuobjdump nor nvdisasm comes
// with every toolkit: an instruction has 16 bytes, whose lowest 12 bits say what it is.
const { execFileSync, spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..')
const readme = path.join(root, 'native', 'cuda', 'README.md')
const architecture = 'sm_90'
const precisions = ['bfloat16', 'tf32', 'float32']

const instructionBytes = 16
const opcodes = { nop: 0x918, branch: 0x947, tensor: 0x23c, multiplyAdd: 0x223 }
/** A loop with so many products is the one over a tile's slabs. */
const fewestProducts = 32

/** A multiprocessor of compute capability 9.0: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". */
const multiprocessor = { registers: 65536, threads: 2048, blocks: 32 }

const nvccVersion = () =>
  /V(\d+\.\d+\.\d+)/.exec(execFileSync('nvcc', ['--version'], { encoding: 'utf8' }))?.[1]

/** Sections of an ELF file by their names. */
function sectionsOf(elf) {
  const offset = Number(elf.readBigUInt64LE(0x28))
  const size = elf.readUInt16LE(0x3a)
  const headers = Array.from({ length: elf.readUInt16LE(0x3c) }, (_, i) => {
    const at = offset + i * size
    const begin = Number(elf.readBigUInt64LE(at + 0x18))
    return {
      name: elf.readUInt32LE(at),
      bytes: elf.subarray(begin, begin + Number(elf.readBigUInt64LE(at + 0x20))),
    }
  })
  const names = headers[elf.readUInt16LE(0x3e)].bytes
  return new Map(
    headers.map(({ name, bytes }) => [names.toString('latin1', name, names.indexOf(0, name)), bytes])
  )
}

/** The threads of a block by __launch_bounds__: attribute 5 of `.nv.info.<kernel>`, a list of format, attribute, value. */
function threadsOf(info) {
  for (let at = 0; at < info.length; ) {
    const [format, attribute] = [info[at], info[at + 1]]
    const length = format === 4 ? info.readUInt16LE(at + 2) : 0 // of a value that follows
    if (attribute === 5) return info.readUInt32LE(at + 4)
    at += 4 + length
  }
  return undefined
}

/**
 * The place where a branch leads: words of four bytes from the instruction behind it, whose lowest 8 bits are bits 16 to 23 and whose
 * other ones begin at bit 34 (read off nvdisasm's listing for sm_90).
 */
function targetOf(text, at) {
  const words = (text.readInt32LE(at + 4) >> 2) * 256 + text[at + 2]
  return (at + instructionBytes + words * 4) / instructionBytes
}

/** Tells what each instruction is, and for a branch where it leads; leaves out the padding at the end. */
function instructionsOf(text) {
  const list = []
  for (let at = 0; at < text.length; at += instructionBytes) {
    const opcode = text.readUInt16LE(at) & 0xfff
    list.push({ opcode, target: opcode === opcodes.branch ? targetOf(text, at) : undefined })
  }
  while (list.at(-1)?.opcode === opcodes.nop) list.pop()
  if (list.at(-1)?.target === list.length - 1) list.pop() // a branch to itself, behind the end
  return list
}

/** The innermost loop with the most products, on tensor cores or else in float32: how long it is, and how many they are. */
function innerLoopOf(list) {
  const loops = list.flatMap(({ target }, end) => (target <= end ? [{ begin: target, end }] : []))
  const innermost = loops.filter(
    (outer) => !loops.some((inner) => inner !== outer && inner.begin >= outer.begin && inner.end <= outer.end)
  )
  for (const [name, opcode] of [
    ['HMMA', opcodes.tensor],
    ['FFMA', opcodes.multiplyAdd],
  ]) {
    const counted = innermost.map(({ begin, end }) => ({
      length: end - begin + 1,
      name,
      products: list.slice(begin, end + 1).filter((one) => one.opcode === opcode).length,
    }))
    const best = counted.sort((a, b) => b.products - a.products || a.length - b.length)[0]
    if (best && best.products >= fewestProducts) return best
  }
  return undefined
}

function describe(mangled, demangled, sections, registers) {
  const text = instructionsOf(sections.get(`.text.${mangled}`))
  const [, name, templates = ''] = /(\w+)(<.*>)?\(/.exec(demangled.replaceAll('(anonymous namespace)::', ''))
  const precision = /Tf32/.test(templates)
    ? 'tf32'
    : /bfloat16/.test(templates)
      ? 'bfloat16'
      : /float|MultiplyAdd/.test(templates)
        ? 'float32'
        : ''
  const threads = threadsOf(sections.get(`.nv.info.${mangled}`))
  const perThread = Math.ceil(registers / 8) * 8
  const blocks = threads && [
    Math.floor(multiprocessor.registers / perThread / threads),
    Math.floor(multiprocessor.threads / threads),
    multiprocessor.blocks,
  ]
  return {
    name,
    precision,
    registers,
    blocks: blocks && Math.min(...blocks),
    instructions: text.length,
    loop: innerLoopOf(text),
  }
}

/** Compiles a file's kernels alone; fails where one spills, or where nvcc has anything to say but their resources. */
function compileFile(file, arch, folder) {
  const cubin = path.join(folder, `${path.basename(file)}.cubin`)
  const flags = ['-std=c++17', `-arch=${arch}`, '-Xptxas', '-v,--warn-on-spills,--warning-as-error']
  const { status, stderr, error } = spawnSync('nvcc', [...flags, '-cubin', file, '-o', cubin], {
    cwd: root,
    encoding: 'utf8',
  })
  const expected = /^(ptxas info .*|\s*\d+ bytes stack frame, 0 bytes spill stores, 0 bytes spill loads)$/
  const complaints = stderr.split('\n').filter((line) => line !== '' && !expected.test(line))
  if (status !== 0 || complaints.length > 0) throw new Error(`nvcc ${file}: ${error ?? stderr}`)
  const used = stderr.matchAll(/Compiling entry function '(\w+)' for[\s\S]*?Used (\d+) registers/g)
  const kernels = [...used].map(([, mangled, registers]) => ({ mangled, registers: Number(registers) }))
  if (kernels.length === 0) return []
  const input = kernels.map(({ mangled }) => mangled).join('\n')
  const demangled = execFileSync('c++filt', { input, encoding: 'utf8' }).trim().split('\n')
  const sections = sectionsOf(fs.readFileSync(cubin))
  return kernels.map(({ mangled, registers }, i) => describe(mangled, demangled[i], sections, registers))
}

/** Every kernel of native/cuda, compiled for an architecture. */
function compile(arch) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-nvcc-'))
  try {
    return fs
      .readdirSync(path.join(root, 'native', 'cuda'))
      .filter((file) => file.endsWith('.cu'))
      .flatMap((file) => compileFile(path.join('native', 'cuda', file), arch, folder))
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

const counted = (value) => value.toLocaleString('en')
/** One number, or the least and the most of those that differ by template parameters. */
function range(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)]
  return least === most ? counted(least) : `${counted(least)}–${counted(most)}`
}

/** The table's lines: a row for each kernel, a value for each precision. */
function tableOf(kernels) {
  const names = [...new Set(kernels.map(({ name }) => name))].sort()
  const rows = names.map((name) => {
    const own = kernels.filter((kernel) => kernel.name === name)
    const groups = [...precisions, '']
      .map((precision) => own.filter((kernel) => kernel.precision === precision))
      .filter((group) => group.length > 0)
    const cell = (valuesOf) => groups.map((group) => valuesOf(group)).join(' / ')
    const of = (what) =>
      cell((group) => (group[0][what] === undefined ? '–' : range(group.map((one) => one[what]))))
    const hasLoop = own.some(({ loop }) => loop)
    const loop = hasLoop
      ? cell((group) => {
          const loops = group.flatMap((one) => one.loop ?? [])
          if (loops.length === 0) return '–'
          return `${range(loops.map(({ length }) => length))} (${range(loops.map((one) => one.products))} ${loops[0].name})`
        })
      : ''
    return {
      hasLoop,
      line: `| ${name} | ${of('registers')} | ${of('blocks')} | ${of('instructions')} | ${loop} |`,
    }
  })
  return [
    '| kernel | registers | blocks a multiprocessor | instructions | of them in the loop over slabs |',
    '|---|--:|--:|--:|--:|',
    ...rows.filter(({ hasLoop }) => hasLoop).map(({ line }) => line),
    ...rows.filter(({ hasLoop }) => !hasLoop).map(({ line }) => line),
  ].join('\n')
}

/** The table with the compiler that it is of, as it stands in the README. */
const sectionOf = (kernels) => `nvcc ${nvccVersion()}, ${architecture}:\n\n${tableOf(kernels)}`
const place = /(<!-- resources: .*-->)([\s\S]*?)(<!-- end -->)/
const sectionInReadme = () => place.exec(fs.readFileSync(readme, 'utf8'))?.[2].trim()

function write(section) {
  const text = fs.readFileSync(readme, 'utf8')
  if (!place.test(text)) throw new Error(`Expected <!-- resources: … --> and <!-- end --> in ${readme}`)
  fs.writeFileSync(
    readme,
    text.replace(place, (_, begin, _old, end) => `${begin}\n\n${section}\n\n${end}`)
  )
}

module.exports = { architecture, compile, nvccVersion, sectionInReadme, sectionOf }
if (require.main === module) {
  const section = sectionOf(compile(architecture))
  console.log(section)
  if (process.argv.includes('--write')) write(section)
}
