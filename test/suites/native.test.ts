// The addon is found, is told how to run, and says what happens when the machine fails.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { machinePeak } from '../../lib/execution'
import { instructionSets } from '../../lib/internal/native'
import { explain } from '../../lib/internal/native-failure'
import { binaryFile } from '../../lib/internal/native-file'

const test = suite('native')
const root = path.join(__dirname, '../..')
const library = path.join(root, 'lib', 'index.ts')

/** Runs code against lib/ in a process of its own, with `api` bound to it. */
function run(code: string, env: NodeJS.ProcessEnv, entry = library) {
  const text = `const api = require(${JSON.stringify(entry)})\n${code}`
  return spawnSync(process.execPath, ['--require', 'tsx/cjs', '-e', text], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })
}

const step = `api.marginLossSync({ input: new Float32Array(2), weight: new Float32Array(4), labels: [0], dim: 2 })`

test('MARGIN_SOFTMAX_BINARY names the binary; one that is missing or no addon is refused by name', () => {
  const there = path.join(root, 'build/Release/margin_softmax.node')
  if (fs.existsSync(there)) assert.is(run(step, { MARGIN_SOFTMAX_BINARY: there }).status, 0)
  for (const wrong of ['nowhere.node', path.join(root, 'LICENSE')]) {
    const { status, stderr } = run(step, { MARGIN_SOFTMAX_BINARY: wrong })
    assert.is.not(status, 0)
    assert.match(stderr, /ERR_NATIVE_MISSING|MARGIN_SOFTMAX_BINARY/)
    assert.ok(stderr.includes(wrong), stderr)
  }
})

test('portable code is always there, last', () => {
  assert.is(instructionSets().pop(), 'portable')
})

test('the instruction sets are those that the kernel sees in this processor', () => {
  if (process.platform !== 'linux' || process.arch !== 'x64') return // others have no such list
  const flags = /^flags\s*:(.*)$/m.exec(fs.readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' ') ?? []
  const avx2 = ['avx2', 'fma']
  const avx512 = [...avx2, 'avx512f', 'avx512dq', 'avx512bw', 'avx512vl']
  const avx512bf16 = [...avx512, 'avx512_bf16']
  const needs = { amx: [...avx512bf16, 'amx_tile', 'amx_bf16'], avx512bf16, avx512, avx2, portable: [] }
  const seen = Object.entries(needs).filter(([, all]) => all.every((flag) => flags.includes(flag)))
  assert.equal(
    instructionSets(),
    seen.map(([name]) => name)
  )
})

test('the peak of the multipliers is measured, not made up', () => {
  const peak = machinePeak({ threads: 1 })
  assert.ok(peak > 0.1 && peak < 1e5, String(peak))
})

test('MARGIN_SOFTMAX_THREADS sets the threads', () => {
  if (process.platform !== 'linux') return // tasks are counted in /proc
  const started = (threads: string) => {
    const many = `{ input: new Float32Array(512 * 64).fill(1), weight: new Float32Array(4000 * 64).fill(1), labels: new Int32Array(512), dim: 64 }`
    const count = `require('node:fs').readdirSync('/proc/self/task').length`
    // Node.js starts threads of its own in its own time: those before the call and those after it are counted in one process.
    const code = `api.devices(); const before = ${count}; api.marginLossSync(${many}); console.log(${count} - before)`
    const { status, stdout, stderr } = run(code, { MARGIN_SOFTMAX_THREADS: threads })
    assert.is(status, 0, stderr)
    return Number(stdout)
  }
  assert.is(started('1'), 0)
  assert.is(started('2'), 1)
  assert.is(started('5'), 4)
})

for (const wrong of ['0', '-2', 'many', '1.5', '5000'])
  test(`MARGIN_SOFTMAX_THREADS=${wrong} is refused by name`, () => {
    const { status, stderr } = run(step, { MARGIN_SOFTMAX_THREADS: wrong })
    assert.is(status, 1)
    assert.match(stderr, /Expected an integer.* for MARGIN_SOFTMAX_THREADS but received/)
  })

const fails = `(() => { try { ${step}; return ['loaded'] } catch (error) { return [error.code, ...error.message.split('\\n')] } })()`

/** Returns what a process of its own prints: lists of an error's code and the lines of its message. */
function failures(code: string, env: NodeJS.ProcessEnv, entry: string, options: string[] = []): string[][] {
  const text = `const api = require(${JSON.stringify(entry)})\n${code}`
  const all = [...options, ...(entry === library ? ['--require', 'tsx/cjs'] : []), '-e', text]
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, all, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })
  assert.is(status ?? signal, 0, stderr)
  return JSON.parse(stdout)
}

test('without a binary the error says what was looked for, where, and what to do', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-'))
  const dist = path.join(folder, 'dist')
  const env = { NODE_PATH: path.join(root, 'node_modules'), MARGIN_SOFTMAX_BINARY: undefined }
  const what = `No native binary of margin-softmax loads on ${process.platform}-${process.arch}, Node.js ${process.version}.`
  const refuses = (where: RegExp, remedy: RegExp) => {
    const [lines = []] = failures(`console.log(JSON.stringify([${fails}]))`, env, path.join(dist, 'index.js'))
    assert.equal(lines.slice(0, 2), ['ERR_NATIVE_MISSING', what])
    assert.match(lines[2] as string, where)
    assert.match(lines[3] as string, remedy)
    assert.is(lines.length, 4)
  }
  const put = (name: string) => {
    fs.mkdirSync(path.join(folder, path.dirname(name)), { recursive: true })
    fs.writeFileSync(path.join(folder, name), '')
  }
  try {
    fs.cpSync(path.join(root, 'dist'), dist, { recursive: true })
    refuses(
      /^Looked in build.*dist.internal: none is there; .*bundled/,
      /^Leave margin-softmax out of the bundle/
    )
    fs.writeFileSync(path.join(folder, 'package.json'), '{ "name": "margin-softmax" }')
    refuses(/: the folder prebuilds is not there$/, /^Copy it .* npx margin-softmax build$/)
    put('prebuilds/plan9-mips/node.napi.node')
    refuses(/: there are binaries for plan9-mips, none for /, /^Compile one/)
    if (process.platform === 'linux') {
      const name = `linux-${process.arch}/node.napi.${libc === 'glibc' ? 'musl' : 'glibc'}.node`
      put(`prebuilds/${name}`)
      refuses(new RegExp(`: there is ${name}, none for ${libc}$`), /^Compile one/)
    }
    put('build/Release/margin_softmax.node')
    refuses(/: .*margin_softmax.node is no native binary$/, /^Compile it again/)
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
})

// Elsewhere than on Linux a report says nothing of it, and under Wine making one can crash.
const { header } = (process.platform === 'linux' ? process.report.getReport() : { header: {} }) as {
  header: { glibcVersionRuntime?: string }
}
const libc = header.glibcVersionRuntime ? 'glibc' : 'musl'

test('a binary that is no binary, cut short or for another machine is refused before the system loads it', () => {
  const there = fs.readFileSync(binaryFile().file)
  const changed = (at: number, ...bytes: number[]) => {
    const copy = Buffer.from(there)
    copy.set(bytes, at)
    return copy
  }
  const windows = Buffer.concat([Buffer.from('MZ'), Buffer.alloc(58), Buffer.of(64, 0, 0, 0)])
  const wrong: [string, Buffer, RegExp][] = [
    [
      'a text',
      Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:0\n'),
      /is no native binary$/,
    ],
    ['an empty file', Buffer.alloc(0), /is no native binary$/],
    [
      'another system’s',
      Buffer.concat([windows, Buffer.from('PE\0\0\x0a\x0a')]),
      /is for win32-processor 2570, not/,
    ],
  ]
  if (process.platform === 'linux')
    wrong.push(
      ['another processor’s', changed(18, 22, 0), /is for linux-s390x, not for linux-/],
      ['one byte too short', there.subarray(0, -1), /was cut short: it has \d+ of \d+ bytes$/],
      ['the half', there.subarray(0, there.length / 2), /was cut short/],
      ['macOS’s', Buffer.from('cffaedfe0c000001', 'hex'), /is for darwin-arm64, not/],
      ['macOS’s of two processors', Buffer.from('cafebabe00000002', 'hex'), /is for darwin-universal, not/],
      ['a Java class', Buffer.from('cafebabe00000034', 'hex'), /is no native binary$/]
    )
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-'))
  try {
    const files = wrong.map(([, bytes], i) => {
      const file = path.join(folder, `${i}.node`)
      fs.writeFileSync(file, bytes)
      return file
    })
    const each = `${JSON.stringify(files)}.map((file) => { process.env.MARGIN_SOFTMAX_BINARY = file; return ${fails} })`
    const errors = failures(`console.log(JSON.stringify(${each}))`, {}, library)
    for (const [i, [name, , reason]] of wrong.entries()) {
      const [code, , where = '', remedy = ''] = errors[i] as string[]
      assert.is(code, 'ERR_NATIVE_MISSING', name)
      assert.ok(where.startsWith(`Looked at ${files[i]}: ${files[i]} `), where)
      assert.match(where, reason, name)
      assert.match(remedy, /^Name one for .*, or unset MARGIN_SOFTMAX_BINARY$/, name)
    }
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
})

test('a process that may load no addon is told the flag', () => {
  const [lines = []] = failures(`console.log(JSON.stringify([${fails}]))`, {}, library, ['--no-addons'])
  assert.is(lines[0], 'ERR_NATIVE_MISSING')
  assert.match(lines[2] as string, /: this process may load no native addon$/)
  assert.match(lines[3] as string, /^Start Node.js without --no-addons/)
})

// The words of other systems' loaders, as they said them there.
const file = '/app/node_modules/margin-softmax/prebuilds/linux-x64/node.napi.glibc.node'
const onLinux = {
  ...{ platform: 'linux', arch: 'x64', libc: 'glibc', packaged: true, given: false, file },
  ...{ folder: '/app/node_modules/margin-softmax', prebuilt: ['linux-x64/node.napi.glibc.node'] },
}
const missing = 'No such file or directory'
const loaders: [string, object, object, RegExp, RegExp][] = [
  [
    'an old glibc',
    {},
    { message: `/lib64/libc.so.6: version \`GLIBC_2.28' not found (required by ${file})` },
    /GLIBC_2\.28/,
    /^It needs glibc 2\.28: take a newer system or base image\. Compile one/,
  ],
  [
    'glibc’s binary on musl',
    { libc: 'musl' },
    { message: `Error loading shared library ld-linux-x86-64.so.2: ${missing} (needed by ${file})` },
    /it is for glibc, this process runs on musl$/,
    /^Compile one/,
  ],
  [
    'musl’s beside it',
    {
      libc: 'musl',
      prebuilt: ['linux-arm64', 'linux-x64'].flatMap((machine) => [
        `${machine}/node.napi.glibc.node`,
        `${machine}/node.napi.musl.node`,
      ]),
    },
    { message: `Error loading shared library ld-linux-x86-64.so.2: ${missing} (needed by ${file})` },
    /it is for glibc, this process runs on musl$/,
    /^Set LIBC=musl .* linux-x64\/node.napi.musl.node$/,
  ],
  [
    'musl’s binary on glibc',
    { given: true, file: '/opt/margin_softmax.node' },
    { message: `libc.musl-x86_64.so.1: cannot open shared object file: ${missing}` },
    /it is for musl, this process runs on glibc$/,
    /^Name another binary/,
  ],
  [
    'one linked by musl-gcc',
    { file: '/app/node_modules/margin-softmax/build/Release/margin_softmax.node' },
    { message: '/lib/x86_64-linux-gnu/libc.so: invalid ELF header' },
    /it is for musl, this process runs on glibc$/,
    /^Compile one/,
  ],
  [
    'a library that is missing',
    {},
    { message: `libmpi.so.40: cannot open shared object file: ${missing}` },
    /libmpi/,
    /^Install the package of this system that has libmpi\.so\.40$/,
  ],
  [
    'a library that is missing on musl',
    { libc: 'musl' },
    { message: `Error loading shared library libmpi.so.40: ${missing} (needed by ${file})` },
    /libmpi/,
    /^Install the package of this system that has libmpi\.so\.40$/,
  ],
  [
    'noexec',
    {},
    { message: `${file}: failed to map segment from shared object` },
    /failed to map/,
    /^Its file system is mounted noexec/,
  ],
  [
    'a runtime without all of Node-API',
    {},
    { message: `${file}: undefined symbol: napi_create_promise` },
    /napi_create_promise$/,
    /lacks a part of Node-API/,
  ],
  [
    'a file of another user',
    {},
    { code: 'EACCES', message: `EACCES: permission denied, open '${file}'` },
    /may not be read$/,
    /^Let this user read it/,
  ],
  [
    'Deno without a flag',
    {},
    { name: 'NotCapable', message: `Requires ffi access to "${file}", run again with the --allow-ffi flag` },
    /^Requires ffi access/,
    /^Start Deno with .*--allow-ffi$/,
  ],
  ['anything else', {}, { message: 'the stars stand badly' }, /: the stars stand badly$/, /^Compile one/],
]
for (const [name, where, cause, reason, remedy] of loaders)
  test(`a load that fails names its own remedy: ${name}`, () => {
    const why = explain({ ...onLinux, ...where, cause: cause as Error })
    assert.match(why.reason, reason)
    assert.match(why.remedy, remedy)
  })

test('memory that the system refuses is an error that names the bytes', () => {
  if (process.platform === 'win32') return // no ulimit
  // 137 GB asked of a process that may map 100: refused at once, whatever the system's policy on overcommitment is.
  const code = `api.MarginHead.create({ classes: 2 ** 25, dim: 1024 }).catch((error) => console.log(error.name, error.code, error.message))`
  const text = `const api = require(${JSON.stringify(library)})\n${code}`
  const { stdout, stderr } = spawnSync(
    'sh',
    ['-c', 'ulimit -v 100000000 && exec "$@"', 'sh', process.execPath, '--require', 'tsx/cjs', '-e', text],
    { cwd: root, encoding: 'utf8' }
  )
  assert.is(stderr, '')
  assert.match(
    stdout,
    /^MarginSoftmaxError ERR_OUT_OF_MEMORY Expected 137438953472 bytes of memory for the head but/
  )
})

test.run()
