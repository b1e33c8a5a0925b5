// Valid calls of the functions of probabilities, of crossEntropyLoss and of verification, beside their oracles.
import * as assert from 'uvu/assert'
import {
  type CrossEntropyLossOptions,
  classMeans,
  crossEntropy,
  crossEntropyLoss,
  entropy,
  informationContent,
  instructionSets,
  klDivergence,
  logSoftmax,
  softmax,
  verification,
  verificationSync,
} from '../../lib/index'
import * as oracle from '../support/probability-reference'
import { byRow, distributions } from '../support/probability-support'
import { referenceClassMeans } from '../support/reference'
import { distance, norm, within } from '../support/support'
import { allPairs, cosine, exactRows, referenceVerification } from '../support/verification-reference'
import { anyLabels, anyShape, anyValues, inAnyForm } from './batches'
import type { Dice } from './campaign'

const { double } = oracle

const execution = (dice: Dice) => ({
  threads: dice.integer(1, 3),
  ...(dice.chance(0.2) && { instructionSet: dice.pick(instructionSets()) }),
})

/** Each element within rounding of the oracle's, relative to `size`, or equal where that is infinite. */
function close(
  actual: Float32Array,
  expected: number[],
  size: (value: number) => number,
  what: string
): void {
  if (actual.length !== expected.length) throw new Error(`${what} has ${actual.length} elements`)
  for (const [i, value] of expected.entries())
    if (actual[i] !== Math.fround(value))
      within(Math.abs((actual[i] as number) - value), 2 ** -21 * size(value), `${what}[${i}] of ${value}`)
}

export function measures(dice: Dice): number {
  const [rows, classes] = [dice.integer(1, 5), dice.integer(1, 30)]
  const n = rows * classes
  const [z, how] = [anyValues(dice, n), { classes, ...execution(dice) }]
  const [p, q] = [0, 1].map(() => distributions(dice.integer(0, 1e6), rows, classes)) as [
    Float32Array,
    Float32Array,
  ]
  if (dice.chance(0.2)) p[dice.integer(0, n - 1)] = 0
  if (dice.chance(0.2)) q[dice.integer(0, n - 1)] = 0
  const given = (values: Float32Array) => inAnyForm(dice, values.slice())
  const out = dice.chance(0.3) ? { out: new Float32Array(n) } : {}
  // A logit of size s is off by s units, which is the relative error of its probability.
  const most = 1 + Math.max(...z.map(Math.abs))
  close(
    softmax(given(z), { ...how, ...out }),
    byRow(classes, [z], (row) => oracle.softmax(double, row)),
    (x) => most * x + 1e-36,
    'softmax'
  )
  close(
    logSoftmax(given(z), how),
    byRow(classes, [z], (row) => oracle.logSoftmax(double, row)),
    (x) => most + Math.abs(x),
    'logSoftmax'
  )
  close(
    informationContent(given(p), { threads: 1 }),
    oracle.informationContent(double, p),
    (x) => 1 + Math.abs(x),
    'informationContent'
  )
  const size = () => 20 // Σ p|log p| of a row
  close(
    entropy(given(p), how),
    byRow(classes, [p], (row) => oracle.crossEntropy(double, row, row)),
    size,
    'entropy'
  )
  close(
    crossEntropy(given(p), given(q), how),
    byRow(classes, [p, q], (a, b) => oracle.crossEntropy(double, a, b)),
    size,
    'crossEntropy'
  )
  close(
    klDivergence(given(p), given(q), how),
    byRow(classes, [p, q], (a, b) => oracle.klDivergence(double, a, b)),
    size,
    'klDivergence'
  )
  return 6
}

export function logitsLoss(dice: Dice): undefined {
  const [rows, classes] = [dice.integer(1, 8), dice.integer(1, 40)]
  const logits = anyValues(dice, rows * classes)
  const reduction = dice.pick(['mean', 'sum', 'none'] as const)
  const problem: oracle.LossProblem = {
    logits,
    classes,
    reduction,
    labelSmoothing: dice.pick([0, 0, 0.1, 1]),
  }
  const probabilities = dice.chance(0.3)
  if (probabilities) problem.targets = distributions(dice.integer(0, 1e6), rows, classes)
  else
    problem.labels = Array.from({ length: rows }, () =>
      dice.chance(0.1) ? -1 : dice.integer(0, classes - 1)
    )
  if (dice.chance(0.3))
    problem.classWeights = Float32Array.from({ length: classes }, () => dice.pick([0, 0.5, 1, 3]))
  if (dice.chance(0.3)) problem.gradOutput = reduction === 'none' ? anyValues(dice, rows) : 2.5
  const expected = oracle.crossEntropyLoss(double, problem)
  const { labelSmoothing, classWeights, gradOutput } = problem
  const how: CrossEntropyLossOptions = {
    classes,
    reduction,
    labelSmoothing,
    classWeights,
    gradOutput,
    ...execution(dice),
  }
  const given = logits.slice()
  if (dice.chance(0.4)) how.gradLogits = dice.pick([true, false, given, new Float32Array(given.length)])
  const target = probabilities
    ? inAnyForm(dice, (problem.targets as Float32Array).slice())
    : anyLabels(dice, problem.labels as number[])
  const actual = crossEntropyLoss(how.gradLogits === given ? given : inAnyForm(dice, given), target, how)
  // Each term is a weight times a difference of logits: off by as much as those are large.
  const size = 6 * (1 + 2 * Math.max(...logits.map(Math.abs)))
  close(actual.losses, expected.losses, () => size, 'losses')
  const factor = reduction === 'none' ? norm(typeof gradOutput === 'object' ? gradOutput : [1]) : 1
  within(
    Math.abs(actual.loss - expected.loss),
    2 ** -21 * size * rows * (1 + factor) * (classWeights ? 7 : 1),
    'loss'
  )
  if ((actual.gradLogits !== undefined) !== (how.gradLogits !== false))
    throw new Error('gradLogits is missing or there')
  if (actual.gradLogits) {
    const error = distance(actual.gradLogits, expected.gradLogits)
    const g = typeof gradOutput === 'object' ? Math.max(...gradOutput.map(Math.abs)) : 2.5
    within(error, 2 ** -21 * size * Math.sqrt(rows) * (1 + g) * (classWeights ? 7 : 1), 'gradLogits')
  }
}

/** Means of classes: of length 1, and the oracle's as far as their rows do not cancel. */
export function means(dice: Dice): undefined {
  const { rows, dim, classes } = anyShape(dice)
  const input = anyValues(dice, rows * dim)
  const list = Array.from({ length: rows }, () => dice.integer(-1, classes - 1))
  const how = { classes, dim, seed: dice.integer(0, 9) }
  const actual = classMeans(inAnyForm(dice, input.slice()), anyLabels(dice, list), how)
  const expected = referenceClassMeans(input, list, how)
  for (const [j, sum] of expected.sums.entries()) {
    const mean = actual.subarray(j * dim, (j + 1) * dim)
    within(Math.abs(norm(mean) - 1), 1e-6, `length of class ${j}`)
    if (sum < 1e-5) continue // of no rows, or of rows that cancel: random
    const error = distance(mean, expected.means.subarray(j * dim, (j + 1) * dim))
    within(error, (2 ** -23 * (1 + rows)) / sum, `mean of class ${j}, whose sum is ${sum}`)
  }
}

/** Rows whose cosines are exact in any precision, many of them equal: the figures are then the oracle's to the last bit. */
export async function pairs(dice: Dice): Promise<undefined> {
  const rows = 2 * dice.integer(2, 9)
  const dim = dice.integer(1, 20)
  const embeddings = exactRows(dice.integer(0, 1e6), rows, dim)
  const labels = Array.from({ length: rows }, () => dice.integer(0, 2))
  const limits = dice.pick([[0.5, 0, 1], [1e-3], [0.1, 0.25, 0.1]])
  const listed = dice.chance(0.5)
  const chosen = listed ? Int32Array.from({ length: rows }, () => dice.integer(0, rows - 1)) : allPairs(rows)
  const scored = Array.from({ length: chosen.length / 2 }, (_, p) => {
    const [a, b] = [chosen[2 * p] as number, chosen[2 * p + 1] as number]
    return { score: cosine(embeddings, dim, a, b), same: labels[a] === labels[b] }
  })
  const given = inAnyForm(dice, embeddings.slice())
  const call = dice.pick([verification, verificationSync])
  const how = { dim, falseAcceptRates: limits, ...execution(dice) }
  const work = async () =>
    listed
      ? call(
          given,
          {
            pairs: chosen,
            same: dice.pick([scored.map(({ same }) => same), scored.map(({ same }) => Number(same))]),
          },
          { ...how, folds: 0 }
        )
      : call(given, anyLabels(dice, labels), how)
  const answers = new Set(scored.map(({ same }) => same))
  if (answers.size < 2) {
    const refused = await work().then(
      () => undefined,
      (error: Error) => error
    )
    if (!(refused instanceof RangeError)) throw new Error('pairs of one kind were accepted')
    return
  }
  const result = await work()
  const { from } = result.histogram
  const lowest = Math.min(...scored.map(({ score }) => score))
  // Cosines that are all high have a histogram of their own, from some number below them.
  if (lowest <= 15 / 16 ? from !== -1 : !(from <= lowest)) throw new Error(`a histogram from ${from}`)
  const actual = result as unknown as Record<string, unknown>
  for (const [name, expected] of Object.entries(referenceVerification(scored, limits, undefined, [from, 1])))
    assert.equal(lists(actual[name]), expected, name)
}

/** With lists in place of typed arrays. */
function lists(value: unknown): unknown {
  if (ArrayBuffer.isView(value)) return [...(value as Float64Array)]
  if (Array.isArray(value) || typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, lists(part)]))
}
