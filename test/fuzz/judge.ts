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

/** What each row's loss is multiplied by in the scalar, at most: 1 in a mean, which divides by the rows that count. */
function factorsOf(rows: number, { reduction, gradOutput = 1 }: Judged): number[] {
  if (reduction !== 'none') return new Array(rows).fill(1)
  return Array.from({ length: rows }, (_, i) =>
    Math.abs(typeof gradOutput === 'number' ? gradOutput : (gradOutput[i] as number))
  )
}

export function compare(
  actual: Partial<MarginLossResult>,
  expected: OracleResult,
  problem: Problem,
  margin: OracleMargin,
  how: Judged
): void {
  const { precision, negligible = 0, labelSmoothing = 0 } = how
  const unit = unitOf(precision, problem.dim)
  const rounding = Math.expm1(Math.min(unit * (2 + largestLogit(problem, margin)), 100))
  const bound = (size: number) => (1e-5 + rounding) * size + 1e-36
  if (actual.losses)
    for (const [i, loss] of actual.losses.entries()) {
      const wanted = expected.losses[i] as number
      within(
        Math.abs(loss - wanted),
        bound(Math.abs(wanted)) + labelSmoothing * rounding,
        `losses[${i}] of ${wanted}`
      )
    }
  if (actual.loss !== undefined) {
    const factors = factorsOf(expected.losses.length, how)
    const terms = factors.reduce((sum, factor, i) => sum + factor * Math.abs(expected.losses[i] as number), 0)
    const factor = factors.reduce((sum, value) => sum + value, 0)
    within(Math.abs(actual.loss - expected.loss), bound(terms) + factor * labelSmoothing * rounding, 'loss')
  }
  // P − t is as exact as its terms, which cancel where smoothing makes t like P.
  const whole = labelSmoothing ? reference(problem, margin, { ...how, labelSmoothing: 0 }) : expected
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
