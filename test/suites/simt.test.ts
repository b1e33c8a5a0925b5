// The CUDA kernels on the CPU: conformance of the PTX wrappers, faults planted on purpose, and the executor's own launch
// code against formulas in double precision, in three orders of fibres and under the sanitizers. And what nvcc says of them.
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { shimRuns } from '../support/cuda'
import { goldenFolder } from '../support/golden'
import { lacking } from '../support/support'

const test = suite('simt')
const resources = require('../../scripts/cuda-resources.cjs')
const root = path.join(__dirname, '../..')
const build = path.join(root, 'build/simt-tests')

function run(command: string, args: string[], environment: Record<string, string> = {}) {
  return spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...environment },
    timeout: 600e3, // ThreadSanitizer takes minutes where fresh memory is slow
  })
}

function succeeds(result: SpawnSyncReturns<string>, what: string): string {
  assert.is(
    result.status,
    0,
    `${what}: ${result.error ?? ''}\n${result.stdout}\n${result.stderr}`.slice(0, 4000)
  )
  return result.stdout
}

const flavours = ['plain', 'address', 'thread'] as const
type Flavour = (typeof flavours)[number]

const program = (name: string, flavour: Flavour) => path.join(build, `${name}-${flavour}`)

/** Every line says ok; returns them. */
function allRight(result: SpawnSyncReturns<string>, what: string): string[] {
  const lines = succeeds(result, what).trim().split('\n')
  for (const line of lines) assert.match(line, /^(ok|hash) /, what)
  return lines
}

if (shimRuns) {
  test('the shim and its programs compile', () => {
    succeeds(run('cmake', ['-S', 'test/simt', '-B', build]), 'cmake')
    succeeds(run('cmake', ['--build', build, '--parallel', '2']), 'the build')
  })

  for (const flavour of flavours)
    test(`every PTX wrapper keeps its contract: ${flavour}`, () => {
      assert.is(allRight(run(program('conformance', flavour), []), flavour).length, 11)
    })

  for (const flavour of flavours)
    test(`the host's side copies, prefers and loses as it should: ${flavour}`, () => {
      const result = run(program('host', flavour), [])
      assert.ok(allRight(result, flavour).length > 10)
      assert.not.match(result.stderr, /Sanitizer|runtime error/)
    })

  test('the kernels agree with double precision, with the same bits in every order of fibres and streams', () => {
    const runs: Record<string, string>[] = [
      { SIMT_ORDER: '0' },
      { SIMT_ORDER: '1', SIMT_STREAMS: 'late' },
      { SIMT_ORDER: '7', SIMT_STREAMS: 'uneven' },
    ]
    const hashes = runs.map((orders) =>
      allRight(run(program('steps', 'plain'), [], orders), JSON.stringify(orders)).pop()
    )
    assert.match(String(hashes[0]), /^hash [0-9a-f]{16}$/)
    assert.equal(hashes, [hashes[0], hashes[0], hashes[0]])
  })

  test('the same kernels agree with a core of another geometry: test/simt/other_core.cuh', () => {
    const lines = allRight(run(path.join(build, 'other_core'), ['cores']), 'other_core')
    for (const precision of ['float32', 'tf32', 'bfloat16'])
      assert.ok(lines.some((line) => line.includes(precision)))
    assert.ok(lines.some((line) => line.includes('the best classes')))
  })

  test('bench/gpu/bench.cu finds the same bits in two runs of every precision', () => {
    const lines = succeeds(run(path.join(build, 'bench'), ['1', '9x130x150', '4x1000']), 'bench')
      .trim()
      .split('\n')
    assert.is(
      lines.filter((line) => /^\| margin-softmax \w+ \| 9x130x150 .* the same \|$/.test(line)).length,
      3
    )
    assert.match(lines.at(-1) as string, /^cross-entropy of 4x1000 logits: /)
  })

  /** They hold one of each kind: margins, a bias, reductions, ignored rows, smoothing, near cases. */
  const vectors = ['000', '030', '034', '044', '066', '077', '079', '080', '090']
  if (!fs.existsSync(goldenFolder)) lacking(test, `no golden vectors were found in ${goldenFolder}`)
  else if (run('python3', ['--version']).status !== 0) lacking(test, 'there is no python3')
  else
    test('bench/gpu/golden.py finds golden vectors right through the C interface', () => {
      const folder = fs.mkdtempSync(path.join(build, 'golden-'))
      try {
        for (const name of fs.readdirSync(goldenFolder))
          if (vectors.includes(name.slice(0, 3)))
            fs.copyFileSync(path.join(goldenFolder, name), path.join(folder, name))
        const result = run('python3', ['bench/gpu/golden.py', path.join(build, 'libstep.so'), folder])
        assert.match(succeeds(result, 'golden.py'), /^9 golden vectors, 0 results wrong/)
      } finally {
        fs.rmSync(folder, { recursive: true })
      }
    })

  // With so little staging memory that large copies pass it by: what they read may be freed too early.
  for (const flavour of ['address', 'thread'] as const)
    test(`the kernels run without a finding: ${flavour}`, () => {
      const result = run(program('steps', flavour), flavour === 'thread' ? ['few'] : [], {
        SIMT_PINNED: '65536',
      })
      allRight(result, flavour)
      assert.not.match(result.stderr, /Sanitizer|runtime error/)
    })

  const caughtBy: Record<string, Partial<Record<Flavour, RegExp>>> = {
    missingBarrier: { plain: /^result: -?nan/, thread: /data race/ },
    missingWarpBarrier: { plain: /^result: -?nan/, thread: /data race/ },
    divergentBarrier: { plain: /^fault: .*divergent barrier/ },
    barrierInBranch: { plain: /^fault: .*deadlock.*32 threads have exited/ },
    exitBeforeBarrier: { plain: /^fault: .*deadlock.* 1 threads have exited/ },
    differentTrips: { plain: /^fault: .*deadlock/ },
    shuffleInBranch: { plain: /^fault: .*deadlock.*shuffle/ },
    wrongMask: { plain: /^fault: .*(mask|deadlock)/ },
    readsBeforeWait: { plain: /^result: -?nan/ },
    waitsForTooFew: { plain: /^result: -?nan/ },
    sharedOverrun: { address: /use-after-poison/ },
    pieceOverrun: { address: /use-after-poison/ },
    globalOverrun: { address: /heap-buffer-overflow/ },
    misaligned: { address: /misaligned address/ },
    tooLittleShared: { plain: /^fault: .*the launch asked for 512 bytes/ },
    uninitialised: { plain: /^result: -?nan/ },
    twoBlocksOneElement: { thread: /data race/ },
  }
  for (const [name, flavoursThatCatch] of Object.entries(caughtBy))
    test(`a planted fault is caught: ${name}`, () => {
      for (const [flavour, report] of Object.entries(flavoursThatCatch)) {
        const { stdout, stderr } = run(program('faults', flavour as Flavour), [name])
        assert.match(stdout + stderr, report, flavour)
      }
    })

  for (const name of ['soundExchange', 'soundLastBlock'])
    test(`a sound kernel raises no alarm: ${name}`, () => {
      for (const flavour of flavours) {
        const { status, stdout, stderr } = run(program('faults', flavour), [name])
        assert.equal({ status, stdout, stderr }, { status: 0, stdout: '', stderr: '' }, flavour)
      }
    })
} else {
  test.skip('the shim runs on Linux', () => {})
}

const compiles = run('nvcc', ['--version']).status === 0
if (compiles) {
  /** The addon's own build demands the same of its targets: of sm_75, sm_80, sm_90 and sm_120 where no GPU is. */
  test(`nvcc compiles every kernel, and none spills registers: ${resources.architecture}`, () => {
    const kernels = resources.compile(resources.architecture)
    assert.ok(kernels.length > 0)
    const table = resources.sectionInReadme()
    const [, compiler] = /^nvcc ([\d.]+), /.exec(table) ?? []
    if (compiler === resources.nvccVersion())
      assert.is(resources.sectionOf(kernels), table, 'node scripts/cuda-resources.cjs --write')
    else
      console.log(
        `Skipped: the table of resources is nvcc ${compiler}'s, and this is ${resources.nvccVersion()}`
      )
  })
} else {
  lacking(test, 'nvcc is not on the PATH')
}

test.run()
