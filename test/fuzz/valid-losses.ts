// Valid calls of marginLoss and topK, beside the oracle.
import { marginLoss, marginLossSync, topK, topKSync } from '../../lib/index'
import { reference, referenceTopK } from '../support/reference'
import { within } from '../support/support'
import { anyCall, type Problem, readBy, tamper } from './batches'
import type { Dice } from './campaign'
import { judge } from './judge'

export function lossSync(dice: Dice): undefined {
  const { problem, margin, expected, batch, options } = anyCall(dice)
  judge(marginLossSync(batch, options), problem, margin, options, expected)
}

export async function loss(dice: Dice): Promise<undefined> {
  const call = anyCall(dice)
  const { problem, margin, expected, batch, options } = call
  const running = marginLoss(batch, options)
  if (dice.chance(0.5)) tamper(readBy(call))
  judge(await running, problem, margin, options, expected)
}

export async function best(dice: Dice): Promise<undefined> {
  const { problem, margin, batch, options, rows, classes } = anyCall(dice)
  const { labels: _, ...rest } = batch
  const { threads, instructionSet, workspace } = options
  const k = dice.integer(1, classes)
  const how = { k, margin: margin.margin, threads, instructionSet, workspace }
  const running = dice.chance(0.5) ? topKSync(rest, how) : topK(rest, how)
  if (running instanceof Promise && dice.chance(0.5)) tamper(rest)
  const actual = await running
  const { scores } = reference({ ...problem, labels: new Array(rows).fill(-1) }, margin.oracle)
  checkBest(actual, scores, classes, k, boundOf(problem, margin.oracle.raw))
}

/** Bounds the error of float32 in a score, by the size of the terms of the sum. */
export function boundOf({ input, weight, dim, bias }: Omit<Problem, 'labels'>, raw: boolean): number {
  if (!raw) return 2 ** -21
  const most = (values: Float32Array) => Math.max(...values.map(Math.abs))
  return 2 ** -21 * (dim * most(input) * most(weight) + (bias ? most(bias) : 0))
}

/** Scores equal the oracle's in order; where two are closer than rounding, either class may come first. */
export function checkBest(
  actual: { indices: Int32Array; scores: Float32Array },
  scores: ArrayLike<number>,
  classes: number,
  k: number,
  bound: number
): void {
  const expected = referenceTopK(scores, classes, k)
  for (let i = 0; i < expected.scores.length / k; i++) {
    const chosen = actual.indices.subarray(i * k, (i + 1) * k)
    if (new Set(chosen).size !== k) throw new Error(`row ${i} has a class twice: ${chosen}`)
    for (let r = 0; r < k; r++) {
      const score = actual.scores[i * k + r] as number
      const what = `row ${i}, rank ${r} of ${k}, class ${chosen[r]} of ${classes}`
      within(Math.abs(score - (expected.scores[i * k + r] as number)), bound, `${what}: score`)
      within(
        Math.abs(score - (scores[i * classes + (chosen[r] as number)] as number)),
        bound,
        `${what}: its score`
      )
    }
  }
}
