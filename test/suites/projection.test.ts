// A projection trained below a head, against the oracle's, PyTorch's formulas in float64.
import * as tf from '@tensorflow/tfjs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  adamW,
  instructionSets,
  MarginHead,
  type MarginSoftmaxError,
  type ProjectedHeadOptions,
  type ProjectionOptions,
  sgd,
  verificationSync,
} from '../../lib/index'
import { checkProjection, type Projection } from '../../lib/internal/projection'
import { adapter } from '../../lib/tfjs'
import { marginCase } from '../support/margins'
import { batchOf, OracleProjectedHead, project, tensorsOf, trained } from '../support/projection'
import {
  distance,
  filesOf,
  normals,
  random,
  relativeError,
  sameBits,
  threadCounts,
  within,
} from '../support/support'
import type { OracleOptimizer } from '../support/trainer'

tf.enableProdMode() // no advice to install tfjs-node

const test = suite('projection')
const file = filesOf(test)

const kinds: Omit<ProjectionOptions, 'from' | 'to'>[] = [
  {},
  { batchNorm: true },
  { dropout: 0.4 },
  { batchNorm: true, dropout: 0.3 },
  { layers: 2 },
  { layers: 2, hidden: 7 },
  { layers: 2, hidden: 150, batchNorm: true },
  { layers: 2, hidden: 31, batchNorm: true, dropout: 0.25 },
]
const checked = (options: ProjectionOptions) => checkProjection(options, 'projection') as Projection
const titleOf = (kind: object) => JSON.stringify(kind)

/** A head and the oracle's, from the same first values. */
async function pair(options: ProjectedHeadOptions, optimizer: OracleOptimizer, name: string) {
  const { kind, ...parameters } = optimizer
  const head = await MarginHead.create({
    ...options,
    margin: marginCase('arcface').margin,
    optimizer: kind === 'sgd' ? sgd(parameters) : adamW(parameters),
  })
  await head.save(file(name))
  const { seed = 0, maxGradientNorm } = options
  const projection = checked(options.projection)
  const settings = { projection, margin: marginCase('arcface'), optimizer, seed, maxGradientNorm }
  return { head, oracle: new OracleProjectedHead(settings, await tensorsOf(file(name))) }
}

const optimizers: OracleOptimizer[] = [
  { kind: 'sgd', learningRate: 0.05, momentum: 0.9, weightDecay: 0.01 },
  { kind: 'adamW', learningRate: 0.01, epsilon: 1e-3 }, // gradients that are rounding errors would decide elements
]

// Odd sizes, a short panel, several of them, and sizes beyond a tile's.
const sizes = [
  { rows: 2, from: 1, to: 3, classes: 4 },
  { rows: 29, from: 21, to: 17, classes: 12 },
  { rows: 131, from: 70, to: 130, classes: 9 },
]

for (const [i, kind] of kinds.entries())
  for (const [s, { rows, from, to, classes }] of sizes.entries())
    test(`follows the oracle: ${titleOf(kind)}, ${rows} × ${from} → ${to}`, async () => {
      const optimizer = optimizers[(i + s) % 2] as OracleOptimizer
      const projection = { from, to, ...kind }
      const options = { classes, projection, seed: 5 + i, maxGradientNorm: s === 1 ? 3 : 0 }
      const { head, oracle } = await pair(options, optimizer, `oracle-${i}-${s}`)
      for (let step = 0; step < 3; step++) {
        const { features, labels } = batchOf(step, rows, from, classes)
        if (s === 1) labels[4] = -1
        const actual = step === 1 ? head.stepSync(features, labels) : await head.step(features, labels)
        const expected = oracle.step(features, labels)
        within(relativeError([actual.loss], [expected.loss]), 2e-5, `step ${step}: loss`)
        within(relativeError(actual.losses, expected.losses), 2e-5, `step ${step}: losses`)
        // With two rows, batch norm leaves of a row little but its sign: the gradient is near 0.
        const slack = rows === 2 && kind.batchNorm ? 1e-4 : 0
        within(
          distance(actual.gradInput as Float32Array, expected.gradInput),
          5e-5 * expected.gradInputNorm + slack,
          `step ${step}: gradInput`
        )
        within(
          relativeError([actual.stats.gradientNorm], [expected.gradientNorm]),
          5e-5,
          `step ${step}: gradientNorm`
        )
        within(
          Math.abs(actual.stats.gradInputNorm - expected.gradInputNorm),
          5e-5 * expected.gradInputNorm + slack,
          `step ${step}: gradInputNorm`
        )
      }
      const { features, labels } = batchOf(9, rows, from, classes)
      within(relativeError(await head.embed(features), oracle.embed(features)), 1e-4, 'embeddings')
      within(relativeError(head.weights(), oracle.weight), 1e-4, 'weights')
      within(
        relativeError([head.evaluateSync(features, labels).loss], [oracle.evaluate(features, labels).loss]),
        1e-4,
        'evaluation'
      )
      await head.save(file('after'))
      for (const [name, values] of Object.entries(await tensorsOf(file('after'))))
        if (name.startsWith('projection.'))
          within(relativeError(values, oracle.tensors[name] as Float64Array), 1e-3, name)
    })

test("the oracle's gradients are finite differences", () => {
  const [rows, from, to] = [5, 4, 3]
  for (const kind of kinds) {
    const projection = checked({ from, to, ...kind })
    const next = random(3)
    const width = projection.layers === 2 ? projection.hidden : to
    const last = projection.batchNorm ? 3 : 2
    const tensors: Record<string, Float64Array> = {}
    const draw = (name: string, length: number) => {
      tensors[`projection.${name}`] = Float64Array.from(normals(next, length))
    }
    draw('0.weight', width * from)
    if (projection.batchNorm) for (const name of ['1.weight', '1.bias']) draw(name, width)
    else draw('0.bias', width)
    if (projection.layers === 2) {
      draw(`${last}.weight`, to * width)
      draw(`${last}.bias`, to)
    }
    const features = Float64Array.from(normals(next, rows * from))
    const upstream = Float64Array.from(normals(next, rows * to))
    const drop = (i: number) => (projection.dropout && i % 3 === 0 ? 0 : 1 / (1 - projection.dropout))
    const value = () =>
      project(projection, tensors, features, drop).embeddings.reduce(
        (sum, z, i) => sum + z * (upstream[i] as number),
        0
      )
    const { parameters, features: gradFeatures } = project(projection, tensors, features, drop).back(upstream)
    for (const [name, values] of Object.entries({ ...tensors, features })) {
      const gradient = (name === 'features' ? gradFeatures : parameters[name]) as Float64Array
      const difference = values.map((_, i) => {
        const before = values[i] as number
        const at = (x: number) => {
          values[i] = x
          return value()
        }
        const slope = (at(before + 1e-5) - at(before - 1e-5)) / 2e-5
        values[i] = before
        return slope
      })
      within(relativeError(gradient, difference), 1e-6, `${titleOf(kind)}: ${name}`)
    }
  }
})

// The portable code has no fused multiply-adds.
test('bits are the same for any number of threads and any instruction set', async () => {
  for (const precision of ['float32', 'bfloat16'] as const)
    for (const kind of [{ batchNorm: true }, { layers: 2 as const, hidden: 90, dropout: 0.5 }]) {
      const projection = { from: 75, to: 33, ...kind }
      const expected = await trained({ projection, device: 'cpu', precision, threads: 1 })
      const others = [
        ...threadCounts.map((threads) => ({ threads })),
        ...instructionSets()
          .filter((set) => set !== 'portable')
          .map((instructionSet) => ({ instructionSet })),
      ]
      for (const other of others) {
        const actual = await trained({ projection, device: 'cpu', precision, ...other }).catch((error) => {
          if (error.code === 'ERR_UNAVAILABLE') return undefined // no permission for tiles
          throw error
        })
        if (!actual) continue
        sameBits(actual.embeddings, expected.embeddings, JSON.stringify({ ...other, precision }))
        sameBits(actual.gradInput, expected.gradInput, JSON.stringify({ ...other, precision }))
      }
    }
})

test('an embedding does not depend on the rows beside it', async () => {
  for (const kind of kinds) {
    const { head } = await trained({ projection: { from: 40, to: 24, ...kind } })
    const { features } = batchOf(1, 2100, 40, 2) // more than a pass takes
    const all = await head.embed(features)
    for (const row of [0, 77, 2099])
      sameBits(
        head.embedSync(features.subarray(row * 40, (row + 1) * 40)),
        all.subarray(row * 24, (row + 1) * 24),
        `${titleOf(kind)}: row ${row}`
      )
  }
})

test('bfloat16 comes near float32', async () => {
  const { features, labels } = batchOf(2, 64, 200, 10)
  const outcomes = []
  for (const precision of ['float32', 'bfloat16'] as const) {
    const projection = { from: 200, to: 130, layers: 2 as const }
    const head = await MarginHead.create({ classes: 10, projection, device: 'cpu', precision })
    outcomes.push(await head.step(features, labels))
  }
  const [exact, rounded] = outcomes as [(typeof outcomes)[0], (typeof outcomes)[0]]
  within(relativeError([rounded.loss], [exact.loss]), 5e-3, 'loss')
  const error = relativeError(rounded.gradInput as Float32Array, exact.gradInput as Float32Array)
  within(error, 3e-2, 'gradInput')
  assert.ok(error > 1e-5, 'the products were rounded')
})

test('topK takes features, and finds what the embeddings find', async () => {
  const { head } = await trained({ projection: { from: 12, to: 6 } })
  const { features } = batchOf(51, 30, 12, 20)
  const plain = await MarginHead.create({ classes: 20, dim: 6, weights: head.weights() })
  const expected = await plain.topK(await head.embed(features), 3)
  assert.equal(await head.topK(features, 3), expected)
  assert.equal(head.topKSync(features, 3), expected)
})

test("the TensorFlow.js adapter gives the features' gradient", async () => {
  const projection = { from: 12, to: 6, layers: 2 as const }
  const [{ head }, { head: other }] = [await trained({ projection }), await trained({ projection })]
  const { features, labels } = batchOf(53, 30, 12, 20)
  const { headLoss } = adapter(tf)
  const loss = (x: tf.Tensor) => headLoss(head, x as tf.Tensor2D, labels)
  const gradient = tf.grad(loss)(tf.tensor2d(features, [30, 12]))
  const { gradInput } = await other.step(features, labels)
  sameBits((await gradient.data()) as Float32Array, gradInput as Float32Array, 'gradient')
})

test('a step without gradInput does the same', async () => {
  const projection = { from: 12, to: 6, layers: 2 as const, dropout: 0.1 }
  const { features, labels } = batchOf(52, 30, 12, 20)
  const heads = [await trained({ projection }), await trained({ projection })].map(({ head }) => head)
  const [withIt, without] = heads as [MarginHead, MarginHead]
  await withIt.step(features, labels)
  const { gradInput, stats } = await without.step(features, labels, { gradInput: false })
  assert.is(gradInput, undefined)
  assert.is(stats.gradInputNorm, 0)
  sameBits(without.embedSync(features), withIt.embedSync(features), 'embeddings')
})

test('a signal ends an embedding that waits', async () => {
  const { head } = await trained({ projection: { from: 12, to: 6 } })
  const reason = new Error('enough')
  await head.embed(new Float32Array(12), { signal: AbortSignal.abort(reason) }).then(
    () => assert.unreachable(),
    (error) => assert.is(error, reason)
  )
  const disposed = head.embed(new Float32Array(12))
  head.dispose()
  await disposed.catch((error: MarginSoftmaxError) => assert.is(error.code, 'ERR_DISPOSED'))
})

test('raises the verification of classes that it never saw', async () => {
  // Of 32 dimensions 6 tell the classes apart; the others vary three times as much, whatever the class.
  const [from, telling, rows] = [32, 6, 8]
  const next = random(17)
  const sample = (classes: number) => {
    const features = new Float32Array(classes * rows * from)
    for (let j = 0; j < classes; j++) {
      const centre = normals(next, telling)
      for (let i = 0; i < rows; i++) {
        const at = (j * rows + i) * from
        features.set(normals(next, from, 3), at)
        features.set(
          centre.map((c) => c + 0.3 * (normals(next, 1)[0] as number)),
          at
        )
      }
    }
    return { features, labels: Int32Array.from({ length: classes * rows }, (_, i) => Math.floor(i / rows)) }
  }
  const [seen, unseen] = [sample(60), sample(40)]
  const projection = { from, to: 16, batchNorm: true }
  const head = await MarginHead.create({ classes: 60, projection, optimizer: adamW({ learningRate: 0.01 }) })
  for (let epoch = 0; epoch < 40; epoch++) await head.step(seen.features, seen.labels, { gradInput: false })
  const errorRate = (embeddings: Float32Array, dim: number) =>
    verificationSync(embeddings, unseen.labels, { dim }).equalErrorRate
  const before = errorRate(unseen.features, from)
  const after = errorRate(await head.embed(unseen.features), 16)
  assert.ok(after < before - 0.1, `${before} → ${after}`)
})

test.run()
