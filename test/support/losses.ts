// One call of the library beside the oracle and the textbook, and the comparison of the three.
import { marginLossSync } from '../../lib/index'
import type { MarginCase } from './margins'
import type { OracleOptions, OracleResult } from './reference'
import { reference } from './reference'
import type { Batch } from './support'
import { distance, norm, within } from './support'
import { textbook } from './textbook'

export type LossOptions = NonNullable<Parameters<typeof marginLossSync>[1]>
export type LossResult = ReturnType<typeof marginLossSync>

export const gradients = ['gradInput', 'gradWeight'] as const

export function runLoss(margin: MarginCase, batch: Batch, options: LossOptions = {}): LossResult {
  return marginLossSync(batch, { margin: margin.margin, ...options })
}

/**
 * Fails unless the result is within `tolerance` of the oracle, relative to the norm of each array. A gradient whose
 * terms cancel (one dimension, one class) is held to float32's rounding of the terms instead.
 */
export function compare(actual: LossResult, expected: OracleResult, what: string, tolerance = 1e-5): void {
  const floor = 1e-36 // float32 is normal from 1e-38 on
  within(Math.abs(actual.loss - expected.loss), tolerance * Math.abs(expected.loss) + floor, `${what}: loss`)
  within(
    distance(actual.losses, expected.losses),
    tolerance * norm(expected.losses) + floor,
    `${what}: losses`
  )
  const magnitudes = { gradInput: expected.magnitudeInput, gradWeight: expected.magnitudeWeight }
  for (const name of gradients) {
    const bound = tolerance * norm(expected[name]) + 5e-7 * magnitudes[name] + floor
    within(distance(actual[name] ?? [], expected[name]), bound, `${what}: ${name}`)
  }
  if (actual.gradBias) {
    const bound = tolerance * norm(expected.gradBias) + 5e-7 * expected.magnitudeBias + floor
    within(distance(actual.gradBias, expected.gradBias), bound, `${what}: gradBias`)
  }
}

export function compareWithOracle(
  margin: MarginCase,
  batch: Batch,
  options: OracleOptions & LossOptions = {},
  tolerance = 1e-5
): LossResult {
  const { threads, workspace, instructionSet, ...rest } = options
  const actual = runLoss(margin, batch, options)
  const expected = reference(batch, margin.oracle, rest as OracleOptions)
  const shape = `${batch.labels.length}×${batch.dim}×${batch.weight.length / batch.dim}`
  compare(
    actual,
    expected,
    `${margin.title} ${shape} ${JSON.stringify({ threads, workspace, instructionSet })}`,
    tolerance
  )
  return actual
}

/** Errors relative to the oracle's norms, of the library and of the textbook, for the mean of all rows. */
export function errorsBesideTextbook(margin: MarginCase, batch: Batch, options: LossOptions = {}) {
  const expected = reference(batch, margin.oracle)
  const relative = (result: { losses: Float32Array; gradInput?: Float32Array; gradWeight?: Float32Array }) =>
    (['losses', ...gradients] as const).map(
      (name) => distance(result[name] ?? [], expected[name]) / (norm(expected[name]) || 1)
    )
  return {
    library: relative(runLoss(margin, batch, options)),
    textbook: relative(textbook(batch, margin.oracle)),
  }
}
