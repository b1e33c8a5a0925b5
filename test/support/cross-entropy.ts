// Calls of crossEntropyLoss, seeded problems for it, and their comparison with the oracle and the textbook.
import * as assert from 'uvu/assert'
import {
  type CrossEntropyLossOptions,
  type CrossEntropyLossResult,
  crossEntropyLoss,
} from '../../lib/probability'
import { double, type LossProblem, crossEntropyLoss as reference, single } from './probability-reference'
import { distributions, sets } from './probability-support'
import { integer, normals, random, relativeError, sameBits, within } from './support'

export type Target = Parameters<typeof crossEntropyLoss>[1]

export function run(problem: LossProblem, options: CrossEntropyLossOptions = {}): CrossEntropyLossResult {
  const { logits, labels, targets, ...rest } = problem
  return crossEntropyLoss(logits, (labels ?? targets) as Target, { ...rest, ...options })
}

export interface Made {
  rows?: number
  classes: number
  probabilities?: boolean
  weights?: boolean
  scale?: number
}

export function make(
  seed: number,
  { rows = 5, classes, probabilities = false, weights = false, scale = 5 }: Made
) {
  const next = random(seed)
  const problem: LossProblem = { logits: normals(next, rows * classes, scale), classes, reduction: 'mean' }
  if (probabilities) problem.targets = distributions(seed, rows, classes)
  else problem.labels = Int32Array.from({ length: rows }, () => integer(next, 0, classes - 1))
  if (weights)
    problem.classWeights = Float32Array.from({ length: classes }, (_, j) => (j === 1 ? 0 : 0.1 + next()))
  return problem
}

export function compare(problem: LossProblem, what: string, chosen = sets): void {
  const expected = reference(double, problem)
  const textbook = reference(single, problem)
  const bound = (name: 'losses' | 'gradLogits') =>
    Math.max(2 * relativeError(textbook[name], expected[name]), 1.5e-7)
  for (const instructionSet of chosen) {
    const actual = run(problem, { instructionSet })
    for (const name of ['losses', 'gradLogits'] as const) {
      const error = relativeError(actual[name] as Float32Array, expected[name])
      within(error, 1e-6, `${what} ${instructionSet} ${name}`)
      within(error, bound(name), `${what} ${instructionSet} ${name} against the textbook`)
    }
    within(
      Math.abs(actual.loss - expected.loss),
      3e-7 * Math.abs(expected.loss),
      `${what} ${instructionSet} loss`
    )
    const forward = run(problem, { instructionSet, gradLogits: false })
    assert.is(forward.gradLogits, undefined)
    assert.is(forward.loss, actual.loss)
    sameBits(forward.losses, actual.losses, `${what} without gradient`)
  }
}
