import { wrongValue } from './errors'
import { checkOptions, type FloatArray, numberBetween } from './internal/check'
import { namesOf } from './internal/option-table'
import { type Answers, rejectNotFinite, scoredAnswers } from './internal/verification-request'

/** The cost of scores that are taken for log-likelihood ratios. */
export interface CalibrationCost {
  /**
   * Cllr in bits: the mean over both kinds of pairs of log2(1 + e^−s) of pairs that belong together and log2(1 + e^s) of others.
   * 0 is perfect, 1 what scores of 0 cost, which say nothing. Above 1 they mislead.
   */
  cllr: number
  /** The least Cllr of any increasing function of the scores: what calibration cannot cure. */
  minCllr: number
}

/** Options of `fitCalibration`. */
export interface CalibrationOptions {
  /** The prior probability that a pair belongs together, for which the fit is best, above 0 and below 1. Default 0.5. */
  pTarget?: number | undefined
}

/** A straight line that makes log-likelihood ratios of scores: scale·score + offset. */
export interface Calibration {
  /** Above 0 where a higher score means that a pair rather belongs together. */
  scale: number
  /** In the natural logarithm. */
  offset: number
}

/**
 * Measures how well scores serve as log-likelihood ratios (natural logarithm), over all costs and priors at once: Cllr, and
 * minCllr by pooling adjacent violators (Brümmer and du Preez, Application-independent evaluation of speaker detection, 2006).
 * Exact, ties included. Cosines are no log-likelihood ratios: of them minCllr tells something, Cllr after `fitCalibration`.
 *
 * @param scores [P]; a higher one must mean that a pair rather belongs together
 * @param same the answer for each [P]
 * @throws TypeError, RangeError for arguments, also where all pairs are of one kind; MarginSoftmaxError `ERR_NOT_FINITE`,
 *   `ERR_OUT_OF_MEMORY`
 */
export function calibrationCost(scores: FloatArray | readonly number[], same: Answers): CalibrationCost {
  const judged = checked(scores, same)
  let [targets, others] = [0, 0]
  judged.scores.forEach((score, p) => {
    if (judged.same[p]) targets += softplus(-score)
    else others += softplus(score)
  })
  const { targetCount, otherCount } = judged
  return {
    cllr: (targets / targetCount + others / otherCount) / (2 * Math.LN2),
    minCllr: pooledCost(judged) / (2 * Math.LN2),
  }
}

/**
 * Fits a line that makes calibrated log-likelihood ratios of scores, by logistic regression in which either kind of pairs
 * has its prior's weight whatever their numbers. Fit it on pairs other than those that are judged.
 *
 * @param scores [P]
 * @param same the answer for each [P]
 * @throws TypeError, RangeError for arguments, also where all pairs are of one kind, or where a threshold parts the kinds: the
 *   best line is infinitely steep then; MarginSoftmaxError `ERR_NOT_FINITE`, `ERR_OUT_OF_MEMORY`
 * @example
 * const { scale, offset } = fitCalibration(otherScores, otherAnswers)
 * const ratios = scores.map((score) => scale * score + offset)
 */
export function fitCalibration(
  scores: FloatArray | readonly number[],
  same: Answers,
  options?: CalibrationOptions
): Calibration {
  const { pTarget = 0.5 } = checkOptions(options, 'options', namesOf<CalibrationOptions>({ pTarget: true }))
  numberBetween(pTarget, 'pTarget', 0, 1)
  const judged = checked(scores, same)
  if (isParted(judged)) throw wrongValue('scores of both kinds that overlap', 'scores', scores)
  return logisticLine(judged, pTarget)
}

interface Judged {
  scores: Float64Array
  same: Uint8Array
  targetCount: number
  otherCount: number
}

function checked(values: FloatArray | readonly number[], answers: Answers): Judged {
  const { scores, same } = scoredAnswers(values, answers)
  rejectNotFinite(scores)
  const targetCount = same.reduce((count, one) => count + one, 0)
  const otherCount = same.length - targetCount
  if (targetCount === 0 || otherCount === 0)
    throw new RangeError(
      `Expected pairs of both kinds for same but received ${targetCount} of one class and ${otherCount} of different ones`
    )
  return { scores, same, targetCount, otherCount }
}

/** ln(1 + e^x) without overflow. */
const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))

/**
 * The sum over both kinds of the mean cost of the best increasing ratios. Pools of equal ratios are found by pooling adjacent
 * violators (Ayer 1955): from the lowest score on, a pool joins the one before unless its share of targets is larger.
 */
function pooledCost({ scores, same, targetCount, otherCount }: Judged): number {
  const order = Uint32Array.from(scores.keys()).sort((a, b) => (scores[a] as number) - (scores[b] as number))
  const pools: { targets: number; others: number }[] = []
  for (let first = 0; first < order.length; ) {
    const pool = { targets: 0, others: 0 }
    const score = scores[order[first] as number]
    for (; first < order.length && scores[order[first] as number] === score; first++)
      pool[same[order[first] as number] ? 'targets' : 'others']++
    for (
      let last = pools.at(-1);
      last && last.targets * pool.others >= pool.targets * last.others;
      last = pools.at(-1)
    ) {
      pool.targets += last.targets
      pool.others += last.others
      pools.pop()
    }
    pools.push(pool)
  }
  let cost = 0
  for (const { targets, others } of pools) {
    const [a, b] = [targets / targetCount, others / otherCount] // the pool's ratio is a/b
    if (a > 0 && b > 0) cost += a * Math.log1p(b / a) + b * Math.log1p(a / b)
  }
  return cost
}

/** Whether some threshold has all pairs of one kind on one side and all others on the other, or at it. */
function isParted({ scores, same }: Judged): boolean {
  const range = [
    [Infinity, -Infinity],
    [Infinity, -Infinity],
  ] as [[number, number], [number, number]]
  scores.forEach((score, p) => {
    const of = range[same[p] as 0 | 1]
    of[0] = Math.min(of[0], score)
    of[1] = Math.max(of[1], score)
  })
  const [others, targets] = range
  return targets[0] >= others[1] || others[0] >= targets[1]
}

/**
 * Minimizes the weighted cross-entropy by Newton's method on standardized scores. A step that does not lower it is halved: the
 * function is convex, so this ends at its minimum.
 */
function logisticLine({ scores, same, targetCount, otherCount }: Judged, pTarget: number): Calibration {
  const mean = scores.reduce((sum, score) => sum + score / scores.length, 0)
  const deviation = Math.sqrt(scores.reduce((sum, score) => sum + (score - mean) ** 2 / scores.length, 0))
  const prior = Math.log(pTarget / (1 - pTarget))
  const weights = [(1 - pTarget) / otherCount, pTarget / targetCount] as const
  const each = (body: (x: number, target: 0 | 1, weight: number) => void) =>
    scores.forEach((score, p) => {
      const target = same[p] as 0 | 1
      body((score - mean) / deviation, target, weights[target])
    })
  const lossAt = (slope: number, height: number) => {
    let loss = 0
    each((x, target, weight) => {
      const ratio = slope * x + height + prior
      loss += weight * softplus(target ? -ratio : ratio)
    })
    return loss
  }
  let [slope, height] = [1, 0]
  let loss = lossAt(slope, height)
  for (let step = 0; step < 100; step++) {
    let [gradSlope, gradHeight, a, b, c] = [0, 0, 0, 0, 0]
    each((x, target, weight) => {
      const share = 1 / (1 + Math.exp(-(slope * x + height + prior)))
      const error = weight * (share - target)
      const curvature = weight * share * (1 - share)
      gradSlope += error * x
      gradHeight += error
      a += curvature * x * x
      b += curvature * x
      c += curvature
    })
    const determinant = a * c - b * b
    if (!(determinant > 0)) break
    const [bySlope, byHeight] = [
      (c * gradSlope - b * gradHeight) / determinant,
      (a * gradHeight - b * gradSlope) / determinant,
    ]
    // So little is left that rounding hides whether a step gains anything: the last one, which squares the distance.
    const isLast = gradSlope * bySlope + gradHeight * byHeight <= 1e-10 * loss
    let part = 1
    const lossThere = () => lossAt(slope - part * bySlope, height - part * byHeight)
    let next = isLast ? loss : lossThere()
    for (; next > loss && part > 1e-9; next = lossThere()) part /= 2
    slope -= part * bySlope
    height -= part * byHeight
    if (isLast) break
    loss = next
  }
  return { scale: slope / deviation, offset: height - (slope * mean) / deviation }
}
