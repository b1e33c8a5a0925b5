// The process group under mpirun, with all that can go wrong on one of its ranks: see distributed.child.ts.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import * as mpi from '../support/mpirun'
import { lacking } from '../support/support'

const test = suite('distributed')
const root = path.join(__dirname, '../..')
const child = ['--require', 'tsx/cjs', path.join(__dirname, '../children/distributed.child.ts')]
const works = (ranks: number, ...scenarios: string[]) =>
  mpi.works('distributed.child.ts', ranks, ...scenarios)
const fails = (scenario: string, others: RegExp, odd: RegExp) =>
  mpi.fails('distributed.child.ts', scenario, others, odd)

test('without the addon the error says what to install and what to run', () => {
  const code = `require('./lib/distributed').processGroup().catch((error) => console.log(error.name, error.code, error.message))`
  const { stdout, status } = spawnSync(process.execPath, ['--require', 'tsx/cjs', '-e', code], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, MARGIN_SOFTMAX_MPI_BINARY: 'nowhere.node' },
  })
  assert.is(status, 0)
  assert.match(
    stdout,
    /^MarginSoftmaxError ERR_NATIVE_MISSING The addon of margin-softmax\/distributed does not load: /
  )
  assert.match(stdout, /nowhere\.node/)
  assert.match(stdout, /apt-get install openmpi-bin libopenmpi-dev, or mpich libmpich-dev/)
  assert.match(stdout, /^npx margin-softmax build --distributed$/m)
})

if (mpi.missing) {
  lacking(test, `there is ${mpi.missing}`)
} else {
  for (const ranks of [1, 2, 3, 4])
    test(`every operation and type on ${ranks} ranks`, async () => {
      await works(
        ranks,
        'operations',
        'uneven',
        'notNumbers',
        'flight',
        'traffic',
        ...(ranks <= 2 ? ['mistakes'] : [])
      )
    })
  test('a group of one needs no mpirun', () => {
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      [...child, 'operations', 'uneven', 'flight'],
      {
        cwd: root,
        encoding: 'utf8',
      }
    )
    assert.is(status, 0, stderr)
    assert.is(stdout, 'done operations of 1\ndone uneven of 1\ndone flight of 1\n')
  })
  test('arrays of many stretches', async () => {
    await works(4, 'large')
  })
  test('an idle group takes no time', async () => {
    await works(2, 'idle')
  })
  test('a call that nobody awaits is done before the processes end', async () => {
    for (const printed of (await works(3, 'pending')).ranks) assert.match(printed, /^settled$/m)
  })
  test('process.exit(0) with calls in flight waits for them', async () => {
    await works(3, 'exitsWithCode0')
  })

  const disagree = (one: string, another: string, call = 1) => {
    const literal = (text: string) => text.replace(/[()']/g, '\\$&')
    return new RegExp(
      `MarginSoftmaxError: Expected every rank to make the same call but rank 0 ${literal(one)} and rank 1 ${literal(another)} \\(call ${call} of the group, .*\\n[^]*ERR_DISTRIBUTED`
    )
  }
  /** Where mpirun ends a rank that is busy with something else: it says so itself. */
  const ended = /^(begins.*\n)?$/
  const reduce = "called allReduce(Float32Array(5), 'sum')"
  for (const [scenario, what, others, odd] of [
    [
      'throws',
      'one that throws',
      disagree(reduce, 'ended its process with code 1'),
      /RangeError: thrown on purpose/,
    ],
    [
      'exits',
      'process.exit(3)',
      disagree('called broadcast(Float32Array(5), root 0)', 'ended its process with code 3'),
      ended,
    ],
    [
      'exitsEarly',
      'process.exit(0)',
      disagree('called allGather(Int8Array)', 'ended its process with code 0'),
      0,
    ],
    ['endsEarly', 'one that ends early', disagree('called barrier()', 'ended its process with code 0'), 0],
    [
      'exitsInFlight',
      'process.exit(4) with calls in flight',
      disagree(reduce, 'ended its process with code 4', 51),
      ended,
    ],
    ['endsBefore', 'one that never joins', disagree('called barrier()', 'ended its process with code 0'), 0],
    ['calls', 'another call', disagree(reduce, 'called broadcast(Float32Array(5), root 0)'), 0],
    [
      'sizes',
      'another length',
      disagree(
        "called allReduce(Float32Array(40000), 'sum')",
        "called allReduce(Float32Array(50000), 'sum')"
      ),
      0,
    ],
    [
      'types',
      'another type',
      disagree('called broadcast(Float32Array(5), root 0)', 'called broadcast(Float64Array(5), root 0)'),
      0,
    ],
    [
      'gatheredTypes',
      'another type to gather',
      disagree('called allGather(Int32Array)', 'called allGather(Uint32Array)'),
      0,
    ],
    [
      'combinations',
      'another operation',
      disagree("called allReduce(Int8Array(5), 'sum')", "called allReduce(Int8Array(5), 'max')"),
      0,
    ],
    [
      'roots',
      'another root',
      disagree('called broadcast(Int8Array(5), root 0)', 'called broadcast(Int8Array(5), root 1)'),
      0,
    ],
    [
      'counts',
      'other counts',
      disagree(
        "called reduceScatter(Int8Array(3), 'sum')",
        "called reduceScatter(Int8Array(3), 'sum') with other counts"
      ),
      0,
    ],
    ['order', 'another order', disagree(reduce, 'called allGather(Float32Array)', 2), 0],
    [
      'memory',
      'no memory for a copy',
      /Expected every rank to go on but rank 1 could not: Expected 200000000 bytes of memory(.|\n)*ERR_DISTRIBUTED/,
      /Expected 200000000 bytes of memory(.|\n)*ERR_OUT_OF_MEMORY/,
    ],
    ['memoryOfResult', 'no memory for the result', /ERR_DISTRIBUTED/, /ERR_OUT_OF_MEMORY/],
    ['killed', 'one that is killed', mpi.toldToEnd, ended],
    ['whileOthersCompute', 'process.exit(5) while the others compute', /^$/, ended],
    [
      'whileOthersSleep',
      'one that throws while the others wait for something else',
      mpi.toldToEnd,
      /Error: thrown on purpose/,
    ],
  ] as const)
    test(`${what} on one rank ends all of them`, async () => {
      if (scenario.startsWith('memory') && process.platform !== 'linux') return // limited by prlimit
      await fails(scenario, others, odd || others)
    })
  test('one that throws before it joins ends all of them', async () => {
    const others = mpi.openMpi
      ? /^(margin-softmax: rank [02] of 3 was told to end .*\n)?$/
      : disagree('called barrier()', 'ended its process with code 1')
    await fails('throwsBefore', others, /Error: thrown on purpose/)
  })
  test('after a failure every call fails likewise, and so does the job even where that is caught', async () => {
    const { ranks } = await fails(
      'caught',
      /^caught 0: Expected every rank/m,
      /^caught 0: Expected every rank/m
    )
    for (const printed of ranks)
      for (const i of [1, 2])
        assert.match(
          printed,
          new RegExp(
            `^caught ${i}: Expected a group that goes on but an earlier call failed: Expected every rank`,
            'm'
          )
        )
  })
}

test.run()
