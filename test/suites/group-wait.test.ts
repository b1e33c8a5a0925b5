// Ranks that are stopped (SIGSTOP) or late, and what the others do meanwhile: see group-wait.child.ts.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { processGroup } from '../../lib/distributed'
import { MarginHead } from '../../lib/index'
import { Waiting } from '../../lib/internal/group-wait'
import type { NativeGroup } from '../../lib/internal/native'
import * as mpi from '../support/mpirun'
import { complaint, lacking, rejectsLike } from '../support/support'

const test = suite('group-wait')
const child = 'group-wait.child.ts'
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-wait-'))
process.env.MARGIN_SOFTMAX_TEST_FOLDER = folder
test.after(() => fs.rmSync(folder, { recursive: true, force: true }))

const brief = JSON.stringify({ timeout: 3000, warnAfter: 500 })

/** Rank 1 is stopped: each other rank says for whom it waits, then fails and names it; mpirun ends all of them. */
async function isGivenUp(scenario: string, place: string): Promise<mpi.Ended> {
  const ended = await mpi.run(child, 3, [scenario, brief])
  assert.is.not(ended.code, 0, ended.output)
  assert.ok(ended.lasted < 20_000, `${scenario} took ${ended.lasted} ms:\n${ended.output}`)
  for (const rank of [0, 2]) {
    const printed = ended.ranks[rank] as string
    const warning = `margin-softmax: rank ${rank} of 3 has waited [\\d.]+ s for ranks? [^\n]*1[^\n]* ${place}; it gives up after 3 s`
    assert.match(printed, new RegExp(`^${warning}$`, 'm'), ended.output)
    const error = `MarginSoftmaxError: Expected ranks? [^\n]*1[^\n]* to answer but rank \\d has waited \\d+ s ${place}`
    assert.match(printed, new RegExp(`${error}\\n[^]*ERR_DISTRIBUTED`), ended.output)
    assert.is(
      printed.match(/of 3 has waited [\d.]+ s for ranks? /g)?.length,
      1,
      `one line a call:\n${ended.output}`
    )
  }
  return ended
}

if (mpi.missing) {
  lacking(test, `there is ${mpi.missing}`)
} else {
  const call = '\\(call \\d+ of the group\\)'
  for (const [scenario, what, place] of [
    ['call', 'a call', `in allReduce\\(Float32Array\\(5\\), 'sum'\\) ${call}`],
    ['transfer', 'the middle of long transfers', `in allReduce\\(Float32Array\\(500000\\), 'sum'\\) ${call}`],
    ['step', 'a step of a sharded head', `in \\w+\\([^\n]*\\) for head 1 ${call}`],
    ['save', 'a save', `in \\w+\\([^\n]*\\) ${call}`],
    ['end', 'the end of the process', `at the end of the process ${call}`],
  ] as const)
    test(`a rank that is stopped in ${what} is named by all others, who end`, async () => {
      await isGivenUp(scenario, place)
    })

  test('what was saved before a rank was stopped is whole', async () => {
    const head = await MarginHead.load(path.join(folder, 'stopped'))
    assert.is(head.iteration, 1)
    head.dispose()
  })

  test('a rank that is stopped before it joins is waited for as long, and no longer', async () => {
    const { code, ranks, output, lasted } = await mpi.run(child, 3, ['start', brief])
    assert.is.not(code, 0, output)
    assert.ok(lasted < 20_000, output)
    for (const rank of [0, 2]) {
      const printed = ranks[rank] as string
      assert.match(printed, /rank \d of 3 has waited [\d.]+ s for the other ranks to join the group/)
      assert.match(printed, /Expected all 3 ranks to join the group within [\d.]+ s but not all of them did/)
    }
  })

  test('the first rank whose time is over tells the others, who say the same', async () => {
    const { code, ranks, output } = await mpi.run(child, 3, ['late', brief])
    assert.is.not(code, 0)
    const message = /Expected rank 1 to answer but rank 0 has waited \d+ s in allReduce/
    for (const rank of [0, 2]) assert.match(ranks[rank] as string, message, output)
  })

  test('after that every call fails at once, and so does the job even where that is caught', async () => {
    const { code, ranks, output } = await mpi.run(child, 3, ['caught', brief])
    assert.is.not(code, 0, output)
    for (const rank of [0, 2])
      assert.match(
        ranks[rank] as string,
        /caught: Expected rank 1 to answer[\s\S]*caught: Expected a group that goes on but an earlier call failed: Expected rank 1/
      )
  })

  test('a rank that is late is named once, and nothing fails', async () => {
    const { code, ranks, output } = await mpi.run(child, 3, ['slow', JSON.stringify({ warnAfter: 500 })])
    assert.is(code, 0, output)
    for (const rank of [0, 2]) {
      const lines = (ranks[rank] as string)
        .split('\n')
        .filter((line) => / of 3 has waited .* s for rank /.test(line))
      assert.is(lines.length, 1, output)
      assert.match(
        lines[0] as string,
        /for rank 1 in allGather\(Int8Array\) \(call \d+ of the group\); it gives up after 600 s$/
      )
    }
    assert.not.match(ranks[1] as string, /rank 1 of 3 has waited [\d.]+ s for rank/)
    for (const printed of ranks) assert.match(printed, /went well/)
  })

  test('how long is waited: an option, else the environment, else 10 minutes', () => {
    const patience: number[] = []
    const native = { setPatience: (time: number) => patience.push(time) } as unknown as NativeGroup
    new Waiting(native, 'rank 0 of 2')
    process.env.MARGIN_SOFTMAX_GROUP_TIMEOUT = '1500'
    try {
      new Waiting(native, 'rank 0 of 2').set({ timeout: Number.POSITIVE_INFINITY })
    } finally {
      delete process.env.MARGIN_SOFTMAX_GROUP_TIMEOUT
    }
    assert.equal(patience, [600_000, 1500, Number.POSITIVE_INFINITY])
  })

  test('wrong options are named', async () => {
    for (const [options, Kind, name] of [
      [{ timeout: 0 }, RangeError, 'timeout'],
      [{ timeout: -1 }, RangeError, 'timeout'],
      [{ timeout: Number.NaN }, RangeError, 'timeout'],
      [{ warnAfter: 0 }, RangeError, 'warnAfter'],
      [{ timeout: '5' }, TypeError, 'timeout'],
      [{ timeout: null }, TypeError, 'timeout'],
      [{ timeouts: 5 }, TypeError, 'options'],
      [null, TypeError, 'options'],
    ] as const)
      await rejectsLike(processGroup(options as never), Kind, complaint(name))
    process.env.MARGIN_SOFTMAX_GROUP_TIMEOUT = 'soon'
    try {
      assert.throws(() => new Waiting({} as NativeGroup, ''), complaint('MARGIN_SOFTMAX_GROUP_TIMEOUT'))
    } finally {
      delete process.env.MARGIN_SOFTMAX_GROUP_TIMEOUT
    }
  })
}

test.run()
