// Holds results against the oracle of test/support/reference.ts. The bounds follow from what was rounded: a logit is off by its
// size times the unit of the precision, and whatever depends on it by as much.
import type { MarginLossOptions, MarginLossResult } from '../../lib/index'
import type { MarginCase } from '../support/margins'
import {
  normalise,
  type OracleMargin,
  type OracleOptions,
  type OracleResult,
  reference,
} from '../support/reference'
import { distance, norm, within } from '../support/support'
import type { Problem } from './batches'

/** The rounding of a logit of size 1, and of each term of a product. */
function unitOf(precision: string | undefined, dim: number): number {
  if (precision !== 'bfloat16') return 2 ** -22
  return dim < 128 ? 2 ** -15 : 2 ** -8 // with corrections, as they are
}

/** The largest size of the terms that a logit is a sum of. */
function largestLogit({ input, weight, labels, dim, bias }: Problem, margin: OracleMargin): number {
  const most = (values: Float32Array) => Math.max(...normalise(values, values.length / dim, dim).norms)
  if (margin.raw) return most(input) * most(weight) + (bias ? Math.max(...bias.map(Math.abs)) : 0)
  return labels.length === 0 ? 0 : margin.scale === 'norm' ? most(input) : margin.scale
}

export interface Judged extends OracleOptions {
  precision?: string
  negligible?: number
}

/**
 * The factors of a row's terms: `smoothed` what smoothing adds to its loss, `loss` its loss in the scalar, `gradient`
 * its probabilities in the gradients. All 0 for a row that is ignored.
 */
function factorsOf({ labels }: Problem, classes: number, how: Judged) {
  const { reduction = 'mean', ignoreIndex = -1, gradOutput = 1, labelSmoothing = 0 } = how
  const { classWeights, sampleWeights } = how
  const classWeight = (j: number) => (classWeights ? (classWeights[j] as number) : 1)
  const sampleWeight = (i: number) => (sampleWeights ? (sampleWeights[i] as number) : 1)
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0)
  const counts = labels.map((label, i) => (label === ignoreIndex ? 0 : sampleWeight(i) * classWeight(label)))
  const divisor = reduction === 'mean' ? sum(counts) || Number.POSITIVE_INFINITY : 1
  const smoothed = (labelSmoothing / classes) * sum(Array.from({ length: classes }, (_, j) => classWeight(j)))
  return labels.map((label, i) => {
    if (label === ignoreIndex) return { smoothed: 0, loss: 0, gradient: 0 }
    const upstream = Math.abs(typeof gradOutput === 'number' ? gradOutput : (gradOutput[i] as number))
    const own = smoothed * sampleWeight(i)
    const gradient =
      (((1 - labelSmoothing) * classWeight(label) * sampleWeight(i) + own) * upstream) / divisor
    return { smoothed: own, loss: reduction === 'none' ? upstream : 1 / divisor, gradient }
  })
}

export function compare(
  actual: Partial<MarginLossResult>,
  expected: OracleResult,
  problem: Problem,
  margin: OracleMargin,
  how: Judged
): void {
  const { precision, negligible = 0, labelSmoothing = 0, ignoreIndex } = how
  const unit = unitOf(precision, problem.dim)
  const rounding = Math.expm1(Math.min(unit * (2 + largestLogit(problem, margin)), 100))
  const factors = factorsOf(problem, problem.weight.length / problem.dim, how)
  // Smoothing adds differences of logits, which cancel.
  const bounds = factors.map(({ smoothed }, i) => {
    const size = Math.abs(expected.losses[i] as number)
    return (1e-5 + rounding) * size + smoothed * rounding + 1e-36
  })
  if (actual.losses)
    for (const [i, loss] of actual.losses.entries()) {
      const wanted = expected.losses[i] as number
      within(Math.abs(loss - wanted), bounds[i] as number, `losses[${i}] of ${wanted}`)
    }
  if (actual.loss !== undefined) {
    const bound = factors.reduce((sum, { loss }, i) => sum + loss * (bounds[i] as number), 1e-36)
    within(Math.abs(actual.loss - expected.loss), bound, `loss of ${expected.loss}`)
  }
  // P − t is as exact as its terms, which cancel where smoothing makes t like P.
  const gradOutput = factors.map(({ gradient }) => gradient)
  const whole = labelSmoothing
    ? reference(problem, margin, { reduction: 'none', ignoreIndex, gradOutput })
    : expected
  const sizes = {
    gradInput: Math.max(expected.magnitudeInput, whole.magnitudeInput),
    gradWeight: Math.max(expected.magnitudeWeight, whole.magnitudeWeight),
    gradBias: Math.max(expected.magnitudeBias, whole.magnitudeBias),
  }
  for (const name of ['gradInput', 'gradWeight', 'gradBias'] as const) {
    const array = actual[name]
    if (!array) continue
    const size = norm(expected[name])
    const error = distance(array, expected[name])
    within(error, (1e-5 + negligible) * size + rounding * sizes[name] + 1e-36, `${name} of norm ${size}`)
  }
}

/** A result of marginLoss beside the oracle's; arrays that were not asked for must be absent, those asked for present. */
export function judge(
  actual: MarginLossResult,
  problem: Problem,
  margin: MarginCase,
  options: MarginLossOptions,
  oracleOptions: OracleOptions
): void {
  const expected = reference(problem, margin.oracle, oracleOptions)
  compare(actual, expected, problem, margin.oracle, { ...options, ...oracleOptions })
  for (const name of ['gradInput', 'gradWeight', 'gradBias'] as const) {
    const wanted = options[name] ?? (name !== 'gradBias' || problem.bias !== undefined)
    if ((actual[name] !== undefined) !== Boolean(wanted))
      throw new Error(`${name} is ${wanted ? 'missing' : 'there'}`)
    if (typeof wanted === 'object' && actual[name] !== wanted) throw new Error(`${name} is another array`)
  }
}
