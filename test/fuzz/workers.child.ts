// Workers that compute and are terminated at random moments, on the pool and queue of a main thread that computes as well.
// `workers.child.ts <seed> <terminations, or seconds with an s>`: prints "done" when no value was wrong.
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { cosface, MarginHead, MarginSoftmaxError, marginLoss } from '../../lib/index'
import { makeBatch } from '../support/support'
import { type Dice, dice } from './campaign'
import { life } from './valid-heads'
import { best, loss, lossSync } from './valid-losses'

interface Task {
  seed: number
  memory: SharedArrayBuffer
}

const dim = 8

/** Numbers that every thread overwrites while others compute with them: any result, but no crash. */
async function shared(roll: Dice, memory: SharedArrayBuffer): Promise<void> {
  const numbers = new Float32Array(memory)
  for (let i = 0; i < 64; i++)
    numbers[roll.integer(0, numbers.length - 1)] = roll.chance(0.05) ? Number.NaN : roll()
  const batch = {
    input: numbers.subarray(0, 8 * dim),
    weight: numbers.subarray(8 * dim),
    labels: new Int32Array(8),
    dim,
  }
  await marginLoss(batch, { margin: cosface() }).catch((error) => {
    if (!(error instanceof MarginSoftmaxError && error.code === 'ERR_NOT_FINITE')) throw error
  })
}

/** Several larger jobs that are in flight together. */
async function together(roll: Dice): Promise<void> {
  const batch = makeBatch(roll.integer(0, 1000), { rows: 64, dim: 48, classes: 900 })
  const head = await MarginHead.create({ classes: 900, dim: 48 })
  const losses = await Promise.all(
    [1, 2, 3].map(async (threads) => (await marginLoss(batch, { threads })).loss)
  )
  if (new Set(losses).size > 1) throw new Error(`losses differ: ${losses}`)
  await Promise.all([
    head.step(batch.input, batch.labels),
    head.evaluate(batch.input, batch.labels),
    head.topK(batch.input),
  ])
}

/** Computes until `enough` says so; a fault ends it. */
async function compute({ seed, memory }: Task, enough: () => boolean): Promise<number> {
  let calls = 0
  for (; !enough(); calls++) {
    const roll = dice(seed, calls)
    const way = roll.integer(0, 7)
    if (way === 0) await shared(roll, memory)
    else if (way === 1) await together(roll)
    else await [lossSync, loss, loss, best, life, life][way - 2]?.(roll)
  }
  return calls
}

// A Worker does not take over the loader that --require registers: it registers its own before it reads TypeScript.
const workerMain = "require('tsx/cjs'); require(require('node:worker_threads').workerData.file)"

async function main(): Promise<void> {
  const [seed, amount] = [Number(process.argv[2]), process.argv[3] as string]
  const end = amount.endsWith('s') ? Date.now() + 1000 * Number.parseFloat(amount) : Infinity
  const most = end === Infinity ? Number(amount) : Infinity
  const memory = new SharedArrayBuffer(4 * (8 * dim + 100 * dim))
  const roll = dice(seed, 0)
  let [begun, finished] = [0, false]
  const lane = async () => {
    while (begun < most && Date.now() < end) {
      const task = { seed: seed + ++begun, memory, file: __filename }
      const worker = new Worker(workerMain, { eval: true, execArgv: [], workerData: task })
      await new Promise<void>((resolve, reject) => {
        worker.on('error', reject) // a fault that it found
        worker.once('message', () => resolve())
      })
      await new Promise((resolve) => setTimeout(resolve, 250 * roll() * roll()))
      await worker.terminate()
    }
  }
  const own = compute({ seed, memory }, () => finished)
  await Promise.race([own, Promise.all([lane(), lane(), lane()])]) // a fault of the main thread ends it at once
  finished = true
  console.log(JSON.stringify({ fuzz: 'workers', seed, terminated: begun, calls: await own }))
  console.log('done')
}

if (isMainThread) main()
else {
  parentPort?.postMessage('begun')
  compute(workerData, () => false)
}
