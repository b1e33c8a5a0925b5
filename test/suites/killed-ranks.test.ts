// Ranks that are killed (kill -9) at random moments of a training with saves: the others end and say why, and what was saved
// is whole. 4 kills; MARGIN_SOFTMAX_RANK_KILLS=<times>[,<seed>] in the environment makes it more.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { MarginHead } from '../../lib/index'
import * as mpi from '../support/mpirun'
import { integer, lacking, numbersIn, random } from '../support/support'

const test = suite('killed ranks')
const [times = 4, seed = 1] = numbersIn('MARGIN_SOFTMAX_RANK_KILLS')
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-killed-'))
test.after(() => fs.rmSync(folder, { recursive: true, force: true }))

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))
const bound = 10_000 // milliseconds from the kill to the end of all

/** A zombie has ended. */
function runs(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

interface Moment {
  ranks: number
  victim: number
  /** Whether the victim may not even have joined. */
  early: boolean
  /** Milliseconds. */
  after: number
}

async function kill({ ranks, victim, early, after }: Moment): Promise<string> {
  const pids: (number | undefined)[] = []
  let killed = 0
  let began: (() => void) | undefined
  const ready = new Promise<void>((resolve) => {
    began = resolve
  })
  const running = mpi.run('killed-ranks.child.ts', ranks, [path.join(folder, 'head')], {}, (printed) => {
    for (const [rank, text] of printed.entries())
      pids[rank] = Number(/^pid (\d+)$/m.exec(text)?.[1]) || undefined
    const all = pids.filter(Boolean).length === ranks
    if (all && (early || printed.every((text) => /^saved$/m.test(text)))) began?.()
  })
  await Promise.race([ready, running])
  await sleep(after)
  killed = Date.now()
  process.kill(pids[victim] as number, 'SIGKILL')
  const { code, output, ranks: printed } = await running
  const took = Date.now() - killed
  assert.is.not(code, 0, output)
  assert.ok(took < bound, `the others ended ${took} ms after the kill:\n${output}`)
  await sleep(100)
  assert.equal(
    pids.filter((pid) => runs(pid as number)),
    [],
    output
  )
  assert.match(output, mpi.openMpi ? /signal 9 \(Killed\)/ : /KILLED BY SIGNAL: 9|EXIT CODE: 9/)
  if (mpi.openMpi && !early)
    for (const [rank, text] of printed.entries())
      if (rank !== victim)
        assert.match(text, /^margin-softmax: rank \d of \d was told to end|ERR_DISTRIBUTED/m, output)
  return output
}

if (mpi.missing) {
  lacking(test, `there is ${mpi.missing}`)
} else if (process.platform !== 'linux') {
  test.skip('processes are looked for in /proc', () => {})
} else {
  const next = random(seed)
  let iteration = 0
  for (let i = 1; i <= times; i++) {
    const ranks = integer(next, 2, 4)
    const early = i % 4 === 0
    const moment = { ranks, victim: integer(next, 0, ranks - 1), early, after: integer(next, 0, 600) }
    test(`kill ${i} of ${times} with seed ${seed}: ${JSON.stringify(moment)}`, async () => {
      await kill(moment)
      const head = await MarginHead.load(path.join(folder, 'head'), { device: 'cpu' })
      assert.ok(head.iteration > 0)
      assert.ok(head.weights().every(Number.isFinite))
      iteration += head.iteration
      head.dispose()
    })
  }
  test('saves were there to be killed', () => assert.ok(iteration > times))
}

test.run()
