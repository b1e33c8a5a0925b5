// The training head against the oracle's: every margin, every optimizer, warm-up, statistics.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Optimizer, StepStatistics } from '../../lib/index'
import { adamW, MarginHead, marginLossSync, sgd, topKSync } from '../../lib/index'
import type { MarginCase } from '../support/margins'
import { marginCase, marginCases } from '../support/margins'
import {
  distance,
  makeBatch,
  norm,
  normals,
  onCpu,
  random,
  rejectsLike,
  relativeError,
  sameBits,
  threadCounts,
  within,
} from '../support/support'
import type { OracleHeadOptions, OracleOptimizer, OracleStats } from '../support/trainer'
import { OracleHead } from '../support/trainer'

const test = suite('head')

const [rows, dim, classes] = [13, 24, 37]

const optimizers: OracleOptimizer[] = [
  { kind: 'sgd', learningRate: 0.1 },
  { kind: 'sgd', learningRate: 0.05, momentum: 0.9 },
  { kind: 'sgd', learningRate: 0.05, momentum: 0.9, nesterov: true },
  { kind: 'sgd', learningRate: 0.05, weightDecay: 0.1 },
  { kind: 'sgd', learningRate: 0.05, momentum: 0.5, weightDecay: 0.01, nesterov: true },
  { kind: 'adamW', learningRate: 0.01 },
  { kind: 'adamW', learningRate: 0.02, beta1: 0.8, beta2: 0.95, epsilon: 1e-6, weightDecay: 0.1 },
  { kind: 'adamW', learningRate: 0.02, weightDecay: 0 },
]

function optimizerOf({ kind, ...parameters }: OracleOptimizer): Optimizer {
  return kind === 'sgd' ? sgd(parameters) : adamW(parameters)
}

const titleOf = ({ kind, ...parameters }: OracleOptimizer) => `${kind} ${JSON.stringify(parameters)}`

const batchOf = (seed: number) => makeBatch(seed, { rows, dim, classes })

type Changes = Partial<Omit<OracleHeadOptions, 'margin' | 'dim' | 'optimizer'>>

/** The library's head and the oracle's, from the same weights. */
async function pair(margin: MarginCase, optimizer: OracleOptimizer, changes: Changes = {}) {
  const weights = normals(random(99), classes * dim)
  const head = await MarginHead.create({
    classes,
    dim,
    margin: margin.margin,
    optimizer: optimizerOf(optimizer),
    weights,
    bias: changes.bias,
    marginWarmupSteps: changes.marginWarmupSteps,
    labelSmoothing: changes.labelSmoothing,
    ignoreIndex: changes.ignoreIndex,
  })
  return { head, oracle: new OracleHead({ margin, optimizer, dim, weights, ...changes }) }
}

function compareStats(margin: MarginCase, actual: StepStatistics, expected: OracleStats, what: string): void {
  within(Math.abs(actual.accuracy - expected.accuracy), 1e-12, `${what}: accuracy`)
  for (const name of [
    'meanTargetCosine',
    'meanLargestOtherCosine',
    'gradientNorm',
    'gradInputNorm',
  ] as const) {
    // Raw dot products are no cosines.
    if (margin.row.raw && name.endsWith('Cosine')) assert.is(actual[name], null, `${what}: ${name}`)
    else within(relativeError([actual[name] as number], [expected[name]]), 2e-5, `${what}: ${name}`)
  }
}

async function follow(margin: MarginCase, optimizer: OracleOptimizer, changes: Changes = {}, steps = 6) {
  const { head, oracle } = await pair(margin, optimizer, changes)
  for (let step = 0; step < steps; step++) {
    const { input, labels } = batchOf(step)
    if (step === 2) labels[4] = changes.ignoreIndex ?? -1
    const what = `step ${step}`
    assert.is(head.iteration, step)
    const actual = step % 2 === 0 ? await head.step(input, labels) : head.stepSync(input, labels)
    const expected = oracle.step(input, labels)
    // Rounding errors of the weights accumulate from step to step.
    within(relativeError([actual.loss], [expected.loss]), 1e-5, `${what}: loss`)
    within(relativeError(actual.losses, expected.losses), 1e-5, `${what}: losses`)
    within(relativeError(actual.gradInput as Float32Array, expected.gradInput), 2e-5, `${what}: gradInput`)
    compareStats(margin, actual.stats, expected.stats, what)
  }
  assert.is(head.iteration, steps)
  const actual = head.weights()
  const expected = oracle.weight.values
  within(relativeError(actual, expected), 1e-6, 'weights')
  // What matters is how far they have moved; each step rounds every weight once to float32.
  const movement = distance(normals(random(99), classes * dim), expected)
  const rounding = steps * 2 ** -24 * norm(expected)
  within(distance(actual, expected), 1e-4 * movement + rounding, 'movement of the weights')
  head.dispose()
}

for (const margin of marginCases) {
  test(`follows the oracle: ${margin.title}`, () => follow(margin, { kind: 'sgd', learningRate: 0.1 }))
}

for (const optimizer of optimizers) {
  for (const name of ['arcface', 'softmax']) {
    test(`follows the oracle: ${titleOf(optimizer)}, ${name}`, () => follow(marginCase(name), optimizer))
  }
  test(`follows the oracle: ${titleOf(optimizer)}, softmax with bias`, () =>
    follow(marginCase('softmax'), optimizer, { bias: true }))
}

for (const [name, given] of [
  ['cosface', {}],
  ['arcface', {}],
  ['arcface', { easyMargin: true }],
  ['combined', { m1: 1.35, m2: 0.2, m3: 0.1, scale: 16 }],
  ['combined', { m1: 0.9, m2: 0.4, m3: 0.15, scale: 16 }],
  ['sphereface', { m: 3 }],
  ['sphereface', { m: 4, scale: 16, iteration: 100, base: 100 }],
  ['sphereface', { m: 4, scale: 16, lambda: 2 }],
  ['normface', {}],
  ['softmax', {}],
  ['mvsoftmax', { scale: 16 }],
  ['curricularface', { scale: 16, t: 0.3 }],
] as const) {
  for (const marginWarmupSteps of [1, 4, 10]) {
    const margin = marginCase(name, given)
    test(`warms the margin up over ${marginWarmupSteps} steps: ${margin.title}`, () =>
      follow(margin, { kind: 'sgd', learningRate: 0.05, momentum: 0.9 }, { marginWarmupSteps }))
  }
}

test('label smoothing and another ignoreIndex', () =>
  follow(
    marginCase('arcface'),
    { kind: 'sgd', learningRate: 0.1 },
    { labelSmoothing: 0.1, ignoreIndex: -100 }
  ))

test('the head is arcface without a margin given', async () => {
  const weights = normals(random(1), classes * dim)
  const optimizer = sgd({ learningRate: 0.1 })
  const { input, labels } = batchOf(1)
  const head = await MarginHead.create({ classes, dim, optimizer, weights })
  assert.equal(head.margin, marginCase('arcface').margin)
  assert.is(head.classes, classes)
  assert.is(head.dim, dim)
  assert.is(head.iteration, 0)
  const { loss } = head.evaluateSync(input, labels)
  assert.is(loss, marginLossSync({ input, weight: weights, labels, dim }).loss)
  head.dispose()
})

test('a step has the bits of the stateless loss', async () => {
  for (const name of ['softmax', 'cosface', 'arcface']) {
    const margin = marginCase(name)
    const weights = normals(random(2), classes * dim)
    const { input, labels } = batchOf(2)
    const head = await MarginHead.create({
      classes,
      dim,
      margin: margin.margin,
      optimizer: sgd({ learningRate: 0.1 }),
      weights,
    })
    const expected = marginLossSync({ input, weight: weights, labels, dim }, { margin: margin.margin })
    const actual = await head.step(input, labels)
    assert.is(actual.loss, expected.loss)
    sameBits(actual.losses, expected.losses, 'losses')
    sameBits(actual.gradInput as Float32Array, expected.gradInput as Float32Array, 'gradInput')
    head.dispose()
  }
})

test('a learning rate for one step, and 0', async () => {
  const optimizer: OracleOptimizer = { kind: 'sgd', learningRate: 0.1, momentum: 0.9 }
  const { head, oracle } = await pair(marginCase('arcface'), optimizer)
  for (const [step, learningRate] of [0.3, 0, undefined, 0.01].entries()) {
    const { input, labels } = batchOf(step)
    const before = head.weights()
    await head.step(input, labels, { learningRate })
    oracle.step(input, labels, learningRate)
    if (learningRate === 0) sameBits(head.weights(), before, 'weights at learning rate 0')
    within(relativeError(head.weights(), oracle.weight.values), 1e-6, `step ${step}`)
  }
  assert.is(head.iteration, 4)
})

test('gradInput is left out or filled on request, and the update is the same', async () => {
  const margin = marginCase('arcface')
  const optimizer: OracleOptimizer = { kind: 'sgd', learningRate: 0.1 }
  const { input, labels } = batchOf(3)
  const heads = await Promise.all([0, 1, 2, 3].map(() => pair(margin, optimizer)))
  const [a, b, c, d] = heads.map(({ head }) => head) as [MarginHead, MarginHead, MarginHead, MarginHead]
  const expected = await a.step(input, labels)
  const without = await b.step(input, labels, { gradInput: false })
  assert.is(without.gradInput, undefined)
  const array = new Float32Array(rows * dim).fill(7)
  const filled = await c.step(input, labels, { gradInput: array })
  assert.is(filled.gradInput, array)
  sameBits(array, expected.gradInput as Float32Array, 'gradInput to fill')
  array.fill(7)
  assert.is(d.stepSync(input, labels, { gradInput: array }).gradInput, array)
  sameBits(array, expected.gradInput as Float32Array, 'gradInput to fill, synchronous')
  for (const head of [b, c, d]) sameBits(head.weights(), a.weights(), 'weights')
})

test('evaluate changes nothing and agrees with the oracle', async () => {
  const { head, oracle } = await pair(
    marginCase('arcface'),
    { kind: 'sgd', learningRate: 0.1 },
    { marginWarmupSteps: 5 }
  )
  for (let step = 0; step < 3; step++) {
    const { input, labels } = batchOf(step)
    const before = head.weights()
    const expected = oracle.evaluate(input, labels)
    for (const actual of [await head.evaluate(input, labels), head.evaluateSync(input, labels)]) {
      within(relativeError([actual.loss], [expected.loss]), 1e-5, 'loss')
      within(relativeError(actual.losses, expected.losses), 1e-5, 'losses')
      const zero = { gradientNorm: 0, gradInputNorm: 0 } // nothing was updated, nothing asked for
      assert.is(actual.stats.gradientNorm, 0)
      assert.is(actual.stats.gradInputNorm, 0)
      compareStats(marginCase('arcface'), actual.stats, { ...expected.stats, ...zero }, 'evaluate')
    }
    sameBits(head.weights(), before, 'weights')
    assert.is(head.iteration, step)
    await head.step(input, labels)
    oracle.step(input, labels)
  }
})

test('accuracy counts rows whose target scores best, without the margin', async () => {
  const weights = Float32Array.of(1, 0, 0, 1, -1, 0)
  const head = await MarginHead.create({ classes: 3, dim: 2, optimizer: sgd({ learningRate: 0.1 }), weights })
  const input = Float32Array.of(1, 0.1, 1, 0.1, 0.1, 1, -1, 0, 5, 5.5)
  const accuracy = (labels: number[]) => head.evaluateSync(input, labels).stats.accuracy
  within(Math.abs(accuracy([0, 1, 1, 2, 1]) - 0.8), 1e-12, 'four of five')
  within(Math.abs(accuracy([0, 0, 1, 2, 1]) - 1), 1e-12, 'all')
  within(accuracy([1, 1, 0, 0, 0]), 0, 'none')
  within(Math.abs(accuracy([0, -1, -1, 2, 0]) - 2 / 3), 1e-12, 'ignored rows do not count')
  assert.is(accuracy([-1, -1, -1, -1, -1]), 0)
})

test('topK ranks by the resident weights', async () => {
  for (const name of ['arcface', 'softmax']) {
    const { head } = await pair(marginCase(name), { kind: 'sgd', learningRate: 0.1 })
    const { input, labels } = batchOf(4)
    await head.step(input, labels)
    for (const k of [1, 5, classes]) {
      const options = { k, margin: marginCase(name).margin }
      const expected = topKSync({ input, weight: head.weights(), dim }, options)
      for (const actual of [await head.topK(input, k), head.topKSync(input, k)]) {
        sameBits(actual.indices, expected.indices, 'indices')
        sameBits(actual.scores, expected.scores, 'scores')
      }
    }
  }
})

test('the weights are a copy', async () => {
  const weights = normals(random(5), classes * dim)
  const head = await MarginHead.create({ classes, dim, optimizer: sgd({ learningRate: 0.1 }), weights })
  sameBits(head.weights(), weights, 'initial weights')
  const copy = head.weights()
  weights.fill(0)
  copy.fill(0)
  assert.ok(norm(head.weights()) > 1, 'changing a copy has changed the head')
})

test('a seed reproduces the initial weights, another gives others', async () => {
  const optimizer = sgd({ learningRate: 0.1 })
  const initial = async (seed: number | undefined, threads?: number) => {
    const head = await MarginHead.create({ classes: 301, dim: 33, optimizer, seed, threads })
    return head.weights()
  }
  const first = await initial(1)
  sameBits(await initial(1), first, 'seed 1 again')
  sameBits(await initial(1, 1), first, 'seed 1, one thread')
  sameBits(await initial(1, 3), first, 'seed 1, three threads')
  sameBits(await initial(undefined), await initial(0), 'the default seed')
  assert.ok(relativeError(await initial(2), first) > 1, 'seeds 1 and 2')
  // Rows in every direction, none alike.
  const rowNorms = Array.from({ length: 301 }, (_, j) => norm(first.subarray(j * 33, (j + 1) * 33)))
  assert.ok(Math.min(...rowNorms) > 0)
  assert.is(new Set(first).size > 0.99 * first.length, true)
  const mean = first.reduce((sum, value) => sum + value, 0) / first.length
  within(Math.abs(mean), (0.1 * norm(first)) / Math.sqrt(first.length), 'mean')
})

if (onCpu)
  test('a batch too long for one step can be evaluated, and a step says how many rows it takes', async () => {
    const margin = marginCase('arcface')
    const shape = { rows: 600, dim: 6000, classes: 5 }
    const { input, labels, weight } = makeBatch(6, shape)
    const optimizer: OracleOptimizer = { kind: 'sgd', learningRate: 0.1 }
    const head = await MarginHead.create({
      classes: 5,
      dim: 6000,
      device: 'cpu', // whose limit this is
      weights: weight,
      optimizer: optimizerOf(optimizer),
    })
    const expected = new OracleHead({ margin, optimizer, dim: 6000, weights: weight }).evaluate(input, labels)
    const actual = await head.evaluate(input, labels)
    within(relativeError([actual.loss], [expected.loss]), 1e-5, 'loss')
    const { accuracy, meanTargetCosine } = actual.stats
    within(Math.abs(accuracy - expected.stats.accuracy), 1e-12, 'accuracy')
    within(
      relativeError([meanTargetCosine as number], [expected.stats.meanTargetCosine]),
      1e-5,
      'meanTargetCosine'
    )
    await rejectsLike(head.step(input, labels), RangeError, /512 rows.*received 600/)
    assert.is(head.iteration, 0)
    sameBits(head.weights(), weight, 'weights')
  })

test('C = 1 trains without a gradient', async () => {
  for (const name of ['arcface', 'softmax', 'sphereface']) {
    const margin = marginCase(name).margin
    const head = await MarginHead.create({
      classes: 1,
      dim: 4,
      margin,
      optimizer: sgd({ learningRate: 0.1 }),
    })
    const before = head.weights()
    const { loss, stats } = await head.step(Float32Array.of(-9, -8, 7, -6), [0])
    assert.is(loss, 0)
    assert.is(stats.accuracy, 1)
    sameBits(head.weights(), before, 'weights')
    assert.equal(head.topKSync(Float32Array.of(1, 2, 3, 4), 1).indices, Int32Array.of(0))
  }
})

test('weights are the same for any number of threads', async () => {
  const shape = { rows: 130, dim: 40, classes: 700 }
  const trained = async (threads: number) => {
    const optimizer = sgd({ learningRate: 0.1, momentum: 0.9 })
    const head = await MarginHead.create({ classes: 700, dim: 40, optimizer, threads, seed: 3 })
    for (let seed = 0; seed < 3; seed++) {
      const { input, labels } = makeBatch(seed, shape)
      await head.step(input, labels)
    }
    return head.weights()
  }
  const expected = await trained(1)
  for (const threads of threadCounts.slice(1))
    sameBits(await trained(threads), expected, `${threads} threads`)
})

test('steps asked for at once happen in order', async () => {
  const margin = marginCase('arcface')
  const optimizer: OracleOptimizer = { kind: 'sgd', learningRate: 0.1, momentum: 0.9 }
  const [together, apart] = await Promise.all([pair(margin, optimizer), pair(margin, optimizer)])
  const batches = Array.from({ length: 8 }, (_, seed) => batchOf(seed))
  await Promise.all(batches.map(({ input, labels }) => together.head.step(input, labels)))
  for (const { input, labels } of batches) await apart.head.step(input, labels)
  assert.is(together.head.iteration, 8)
  sameBits(together.head.weights(), apart.head.weights(), 'weights')
})

test.run()
