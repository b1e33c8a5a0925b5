// All kinds of work for as long as wanted: memory, threads and file descriptors stay as they are. 15 s, a few of each kind;
// MARGIN_SOFTMAX_SOAK=<seconds>[,<seed>] in the environment makes it longer.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import v8 from 'node:v8'
import vm from 'node:vm'
import { Worker } from 'node:worker_threads'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  adamW,
  MarginHead,
  type MarginHeadOptions,
  marginLoss,
  marginLossSync,
  sgd,
  softmax,
  verification,
} from '../../lib/index'
import { integer, makeBatch, normals, numbersIn, pick, random } from '../support/support'

const test = suite('soak')
const [seconds = 15, seed = 1] = numbersIn('MARGIN_SOFTMAX_SOAK')
/** The allowed growth of resident memory, from the second third of the time to the last: what allocators keep differs from time to time. */
const growth = 32 * 2 ** 20

v8.setFlagsFromString('--expose-gc')
const collectGarbage = vm.runInNewContext('gc') as () => void
const next = random(seed)
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-soak-'))
test.after(() => fs.rmSync(folder, { recursive: true, force: true }))

const batch = (dim = integer(next, 1, 130), classes = integer(next, 2, 2000)) =>
  makeBatch(integer(next, 0, 1e6), { rows: integer(next, 1, 150), dim, classes })

async function ended(worker: Worker): Promise<number> {
  return new Promise((resolve, reject) => {
    worker.once('error', reject)
    worker.once('exit', resolve)
  })
}

const kinds: Record<string, () => Promise<void>> = {
  async loss() {
    await Promise.all([marginLoss(batch()), marginLoss(batch(), { threads: 2 })])
    marginLossSync(batch(), { workspace: 32 * 2 ** 20 })
  },
  async head() {
    const [dim, classes] = [integer(next, 1, 130), integer(next, 2, 2000)]
    const options: MarginHeadOptions = {
      dim,
      classes,
      optimizer: pick(next, [sgd({ momentum: 0.9 }), adamW()]),
      weightStorage: pick(next, ['float32', 'bfloat16'] as const),
    }
    const head = await MarginHead.create(options)
    for (let i = 0; i < 3; i++) {
      const { input, labels } = batch(dim, classes)
      await head.step(input, labels)
      await head.topK(input, 1)
    }
    const file = path.join(folder, 'head')
    await head.save(file)
    const loaded = await MarginHead.load(file)
    assert.is(loaded.iteration, 3)
    loaded.dispose()
    if (next() < 0.5) head.dispose() // else it is for the garbage collector
  },
  async mistakes() {
    for (let i = 0; i < 50; i++) {
      assert.throws(() => marginLossSync({ ...batch(), dim: 0.5 }))
      const { input, ...rest } = batch()
      await marginLoss({ ...rest, input: input.fill(Number.NaN) }).catch(() => {})
      await MarginHead.load(path.join(folder, 'none')).then(
        () => assert.unreachable(),
        () => {}
      )
    }
  },
  async verification() {
    const rows = integer(next, 20, 400)
    await verification(
      normals(next, rows * 16),
      Int32Array.from({ length: rows }, (_, i) => i % 5)
    )
    softmax(normals(next, 10_000))
  },
  // Every other one is ended in the middle of its work.
  async worker() {
    const code = `require('tsx/cjs')
      const { marginLoss } = require(${JSON.stringify(require.resolve('../../lib/index'))})
      const input = new Float32Array(64 * 100).fill(1), weight = new Float32Array(64 * 1000).fill(1)
      const done = marginLoss({ input, weight, labels: new Int32Array(100), dim: 64 })
      require('node:worker_threads').parentPort.postMessage('runs')
      done.then(() => process.exit(0))`
    const worker = new Worker(code, { eval: true, execArgv: [] })
    const end = ended(worker)
    if (next() < 0.5) worker.once('message', () => worker.terminate())
    await end
  },
}

interface Figures {
  memory: number
  threads: number
  descriptors: number
}

function figures(): Figures {
  collectGarbage()
  const threads = /^Threads:\s+(\d+)/m.exec(fs.readFileSync('/proc/self/status', 'utf8'))?.[1]
  return {
    memory: process.memoryUsage.rss(),
    threads: Number(threads),
    descriptors: fs.readdirSync('/proc/self/fd').length,
  }
}

const middle = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1] as number

if (process.platform !== 'linux') {
  test.skip('threads and descriptors are counted in /proc', () => {})
} else {
  test(`${seconds} s of everything with seed ${seed} leave memory, threads and descriptors as they are`, async () => {
    const names = Object.keys(kinds)
    for (const name of [...names, ...names]) await kinds[name]?.() // caches, pools and lazy modules
    const samples: Figures[] = []
    const end = Date.now() + seconds * 1000
    while (Date.now() < end || samples.length < 12) {
      await kinds[pick(next, names)]?.()
      await new Promise((resolve) => setImmediate(resolve))
      samples.push(figures())
    }
    const third = Math.floor(samples.length / 3)
    const [before, after] = [samples.slice(third, 2 * third), samples.slice(-third)]
    const of = (some: Figures[], name: keyof Figures) => some.map((sample) => sample[name])
    const grown = middle(of(after, 'memory')) - middle(of(before, 'memory'))
    console.log(`${samples.length} rounds; memory grew by ${(grown / 2 ** 20).toFixed(1)} MiB`)
    assert.ok(grown < growth, `memory grew by ${grown} bytes`)
    for (const name of ['threads', 'descriptors'] as const)
      assert.ok(
        Math.min(...of(after, name)) <= Math.min(...of(before, name)),
        `${name}: ${Math.min(...of(before, name))}, then ${Math.min(...of(after, name))}`
      )
  })
}

test.run()
