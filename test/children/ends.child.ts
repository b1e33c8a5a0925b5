// The scenarios of ends.test.ts, each in a process of its own. Prints "done" when all is well.
import assert from 'node:assert'
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { MarginHead, marginLoss } from '../../lib/index'
import { type Batch, makeBatch } from '../support/support'

/** A tenth of a second of one thread, without copies: the arrays are shared. */
function longBatch(): Batch {
  const shared = (values: Float32Array) => {
    const copy = new Float32Array(new SharedArrayBuffer(values.byteLength))
    copy.set(values)
    return copy
  }
  const batch = makeBatch(1, { rows: 64, dim: 256, classes: 20_000 })
  return { ...batch, input: shared(batch.input), weight: shared(batch.weight) }
}

const options = { threads: 1, gradInput: false, gradWeight: false, device: 'cpu' } as const

const scenarios: Record<string, () => Promise<void>> = {
  // A Worker's job that has not begun leaves the queue with its Worker, and so does not wait for what is before it.
  async queued() {
    const worker = new Worker("require('tsx/cjs'); require(process.argv[2])", {
      argv: [__filename],
      eval: true,
      execArgv: [],
    })
    const message = () => new Promise((resolve) => worker.once('message', resolve))
    await message()
    const batch = longBatch()
    const ended: string[] = []
    const calls = Promise.all(Array.from({ length: 40 }, () => marginLoss(batch, options))).then(() =>
      ended.push('the calls before it')
    )
    worker.postMessage('queue')
    await message()
    await worker.terminate()
    ended.push('the Worker')
    await calls
    assert.deepStrictEqual(ended, ['the Worker', 'the calls before it'])
  },

  // dispose() waits for nothing: the event loop goes on turning while the step that uses the head ends.
  async disposed() {
    const { input, labels } = makeBatch(2, { rows: 256, dim: 256, classes: 60_000 })
    const head = await MarginHead.create({ classes: 60_000, dim: 256, threads: 1, device: 'cpu' })
    await head.step(input, labels)
    let turns = 0
    let running = true
    const step = head.step(input, labels).finally(() => {
      running = false
    })
    const before = process.cpuUsage()
    while (process.cpuUsage(before).user < 20_000) await delay(2) // microseconds: once they pass, it has begun
    assert.ok(running, 'the step was too short for this test')
    head.dispose()
    while (running) {
      await turn()
      turns++
    }
    assert.ok((await step).loss > 0)
    assert.ok(turns > 100, `the event loop turned only ${turns} times`)
    await assert.rejects(head.step(input, labels), { code: 'ERR_DISPOSED' })
  },
}

if (isMainThread) {
  const scenario = scenarios[process.argv[2] as string]
  if (!scenario) throw new Error(`no scenario ${process.argv[2]}`)
  scenario().then(() => console.log('done'))
} else {
  parentPort?.once('message', () => {
    void marginLoss(makeBatch(3, { rows: 3, dim: 4, classes: 5 }), { device: 'cpu' })
    parentPort?.postMessage('queued')
  })
  parentPort?.postMessage('ready')
}
