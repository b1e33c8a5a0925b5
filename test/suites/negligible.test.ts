// The backward pass skips terms that cannot matter: never more than the bound that it reports, nothing where
// everything matters, and the same choice in every run.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  adamW,
  instructionSets,
  MarginHead,
  marginLossSync,
  normface,
  type Optimizer,
  sgd,
} from '../../lib/index'
import { compare, gradients, type LossOptions, type LossResult } from '../support/losses'
import { marginCase, marginCases } from '../support/margins'
import { reference } from '../support/reference'
import {
  type Batch,
  complaint,
  distance,
  makeBatch,
  norm,
  normals,
  random,
  rejectsLike,
  relativeError,
  type Shape,
  sameBits,
  throwsLike,
  within,
} from '../support/support'

const test = suite('negligible')

/** About the rounding of single precision: a head's default. */
const usual = 1e-7

/** Rows of length 64 close to their class, but for every tenth, as a trained head sees them. */
function trained(seed: number, shape: Shape, closeness = 1): Batch {
  const batch = makeBatch(seed, shape)
  const { rows, dim } = shape
  const next = random(seed + 1)
  const { weight } = batch
  for (let i = 0; i < rows; i++) {
    const label = batch.labels[i] as number
    const noise = (i % 10 === 9 ? 0.9 : 0.3 * next()) * closeness
    const row = batch.input.subarray(i * dim, (i + 1) * dim)
    for (let d = 0; d < dim; d++) row[d] = (weight[label * dim + d] as number) + noise * (row[d] as number)
    const length = norm(row)
    for (let d = 0; d < dim; d++) row[d] = (64 * (row[d] as number)) / length
  }
  return batch
}

// Class tiles few and many, row slots 1 to 4, row chunks 1 to 3, vectors whole and not.
const shapes: Shape[] = [
  { rows: 64, dim: 130, classes: 2600 },
  { rows: 300, dim: 195, classes: 1290 },
  { rows: 130, dim: 257, classes: 980 },
  { rows: 520, dim: 128, classes: 1970 },
  { rows: 1, dim: 160, classes: 2500 },
  { rows: 17, dim: 401, classes: 640 },
]

/** Fails unless each gradient is within its bound of everything's, and the bounds within `negligible`. */
function withinBounds(
  actual: LossResult,
  everything: LossResult,
  negligible: number,
  what: string,
  rounding = 1e-7
): void {
  sameBits(actual.losses, everything.losses, `${what}: losses`)
  assert.equal(everything.leftOut, { share: 0, gradInput: 0, gradWeight: 0 })
  for (const name of gradients) {
    const bound = actual.leftOut[name]
    within(bound, negligible, `${what}: bound of ${name}`)
    const error = relativeError(actual[name] as Float32Array, everything[name] as Float32Array)
    within(error, bound > 0 ? bound + rounding : 0, `${what}: ${name}`)
  }
}

test('every margin, held against everything and against the oracle', () => {
  for (const [number, { title, margin, oracle, row }] of marginCases.entries()) {
    for (const [seed, shape] of shapes.entries()) {
      if (number % 3 !== seed % 3) continue // each case on a third of the shapes
      const batch = trained(seed, shape)
      const what = `${title} ${shape.rows}×${shape.dim}×${shape.classes}`
      const everything = marginLossSync(batch, { margin, negligible: 0 })
      for (const negligible of [usual, 1e-3]) {
        const actual = marginLossSync(batch, { margin, negligible })
        withinBounds(actual, everything, negligible, `${what}, ${negligible}`)
        if (row.raw) assert.is(actual.leftOut.share, 0, what)
      }
      // Raw scores of such rows are far beyond what is tested elsewhere, and the oracle takes its time for many rows.
      if (row.raw || shape.rows > 64) continue
      compare(marginLossSync(batch, { margin, negligible: usual }), reference(batch, oracle), what)
    }
  }
})

test('a trained head leaves much out', () => {
  for (const [seed, shape] of shapes.entries()) {
    if (shape.rows === 1) continue // its one row matters
    const margin = normface({ scale: 64 })
    const { leftOut } = marginLossSync(trained(seed, shape), { margin, negligible: usual })
    assert.ok(
      leftOut.share > 0.4 && leftOut.gradInput > 0,
      `${JSON.stringify(shape)}: ${JSON.stringify(leftOut)}`
    )
  }
})

test('nothing is left out of random data, and the bits are those of everything', () => {
  for (const [seed, shape] of shapes.entries()) {
    const batch = makeBatch(seed, shape)
    for (const name of ['arcface', 'cosface', 'softmax']) {
      const { margin } = marginCase(name, name === 'softmax' ? {} : { scale: 16 })
      const actual = marginLossSync(batch, { margin, negligible: usual })
      const everything = marginLossSync(batch, { margin, negligible: 0 })
      assert.is(actual.leftOut.share, 0)
      for (const gradient of gradients)
        sameBits(
          actual[gradient] as Float32Array,
          everything[gradient] as Float32Array,
          `${name} ${gradient}`
        )
    }
  }
})

test('nothing is left out with label smoothing, or of batches of several passes', () => {
  const batch = trained(1, { rows: 64, dim: 130, classes: 2000 })
  const smoothed = { margin: normface({ scale: 64 }), labelSmoothing: 0.1, negligible: 1e-3 }
  assert.is(marginLossSync(batch, smoothed).leftOut.share, 0)
  const long = trained(1, { rows: 5000, dim: 500, classes: 300 })
  const margin = normface({ scale: 64 })
  assert.is(marginLossSync(long, { margin, negligible: 1e-3 }).leftOut.share, 0)
})

// Rows in one direction, and in each class tile but the first one class in one direction that holds the tile's mass:
// nothing in the sums behind the bounds cancels.
test('the bounds are close to what aligned parts hold', () => {
  const [rows, dim, tile, tiles] = [64, 130, 126, 30]
  const classes = tile * tiles
  const weight = new Float32Array(classes * dim)
  for (let j = 0; j < classes; j++) {
    if (j < tile) weight[j * dim] = 1
    else weight[j * dim + 1] = j % tile === 0 ? 1 : -1
  }
  const label = classes - 5
  weight[label * dim + 1] = 0
  weight[label * dim + 2] = 1
  const input = new Float32Array(rows * dim)
  for (let i = 0; i < rows; i++) input.set([0.6, 0.2, 0.75], i * dim)
  const batch = { input, weight, labels: new Int32Array(rows).fill(label), dim }
  const margin = normface({ scale: 20 })
  const everything = marginLossSync(batch, { margin, negligible: 0 })
  const actual = marginLossSync(batch, { margin, negligible: 1e-3 })
  withinBounds(actual, everything, 1e-3, 'aligned', 0)
  for (const name of gradients) {
    const error = relativeError(actual[name] as Float32Array, everything[name] as Float32Array)
    within(0.9 * actual.leftOut[name], error, `${name}: 0.9 times the bound`)
    assert.ok(error > 1e-6, name)
  }
})

// Each class has a twin, and each row lies beside both: the target's pull and the twin's cancel to their difference.
test('gradInput that cancels is computed from everything', () => {
  const [rows, dim, twins] = [40, 128, 2000]
  for (const apart of [0, 1e-7, 1]) {
    const batch = makeBatch(3, { rows, dim, classes: 2 * twins })
    const { weight, labels, input } = batch
    const next = random(9)
    for (let i = 0; i < rows; i++) {
      const label = i * 49
      labels[i] = label
      for (let d = 0; d < dim; d++) {
        const w = weight[label * dim + d] as number
        weight[(label + twins) * dim + d] = w + apart * (next() - 0.5)
        input[i * dim + d] = w + 0.75 * (input[i * dim + d] as number)
      }
    }
    const margin = normface({ scale: 64 })
    const everything = marginLossSync(batch, { margin, negligible: 0 })
    const actual = marginLossSync(batch, { margin, negligible: usual })
    const what = `${apart} apart`
    withinBounds(actual, everything, usual, what)
    assert.ok(actual.leftOut.gradWeight > 0, what)
    if (apart === 1) assert.ok(actual.leftOut.gradInput > 0, what)
    else assert.is(actual.leftOut.gradInput, 0, what)
  }
})

test('the same bits for any number of threads, with tiles kept or not, and for every instruction set', () => {
  const margin = normface({ scale: 64 })
  const fused = instructionSets().filter((set) => set !== 'portable')
  for (const shape of [
    { rows: 600, dim: 128, classes: 12_000 }, // more logits than the smallest workspace keeps
    ...shapes,
  ]) {
    const batch = trained(6, shape)
    const first = marginLossSync(batch, { margin, negligible: usual, threads: 1 })
    if (shape.rows > 50) assert.ok(first.leftOut.share > 0, JSON.stringify(shape))
    const least = 32 * 2 ** 20
    const others: LossOptions[] = [
      { threads: 2 },
      { threads: 3, workspace: least },
      ...fused.flatMap((instructionSet) => [
        { instructionSet },
        { instructionSet, threads: 2, workspace: least },
      ]),
      { gradInput: false },
      { gradWeight: false },
    ]
    for (const options of others) {
      const actual = marginLossSync(batch, { margin, negligible: usual, ...options })
      for (const name of gradients)
        if (options[name] !== false)
          sameBits(
            actual[name] as Float32Array,
            first[name] as Float32Array,
            `${JSON.stringify(shape)} ${JSON.stringify(options)} ${name}`
          )
    }
  }
})

test('ignored rows, upstream gradients of any sign and size, and sums', () => {
  const shape = { rows: 90, dim: 130, classes: 3000 }
  const batch = trained(7, shape, 1.4)
  batch.labels[3] = -1
  batch.labels[89] = -1
  batch.input.fill(0, 5 * shape.dim, 6 * shape.dim)
  const next = random(4)
  const gradOutput = normals(next, shape.rows)
  gradOutput[7] = 0
  const { margin, oracle } = marginCase('normface', { scale: 64 })
  for (const options of [
    { reduction: 'none', gradOutput },
    { reduction: 'none', gradOutput: gradOutput.map((g) => -1e-12 * g) },
    { reduction: 'sum', gradOutput: 1e12 },
    { reduction: 'mean', gradOutput: -3 },
    { reduction: 'mean', gradOutput: 0 },
  ] as const) {
    const actual = marginLossSync(batch, { margin, negligible: usual, ...options })
    const everything = marginLossSync(batch, { margin, ...options, negligible: 0 })
    const what = `${options.reduction} ${typeof options.gradOutput}`
    withinBounds(actual, everything, usual, what)
    assert.is(actual.leftOut.share > 0.5, options.gradOutput !== 0, what)
    compare(actual, reference(batch, oracle, options), what)
  }
})

test('a gradient that is not a number stays one', () => {
  const batch = trained(8, { rows: 30, dim: 130, classes: 3000 })
  batch.input[135] = Number.NaN
  const { margin } = marginCase('normface', { scale: 64 })
  const actual = marginLossSync(batch, { margin, negligible: usual })
  const everything = marginLossSync(batch, { margin, negligible: 0 })
  for (const name of gradients) sameBits(actual[name] as Float32Array, everything[name] as Float32Array, name)
})

// The weights are known to a rounding only, so what a step moved is held against the gradient with that in mind.
test('a step of a head: within the bound, sampled or not, and the same bits when resumed', async () => {
  const [rows, dim, classes] = [64, 130, 5000]
  const file = path.join(os.tmpdir(), `margin-softmax-negligible-${process.pid}.safetensors`)
  for (const sampleRate of [1, 0.5]) {
    const batches = [1, 2, 3].map((seed) => trained(11, { rows, dim, classes }, 1.1 - seed / 10))
    const { weight } = batches[0] as Batch
    const run = async (negligible: number, threads: number, interrupted = false) => {
      const margin = normface({ scale: 64 })
      const optimizer = sgd({ learningRate: 0.01, momentum: 0.9, weightDecay: 1e-3 })
      const options = { classes, dim, margin, optimizer, sampleRate, weights: weight, negligible, threads }
      let head = await MarginHead.create(options)
      const steps = []
      for (const { input, labels } of batches) {
        steps.push(await head.step(input, labels))
        if (!interrupted) continue
        await head.save(file)
        head.dispose()
        head = await MarginHead.load(file, { threads })
      }
      const weights = head.weights()
      head.dispose()
      return { weights, steps }
    }
    const everything = await run(0, 1)
    const actual = await run(usual, 1)
    const [first, expected] = [actual.steps[0], everything.steps[0]]
    assert.ok(first && expected)
    const { leftOut } = first.stats
    assert.ok(leftOut.share > 0.5, `share ${leftOut.share}`)
    const error = relativeError(first.gradInput as Float32Array, expected.gradInput as Float32Array)
    within(error, leftOut.gradInput + 1e-7, 'gradInput')
    within(Math.abs(first.stats.gradientNorm / expected.stats.gradientNorm - 1), 1e-6, 'gradientNorm')
    const moved = everything.weights.map((w, i) => w - (weight[i] as number))
    const rounding = (3 * 2 ** -24 * norm(weight)) / norm(moved)
    within(distance(actual.weights, everything.weights) / norm(moved), 1e-6 + rounding, 'weights')
    for (const threads of [2, 3])
      sameBits((await run(usual, threads)).weights, actual.weights, `${threads} threads`)
    sameBits((await run(usual, 2, true)).weights, actual.weights, 'resumed')
  }
  fs.rmSync(file)
})

test('without being asked, a loss computes everything', () => {
  const batch = trained(1, { rows: 64, dim: 130, classes: 2600 })
  const { leftOut } = marginLossSync(batch, { margin: normface({ scale: 64 }) })
  assert.equal(leftOut, { share: 0, gradInput: 0, gradWeight: 0 })
})

test('nothing is tried where little could be gained', () => {
  const share = (dim: number, classes: number) =>
    marginLossSync(trained(1, { rows: 64, dim, classes }), {
      margin: normface({ scale: 64 }),
      negligible: 1e-3,
    }).leftOut.share
  assert.ok(share(128, 1954) > 0.4)
  assert.is(share(128, 1953), 0)
  assert.is(share(127, 8000), 0)
})

// AdamW divides by the gradient's size: what is small beside the norm moves a class by a whole learning rate.
test('a head with AdamW has the bits of everything, whatever is negligible', async () => {
  const { input, labels, weight } = trained(3, { rows: 64, dim: 130, classes: 2600 })
  for (const sampleRate of [1, 0.9]) {
    const train = async (negligible?: number, optimizer: Optimizer = adamW({ learningRate: 1e-3 })) => {
      const margin = normface({ scale: 64 })
      using head = await MarginHead.create({
        classes: 2600,
        dim: 130,
        margin,
        optimizer,
        weights: weight,
        negligible,
        sampleRate,
      })
      const steps = []
      for (let step = 0; step < 3; step++) steps.push(await head.step(input, labels))
      return { steps, weights: head.weights() }
    }
    const everything = await train(0)
    for (const negligible of [undefined, 1e-3]) {
      const { steps, weights } = await train(negligible)
      sameBits(weights, everything.weights, `weights, ${negligible}`)
      for (const { stats } of steps) assert.is(stats.leftOut.share, 0)
    }
    assert.ok((await train(undefined, sgd())).steps.every(({ stats }) => stats.leftOut.share > 0.4))
  }
})

test('what the option refuses', async () => {
  const batch = makeBatch(1, { rows: 2, dim: 3, classes: 4 })
  for (const negligible of [-1e-9, 0.01, Number.NaN, Number.POSITIVE_INFINITY])
    throwsLike(() => marginLossSync(batch, { negligible }), RangeError, complaint('negligible', negligible))
  for (const negligible of [null, '1e-7'] as unknown as number[])
    throwsLike(() => marginLossSync(batch, { negligible }), TypeError, complaint('negligible', negligible))
  await rejectsLike(
    MarginHead.create({ classes: 4, dim: 3, negligible: 1 }),
    RangeError,
    complaint('negligible', 1)
  )
})

test.run()
