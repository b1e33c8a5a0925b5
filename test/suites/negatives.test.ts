// Margins that transform their negatives: against the golden vectors, in the statistics, where something might be left
// out, and beside a textbook that does not know of it.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { MarginHead, marginLossSync, sgd } from '../../lib/index'
import { familyFolder, goldenArguments, goldenCases } from '../support/golden'
import { compareWithOracle, errorsBesideTextbook, runLoss } from '../support/losses'
import { type MarginCase, marginCase, marginCases, oneOfEach } from '../support/margins'
import { reference } from '../support/reference'
import type { Batch } from '../support/support'
import { distance, lacking, makeBatch, norm, onCpu, sameBits, within } from '../support/support'
import { textbook } from '../support/textbook'

const test = suite('negatives')
const transforming = marginCases.filter(({ row }) => row.negative)
const outputs = ['losses', 'gradInput', 'gradWeight'] as const
const noTransform = (margin: MarginCase) => ({ ...margin.oracle, negative: undefined })

/** A batch whose rows have hard negatives and easy ones: classes lie in pairs near each other, rows between the two. */
function hardBatch(seed: number, rows: number, dim: number, classes: number): Batch {
  const batch = makeBatch(seed, { rows, dim, classes })
  const { input, weight, labels } = batch as { input: Float32Array; weight: Float32Array; labels: Int32Array }
  for (let j = 1; j < classes; j += 2)
    for (let d = 0; d < dim; d++)
      weight[j * dim + d] = 0.6 * (weight[j * dim + d] as number) + (weight[(j - 1) * dim + d] as number)
  for (let i = 0; i < rows; i++)
    for (let d = 0; d < dim; d++)
      input[i * dim + d] =
        (0.4 + (i % 5) / 5) * (input[i * dim + d] as number) +
        (weight[(labels[i] as number) * dim + d] as number)
  return batch
}

/** Counts the negatives that the margin treats as hard, and as easy. */
function hardAndEasy(margin: MarginCase, { labels, ...batch }: Batch) {
  const { scores, logits } = reference(
    { labels, ...batch },
    { ...margin.oracle, psi: (c) => ({ value: c, slope: 1 }) }
  )
  const classes = scores.length / labels.length
  const negatives = Array.from(scores.keys()).filter((k) => k % classes !== labels[Math.floor(k / classes)])
  const hard = negatives.filter(
    (k) => Math.abs((logits[k] as number) - Number(margin.oracle.scale) * (scores[k] as number)) > 1e-9
  )
  return { hard: hard.length, easy: negatives.length - hard.length }
}

// 055 has sub-centres, 090 learns its scale.
const golden = goldenCases(familyFolder, /^(?!055|090)\d+-(mvsoftmax|curricularface)/)
if (golden) {
  test('the golden vectors are there', () => assert.is(golden.length, 22))
  for (const vectors of golden) {
    const margin = marginCase(vectors.margin, vectors.parameters)
    const { batch, options } = goldenArguments(vectors)
    const { tolerance, othersWeight } = vectors
    const result = reference(vectors, margin.oracle, { ...options, othersWeight })
    // In one dimension or with one class gradients are 0: what rounding leaves goes with their terms.
    const rounding = { losses: 0, gradInput: result.magnitudeInput, gradWeight: result.magnitudeWeight }
    test(`the oracle gives the golden vectors of ${vectors.title}`, () => {
      for (const name of outputs)
        within(
          distance(result[name], vectors[name]),
          1e-7 * (norm(vectors[name]) + rounding[name]) + 1e-12,
          name
        )
      const classes = result.logits.length / vectors.labels.length
      const counted = (_: number, at: number) => vectors.labels[Math.floor(at / classes)] !== -1
      const expected = vectors.logits.filter(counted)
      within(distance(result.logits.filter(counted), expected), 1e-7 * norm(expected), 'logits')
    })

    if (othersWeight === 1)
      test(`golden vectors: ${vectors.title}`, () => {
        const actual = runLoss(margin, batch, options)
        for (const name of outputs) {
          const bound = tolerance * norm(vectors[name]) + 5e-7 * rounding[name] + 1e-12
          within(distance(actual[name] ?? [], vectors[name]), bound, name)
        }
      })
  }
} else {
  lacking(test, `no golden vectors were found in ${familyFolder}`)
}

for (const margin of oneOfEach(transforming))
  test(`a textbook that leaves negatives as they are is no yardstick: ${margin.title}`, () => {
    const batch = hardBatch(3, 40, 24, 60)
    const { hard, easy } = hardAndEasy(margin, batch)
    assert.ok(hard > 50 && easy > 50, `${hard} hard negatives and ${easy} easy ones`)
    const errors = errorsBesideTextbook(margin, batch)
    const expected = reference(batch, margin.oracle)
    const other = textbook(batch, noTransform(margin))
    outputs.forEach((name, i) => {
      within(errors.textbook[i] as number, 2e-5, `${name} of the textbook`)
      within(errors.library[i] as number, 2 * (errors.textbook[i] as number) + 1e-7, `${name} of the library`)
      const without = distance(other[name], expected[name]) / norm(expected[name])
      assert.ok(without > 1e-2, `${name} of a textbook without the transform is off by ${without}`)
    })
  })

for (const margin of transforming)
  test(`hard and easy negatives with smoothing, weights and ignored rows: ${margin.title}`, () => {
    for (const [rows, dim, classes] of [
      [33, 40, 260],
      [70, 9, 131],
      [520, 17, 40],
    ] as const) {
      const batch = hardBatch(rows, rows, dim, classes)
      for (let i = 4; i < rows; i += 9) batch.labels[i] = -1
      const classWeights = Float32Array.from({ length: classes }, (_, j) => (j % 7) / 3)
      const tolerance = dim < 16 ? 3e-5 : 1e-5
      compareWithOracle(margin, batch, {}, tolerance)
      compareWithOracle(margin, batch, { reduction: 'sum', labelSmoothing: 0.2, classWeights }, tolerance)
    }
  })

for (const margin of oneOfEach(transforming)) {
  // A GPU keeps no tiles: `workspace` is the CPU's.
  if (onCpu)
    test(`tiles that are kept and tiles computed again give the same bits: ${margin.title}`, () => {
      const batch = hardBatch(5, 300, 64, 31_000)
      const [first, ...others] = [2 ** 28, 2 ** 25].map((workspace) => runLoss(margin, batch, { workspace }))
      for (const other of others)
        for (const name of outputs)
          sameBits(other[name] as Float32Array, (first as typeof other)[name] as Float32Array, name)
    })

  test(`nothing is left out, which no bound covers: ${margin.title}`, () => {
    const [rows, dim, classes] = [64, 256, 1500]
    const batch = hardBatch(6, rows, dim, classes)
    const input = batch.input as Float32Array
    for (let i = 0; i < rows; i++)
      for (let d = 0; d < dim; d++)
        input[i * dim + d] =
          (batch.weight[(batch.labels[i] as number) * dim + d] as number) +
          0.1 * (input[i * dim + d] as number)
    const all = { negligible: 1e-3 }
    const scale = { scale: Number(margin.parameters.scale) }
    if (onCpu)
      assert.ok(
        runLoss(marginCase('arcface', scale), batch, all).leftOut.share > 0.3,
        'ArcFace leaves terms out'
      )
    assert.equal(compareWithOracle(margin, batch, all).leftOut, { share: 0, gradInput: 0, gradWeight: 0 })
  })

  test(`statistics are those of the cosines: ${margin.title}`, async () => {
    for (const dim of [9, 24]) {
      const [rows, classes] = [40, 60]
      const { input, labels, weight } = hardBatch(7, rows, dim, classes)
      const { scores } = reference({ input, labels, weight, dim }, margin.oracle)
      let largest = 0
      let right = 0
      for (let i = 0; i < rows; i++) {
        const row = Array.from(scores.subarray(i * classes, (i + 1) * classes))
        const [target] = row.splice(labels[i] as number, 1)
        largest += Math.max(...row) / rows
        right += Number((target as number) > Math.max(...row)) / rows
      }
      const head = await MarginHead.create({
        ...{ classes, dim, margin: margin.margin, weights: weight, optimizer: sgd({ learningRate: 0.1 }) },
      })
      const { stats } = head.evaluateSync(input, labels)
      within(Math.abs((stats.meanLargestOtherCosine as number) - largest), 1e-6, 'largest other cosine')
      within(Math.abs(stats.accuracy - right), 1e-9, 'accuracy')
      head.dispose()
    }
  })

  test(`bfloat16 is right in the mean: ${margin.title}`, () => {
    const batch = hardBatch(8, 200, 160, 500)
    const expected = reference(batch, margin.oracle)
    // A cosine within its rounding of the threshold may fall on its other side, where the logit jumps.
    const result = runLoss(margin, batch, { precision: 'bfloat16' })
    within(Math.abs(result.loss - expected.loss), 1e-2 * expected.loss, 'loss')
    for (const name of ['gradInput', 'gradWeight'] as const)
      within(distance(result[name] ?? [], expected[name]), 0.1 * norm(expected[name]), name)
    // With the target alone transformed it would be far off.
    assert.ok(Math.abs(reference(batch, noTransform(margin)).loss - expected.loss) > 0.05 * expected.loss)
  })
}

test('a NaN among the embeddings comes out in its row alone', () => {
  const margin = marginCase('mvsoftmax')
  const batch = hardBatch(9, 20, 24, 30)
  ;(batch.input as Float32Array)[3 * 24] = Number.NaN
  const { losses } = marginLossSync(batch, { margin: margin.margin })
  assert.equal(
    Array.from(losses).flatMap((loss, i) => (Number.isNaN(loss) ? [i] : [])),
    [3]
  )
})

test.run()
