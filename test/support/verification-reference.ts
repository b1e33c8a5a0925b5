// Verification by brute force: every threshold tried on every pair, in float64.
import { random } from './support'

export interface ScoredPair {
  score: number
  same: boolean
}

/** Steps of the scores of listed pairs in a score of 1. All pairs of rows that do not nearly point one way have 2 ** 24. */
const listedSteps = 2 ** 40

/** The cosine of row i of one matrix and row j of another in float64; 0 with a row of zeros. */
export function cosine64(
  a: ArrayLike<number>,
  i: number,
  b: ArrayLike<number>,
  j: number,
  dim: number
): number {
  let [product, aa, bb] = [0, 0, 0]
  for (let d = 0; d < dim; d++) {
    const [x, y] = [a[i * dim + d] as number, b[j * dim + d] as number]
    product += x * y
    aa += x * x
    bb += y * y
  }
  return aa === 0 || bb === 0 ? 0 : product / Math.sqrt(aa * bb)
}

/** The cosine of two rows in float64, in the steps that listed scores come in; halves are rounded away from 0. */
export function cosine(
  embeddings: ArrayLike<number>,
  dim: number,
  a: number,
  b: number,
  steps = listedSteps
): number {
  const value = Math.max(-1, Math.min(1, cosine64(embeddings, a, embeddings, b, dim)))
  return (Math.sign(value) * Math.floor(Math.abs(value) * steps + 0.5)) / steps
}

export function allPairs(rows: number): Int32Array {
  const pairs = new Int32Array(rows * (rows - 1))
  let at = 0
  for (let i = 0; i < rows; i++)
    for (let j = i + 1; j < rows; j++) {
      pairs[at++] = i
      pairs[at++] = j
    }
  return pairs
}

const count = (pairs: ScoredPair[], holds: (pair: ScoredPair) => boolean) => pairs.filter(holds).length

function judge(pairs: ScoredPair[], threshold: number) {
  const same = pairs.filter((pair) => pair.same)
  const different = pairs.filter((pair) => !pair.same)
  const accepts = (pair: ScoredPair) => pair.score >= threshold
  return {
    threshold,
    trueAcceptRate: count(same, accepts) / same.length,
    falseAcceptRate: count(different, accepts) / different.length,
    correct: count(pairs, (pair) => accepts(pair) === pair.same),
  }
}

/** From the strictest threshold, which accepts none, to the laxest. */
function thresholds(pairs: ScoredPair[]): number[] {
  return [Infinity, ...[...new Set(pairs.map(({ score }) => score))].sort((a, b) => b - a)]
}

/** The first of the thresholds, from the strictest on, that judges most pairs rightly. */
export function bestThreshold(pairs: ScoredPair[]): { threshold: number; correct: number } {
  return thresholds(pairs)
    .map((threshold) => judge(pairs, threshold))
    .reduce((best, next) => (next.correct > best.correct ? next : best))
}

/** P_target and the costs of a miss and of a false alarm. */
export type Costs = [number, number, number]
export const usualCosts: Costs = [0.01, 1, 1]

/** The mean cost of a decision, relative to that of not listening at all: always yes or always no, whichever is cheaper. */
export function detectionCost(pairs: ScoredPair[], threshold: number, [pTarget, cMiss, cFalseAlarm]: Costs) {
  const { trueAcceptRate, falseAcceptRate } = judge(pairs, threshold)
  const [target, nontarget] = [pTarget, 1 - pTarget]
  const cost = (missed: number, accepted: number) =>
    cMiss * missed * target + cFalseAlarm * accepted * nontarget
  return cost(1 - trueAcceptRate, falseAcceptRate) / Math.min(cost(1, 0), cost(0, 1))
}

export function balancedAccuracy(pairs: ScoredPair[], threshold: number) {
  const { trueAcceptRate, falseAcceptRate } = judge(pairs, threshold)
  return (trueAcceptRate + (1 - falseAcceptRate)) / 2
}

/** The first of the thresholds, from the strictest on, of the largest value. */
function bestBy(pairs: ScoredPair[], measure: (threshold: number) => number) {
  return thresholds(pairs)
    .map((threshold) => ({ threshold, value: measure(threshold) }))
    .reduce((best, next) => (next.value > best.value ? next : best))
}

export function referenceVerification(
  pairs: ScoredPair[],
  limits: number[],
  costs = usualCosts,
  range = [-1, 1]
) {
  const points = thresholds(pairs).map((threshold) => judge(pairs, threshold))
  let [ordered, tied] = [0, 0]
  const different = pairs.filter(({ same }) => !same)
  const same = pairs.filter((pair) => pair.same)
  for (const yes of same)
    for (const no of different) {
      if (yes.score === no.score) tied++
      ordered += yes.score > no.score ? 1 : yes.score === no.score ? 0.5 : 0
    }
  const gap = (i: number) => {
    const { falseAcceptRate, trueAcceptRate } = points[i] as (typeof points)[0]
    return falseAcceptRate - (1 - trueAcceptRate)
  }
  const crossing = points.findIndex((_, i) => gap(i) >= 0)
  const [before, after] = [points[crossing - 1], points[crossing]] as [(typeof points)[0], (typeof points)[0]]
  const part = gap(crossing - 1) / (gap(crossing - 1) - gap(crossing))
  const best = bestThreshold(pairs)
  // By whole numbers, which have no rounding: Σ over the kinds of what is right, times the number of the other kind.
  const balanced = bestBy(pairs, (threshold) => {
    const accepted = (of: ScoredPair[]) => count(of, ({ score }) => score >= threshold)
    return accepted(same) * different.length + (different.length - accepted(different)) * same.length
  })
  const cheapest = bestBy(pairs, (threshold) => -detectionCost(pairs, threshold, costs))
  return {
    pairs: { same: same.length, different: different.length },
    areaUnderCurve: ordered / (same.length * different.length),
    ties: tied / (same.length * different.length),
    equalErrorRate: before.falseAcceptRate + part * (after.falseAcceptRate - before.falseAcceptRate),
    equalErrorThreshold: after.threshold,
    bestAccuracy: best.correct / pairs.length,
    bestThreshold: best.threshold,
    bestBalancedAccuracy: balancedAccuracy(pairs, balanced.threshold),
    bestBalancedThreshold: balanced.threshold,
    minimumDetectionCost: -cheapest.value,
    minimumDetectionCostThreshold: cheapest.threshold,
    operatingPoints: limits.map((limit) => {
      const { correct: _, ...point } = points
        .filter(({ falseAcceptRate }) => falseAcceptRate <= limit)
        .pop() as (typeof points)[0]
      return { limit, ...point }
    }),
    histogram: {
      from: range[0],
      to: range[1],
      same: histogram(same, range),
      different: histogram(different, range),
    },
  }
}

function histogram(pairs: ScoredPair[], [from = 0, to = 0]: number[]): number[] {
  const bins = new Array<number>(128).fill(0)
  for (const { score } of pairs)
    bins[score === to ? 127 : Math.floor(((score / 2 - from / 2) / (to / 2 - from / 2)) * 128)]++
  return bins
}

/**
 * Rows with 1, 4 or 16 entries of ±1 and else zeros: their cosines are exact in any precision and any order of summation,
 * and many are equal.
 */
export function exactRows(seed: number, rows: number, dim: number): Float32Array {
  const next = random(seed)
  const embeddings = new Float32Array(rows * dim)
  const entries = [1, 4, 16].filter((many) => many <= dim)
  for (let i = 0; i < rows; i++) {
    const many = entries[Math.floor(next() * entries.length)] as number
    const places = Array.from({ length: dim }, (_, d) => d)
    for (let k = 0; k < many; k++) {
      const [d] = places.splice(Math.floor(next() * places.length), 1) as [number]
      embeddings[i * dim + d] = next() < 0.3 ? -1 : 1
    }
  }
  return embeddings
}
