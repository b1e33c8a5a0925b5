// The oracle itself: against the golden vectors, and its closed gradients against differences of its own loss.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { goldenCases } from '../support/golden'
import { marginCase, marginCases } from '../support/margins'
import type { OracleMargin, OracleOptions, OracleProblem } from '../support/reference'
import { reference, referenceTopK } from '../support/reference'
import { makeBatch, normals, random, relativeError, within } from '../support/support'

const test = suite('reference')
// Where the vectors are missing, loss.test.ts says so.
for (const golden of goldenCases() ?? []) {
  test(`the oracle gives the golden vectors of ${golden.title}`, () => {
    const { oracle } = marginCase(golden.margin, golden.parameters)
    const { reduction, labelSmoothing, gradOutput } = golden
    const result = reference(golden, oracle, { reduction, labelSmoothing, gradOutput })
    // The vectors take z_y from log Σ exp z; where the loss is 3e-11 (090), float64 leaves that few digits.
    const bound = golden.title.startsWith('090') ? 1e-4 : 1e-9
    if (golden.loss !== undefined) within(relativeError([result.loss], [golden.loss]), bound, 'loss')
    for (const name of ['losses', 'gradInput', 'gradWeight', 'gradBias'] as const) {
      const expected = golden[name]
      if (expected) within(relativeError(result[name], expected), bound, name)
    }
  })
}

/** The largest error of a gradient against central differences, relative to the gradient's norm. */
function differenceError(
  problem: OracleProblem,
  margin: OracleMargin,
  options: OracleOptions,
  name: 'input' | 'weight' | 'bias',
  gradient: Float64Array
): number {
  const step = 1e-5
  const values = Float64Array.from(problem[name] as ArrayLike<number>)
  const moved = { ...problem, [name]: values }
  const differences = gradient.map((_, i) => {
    const value = values[i] as number
    values[i] = value + step
    const above = reference(moved, margin, options).loss
    values[i] = value - step
    const below = reference(moved, margin, options).loss
    values[i] = value
    return (above - below) / (2 * step)
  })
  return relativeError(differences, gradient)
}

// Small scales keep the losses smooth enough for differences; the formulas do not depend on the scale.
const smooth = marginCases.filter(
  ({ parameters }) => parameters.scale === 'norm' || Number(parameters.scale ?? 1) <= 16
)
const others = marginCases.filter((margin) => !smooth.includes(margin))

for (const [margins, what] of [
  [smooth, 'smooth'],
  [others, 'steep'],
] as const) {
  for (const margin of margins) {
    test(`closed gradients equal differences of the loss: ${margin.title} (${what})`, () => {
      const raw = margin.row.raw === true
      const batch = makeBatch(7, { rows: 4, dim: 5, classes: 6 }, { bias: raw })
      batch.labels[2] = -1
      const optionSets: OracleOptions[] = [
        {},
        { reduction: 'sum', labelSmoothing: 0.1, gradOutput: 0.7 },
        { reduction: 'mean', labelSmoothing: 1, gradOutput: -2 },
        { classWeights: [0.5, 3, 0, 1, 2, 0.1], sampleWeights: [2, 0.1, 5, 1], gradOutput: 0.7 },
        { classWeights: [0.5, 3, 0, 1, 2, 0.1], sampleWeights: [2, 0, 5, 1], labelSmoothing: 0.3 },
      ]
      for (const options of optionSets) {
        const result = reference(batch, margin.oracle, options)
        const upstream = (options.gradOutput as number | undefined) ?? 1
        const scaled = (values: Float64Array) => values.map((value) => value / upstream)
        const bound = 1e-6
        within(
          differenceError(batch, margin.oracle, options, 'input', scaled(result.gradInput)),
          bound,
          'input'
        )
        within(
          differenceError(batch, margin.oracle, options, 'weight', scaled(result.gradWeight)),
          bound,
          'weight'
        )
        if (raw)
          within(
            differenceError(batch, margin.oracle, options, 'bias', scaled(result.gradBias)),
            bound,
            'bias'
          )
      }
      const gradOutput = normals(random(3), 4)
      const options: OracleOptions = { reduction: 'none', gradOutput }
      const result = reference(batch, margin.oracle, options)
      within(differenceError(batch, margin.oracle, options, 'input', result.gradInput), 1e-6, 'input, none')
    })
  }
}

test('top-k puts the smaller class first among equals', () => {
  const { indices, scores } = referenceTopK([1, 3, 3, 2, 0, 0, 0, -1], 4, 3)
  assert.equal(indices, Int32Array.of(1, 2, 3, 0, 1, 2))
  assert.equal(scores, Float64Array.of(3, 3, 2, 0, 0, 0))
})

test.run()
