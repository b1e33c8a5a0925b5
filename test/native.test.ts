// How the addon is found, told how to run, and what it says when the machine fails.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { machinePeak } from '../lib/execution'
import { instructionSets } from '../lib/native'

const test = suite('native')
const root = path.join(__dirname, '..')
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
  const needs = { avx512bf16: [...avx512, 'avx512_bf16'], avx512, avx2, portable: [] }
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
  const tasks = (threads: string) => {
    const many = `{ input: new Float32Array(512 * 64).fill(1), weight: new Float32Array(4000 * 64).fill(1), labels: new Int32Array(512), dim: 64 }`
    const count = `console.log(require('node:fs').readdirSync('/proc/self/task').length)`
    const { status, stdout, stderr } = run(`api.marginLossSync(${many}); ${count}`, {
      MARGIN_SOFTMAX_THREADS: threads,
    })
    assert.is(status, 0, stderr)
    return Number(stdout)
  }
  const one = tasks('1')
  assert.is(tasks('2'), one + 1)
  assert.is(tasks('5'), one + 4)
})

for (const wrong of ['0', '-2', 'many', '1.5', '5000'])
  test(`MARGIN_SOFTMAX_THREADS=${wrong} is refused by name`, () => {
    const { status, stderr } = run(step, { MARGIN_SOFTMAX_THREADS: wrong })
    assert.is(status, 1)
    assert.match(stderr, /Expected an integer.* for MARGIN_SOFTMAX_THREADS but received/)
  })

test('without a binary the error says what was looked for, where, and what to do', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-'))
  try {
    fs.cpSync(path.join(root, 'dist'), path.join(folder, 'dist'), { recursive: true })
    const entry = path.join(folder, 'dist', 'index.js')
    const code = `try { ${step} } catch (error) { console.log(error.code + '\\n' + error.message) }`
    const env = { NODE_PATH: path.join(root, 'node_modules'), MARGIN_SOFTMAX_BINARY: undefined }
    const { stdout, stderr } = run(code, env, entry)
    assert.is(stderr, '')
    assert.match(stdout, /^ERR_NATIVE_MISSING\nNo native binary .*\nLooked in .*\nCompile one .*\n$/)
    assert.ok(stdout.includes(folder))
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
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
