// Class weights stored in bfloat16: a step gives the bits of a float32 head that holds the same weights, its new weights
// are rounded without bias by random numbers that depend on nothing but seed, step, class and column, and updates far
// below a bfloat16's resolution add up.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  adamW,
  instructionSets,
  MarginHead,
  type MarginHeadOptions,
  MarginSoftmaxError,
  normface,
  sgd,
  topKSync,
} from '../../lib/index'
import { readSafetensors } from '../support/golden'
import { table } from '../support/margins'
import { complaint, makeBatch, normals, random, rejectsLike, sameBits, within } from '../support/support'

const test = suite('head, storage of the weights')
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-test-'))
test.after(() => fs.rmSync(folder, { recursive: true, force: true }))

const weightStorage = 'bfloat16'
const device = 'cpu' as const
const bitsOf = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length)

/** To the nearest bfloat16, ties to even. */
function nearest(values: Float32Array): Float32Array {
  const bits = bitsOf(values)
  const result = new Float32Array(values.length)
  const resultBits = bitsOf(result)
  for (const [i, word] of bits.entries()) resultBits[i] = ((word + 0x7fff + ((word >>> 16) & 1)) >>> 16) << 16
  return result
}

const mask = 2n ** 64n - 1n

/** Number i of SplitMix64's finalizer over a Weyl sequence that the seed shifts, as native/formulas/random_bits.h says. */
function numberOf(seed: bigint, i: bigint): bigint {
  let z = (seed * 0xd1342543de82ef95n + (i + 1n) * 0x9e3779b97f4a7c15n) & mask
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask
  return z ^ (z >> 31n)
}

/** New weights [C,D] as a head of this seed rounds them in its step `iteration`. */
function stochastic(values: Float32Array, dim: number, seed: number, iteration: number): Float32Array {
  const key = numberOf(mask - BigInt(seed), BigInt(iteration))
  const result = new Float32Array(values.length)
  const [bits, resultBits] = [bitsOf(values), bitsOf(result)]
  for (let i = 0; i < values.length; i++) {
    const [row, column] = [Math.floor(i / dim), i % dim]
    const four = numberOf(key, BigInt(row * Math.ceil(dim / 4) + Math.floor(column / 4)))
    const added = Number((four >> BigInt(16 * (column % 4))) & 0xffffn)
    resultBits[i] = (((bits[i] as number) + added) >>> 16) << 16
  }
  return result
}

/** A head in bfloat16 and one in float32 of the same weights, bias and state. */
async function twins(options: MarginHeadOptions, steps = 0) {
  const head = await MarginHead.create({ ...options, device, weightStorage })
  for (let step = 0; step < steps; step++) {
    const { input, labels } = makeBatch(50 + step, { rows: 20, ...options })
    await head.step(input, labels)
  }
  const file = path.join(folder, 'twin.safetensors')
  await head.save(file)
  const plain = await MarginHead.load(file, { ...executionOf(options), weightStorage: 'float32' })
  assert.is(head.weightStorage, 'bfloat16')
  assert.is(plain.weightStorage, 'float32')
  sameBits(plain.weights(), head.weights(), 'weights of the twins')
  return { head, plain }
}

const executionOf = ({ threads, precision, instructionSet }: MarginHeadOptions) => ({
  ...{ device, threads, precision, instructionSet },
})

const optimizers = [
  sgd({ learningRate: 0.3, weightDecay: 0.01 }),
  sgd({ learningRate: 0.3, momentum: 0.9, weightDecay: 0.01 }),
  adamW({ learningRate: 0.01, weightDecay: 0.1 }),
]
// One tile and several, slots along the rows and along the classes, columns that make no fours.
const shapes = [
  { rows: 13, dim: 24, classes: 37 },
  { rows: 70, dim: 129, classes: 300 },
  { rows: 33, dim: 258, classes: 2500 },
  { rows: 600, dim: 3, classes: 5 },
]

for (const precision of ['float32', 'bfloat16'] as const)
  for (const [number, shape] of shapes.entries()) {
    const { rows, dim, classes } = shape
    test(`a step has a float32 head's bits, and rounds its weights: ${rows}×${dim}×${classes}, ${precision}`, async () => {
      for (const { name, raw, make } of table) {
        const seed = 7 + number
        const { input, labels, weight } = makeBatch(seed, shape, { weightScale: raw ? 0.1 : 1 })
        const options = {
          ...{ classes, dim, margin: make(), bias: raw === true, precision, seed },
          ...{ optimizer: optimizers[number % 3], weights: weight },
        }
        const { head, plain } = await twins(options, number % 2)
        if (number % 2 === 0) sameBits(head.weights(), nearest(weight), `${name}: first weights`)
        const { iteration } = head
        const wanted = plain.evaluateSync(input, labels)
        assert.equal(head.evaluateSync(input, labels), wanted, `${name}: evaluate`)
        for (const k of [1, 3])
          assert.equal(head.topKSync(input, k), plain.topKSync(input, k), `${name}: topK`)
        assert.equal(await head.step(input, labels), await plain.step(input, labels), `${name}: step`)
        sameBits(head.weights(), stochastic(plain.weights(), dim, seed, iteration), `${name}: new weights`)
        if (raw) sameBits(head.bias() as Float32Array, plain.bias() as Float32Array, `${name}: bias`)
        for (const one of [head, plain]) one.dispose()
      }
    })
  }

test('a sample of the classes, the filter, and a trained head that leaves most of the work out', async () => {
  const { rows, dim, classes } = { rows: 128, dim: 128, classes: 2000 }
  const next = random(5)
  const weights = normals(next, classes * dim)
  const input = weights.slice(0, rows * dim) // as near to their classes as can be
  const labels = Int32Array.from({ length: rows }, (_, row) => (row % 9 === 0 ? row + 500 : row))
  for (const changes of [{}, { sampleRate: 0.3 }, { interclassFilter: 0.2 }, { workspace: 32 * 2 ** 20 }]) {
    const optimizer = sgd({ learningRate: 0.5, momentum: 0.9, weightDecay: 1e-3 })
    const { head, plain } = await twins({ classes, dim, optimizer, weights, seed: 3, ...changes })
    const what = JSON.stringify(changes)
    const before = head.weights()
    const expected = await plain.step(input, labels)
    assert.equal(await head.step(input, labels), expected, what)
    if (!('sampleRate' in changes)) assert.ok(expected.stats.leftOut.share > 0.4, `${what}: left out`)
    const [after, exact] = [head.weights(), plain.weights()]
    sameBits(after, stochastic(exact, dim, 3, 0), what)
    if ('sampleRate' in changes) {
      let same = 0
      for (let j = 0; j < classes; j++)
        same += Number(after.subarray(j * dim, (j + 1) * dim).every((w, d) => w === before[j * dim + d]))
      assert.is(same, classes - Math.ceil(0.3 * classes), 'classes outside the sample stay')
    }
    for (const one of [head, plain]) one.dispose()
  }
})

test('rounding is unbiased: up as often as the remainder asks for, in every step and far from it', async () => {
  const { rows, dim, classes } = { rows: 40, dim: 64, classes: 500 }
  const { input, labels, weight } = makeBatch(11, { rows, dim, classes })
  const bins = Array.from({ length: 16 }, () => ({ count: 0, up: 0, expected: 0, variance: 0 }))
  let total = 0
  let variance = 0
  for (let seed = 0; seed < 20; seed++) {
    const optimizer = sgd({ learningRate: 3, weightDecay: 0.01 })
    const { head, plain } = await twins({ classes, dim, optimizer, weights: weight, seed }, 1)
    await head.step(input, labels)
    await plain.step(input, labels)
    const [bits, exact] = [bitsOf(head.weights()), bitsOf(plain.weights())]
    for (let i = 0; i < bits.length; i++) {
      const low = (exact[i] as number) & 0xffff
      const up = ((bits[i] as number) - ((exact[i] as number) - low)) / 0x10000 // 0 or 1: a neighbour
      if (up !== 0) assert.is(up, 1)
      const probability = low / 0x10000
      const bin = bins[low >> 12] as (typeof bins)[0]
      bin.count++
      bin.up += up
      bin.expected += probability
      bin.variance += probability * (1 - probability)
      total += up - probability
      variance += probability * (1 - probability)
    }
    for (const one of [head, plain]) one.dispose()
  }
  assert.ok(Math.min(...bins.map(({ count }) => count)) > 10_000, 'remainders of every size')
  // 4.5 standard deviations: a bias of 0.3 % of the resolution would fail, and of 1 % in any of the bins.
  within(Math.abs(total) / Math.sqrt(variance), 4.5, 'all')
  assert.ok(4.5 * Math.sqrt(variance) < 0.003 * 20 * classes * dim, 'the test is that sharp')
  for (const { up, expected, variance } of bins)
    within(Math.abs(up - expected) / Math.sqrt(variance), 4.5, `remainders of which ${expected} go up`)
})

/** Weights after steps of a training, whatever runs it. */
async function trained(changes: Partial<MarginHeadOptions>, resumeAfter = -1): Promise<Float32Array> {
  const { dim, classes } = { dim: 70, classes: 900 }
  const optimizer = sgd({ learningRate: 0.3, momentum: 0.9, weightDecay: 1e-3 })
  const options = { dim, classes, optimizer, device, weightStorage, seed: 4, ...changes } as const
  let head = await MarginHead.create(options)
  for (let step = 0; step < 4; step++) {
    if (step === resumeAfter) {
      const file = path.join(folder, 'resumed.safetensors')
      await head.save(file)
      head.dispose()
      head = await MarginHead.load(file, executionOf(options))
      assert.is(head.weightStorage, 'bfloat16')
    }
    const { input, labels } = makeBatch(step, { rows: 130, dim, classes })
    await head.step(input, labels)
  }
  const weights = head.weights()
  head.dispose()
  return weights
}

for (const precision of ['float32', 'bfloat16'] as const)
  for (const sampleRate of [1, 0.2])
    test(`the same bits for any threads, workspace, instruction set, and resumed: ${precision}, sampleRate ${sampleRate}`, async () => {
      const options = { precision, sampleRate }
      const expected = await trained({ ...options, threads: 1 })
      for (const threads of [2, 3, 5])
        sameBits(await trained({ ...options, threads }), expected, `${threads}`)
      sameBits(await trained({ ...options, workspace: 32 * 2 ** 20 }), expected, 'workspace')
      for (const instructionSet of instructionSets().filter((set) => set !== 'portable'))
        sameBits(await trained({ ...options, instructionSet }), expected, instructionSet)
      for (const after of [1, 3]) sameBits(await trained(options, after), expected, `resumed after ${after}`)
      assert.not.equal(await trained({ ...options, seed: 5 }), expected, 'another seed')
    })

test('updates below half the resolution add up; rounded to nearest they are lost', async () => {
  const shape = { rows: 64, dim: 32, classes: 50 }
  const { input, labels, weight } = makeBatch(21, shape)
  const { dim, classes } = shape
  const options = {
    ...{ classes, dim, device, margin: normface({ scale: 16 }), seed: 1 },
    ...{ optimizer: sgd({ learningRate: 0.003 }), weights: nearest(weight) },
  } as const
  const lossAfter = async (steps: number, changes: Partial<MarginHeadOptions>) => {
    const head = await MarginHead.create({ ...options, ...changes })
    for (let step = 0; step < steps; step++) head.stepSync(input, labels)
    return head.evaluateSync(input, labels).loss
  }
  const first = await lossAfter(0, { weightStorage })
  assert.is(first, await lossAfter(0, {}))
  const exact = await lossAfter(6000, {})
  assert.ok(exact < 0.7 * first, `it learns: ${first} to ${exact}`)
  within(
    Math.abs((await lossAfter(6000, { weightStorage })) - exact) / (first - exact),
    0.02,
    'what it learned'
  )

  // Steps of a float32 head, each rounded to nearest: but for a few weights near 0 nothing moves, now and ever after.
  let weights: Float32Array = options.weights
  for (let step = 0; step < 200; step++) {
    const head = await MarginHead.create({ ...options, weights })
    head.stepSync(input, labels)
    weights = nearest(head.weights())
    head.dispose()
  }
  const lost = (first - (await lossAfter(0, { weights }))) / (first - (await lossAfter(200, {})))
  within(lost, 0.1, 'what is left of 200 steps rounded to nearest')
  const kept = (first - (await lossAfter(200, { weightStorage }))) / (first - (await lossAfter(200, {})))
  within(
    Math.abs(kept - 1),
    0.3,
    'of 200 steps rounded at random, whose noise is as large as what they have learned'
  )
})

test('what bfloat16 has is not moved: no update, no change', async () => {
  const { input, labels, weight } = makeBatch(31, { rows: 9, dim: 10, classes: 12 })
  const options = { classes: 12, dim: 10, weights: weight, device, weightStorage } as const
  const head = await MarginHead.create({ ...options, optimizer: sgd({ learningRate: 0 }) })
  const before = head.weights()
  for (let step = 0; step < 5; step++) await head.step(input, labels)
  sameBits(head.weights(), before, 'weights')
  // Ends of the range, which come in by the weights given: rounded to nearest, refused where that is infinite.
  const largest = 2 ** 127 * (2 - 2 ** -7)
  const above = Math.fround(2 ** 127 * (2 - 2 ** -8))
  const odd = Float32Array.of(
    above - 2 ** 104,
    -largest,
    1e-40,
    -0,
    1 + 2 ** -8,
    1 + 2 ** -8 + 2 ** -20,
    0,
    1,
    2,
    3
  )
  const ends = await MarginHead.create({ ...options, classes: 1, weights: odd })
  assert.equal([...ends.weights()], [largest, -largest, 0, -0, 1, 1 + 2 ** -7, 0, 1, 2, 3])
  for (const value of [above, -above, Infinity, Number.NaN]) {
    const weights = new Float32Array(30).fill(value, 20, 21)
    const making = MarginHead.create({ ...options, classes: 3, weights })
    await rejectsLike(
      making,
      MarginSoftmaxError,
      /^Expected finite numbers for weights in bfloat16 .* row 2$/
    )
  }
})

test('topK reads the stored weights', async () => {
  const { input, weight } = makeBatch(41, { rows: 30, dim: 40, classes: 700 })
  const head = await MarginHead.create({ classes: 700, dim: 40, weights: weight, device, weightStorage })
  const expected = topKSync({ input, weight: head.weights(), dim: 40 }, { k: 5, device })
  assert.equal(await head.topK(input, 5), expected)
})

test('the file: BF16 weights, F32 state, and what else it may be loaded as', async () => {
  const [dim, classes] = [24, 37]
  const file = path.join(folder, 'head.safetensors')
  const { input, labels } = makeBatch(51, { rows: 13, dim, classes })
  const options = { classes, dim, optimizer: adamW(), device, seed: 2 } as const
  const head = await MarginHead.create({ ...options, weightStorage })
  await head.step(input, labels)
  await head.save(file)
  const { tensors } = readSafetensors(file)
  assert.equal(Object.fromEntries(Object.entries(tensors).map(([name, { dtype }]) => [name, dtype])), {
    weight: 'BF16',
    'optimizer.firstMoment': 'F32',
    'optimizer.secondMoment': 'F32',
  })
  const again = path.join(folder, 'again.safetensors')
  await (await MarginHead.load(file, { device })).save(again)
  assert.ok(fs.readFileSync(file).equals(fs.readFileSync(again)), 'saved again')

  // A float32 file into bfloat16: to nearest.
  const plain = await MarginHead.create(options)
  await plain.step(input, labels)
  await plain.save(file)
  const rounded = await MarginHead.load(file, { device, weightStorage })
  assert.is(rounded.weightStorage, 'bfloat16')
  assert.is(rounded.iteration, 1)
  sameBits(rounded.weights(), nearest(plain.weights()), 'rounded')
  assert.is((await MarginHead.load(file, { device })).weightStorage, 'float32')

  // A file whose tensor is not what its settings say.
  for (const [from, to] of [
    [again, 'F32'],
    [file, 'BF16'],
  ] as const) {
    const bytes = fs
      .readFileSync(from, 'latin1')
      .replace(
        /"weightStorage\\":\\"(\w+)/,
        (_, was) => `"weightStorage\\":\\"${was === 'float32' ? 'bfloat16' : 'float32'}`
      )
    const length = bytes.slice(8).indexOf('}}') + 2
    const header = bytes.slice(8, 8 + length).trimEnd()
    const prefix = Buffer.alloc(8)
    prefix.writeBigUInt64LE(BigInt(header.length))
    const changed = path.join(folder, `changed-${to}.safetensors`)
    const rest = fs.readFileSync(from)
    const start = 8 + Number(rest.readBigUInt64LE(0))
    fs.writeFileSync(changed, Buffer.concat([prefix, Buffer.from(header, 'latin1'), rest.subarray(start)]))
    const other = to === 'F32' ? 'BF16' : 'F32'
    await rejectsLike(
      MarginHead.load(changed),
      MarginSoftmaxError,
      new RegExp(`its tensor weight is ${other}, not ${to}`)
    )
  }
})

test('wrong values are refused', async () => {
  const options = { classes: 5, dim: 4, device } as const
  for (const wrong of [null, 'float16', 'BF16', 2, true] as never[]) {
    await rejectsLike(
      MarginHead.create({ ...options, weightStorage: wrong }),
      Error,
      complaint('weightStorage')
    )
    await rejectsLike(
      MarginHead.load(path.join(folder, 'head.safetensors'), { weightStorage: wrong }),
      Error,
      complaint('weightStorage')
    )
  }
})

test.run()
