// Sharded heads under mpirun: equal to a whole head, and failures of one rank that end on all of them. See
// sharding.child.ts.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { MarginHead } from '../../lib/index'
import { shimBinary, shimRuns } from '../support/cuda'
import * as mpi from '../support/mpirun'
import { complaint, lacking, quickFolder, rejectsLike } from '../support/support'

const test = suite('sharding')
const child = 'sharding.child.ts'
const works = (ranks: number, ...scenarios: string[]) => mpi.works(child, ranks, ...scenarios)
const fails = (scenario: string, others: RegExp, odd: RegExp) => mpi.fails(child, scenario, others, odd)

const folder = fs.mkdtempSync(path.join(quickFolder, 'margin-softmax-sharding-'))
process.env.MARGIN_SOFTMAX_TEST_FOLDER = folder
test.after(() => fs.rmSync(folder, { recursive: true, force: true }))

test('a group is a group', async () => {
  for (const group of [null, {}, 'world'] as never[])
    await rejectsLike(MarginHead.create({ classes: 5, dim: 2, group }), TypeError, complaint('group'))
})

if (mpi.missing) {
  lacking(test, `there is ${mpi.missing}`)
} else {
  const scenarios = [
    ['equal', 'steps equal those of a whole head: every margin and optimizer'],
    ['sizes', 'steps equal those of a whole head: uneven shares, a class for each rank'],
    ['sampled', 'steps on a sample of the classes equal those of a whole head'],
    ['projected', 'a projection is trained as that of a whole head, and the same on every rank'],
    ['clipped', 'the gradient of all ranks is clipped as that of a whole head'],
    ['weighted', 'weights of classes and of rows are those of a whole head'],
    ['stored', 'weights stored in bfloat16 are rounded as those of a whole head'],
    ['again', 'the same bits from run to run and for any number of threads'],
    ['evaluation', 'evaluate and topK see the classes of all ranks'],
    ['resumed', 'training goes on with the same bits'],
    ['changes', 'set and load change a head in the same way, what is refused says how else'],
  ] as const
  for (const ranks of [1, 2, 4]) {
    // One after the other in the same processes: starting those takes longer than most scenarios.
    let ended: Promise<mpi.Ended> | undefined
    for (const [scenario, what] of scenarios)
      test(`${what}, on ${ranks} ranks`, async () => {
        ended ??= mpi.run(
          child,
          ranks,
          scenarios.map(([name]) => name)
        )
        mpi.done(await ended, ranks, scenario)
      })
    test(`processes that did all of it end well, on ${ranks} ranks`, async () => {
      const { code, output } = (await ended) as mpi.Ended
      assert.is(code, 0, output)
    })
  }

  test('steps equal those of a whole head on 16 ranks, whatever the number of processors', async () => {
    await works(16, 'many')
  })

  if (shimRuns) {
    const onGpu = ['again', 'evaluation', 'sampled', 'weighted']
    test(`the same on 'cuda' (${onGpu.join(', ')}), on 2 ranks`, async () => {
      const env = { MARGIN_SOFTMAX_BINARY: shimBinary(), MARGIN_SOFTMAX_DEVICE: 'cuda', SIMT_THREADS: '1' }
      const ended = await mpi.run(child, 2, onGpu, env)
      assert.is(ended.code, 0, ended.output)
      for (const scenario of onGpu) mpi.done(ended, 2, scenario)
    })
  }

  test('what 3 ranks saved 2, 4 and 1 load', async () => {
    await works(3, 'save')
    for (const ranks of [2, 4]) await works(ranks, 'load')
    const { status, stderr } = spawnSync(
      process.execPath,
      ['--require', 'tsx/cjs', path.join(__dirname, '..', 'children', child), 'load'],
      { encoding: 'utf8' }
    )
    assert.is(status, 0, stderr)
    const shard = fs.readdirSync(folder).find((name) => /^shared-float32\..*2-of-3/.test(name)) as string
    await rejectsLike(
      MarginHead.load(path.join(folder, shard)),
      Error,
      /it is one shard of a head: load the index that names it/
    )
    fs.rmSync(path.join(folder, shard))
    await rejectsLike(MarginHead.load(path.join(folder, 'shared-float32')), Error, /no such file/)
  })

  for (const [scenario, what, others, odd] of [
    [
      'settings',
      'another margin',
      /ERR_DISTRIBUTED|Expected the same margin on every rank but received .*0\.5.* from rank 0 and .*0\.3.* from rank 1/,
      0,
    ],
    [
      'otherChange',
      'another change',
      /Expected the same labelSmoothing on every rank but received 0\.1 from rank 0 and 0\.2 from rank 1/,
      0,
    ],
    [
      'classes',
      'other classes',
      /Expected the same classes on every rank but received 37 from rank 0 and 38 from rank 1/,
      0,
    ],
    [
      'learningRate',
      'another learning rate',
      /Expected the same learningRate on every rank of head 1 but ranks 0 and 1 differ/,
      0,
    ],
    ['calls', 'another call', /Expected the same call .step or evaluate. on every rank of head 1/, 0],
    [
      'label',
      'labels and embeddings that are refused',
      /as expected|ended its process with code 1/,
      /as expected|ended its process/,
    ],
    [
      'notFinite',
      'embeddings that are not finite',
      /as expected|ended its process with code 1/,
      /as expected|ended its process/,
    ],
    [
      'longWeights',
      'weights of a norm that is too large',
      /as expected|ended its process with code 1/,
      /as expected|ended its process/,
    ],
    [
      'memoryOfHead',
      'no memory for its share',
      /rank 1 failed: Expected 153600000 bytes of memory/,
      /ERR_OUT_OF_MEMORY/,
    ],
    [
      'memoryOfStep',
      'no memory for a step',
      /rank 1 could not: Expected \d+ bytes of memory/,
      /ERR_OUT_OF_MEMORY/,
    ],
  ] as const)
    test(`${what} on one rank ends all of them`, async () => {
      if (scenario.startsWith('memory') && process.platform !== 'linux') return // limited by prlimit
      await fails(scenario, others, odd || others)
    })

  test('a rank that is killed while it saves ends all of them, and leaves a whole checkpoint', async () => {
    await fails('killedWhileSaving', mpi.toldToEnd, /^begins/)
    const head = await MarginHead.load(path.join(folder, 'killed'))
    assert.is(head.classes, 3000)
    assert.ok(head.weights().some((weight) => weight !== 0))
  })
}

test.run()
