// The scenarios of lying-buffer.test.ts, each in a process of its own: memory that JavaScript frees under native code.
// Started as `node --expose-gc --single-threaded-gc --require tsx/cjs lying-buffer.child.ts <scenario>`; prints "done".
import assert from 'node:assert'
import { isDeepStrictEqual } from 'node:util'
import {
  crossEntropyLoss,
  MarginHead,
  MarginSoftmaxError,
  marginLoss,
  marginLossSync,
  softmax,
  topK,
  topKSync,
  verification,
} from '../../lib/index'
import { normals, random } from '../support/support'

// Large enough for memory of their own, which the system takes back when it is freed: a later access is a crash.
const [rows, dim, classes] = [256, 128, 2000]
const next = random(1)
const numbers = { input: normals(next, rows * dim), weight: normals(next, classes * dim) }
const labels = Int32Array.from({ length: rows }, (_, i) => i % 8)
const collect = (globalThis as { gc?: () => void }).gc as () => void

/** Gives the memory of a buffer back to the system. */
function free(buffer: ArrayBufferLike): void {
  if (buffer.byteLength === 0) return
  structuredClone(buffer, { transfer: [buffer as ArrayBuffer] })
  for (let i = 0; i < 3; i++) collect()
}

interface Work {
  /** `array` is the one that lies; the result is to be that of the honest array. */
  run: (array: Float32Array, head: MarginHead) => unknown
  honest: Float32Array
}

const over = (honest: Float32Array, run: Work['run']): Work => ({ honest, run })
const pairs = Int32Array.from({ length: rows }, (_, i) => (i * 7) % rows)
const same = Array.from({ length: rows / 2 }, (_, i) => i % 3 === 0)

const works: Record<string, Work> = {
  'marginLoss, weight': over(numbers.weight, async (weight) =>
    marginLoss({ input: numbers.input.slice(), weight, labels, dim })
  ),
  'marginLoss, input': over(numbers.input, async (input) =>
    marginLoss({ input, weight: numbers.weight.slice(), labels, dim })
  ),
  'marginLossSync, input': over(numbers.input, (input) =>
    marginLossSync({ input, weight: numbers.weight.slice(), labels, dim })
  ),
  'topK, weight': over(numbers.weight, async (weight) => topK({ input: numbers.input.slice(), weight, dim })),
  'topKSync, input': over(numbers.input, (input) => topKSync({ input, weight: numbers.weight.slice(), dim })),
  'head.evaluate': over(numbers.input, async (input, head) => head.evaluate(input, labels)),
  'head.evaluateSync': over(numbers.input, (input, head) => head.evaluateSync(input, labels)),
  'head.topK': over(numbers.input, async (input, head) => head.topK(input, 3)),
  'verification, all pairs': over(numbers.input, async (input) => verification(input, labels)),
  'verification, listed': over(numbers.input, async (input) => verification(input, { pairs, same }, { dim })),
  crossEntropyLoss: over(numbers.input, (input) => crossEntropyLoss(input, labels)),
  softmax: over(numbers.input, (input) => softmax(input, { classes: dim })),
}

/** An error of the documented kinds is as good as the honest result: nothing else is. */
async function outcome(work: () => unknown): Promise<unknown> {
  try {
    return await work()
  } catch (error) {
    const known =
      error instanceof MarginSoftmaxError || error instanceof TypeError || error instanceof RangeError
    assert.ok(known && /^Expected /.test(error.message), String(error))
    return undefined
  }
}

/** Work that others wait behind in the queue, so that what they read is gone before they read it. */
function keepBusy(): Promise<unknown> {
  const input = new Float32Array(512 * 256).fill(1)
  return marginLoss(
    { input, weight: new Float32Array(6000 * 256).fill(1), labels: new Int32Array(512), dim: 256 },
    { threads: 1 }
  )
}

/** Runs every work with an array that `lie` prepares; `after` follows at once, before a promise is awaited. */
async function everywhere(
  lie: (array: Float32Array) => (() => void) | undefined,
  polluted = ''
): Promise<void> {
  const head = await MarginHead.create({ classes, dim, weights: numbers.weight, device: 'cpu' })
  for (const [name, { honest, run }] of Object.entries(works)) {
    const expected = await run(honest.slice(), head)
    const array = honest.slice()
    const after = lie(array)
    const busy = after && keepBusy()
    const running = outcome(() => run(array, head))
    after?.()
    const actual = await running
    delete (Object.prototype as unknown as Record<string, unknown>)[polluted]
    await busy
    if (actual !== undefined) assert.ok(isDeepStrictEqual(actual, expected), `${name}: another result`)
  }
}

/** Every reading of one of the array's own properties frees its memory from the `from`-th on. */
function freedWhenRead(name: 'buffer' | 'length' | 'byteLength' | 'byteOffset', from: number) {
  return (array: Float32Array) => {
    const [memory, honest] = [array.buffer, array[name]]
    let readings = 0
    Object.defineProperty(array, name, {
      get() {
        if (++readings === from) free(memory)
        return honest
      },
    })
    return undefined
  }
}

/** Names that a request to native code may lack. */
const absent = [
  'gradOutput',
  'sampleWeights',
  'bias',
  'gradBias',
  'gradInput',
  'gradWeight',
  'instructionSet',
  'group',
  'name',
  'pairs',
  'labels',
  'same',
  'foldAccuracies',
  'foldThresholds',
  'scores',
  'classWeights',
  'targets',
  'gradLogits',
  'q',
  'device',
  'precision',
  'workspace',
  'buffer',
]

const scenarios: Record<string, () => Promise<void>> = {
  // Taken for shared memory, it would be used in place, although it can be transferred.
  'own buffer': () =>
    everywhere((array) => {
      const memory = array.buffer
      Object.defineProperty(array, 'buffer', { value: {} })
      return () => free(memory)
    }),
  'inherited buffer': () =>
    everywhere((array) => {
      const memory = array.buffer
      const liar = Object.create(Float32Array.prototype, { buffer: { get: () => new SharedArrayBuffer(8) } })
      Object.setPrototypeOf(array, liar)
      return () => free(memory)
    }),
  'freed while read': async () => {
    for (let readings = 1; readings <= 5; readings++) await everywhere(freedWhenRead('buffer', readings))
    for (const name of ['length', 'byteLength', 'byteOffset'] as const)
      for (const readings of [1, 2]) await everywhere(freedWhenRead(name, readings))
  },
  // An output that claims to be shared would be written in place after it was freed.
  'own buffer of an output': async () => {
    const head = await MarginHead.create({ classes, dim, weights: numbers.weight, device: 'cpu' })
    const lying = (length: number) => {
      const array = new Float32Array(length)
      const memory = array.buffer
      Object.defineProperty(array, 'buffer', { value: new SharedArrayBuffer(8) })
      return { array, memory }
    }
    const batch = () => ({ input: numbers.input.slice(), weight: numbers.weight.slice(), labels, dim })
    const calls: [number, (array: Float32Array) => Promise<unknown>][] = [
      [classes * dim, (gradWeight) => marginLoss(batch(), { gradWeight })],
      [rows * dim, (gradInput) => marginLoss(batch(), { gradInput })],
      [rows, (losses) => marginLoss(batch(), { losses })],
      [rows * dim, (gradInput) => head.step(numbers.input.slice(), labels, { gradInput })],
    ]
    for (const [length, call] of calls) {
      const { array, memory } = lying(length)
      const busy = keepBusy()
      const running = call(array)
      free(memory)
      await assert.rejects(running, { code: 'ERR_DETACHED' })
      await busy
    }
  },
  // A getter of Object.prototype runs inside a native call that reads a name which its request lacks.
  'getters on Object.prototype': async () => {
    for (const name of absent)
      await everywhere((array) => {
        const memory = array.buffer
        Object.defineProperty(Object.prototype, name, {
          configurable: true,
          get() {
            free(memory)
            return undefined
          },
          // Assignments go on as they would without it.
          set(value) {
            Object.defineProperty(this, name, { value, writable: true, enumerable: true, configurable: true })
          },
        })
        return undefined
      }, name)
  },
  // The caller's own objects free an array while the others are read.
  'getters of options and batches': async () => {
    for (const name of ['margin', 'gradOutput', 'gradWeight', 'threads', 'workspace', 'instructionSet'])
      for (const run of [marginLoss, marginLossSync]) {
        const batch = { input: numbers.input.slice(), weight: numbers.weight.slice(), labels, dim }
        const memory = batch.weight.buffer
        const options = Object.defineProperty({}, name, { enumerable: true, get: () => free(memory) })
        await outcome(() => run(batch, options))
        const late = Object.defineProperty(
          { input: numbers.input.slice(), weight: numbers.weight.slice(), dim },
          'labels',
          {
            enumerable: true,
            get(this: { weight: Float32Array }) {
              free(this.weight.buffer)
              return labels
            },
          }
        )
        await outcome(() => run(late as never))
      }
  },
}

async function main(): Promise<void> {
  const scenario = scenarios[process.argv[2] as string]
  if (!scenario) throw new Error(`no scenario ${process.argv[2]}`)
  await scenario()
  console.log('done')
}

main()
