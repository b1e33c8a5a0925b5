// bench/gpu.sh without a GPU: on machines made of shell scripts, where all is well, where a stage hangs and results are wrong,
// and where there is nothing at all.
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { binaryFile } from '../../lib/internal/native-file'
import { lacking } from '../support/support'

const test = suite('gpu script')
const root = path.join(__dirname, '../..')
const script = path.join(root, 'bench/gpu.sh')
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-gpu-'))
test.after(() => fs.rmSync(folder, { recursive: true, force: true }))

const files = ['1-correct', '2-times', '3-kernels', '4-ncu', '5-sanitizer', '6-node', '7-peers', 'summary']

/** Files of a folder, by name; a script unless it ends in .txt. */
function write(where: string, contents: Record<string, string>): void {
  for (const [name, text] of Object.entries(contents)) {
    const file = path.join(where, name)
    fs.mkdirSync(path.dirname(file), { recursive: true })
    fs.writeFileSync(file, `#!/bin/sh\n${text}\n`, { mode: 0o755 })
  }
}

const wellProgrammed = {
  conformance: 'echo ok all',
  steps: 'echo ok all; echo hash 0123456789abcdef',
  bench: 'echo "| margin-softmax bfloat16 | 512x512x100000 | 0.900 | … |"',
  'libstep.so': '',
}
/** The machine has these on its PATH, beside what every Linux has. */
const tools = {
  'nvidia-smi': 'echo NVIDIA Imagined, 580.1, 9.0, 81559 MiB',
  python3: 'echo "| imagined | 1 | 2 |"',
  'compute-sanitizer': 'echo ERROR SUMMARY: 0 errors',
}

const sourcesHere = () => spawnSync(path.join(root, 'bench/gpu/sources.sh'), { encoding: 'utf8' }).stdout

interface Machine {
  programs?: Record<string, string>
  tools?: Record<string, string>
  /** Whether Node.js and the suites are in the bundle. */
  node?: boolean
  environment?: Record<string, string>
  /** The bundle says that it is of these sources; by default it is of those here. */
  sources?: string
}

/** Runs bench/gpu.sh on a machine; returns how it ended, and its files. */
function runOn(name: string, machine: Machine) {
  const { programs = {}, tools = {}, node = false, environment = {}, sources = sourcesHere() } = machine
  const at = path.join(folder, name)
  const bundle = path.join(at, 'bundle')
  const parts: Record<string, Record<string, string>> = {
    ...(Object.keys(programs).length > 0 && { programs }),
    ...(node && {
      golden: { 'golden/index.txt': '' },
      addon: { 'margin_softmax.node': '' },
      suites: { 'suites/loss.js': '', 'devices.js': '', 'threads.js': '' },
      node: { node: 'echo "Node.js runs $(basename "$1")"' },
    }),
  }
  fs.mkdirSync(bundle, { recursive: true })
  for (const [part, contents] of Object.entries(parts)) {
    write(path.join(at, part), contents)
    const archive = path.join(bundle, `${part}.txz`)
    spawnSync('tar', ['-cJf', archive, '-C', path.join(at, part), ...fs.readdirSync(path.join(at, part))])
  }
  fs.writeFileSync(path.join(bundle, 'sources'), sources)
  write(path.join(at, 'bin'), tools)
  const out = path.join(at, 'out')
  const result = spawnSync('bash', [script, '60'], {
    encoding: 'utf8',
    env: {
      PATH: `${path.join(at, 'bin')}:/usr/bin:/bin`,
      OUT: out,
      GPU_BUNDLE: bundle,
      MARGIN_SOFTMAX_BINARY: path.join(at, 'nowhere.node'),
      MARGIN_SOFTMAX_GOLDEN: path.join(at, 'nowhere'),
      ...environment,
    },
    timeout: 120e3,
  })
  const read = (file: string) => fs.readFileSync(path.join(out, `${file}.txt`), 'utf8')
  return { result, files: fs.readdirSync(out).map((file) => path.parse(file).name), read }
}

const said = ({ stdout, stderr }: SpawnSyncReturns<string>) => `${stdout}${stderr}`

if (process.platform !== 'linux') {
  test.skip('bench/gpu.sh is for Linux', () => {})
} else if (spawnSync('xz', ['--version']).status !== 0) {
  lacking(test, 'there is no xz')
} else {
  test('where all is well, every stage runs; a tool that is not installed is named, and is not wrong', () => {
    const { result, files: written, read } = runOn('well', { programs: wellProgrammed, tools, node: true })
    assert.is(result.status, 0, said(result))
    assert.equal(written.sort(), files)
    const summary = read('summary')
    assert.match(summary, /NVIDIA Imagined/)
    assert.match(summary, /^(\d+) of \1 stages well, 0 wrong/m)
    assert.match(summary, /^\| margin-softmax bfloat16 /m)
    assert.match(summary, /^not run, ncu is not installed: what bounds the tile kernels$/m)
    assert.is(summary.match(/^not run/gm)?.length, 1)
    assert.match(read('4-ncu'), /not run, ncu is not installed/)
    assert.match(read('5-sanitizer'), /ERROR SUMMARY[\s\S]*initcheck of steps/)
    assert.match(read('6-node'), /Node\.js runs loss\.js/)
  })

  test('what hangs is killed at its limit with all that it started, other bits and old binaries are wrong, the rest runs', () => {
    const pids = path.join(folder, 'pids.txt')
    const {
      result,
      files: written,
      read,
    } = runOn('wrong', {
      programs: {
        ...wellProgrammed,
        steps: 'echo WRONG losses; echo hash $$; exit 1',
        bench: `echo began\ntrap '' TERM\nsleep 300 &\necho $$ $! > ${pids}\nwait\nsleep 300`,
      },
      tools,
      environment: { STAGE_LIMIT: '2' },
      sources: 'of yesterday',
    })
    assert.is(result.status, 1, said(result))
    assert.equal(written.sort(), files)
    const summary = read('summary')
    assert.match(summary, /^WRONG {2}the bundle is of these sources: exit 1$/m)
    assert.match(summary, /^WRONG {2}kernels against double precision, the first time: exit 1$/m)
    assert.match(summary, /^WRONG losses$/m)
    assert.match(summary, /^WRONG {2}both times the same bits: exit 1$/m)
    assert.match(summary, /^WRONG {2}steps and cross-entropy: KILLED at its limit of 2 s$/m)
    assert.match(summary, /^not run, .*: suites, and the CPU executor$/m)
    assert.match(read('2-times'), /^began\n-- KILLED at its limit of 2 s/m)
    assert.match(read('7-peers'), /^-- well/m)
    // One that was killed may still be known until its parent asks for it.
    const runs = (pid: string) =>
      !/^$|\) [ZX] /.test(spawnSync('cat', [`/proc/${pid}/stat`]).stdout.toString())
    const started = fs.readFileSync(pids, 'utf8').trim().split(/\s+/)
    for (const end = Date.now() + 10_000; started.some(runs) && Date.now() < end; )
      spawnSync('sleep', ['0.1'])
    for (const pid of started) assert.not.ok(runs(pid), `process ${pid} is still there`)
  })

  test('with neither a GPU nor a bundle every stage fails by itself, and the summary is there', () => {
    const { result, files: written, read } = runOn('nothing', { tools: { 'nvidia-smi': 'exit 9' } })
    assert.is(result.status, 1, said(result))
    assert.equal(written.sort(), files)
    assert.match(read('summary'), /no GPU/)
    assert.match(read('summary'), /^WRONG {2}conformance of the PTX wrappers: exit 127$/m)
    assert.ok(read('summary').split('\n').length <= 41)
  })

  test('the suites of the bundle are single files, which run without node_modules', () => {
    const bundle = path.join(folder, 'suites')
    const made = spawnSync(process.execPath, [path.join(root, 'scripts/gpu-bundle.cjs'), 'suites'], {
      encoding: 'utf8',
      env: { ...process.env, GPU_BUNDLE: bundle },
    })
    assert.is(made.status, 0, said(made))
    assert.is(spawnSync('tar', ['-xJf', path.join(bundle, 'suites.txz'), '-C', bundle]).status, 0)
    const result = spawnSync(process.execPath, [path.join(bundle, 'suites/topk.js')], {
      encoding: 'utf8',
      env: { ...process.env, MARGIN_SOFTMAX_BINARY: binaryFile().file, MARGIN_SOFTMAX_DEVICE: 'cpu' },
    })
    assert.is(result.status, 0, said(result))
    assert.match(result.stdout, /Passed: +[1-9]/)
  })

  test('kernels that ncu is asked for are there', () => {
    const [, names = ''] = /for kernel in ([\w ]+); do/.exec(fs.readFileSync(script, 'utf8')) ?? []
    const kernels = fs
      .readdirSync(path.join(root, 'native/cuda'))
      .filter((file) => file.endsWith('.cuh'))
      .map((file) => fs.readFileSync(path.join(root, 'native/cuda', file), 'utf8'))
      .join('\n')
    assert.is(names.split(' ').length, 5)
    for (const name of names.split(' ')) assert.match(kernels, new RegExp(`\\b${name}\\(StepData`), name)
  })
}

test.run()
