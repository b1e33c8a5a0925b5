// Class sampling and the interclass filter: which classes take part, and that everything concerns them alone.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { adamW, arcface, MarginHead, marginLossSync, sgd, softmaxMargin } from '../../lib/index'
import { oneOfEach } from '../support/margins'
import { reference } from '../support/reference'
import {
  complaint,
  integer,
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

const test = suite('sampling')

type Options = Parameters<typeof MarginHead.create>[0]

/** The rows of a [C,D] matrix that differ from another's. */
function changedRows(before: Float32Array, after: Float32Array, dim: number): number[] {
  const changed: number[] = []
  for (let j = 0; j < before.length / dim; j++)
    if (before.subarray(j * dim, (j + 1) * dim).some((value, d) => value !== after[j * dim + d]))
      changed.push(j)
  return changed
}

const rowsOf = (matrix: Float32Array, rows: number[], dim: number) =>
  Float32Array.from(rows.flatMap((j) => [...matrix.subarray(j * dim, (j + 1) * dim)]))

/** One case of each margin: no margin knows of sampling. */
const margins = oneOfEach()

/** Heads of this decay change every row that takes part. */
const decaying = sgd({ learningRate: 0.5, weightDecay: 0.01 })

/** One training step, and the classes that took part in it. */
async function stepOf(options: Options, embeddings: Float32Array, labels: Int32Array) {
  const head = await MarginHead.create({ optimizer: decaying, ...options })
  const before = head.weights()
  const result = head.stepSync(embeddings, labels)
  const after = head.weights()
  head.dispose()
  return { result, before, after, sample: changedRows(before, after, options.dim) }
}

test('the classes of the batch take part, and others up to the rate', async () => {
  for (const [classes, rate, rows] of [
    [1, 0.5, 3],
    [2, 0.5, 1],
    [2, 0.01, 5],
    [3, 0.4, 2],
    [100, 0.1, 7],
    [100, 0.1, 40], // more classes in the batch than the rate allows
    [1000, 0.1, 16],
    [1000, 0.999, 16],
    [4099, 0.25, 33],
    [70001, 0.1, 33],
  ] as const) {
    const dim = 5
    const { input, labels } = makeBatch(classes + rows, { rows, dim, classes })
    if (rows > 4) labels[3] = -1
    const device = classes > 1000 ? 'cpu' : undefined // samples are drawn there for every device
    const { sample } = await stepOf({ classes, dim, sampleRate: rate, seed: 3, device }, input, labels)
    const own = new Set([...labels].filter((label) => label >= 0))
    const what = `${classes} classes, rate ${rate}, ${rows} rows`
    assert.is(sample.length, Math.min(classes, Math.max(Math.ceil(rate * classes), own.size)), what)
    const taken = new Set(sample)
    for (const label of own) assert.ok(taken.has(label), `${what}: class ${label}`)
  }
})

if (onCpu)
  test('others are drawn uniformly, one by one and in pairs, anew in each step', async () => {
    for (const classes of [2, 3, 5, 16, 37]) {
      const [dim, steps] = [2, 3000]
      const wanted = Math.ceil(0.4 * classes)
      const head = await MarginHead.create({
        classes,
        dim,
        sampleRate: 0.4,
        optimizer: decaying,
        seed: classes,
        device: 'cpu', // samples are drawn there for every device
      })
      const labels = Int32Array.of(0)
      const input = Float32Array.of(0.5, 0.5)
      const counts = new Float64Array(classes * classes) // how often j and k took part together
      let before = head.weights()
      for (let step = 0; step < steps; step++) {
        head.stepSync(input, labels, { learningRate: 0.01, gradInput: false })
        const after = head.weights()
        const sample = changedRows(before, after, dim)
        before = after
        for (const j of sample)
          for (const k of sample) counts[j * classes + k] = (counts[j * classes + k] as number) + 1
      }
      head.dispose()
      // The sample has class 0, always, and wanted − 1 of the others.
      const single = (wanted - 1) / (classes - 1)
      const double = classes > 2 ? (single * (wanted - 2)) / (classes - 2) : 0
      for (let j = 0; j < classes; j++)
        for (let k = 0; k <= j; k++) {
          const others = new Set([j, k].filter((index) => index > 0)).size
          const expected = [1, single, double][others] as number
          const deviation = Math.sqrt((expected * (1 - expected)) / steps)
          const share = (counts[j * classes + k] as number) / steps
          within(
            Math.abs(share - expected),
            5 * deviation,
            `${classes} classes: ${j} with ${k}, ${share} of ${expected}`
          )
        }
    }
  })

test('a step is the step of the sampled classes alone, to the bit', async () => {
  for (const { title: name, margin, row } of margins) {
    for (const bias of row.raw ? [false, true] : [false]) {
      const [rows, dim, classes] = [19, 21, 300]
      const { input, labels } = makeBatch(7, { rows, dim, classes })
      labels[5] = -1
      const options = { classes, dim, margin, bias, sampleRate: 0.3, seed: 11 }
      const { result, before, after, sample } = await stepOf(options, input, labels)
      const part = marginLossSync(
        {
          input,
          labels: labels.map((label) => sample.indexOf(label)),
          weight: rowsOf(before, sample, dim),
          bias: bias ? new Float32Array(sample.length) : undefined,
          dim,
        },
        { margin }
      )
      assert.is(result.loss, part.loss, name)
      sameBits(result.losses, part.losses, `${name}: losses`)
      sameBits(result.gradInput as Float32Array, part.gradInput as Float32Array, `${name}: gradInput`)
      const updated = (part.gradWeight as Float32Array).map((g, i) => {
        const w = rowsOf(before, sample, dim)[i] as number
        return w - 0.5 * (g + 0.01 * w)
      })
      within(relativeError(rowsOf(after, sample, dim), updated), 1e-6, `${name}: weights`)
    }
  }
})

test('sampleCorrection: each other class of the sample stands for as many as it has to', async () => {
  for (const { title, margin, oracle } of margins) {
    for (const labelSmoothing of [0, 0.1]) {
      const [rows, dim, classes, sampleRate] = [19, 21, 300, 0.3]
      const batch = makeBatch(8, { rows, dim, classes })
      batch.labels[5] = -1
      const options = { classes, dim, margin, sampleRate, labelSmoothing, seed: 12, optimizer: decaying }
      const head = await MarginHead.create({ ...options, sampleCorrection: true, weights: batch.weight })
      const { loss, losses, gradInput, stats } = head.stepSync(batch.input, batch.labels)
      const after = head.weights()
      const sample = changedRows(batch.weight, after, dim)
      assert.is(sample.length, sampleRate * classes, title)
      const part = {
        ...{ input: batch.input, dim, weight: rowsOf(batch.weight, sample, dim) },
        labels: batch.labels.map((label) => sample.indexOf(label)),
      }
      const othersWeight = (classes - 1) / (sample.length - 1)
      const expected = reference(part, oracle, { othersWeight, labelSmoothing })
      within(relativeError([loss], [expected.loss]), 1e-5, `${title}: loss`)
      within(relativeError(losses, expected.losses), 1e-5, `${title}: losses`)
      within(relativeError(gradInput as Float32Array, expected.gradInput), 1e-5, `${title}: gradInput`)
      const { learningRate, weightDecay } = decaying
      const moved = rowsOf(after, sample, dim).map((w, i) => {
        const before = part.weight[i] as number
        return (before - w) / learningRate - weightDecay * before
      })
      const rounding = (2 ** -23 * norm(part.weight)) / learningRate / norm(expected.gradWeight)
      within(relativeError(moved, expected.gradWeight), 1e-5 + rounding, `${title}: gradWeight`)
      // Statistics speak of the scores, which no correction moves.
      const plain = await MarginHead.create({ ...options, weights: batch.weight })
      const { accuracy, meanLargestOtherCosine } = plain.stepSync(batch.input, batch.labels).stats
      assert.is(stats.accuracy, accuracy)
      assert.is(stats.meanLargestOtherCosine, meanLargestOtherCosine)
      head.dispose()
      plain.dispose()
    }
  }
})

if (onCpu)
  test('sampleCorrection: gradients of random batches and samples average to those of all classes', async () => {
    const [rows, dim, classes, draws] = [4, 8, 600, 1500]
    const margin = arcface({ scale: 8, margin: 0.2 })
    const { input, weight } = makeBatch(3, { rows: 1, dim, classes })
    for (let d = 0; d < dim; d++) input[d] = 0.3 * (input[d] as number) + (weight[d] as number) // near its class
    // The first row is looked at; labels of the others are random, so that its classes are a uniform sample.
    const inputs = new Float32Array(rows * dim).map((_, i) => input[i % dim] as number)
    const whole = marginLossSync({ input, labels: Int32Array.of(0), weight, dim }, { margin })
    const biasOf = async (sampleCorrection: boolean) => {
      const draw = random(5)
      const head = await MarginHead.create({
        ...{ classes, dim, margin, sampleRate: 0.5, sampleCorrection, weights: weight },
        ...{ optimizer: sgd({ learningRate: 0 }), device: 'cpu' },
      })
      const sum = new Float64Array(dim)
      let loss = 0
      for (let i = 0; i < draws; i++) {
        const labels = Int32Array.of(0, integer(draw, 1, classes - 1), -1, integer(draw, 1, classes - 1))
        const result = head.stepSync(inputs, labels)
        loss += (result.losses[0] as number) / draws
        // of three rows' mean
        for (let d = 0; d < dim; d++) sum[d] += (3 * (result.gradInput?.[d] as number)) / draws
      }
      head.dispose()
      return [loss / whole.loss - 1, relativeError(sum, whole.gradInput as Float32Array)] as const
    }
    const [lossBias, gradientBias] = await biasOf(true)
    const [lossBiasWithout, gradientBiasWithout] = await biasOf(false)
    within(Math.abs(lossBias), 0.01, 'loss')
    within(gradientBias, 0.01, 'gradInput')
    assert.ok(lossBiasWithout < -0.1, `loss without: ${lossBiasWithout}`)
    assert.ok(gradientBiasWithout > 0.015, `gradInput without: ${gradientBiasWithout}`)
  })

test('weights, momentum and moments of the other classes stay as they are', async () => {
  const [rows, dim, classes] = [4, 6, 50]
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-'))
  for (const optimizer of [sgd({ momentum: 0.9, weightDecay: 0.1 }), adamW()]) {
    const head = await MarginHead.create({ classes, dim, optimizer, sampleRate: 0.2, seed: 5 })
    const state = async () => {
      const file = path.join(folder, 'head.safetensors')
      await head.save(file)
      const bytes = fs.readFileSync(file)
      const length = Number(bytes.readBigUInt64LE())
      const header = JSON.parse(bytes.toString('utf8', 8, 8 + length))
      return Object.entries(header)
        .filter(([name]) => name !== '__metadata__')
        .map(([name, entry]) => {
          const [begin, end] = (entry as { data_offsets: [number, number] }).data_offsets
          return {
            name,
            values: new Float32Array(
              new Uint8Array(bytes.subarray(8 + length + begin, 8 + length + end)).buffer
            ),
          }
        })
    }
    for (let step = 0; step < 3; step++) {
      const { input, labels } = makeBatch(step, { rows, dim, classes })
      const before = await state()
      head.stepSync(input, labels)
      const after = await state()
      const samples = after.map(({ values }, i) =>
        changedRows(before[i]?.values as Float32Array, values, dim)
      )
      assert.is(samples[0]?.length, 10)
      for (const sample of samples) assert.equal(sample, samples[0], optimizer.name)
    }
    head.dispose()
  }
  fs.rmSync(folder, { recursive: true })
})

test('the same bits for any number of threads, and for training that was saved and loaded between', async () => {
  const [rows, dim, classes] = [32, 24, 3000]
  const optimizer = sgd({ learningRate: 0.1, momentum: 0.9 })
  const file = path.join(os.tmpdir(), `margin-softmax-sampling-${process.pid}.safetensors`)
  const run = async (threads: number, interrupted: boolean) => {
    let head = await MarginHead.create({ classes, dim, optimizer, sampleRate: 0.15, seed: 1234567, threads })
    for (let step = 0; step < 6; step++) {
      const { input, labels } = makeBatch(step, { rows, dim, classes })
      await head.step(input, labels)
      if (!interrupted || step !== 2) continue
      await head.save(file)
      head.dispose()
      head = await MarginHead.load(file, { threads })
    }
    const weights = head.weights()
    head.dispose()
    return weights
  }
  const expected = await run(1, false)
  for (const threads of threadCounts.slice(1, 3))
    sameBits(await run(threads, false), expected, `${threads} threads`)
  sameBits(await run(2, true), expected, 'resumed')
  fs.rmSync(file)
})

test('evaluation and topK see every class', async () => {
  const [rows, dim, classes] = [6, 8, 40]
  const weights = normals(random(1), classes * dim)
  const { input, labels } = makeBatch(2, { rows, dim, classes })
  const sampled = await MarginHead.create({ classes, dim, weights, sampleRate: 0.1 })
  const whole = await MarginHead.create({ classes, dim, weights })
  assert.equal(sampled.evaluateSync(input, labels), whole.evaluateSync(input, labels))
  assert.equal(sampled.topKSync(input, 3), whole.topKSync(input, 3))
})

test('the interclass filter leaves out what the oracle leaves out', async () => {
  for (const marginOf of margins.filter((c) => !c.row.raw)) {
    for (const [seed, interclassFilter] of [0.2, 0.05, -0.1, -1].entries()) {
      const [rows, dim, classes] = [23, 16, integer(random(seed), 100, 300)]
      const batch = makeBatch(seed, { rows, dim, classes })
      const { margin } = marginOf
      const head = await MarginHead.create({
        classes,
        dim,
        margin,
        weights: batch.weight,
        interclassFilter,
        optimizer: sgd({ learningRate: 1 }),
      })
      const { loss, gradInput } = head.stepSync(batch.input, batch.labels)
      const oracle = reference(batch, marginOf.oracle, { interclassFilter })
      const what = `${marginOf.title}, ${interclassFilter}`
      within(relativeError([loss], [oracle.loss]), 1e-5, `${what}: loss`)
      within(relativeError(gradInput as Float32Array, oracle.gradInput), 1e-5, `${what}: gradInput`)
      const moved = head.weights().map((w, i) => (batch.weight[i] as number) - w)
      // A difference of weights: each was rounded once, like a weight.
      const rounding = (2 ** -24 * norm(batch.weight)) / norm(oracle.gradWeight)
      within(relativeError(moved, oracle.gradWeight), 1e-5 + rounding, `${what}: gradWeight`)
      head.dispose()
    }
  }
})

test('what the options refuse', async () => {
  const base = { classes: 10, dim: 4 }
  for (const sampleRate of [0, -0.5, 1.5, Number.NaN, '0.1', null] as number[])
    await rejectsLike(
      MarginHead.create({ ...base, sampleRate }),
      typeof sampleRate === 'number' ? RangeError : TypeError,
      complaint('sampleRate', sampleRate)
    )
  await rejectsLike(
    MarginHead.create({ ...base, sampleCorrection: 1 as never }),
    TypeError,
    complaint('sampleCorrection', 1)
  )
  await rejectsLike(
    MarginHead.create({ ...base, interclassFilter: 2 }),
    RangeError,
    complaint('interclassFilter', 2)
  )
  await rejectsLike(
    MarginHead.create({ ...base, margin: softmaxMargin(), interclassFilter: 0.4 }),
    RangeError,
    complaint('interclassFilter', 0.4)
  )
  await rejectsLike(
    MarginHead.create({ ...base, margin: arcface(), labelSmoothing: 0.1, interclassFilter: 0.4 }),
    RangeError,
    complaint('interclassFilter', 0.4)
  )
})

test.run()
