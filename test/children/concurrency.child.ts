// The scenarios of concurrency.test.ts, each in a process of its own, so that a crash is a failed test and no dead runner.
// Started as `node --require tsx/cjs concurrency.child.ts <scenario>`; prints "done" when all is well.
import assert from 'node:assert'
import fs from 'node:fs'
import path from 'node:path'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import nodeGypBuild from 'node-gyp-build'
import type { MarginHead as Head } from '../../lib/index'
import { type Batch, makeBatch, type Shape } from '../support/support'

// Loaded inside the scenarios: one of them wants the addon in Workers only.
const library = () => require('../../lib/index') as typeof import('../../lib/index')

const small: Shape = { rows: 33, dim: 40, classes: 300 }
/** A tenth of a second of work for a fast machine. */
const long: Shape = { rows: 256, dim: 256, classes: 30_000 }

/** Cheap numbers: these calls are for what happens during them. */
function longBatch(seed: number): Batch {
  const few = makeBatch(seed, { rows: long.rows, dim: long.dim, classes: 100 })
  const weight = new Float32Array(long.classes * long.dim)
  for (let at = 0; at < weight.length; at += few.weight.length) weight.set(few.weight, at)
  return { ...few, weight }
}

type Result = Awaited<ReturnType<ReturnType<typeof library>['marginLoss']>>

function same(actual: Result, expected: Result): void {
  assert.strictEqual(actual.loss, expected.loss)
  for (const name of ['losses', 'gradInput', 'gradWeight'] as const) {
    assert.deepStrictEqual(actual[name], expected[name], name)
  }
}

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

// A Worker does not take over the loader that --import registers: it registers its own before it reads TypeScript.
const workerMain = "require('tsx/cjs'); require(require('node:worker_threads').workerData.file)"

function startWorker(task: string, seed = 0): Worker {
  return new Worker(workerMain, { eval: true, execArgv: [], workerData: { task, seed, file: __filename } })
}

const message = (worker: Worker) =>
  new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
const exit = (worker: Worker) =>
  new Promise<number>((resolve, reject) => worker.once('exit', resolve).once('error', reject))

const scenarios: Record<string, () => Promise<void>> = {
  // Threads that watch for each other between two steps (native/core/watch.h) stop doing so after the last one.
  async idle() {
    const { rows, dim, classes } = { rows: 4, dim: 8, classes: 16 }
    const { input, labels } = makeBatch(1, { rows, dim, classes })
    const head = await library().MarginHead.create({ classes, dim, threads: 2 })
    for (let step = 0; step < 200; step++) await head.step(input, labels)
    const before = process.cpuUsage()
    await sleep(500)
    const { user, system } = process.cpuUsage(before)
    assert.ok(user + system < 50_000, `${user + system} µs in half a second`)
  },

  // Many calls in flight, of several shapes and margins, with a head in between.
  async many() {
    const { marginLoss, marginLossSync, MarginHead, topK, topKSync, arcface, cosface, sphereface } = library()
    const margins = [arcface(), cosface(), sphereface()]
    const head = await MarginHead.create({ classes: small.classes, dim: small.dim })
    const calls = Array.from({ length: 60 }, async (_, seed) => {
      const shape = { ...small, classes: small.classes + seed, rows: 1 + seed }
      const batch = makeBatch(seed, shape)
      const margin = margins[seed % 3]
      const expected = marginLossSync(batch, { margin })
      const { labels: _labels, ...rows } = batch
      const best = topKSync(rows, { k: 3 })
      const [loss, top, step] = await Promise.all([
        marginLoss(batch, { margin }),
        topK(rows, { k: 3 }),
        head.step(
          batch.input,
          batch.labels.map((label) => label % small.classes)
        ),
      ])
      same(loss, expected)
      assert.deepStrictEqual(top, best)
      assert.ok(Number.isFinite(step.loss))
    })
    await Promise.all(calls)
    assert.strictEqual(head.iteration, 60)
  },

  // The event loop and libuv's threads stay free while a long job runs.
  async alive() {
    const { marginLoss } = library()
    let running = true
    const batch = longBatch(1)
    const jobs = Promise.all([0, 1, 2, 3, 4].map(() => marginLoss(batch))).finally(() => {
      running = false
    })
    const ticks = { immediate: 0, stat: 0, timeout: 0 }
    const turn = async (name: keyof typeof ticks, wait: () => Promise<unknown>) => {
      while (running) {
        await wait()
        if (running) ticks[name]++
      }
    }
    await Promise.all([
      turn('immediate', () => new Promise((resolve) => setImmediate(resolve))),
      turn('stat', () => fs.promises.stat(__filename)),
      turn('timeout', () => sleep(1)),
      jobs,
    ])
    for (const [name, count] of Object.entries(ticks)) assert.ok(count >= 5, `${name} came ${count} times`)
  },

  // A promise that nobody waits for keeps the process until it is settled.
  async pending() {
    const { marginLoss } = library()
    marginLoss(longBatch(1)).then(() => console.log('settled'))
  },

  // Inputs are taken when the call is made: what happens to them afterwards does not matter.
  async transfer() {
    const { marginLoss, marginLossSync, MarginHead, topK, topKSync } = library()
    for (let round = 0; round < 4; round++) {
      const batch = makeBatch(round, { rows: 100, dim: 64, classes: 5000 })
      const { labels: _labels, ...rows } = structuredClone(batch)
      const [expected, best] = [marginLossSync(batch), topKSync(rows, { k: 2 })]
      const [loss, top] = [marginLoss(batch), topK(rows, { k: 2 })]
      const views = [batch.input, batch.weight, batch.labels, rows.input, rows.weight]
      if (round % 2 === 0) {
        for (const view of views) view.fill(Number.NaN)
      } else {
        const transfer = views.map(({ buffer }) => buffer as ArrayBuffer)
        structuredClone(transfer, { transfer })
        assert.strictEqual(batch.input.length, 0)
      }
      same(await loss, expected)
      assert.deepStrictEqual(await top, best)
    }
    const heads = [
      await MarginHead.create({ classes: 5000, dim: 64 }),
      await MarginHead.create({ classes: 5000, dim: 64 }),
    ]
    const [kept, gone] = heads as [Head, Head]
    for (let round = 0; round < 4; round++) {
      const { input, labels } = makeBatch(round, { rows: 100, dim: 64, classes: 5000 })
      const expected = await kept.step(input, labels)
      const running = gone.step(input, labels)
      structuredClone(0, { transfer: [input.buffer as ArrayBuffer, labels.buffer as ArrayBuffer] })
      assert.deepStrictEqual(await running, expected)
    }
  },

  // Arrays to fill that go away: an error that names the array, or a right result.
  async outputs() {
    const { marginLoss, marginLossSync, MarginHead } = library()
    const shape = { rows: 100, dim: 64, classes: 5000 }
    const batch = makeBatch(1, shape)
    const expected = marginLossSync(batch)
    for (const name of ['losses', 'gradInput', 'gradWeight'] as const) {
      const array = new Float32Array((expected[name] as Float32Array).length)
      const running = marginLoss(batch, { [name]: array })
      structuredClone(array, { transfer: [array.buffer as ArrayBuffer] })
      await assert.rejects(running, new RegExp(name))
    }
    const head = await MarginHead.create({ classes: 5000, dim: 64 })
    const gradInput = new Float32Array(6400)
    const step = head.step(batch.input, batch.labels, { gradInput })
    structuredClone(gradInput, { transfer: [gradInput.buffer as ArrayBuffer] })
    await assert.rejects(step, /gradInput/)
    same(await marginLoss(batch), expected)
  },

  // Shared inputs are read in place, also while another thread writes to them: any numbers, but no crash.
  async shared() {
    const { marginLoss } = library()
    const shape = { rows: 64, dim: 64, classes: 3000 }
    const batch = makeBatch(1, shape)
    const share = (values: Float32Array | Int32Array) => {
      const view = new (values.constructor as typeof Float32Array)(new SharedArrayBuffer(values.byteLength))
      view.set(values)
      return view
    }
    const shared = {
      ...batch,
      input: share(batch.input),
      weight: share(batch.weight),
      labels: share(batch.labels) as unknown as Int32Array,
    }
    for (let round = 0; round < 10; round++) {
      const running = marginLoss(shared)
      // Labels that are no classes: checked when the call was made, they must not be believed later.
      shared.labels.fill(2 ** 31 - 1)
      shared.input.fill(round)
      await running
      shared.labels.set(batch.labels)
      shared.input.set(batch.input)
    }
  },

  // What is in flight is not collected.
  async collected() {
    const { marginLoss, marginLossSync, MarginHead } = library()
    const gc = (globalThis as { gc?: () => void }).gc as () => void
    const expected = marginLossSync(makeBatch(1, small))
    const results = Array.from({ length: 30 }, () => {
      const running = marginLoss(makeBatch(1, small))
      gc()
      return running
    })
    const steps = Array.from({ length: 10 }, async () => {
      const { input, labels } = makeBatch(1, small)
      const running = (await MarginHead.create({ classes: small.classes, dim: small.dim })).step(
        input,
        labels
      )
      gc()
      return running
    })
    gc()
    for (const result of await Promise.all(results)) same(result, expected)
    for (const { loss } of await Promise.all(steps)) assert.ok(Number.isFinite(loss))
    gc()
  },

  async workers() {
    const { marginLossSync } = library()
    const workers = [0, 1, 2, 3].map((seed) => startWorker('compute', seed))
    const ended = Promise.all(workers.map(exit))
    const results = await Promise.all(workers.map(message))
    for (const [seed, result] of results.entries())
      same(result as Result, marginLossSync(makeBatch(seed, small)))
    assert.deepStrictEqual(await ended, [0, 0, 0, 0])
  },

  // The addon lives in Workers only, and is loaded again after its last user has gone.
  async reload() {
    for (const seed of [0, 1, 2]) {
      const worker = startWorker('compute', seed)
      const ended = exit(worker)
      await message(worker)
      assert.strictEqual(await ended, 0)
    }
  },

  // Each Worker is the only one that has the addon, and ends right after a job on threads of the pool's, which outlive it.
  async oneByOne() {
    const binary = process.env.MARGIN_SOFTMAX_BINARY ?? nodeGypBuild.resolve(path.join(__dirname, '../..'))
    const job = `require(${JSON.stringify(path.resolve(binary))}).multiplyAdds(4, 1000); process.exit(0)`
    for (let i = 0; i < 60; i++)
      assert.strictEqual(await exit(new Worker(job, { eval: true, execArgv: [] })), 0)
  },

  async terminate() {
    const { marginLossSync, marginLoss } = library()
    const expected = marginLossSync(makeBatch(1, small))
    for (let round = 0; round < 3; round++) {
      const workers = [startWorker('long', round), startWorker('head', round)]
      await Promise.all(workers.map(message)) // jobs are in flight
      await sleep(round * 15)
      const own = marginLoss(makeBatch(1, small))
      await Promise.all(workers.map((worker) => worker.terminate()))
      same(await own, expected)
    }
  },

  // process.exit in a Worker ends the Worker alone.
  async workerExit() {
    const { marginLossSync } = library()
    for (const round of [0, 3]) {
      const workers = [startWorker('exit', round), startWorker('exit', round)]
      assert.deepStrictEqual(await Promise.all(workers.map(exit)), [3, 3])
    }
    assert.ok(Number.isFinite(marginLossSync(makeBatch(1, small)).loss))
  },

  // The process ends at once, with its own exit code, in the middle of jobs.
  async exit() {
    const { marginLoss, MarginHead } = library()
    const head = await MarginHead.create({ classes: long.classes, dim: long.dim })
    const batch = longBatch(1)
    for (let i = 0; i < 50; i++) {
      marginLoss(batch)
      head.step(batch.input, batch.labels)
      if (i === 2) setTimeout(() => process.exit(7), 30)
      await sleep(1)
    }
    throw new Error('the process went on')
  },

  // An uncaught error ends the process in the usual way.
  async uncaught() {
    library().marginLoss(longBatch(1))
    setImmediate(() => {
      throw new RangeError('uncaught on purpose')
    })
    await sleep(10_000)
  },
}

/** The scenarios of Workers. */
const tasks: Record<string, (seed: number) => Promise<void>> = {
  async compute(seed) {
    const { marginLoss, marginLossSync, MarginHead } = library()
    const batch = makeBatch(seed, small)
    const expected = marginLossSync(batch)
    const head = await MarginHead.create({ classes: small.classes, dim: small.dim })
    for (const result of await Promise.all([0, 1, 2].map(() => marginLoss(batch)))) same(result, expected)
    await head.step(batch.input, batch.labels)
    parentPort?.postMessage(expected)
  },
  async long(seed) {
    const { marginLoss } = library()
    const batch = longBatch(seed)
    const jobs = [0, 1, 2].map(() => marginLoss(batch))
    parentPort?.postMessage('started')
    await Promise.all(jobs)
  },
  async head(seed) {
    const { MarginHead } = library()
    const head = await MarginHead.create({ classes: long.classes, dim: long.dim })
    const { input, labels } = longBatch(seed)
    const steps = [0, 1, 2].map(() => head.step(input, labels))
    parentPort?.postMessage('started')
    await Promise.all(steps)
  },
  async exit(seed) {
    const { marginLoss } = library()
    const batch = longBatch(seed)
    for (let i = 0; i < 4; i++) marginLoss(batch)
    await sleep(10 * seed)
    process.exit(3)
  },
}

async function main(): Promise<void> {
  const scenario = scenarios[process.argv[2] as string]
  if (!scenario) throw new Error(`no scenario ${process.argv[2]}`)
  await scenario()
  console.log('done')
}

if (isMainThread) main()
else tasks[workerData.task as string]?.(workerData.seed)
