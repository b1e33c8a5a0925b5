// Weights of classes and of rows in the loss: against the oracle, against what they are equal to, and in a head.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  arcface,
  instructionSets,
  MarginHead,
  marginLoss,
  marginLossSync,
  normface,
  sgd,
} from '../../lib/index'
import { compare, compareWithOracle, gradients, type LossOptions } from '../support/losses'
import { type MarginCase, marginCase, marginCases, oneOfEach } from '../support/margins'
import { reference } from '../support/reference'
import {
  type Batch,
  complaint,
  distance,
  integer,
  makeBatch,
  norm,
  normals,
  onCpu,
  pick,
  random,
  rejectsLike,
  relativeError,
  type Shape,
  sameBits,
  threadCounts,
  throwsLike,
  within,
} from '../support/support'

const test = suite('weights')

/** Weights from 1e-3 to 1e3, some of them 0. */
function weights(seed: number, count: number): Float32Array {
  const next = random(seed)
  return Float32Array.from({ length: count }, () => (next() < 0.15 ? 0 : 10 ** (6 * next() - 3)))
}

function weightsOf({ labels, weight, dim }: Batch, seed: number) {
  return {
    classWeights: weights(seed, weight.length / dim),
    sampleWeights: weights(seed + 1, labels.length),
  }
}

/** Each of the two alone, and both. */
function choices(given: ReturnType<typeof weightsOf>): Partial<typeof given>[] {
  const { classWeights, sampleWeights } = given
  return [{ classWeights }, { sampleWeights }, given]
}

function batchFor(margin: MarginCase, seed: number, shape: Shape): Batch {
  const batch = makeBatch(seed, shape, { bias: margin.row.raw })
  for (let i = 3; i < shape.rows; i += 7) batch.labels[i] = -1
  return batch
}

// The shim's GPU takes a second for a dozen small calls: there one case of each margin, and one smoothing of each reduction.
for (const margin of onCpu ? marginCases : oneOfEach())
  test(`the oracle: ${margin.title}`, () => {
    const next = random(3)
    for (const [i, reduction] of (['mean', 'sum', 'none'] as const).entries())
      for (const labelSmoothing of onCpu ? [0, 0.1, 1] : [[0, 0.1, 1][i] as number]) {
        const shape = {
          rows: pick(next, [1, 9, 33]),
          dim: pick(next, [5, 17, 64]),
          classes: pick(next, onCpu ? [1, 6, 131] : [1, 6, 67]),
        }
        const batch = batchFor(margin, integer(next, 0, 1e6), shape)
        const gradOutput =
          reduction === 'none' ? normals(next, shape.rows).map(Math.abs) : pick(next, [1, -3])
        for (const weighted of choices(weightsOf(batch, integer(next, 0, 1e6))))
          compareWithOracle(margin, batch, { reduction, labelSmoothing, gradOutput, ...weighted })
      }
  })

// Many class tiles, row slots, several passes, few dimensions.
for (const [rows, dim, classes] of onCpu
  ? [
      [37, 40, 2500],
      [700, 20, 150],
      [1030, 3000, 2],
      [20_000, 1, 3],
    ]
  : [
      [9, 8, 300],
      [140, 8, 20],
    ])
  test(`the oracle on ${rows}×${dim}×${classes}`, () => {
    for (const name of ['arcface', 'softmax']) {
      const margin = marginCase(name)
      const batch = batchFor(margin, 5, { rows, dim, classes })
      const labelSmoothing = name === 'softmax' || classes > 100 ? 0.1 : 0
      for (const weighted of choices(weightsOf(batch, 8)))
        compareWithOracle(margin, batch, { labelSmoothing, ...weighted }, dim <= 3 ? 1e-4 : 1e-5)
    }
  })

test('weights of classes are weights of their rows, bit for bit; weights of 1 are none', () => {
  const batch = makeBatch(4, { rows: 40, dim: 33, classes: 21 })
  const classWeights = weights(5, 21)
  const sampleWeights = Float32Array.from(batch.labels, (label) => classWeights[label] as number)
  const [rows, classes] = [new Float32Array(40).fill(1), new Float32Array(21).fill(1)]
  const pairs: [LossOptions, LossOptions][] = [
    [{ classWeights }, { sampleWeights }],
    [{ classWeights: classes, sampleWeights: rows, labelSmoothing: 0.2 }, { labelSmoothing: 0.2 }],
    [{ classWeights: classes, sampleWeights: rows }, {}],
  ]
  for (const [one, other] of pairs) {
    const [actual, expected] = [marginLossSync(batch, one), marginLossSync(batch, other)]
    assert.is(actual.loss, expected.loss)
    for (const name of ['losses', ...gradients] as const)
      sameBits(actual[name] as Float32Array, expected[name] as Float32Array, name)
  }
})

test('a row of weight 3 is three rows', () => {
  const batch = makeBatch(6, { rows: 12, dim: 20, classes: 9 })
  const places = [0, 0, 0, 1, 2, 2, 4, 5, 6, 7, 8, 9, 10, 11] // row 3 has weight 0
  const sampleWeights = Float32Array.from({ length: 12 }, (_, i) => places.filter((row) => row === i).length)
  const repeated = {
    ...batch,
    input: Float32Array.from(places.flatMap((i) => Array.from(batch.input.subarray(i * 20, i * 20 + 20)))),
    labels: Int32Array.from(places, (i) => batch.labels[i] as number),
  }
  for (const labelSmoothing of [0, 0.1]) {
    const actual = marginLossSync(batch, { sampleWeights, labelSmoothing })
    const expected = marginLossSync(repeated, { labelSmoothing })
    within(Math.abs(actual.loss - expected.loss), 1e-6 * expected.loss, 'loss')
    const [weighted, wanted] = [actual.gradWeight as Float32Array, expected.gradWeight as Float32Array]
    within(relativeError(weighted, wanted), 1e-6, 'gradWeight')
  }
})

test('no weight at all is as every row ignored', () => {
  const batch = makeBatch(7, { rows: 5, dim: 6, classes: 7 })
  for (const weighted of [{ classWeights: new Float32Array(7) }, { sampleWeights: new Float32Array(5) }])
    for (const labelSmoothing of [0, 0.1])
      for (const reduction of ['mean', 'sum'] as const) {
        const result = marginLossSync(batch, { ...weighted, labelSmoothing, reduction })
        assert.is(result.loss, 0)
        for (const name of ['losses', ...gradients] as const)
          assert.is(norm(result[name] as Float32Array), 0, name)
      }
})

test('weights of any size: the mean is that of weights near 1', () => {
  const batch = makeBatch(8, { rows: 30, dim: 40, classes: 300 })
  const given = weightsOf(batch, 9)
  for (const labelSmoothing of [0, 0.1])
    for (const weighted of choices(given)) {
      const expected = marginLossSync(batch, { ...weighted, labelSmoothing })
      for (const size of [2 ** -100, 2 ** 100]) {
        const scaled = Object.fromEntries(
          Object.entries(weighted).map(([name, values]) => [name, values.map((value) => value * size)])
        )
        const actual = marginLossSync(batch, { ...scaled, labelSmoothing })
        within(Math.abs(actual.loss - expected.loss), 1e-6 * expected.loss, `${size}: loss`)
        for (const name of gradients)
          within(relativeError(actual[name] as Float32Array, expected[name] as Float32Array), 1e-6, name)
      }
    }
})

test('every part alone, any number of threads, every instruction set, and the promise have the same bits', async () => {
  const batch = makeBatch(10, { rows: 70, dim: 48, classes: 400 })
  for (const labelSmoothing of [0, 0.1])
    for (const weighted of choices(weightsOf(batch, 11))) {
      const options = { ...weighted, labelSmoothing }
      const whole = marginLossSync(batch, options)
      const fused = onCpu ? instructionSets().filter((set) => set !== 'portable') : []
      const others: LossOptions[] = [
        { gradInput: false },
        { gradWeight: false },
        { workspace: 1 << 25 },
        ...threadCounts.map((threads) => ({ threads })),
        ...fused.map((instructionSet) => ({ instructionSet })),
      ]
      for (const further of others)
        for (const actual of [
          marginLossSync(batch, { ...options, ...further }),
          await marginLoss(batch, { ...options, ...further }),
        ]) {
          assert.is(actual.loss, whole.loss)
          for (const name of ['losses', ...gradients] as const)
            if (actual[name]) sameBits(actual[name] as Float32Array, whole[name] as Float32Array, name)
        }
    }
})

test('in bfloat16', () => {
  const { margin, oracle } = marginCase('arcface')
  const batch = makeBatch(12, { rows: 65, dim: 128, classes: 150 })
  for (const labelSmoothing of [0, 0.1])
    for (const weighted of choices(weightsOf(batch, 13))) {
      const actual = marginLossSync(batch, { margin, precision: 'bfloat16', labelSmoothing, ...weighted })
      compare(actual, reference(batch, oracle, { labelSmoothing, ...weighted }), 'bfloat16', 2e-2)
    }
})

test('what is negligible, with weights', () => {
  const [rows, dim, classes] = [64, 130, 2600]
  const batch = makeBatch(14, { rows, dim, classes })
  for (let i = 0; i < rows; i++)
    for (let d = 0; d < dim; d++) {
      const at = i * dim + d
      batch.input[at] =
        0.9 * (batch.input[at] as number) + (batch.weight[(batch.labels[i] as number) * dim + d] as number)
    }
  const margin = normface({ scale: 64 })
  for (const weighted of choices(weightsOf(batch, 15))) {
    const everything = marginLossSync(batch, { margin, ...weighted })
    const actual = marginLossSync(batch, { margin, negligible: 1e-7, ...weighted })
    if (onCpu) assert.ok(actual.leftOut.share > 0.5, `share ${actual.leftOut.share}`)
    for (const name of gradients) {
      within(actual.leftOut[name], 1e-7, `bound of ${name}`)
      const error = relativeError(actual[name] as Float32Array, everything[name] as Float32Array)
      within(error, actual.leftOut[name] + 1e-7, name)
    }
  }
})

test('what weights may be', async () => {
  const batch = makeBatch(16, { rows: 3, dim: 4, classes: 5 })
  const head = await MarginHead.create({ classes: 5, dim: 4 })
  for (const [name, count] of [
    ['classWeights', 5],
    ['sampleWeights', 3],
  ] as const) {
    const calls = [
      (given: never) => marginLoss(batch, { [name]: given }),
      async (given: never) =>
        name === 'classWeights'
          ? MarginHead.create({ classes: 5, dim: 4, [name]: given })
          : head.step(batch.input, batch.labels, { [name]: given }),
    ]
    for (const call of calls) {
      for (const wrong of [-1, Number.NaN, Number.POSITIVE_INFINITY, 1e39]) {
        const given = new Float64Array(count).fill(1)
        given[2] = wrong
        await rejectsLike(call(given as never), RangeError, complaint(`${name}[2]`))
      }
      await rejectsLike(call(new Float32Array(count + 1) as never), RangeError, complaint(name))
      for (const wrong of [null, 1, new Array(count).fill(1)])
        await rejectsLike(call(wrong as never), TypeError, complaint(name))
    }
  }
  throwsLike(
    () => marginLossSync(batch, { sampleWeights: new Float32Array(3), gradOutput: null as never }),
    TypeError,
    complaint('gradOutput')
  )
})

const file = path.join(os.tmpdir(), `margin-softmax-weights-${process.pid}.safetensors`)
test.after(() => fs.rmSync(file, { force: true }))

for (const labelSmoothing of [0, 0.1])
  test(`a head's steps: loss, gradients and update, with smoothing ${labelSmoothing}`, async () => {
    const { margin, oracle } = marginCase('arcface', { scale: 16 })
    const batch = makeBatch(17, { rows: 24, dim: 20, classes: 60 })
    batch.labels[5] = -1
    const { classWeights, sampleWeights } = weightsOf(batch, 18)
    const start = new Float32Array(batch.weight)
    const optimizer = sgd({ learningRate: 1 })
    const head = await MarginHead.create({
      ...{ classes: 60, dim: 20, margin, optimizer, labelSmoothing, classWeights },
      weights: start,
    })
    const given = head.classWeights as Float32Array
    sameBits(given, classWeights, 'classWeights')
    given.fill(9) // a copy
    classWeights.fill(7, 0, 1)
    const kept = head.classWeights as Float32Array
    const options = { labelSmoothing, classWeights: kept }
    const evaluated = await head.evaluate(batch.input, batch.labels)
    const before = reference(batch, oracle, options)
    within(Math.abs(evaluated.loss - before.loss), 1e-5 * before.loss, 'evaluate: loss')
    within(distance(evaluated.losses, before.losses), 1e-5 * norm(before.losses), 'evaluate: losses')
    const result = await head.step(batch.input, batch.labels, { sampleWeights })
    const expected = reference(batch, oracle, { ...options, sampleWeights })
    within(Math.abs(result.loss - expected.loss), 1e-5 * expected.loss, 'loss')
    within(distance(result.losses, expected.losses), 1e-5 * norm(expected.losses), 'losses')
    within(relativeError(result.gradInput as Float32Array, expected.gradInput), 1e-5, 'gradInput')
    const moved = head.weights().map((w, i) => (batch.weight[i] as number) - w)
    within(
      distance(moved, expected.gradWeight),
      1e-5 * norm(expected.gradWeight) + 1e-7 * norm(batch.weight),
      'update'
    )
    // Statistics count rows, whatever their weights.
    assert.is(result.stats.accuracy, evaluated.stats.accuracy)
    assert.is(result.stats.meanTargetCosine, evaluated.stats.meanTargetCosine)
    head.dispose()
  })

test('a head goes on with the same bits from its file, sampled or not', async () => {
  const batch = makeBatch(19, { rows: 24, dim: 20, classes: 90 })
  const { classWeights, sampleWeights } = weightsOf(batch, 20)
  for (const sampleRate of [1, 0.4])
    for (const labelSmoothing of [0, 0.1]) {
      const optimizer = sgd({ learningRate: 0.1, momentum: 0.9 })
      const settings = { classes: 90, dim: 20, margin: normface(), optimizer, sampleRate, labelSmoothing }
      const whole = await MarginHead.create({ ...settings, classWeights })
      let head = await MarginHead.create({ ...settings, classWeights })
      const plain = await MarginHead.create(settings)
      for (let step = 0; step < 3; step++) {
        const options = { sampleWeights }
        const expected = await whole.step(batch.input, batch.labels, options)
        const unweighted = await plain.step(batch.input, batch.labels)
        await head.save(file)
        head.dispose()
        head = await MarginHead.load(file)
        sameBits(head.classWeights as Float32Array, classWeights, 'classWeights')
        const actual = await head.step(batch.input, batch.labels, options)
        assert.is(actual.loss, expected.loss)
        assert.ok(Math.abs(unweighted.loss - actual.loss) > 1e-3 * actual.loss)
        sameBits(actual.gradInput as Float32Array, expected.gradInput as Float32Array, 'gradInput')
        sameBits(head.weights(), whole.weights(), 'weights')
      }
      await plain.save(file)
      assert.is((await MarginHead.load(file)).classWeights, undefined)
    }
})

test('classes come with their weights and go with them', async () => {
  const classWeights = weights(23, 9)
  const head = await MarginHead.create({ classes: 9, dim: 4, classWeights })
  await rejectsLike(head.addClasses(2), TypeError, complaint('classWeights'))
  await head.addClasses(2, { classWeights: Float32Array.of(7, 8) })
  await head.removeClasses([0, 4])
  await head.set({ labelSmoothing: 0.1 })
  const left = Float32Array.from([...classWeights, 7, 8].filter((_, j) => j !== 0 && j !== 4))
  sameBits(head.classWeights as Float32Array, left, 'classWeights')
  const batch = makeBatch(24, { rows: 20, dim: 4, classes: 9 })
  const expected = marginLossSync(
    { ...batch, weight: head.weights() },
    { classWeights: left, labelSmoothing: 0.1 }
  )
  assert.is((await head.evaluate(batch.input, batch.labels)).loss, expected.loss)
  const plain = await MarginHead.create({ classes: 9, dim: 4 })
  await rejectsLike(
    plain.addClasses(1, { classWeights: Float32Array.of(1) }),
    TypeError,
    complaint('classWeights')
  )
})

test('a sample that is all classes gives what all classes give', async () => {
  const [classes, dim] = [12, 20]
  const batch = makeBatch(21, { rows: 48, dim, classes })
  for (let i = 0; i < 48; i++) batch.labels[i] = i % classes
  const given = weightsOf(batch, 22)
  const results = []
  for (const sampleRate of [1, 0.9]) {
    const options = { classes, dim, margin: arcface(), labelSmoothing: 0.1, classWeights: given.classWeights }
    const head = await MarginHead.create({ ...options, sampleRate, weights: batch.weight })
    const { loss, gradInput } = await head.step(batch.input, batch.labels, {
      sampleWeights: given.sampleWeights,
    })
    results.push({ loss, gradInput: gradInput as Float32Array })
  }
  const [all, sampled] = results
  assert.ok(all && sampled)
  within(Math.abs(all.loss - sampled.loss), 1e-6 * all.loss, 'loss')
  within(relativeError(sampled.gradInput, all.gradInput), 1e-6, 'gradInput')
})

test.run()
