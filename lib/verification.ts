import { notFinite } from './errors'
import { abortable } from './internal/abort'
import type { FloatArray, LabelArray } from './internal/check'
import { type NativeVerification, native, succeeded } from './internal/native'
import {
  type Answers,
  inGivenOrder,
  nativeRequest,
  type PairList,
  requestOfPairs,
  requestOfScores,
  type ScoreOptions,
  type VerificationOptions,
  type VerificationRequest,
} from './internal/verification-request'

/** A threshold and its rates. A pair is accepted if its score is at least the threshold. */
export interface OperatingPoint {
  /** The false accept rate that was asked for. */
  limit: number
  /** The largest share of the pairs of one class that any threshold accepts within the limit. */
  trueAcceptRate: number
  /** The share of the pairs of different classes that it accepts: at most `limit`. */
  falseAcceptRate: number
  /** The lowest such threshold that is a score; Infinity where it must accept none. */
  threshold: number
}

/** The protocol of Labeled Faces in the Wild: on each fold, the accuracy of the threshold that is best on the others. */
export interface Folds {
  /** The accuracy of each fold under its threshold. */
  accuracies: Float64Array
  /** The threshold of each fold: the one that is best on the other folds. */
  thresholds: Float64Array
  /** The mean of the accuracies. */
  meanAccuracy: number
  /** The standard deviation of the accuracies, √(Σ(a − mean)²/folds). */
  standardDeviation: number
}

/** Figures of how well scores tell pairs of one class from pairs of different ones. */
export interface VerificationResult {
  /** The numbers of pairs of either kind. */
  pairs: {
    /** Pairs of one class. */
    same: number
    /** Pairs of two classes. */
    different: number
  }
  /** The chance that a pair of one class scores above a pair of different ones, equal scores counting one half. */
  areaUnderCurve: number
  /** The chance that the two score the same. If it is not small, the scores cannot tell many pairs apart. */
  ties: number
  /** The rate at which false accepts are as frequent as false rejects, on the straight line between two thresholds. */
  equalErrorRate: number
  /** The threshold there. */
  equalErrorThreshold: number
  /**
   * The largest share of pairs that one threshold judges rightly. It is no smaller than the share of the larger kind of
   * pairs, which a threshold that accepts all or none reaches: see `bestBalancedAccuracy` where there are more of one kind.
   */
  bestAccuracy: number
  /** The highest such threshold. */
  bestThreshold: number
  /** The largest (true accept rate + true reject rate)/2 of any threshold: 0.5 for guessing, whatever the numbers of pairs. */
  bestBalancedAccuracy: number
  /** The highest such threshold. */
  bestBalancedThreshold: number
  /**
   * minDCF: the least detection cost cMiss·P(miss)·pTarget + cFalseAlarm·P(false alarm)·(1 − pTarget) of any threshold, as
   * NIST's evaluations normalise it: divided by that of the better one of accepting all and accepting none, hence 0 to 1.
   */
  minimumDetectionCost: number
  /** The highest threshold of that cost; Infinity where accepting none costs least. */
  minimumDetectionCostThreshold: number
  /** One for each of `falseAcceptRates`. */
  operatingPoints: OperatingPoint[]
  /** The numbers of pairs of either kind whose score is in each of 128 equal parts of [from, to], the last one with `to`. */
  histogram: {
    /** −1 for cosines, but if all are above 15/16 a number below them; the lowest of scores that were given. */
    from: number
    /** 1 for cosines; the highest of scores that were given. */
    to: number
    /** Counts of pairs of one class [128]. */
    same: Float64Array
    /** Counts of pairs of two classes [128]. */
    different: Float64Array
  }
  /** The accuracy over folds; with a list of pairs alone. */
  folds?: Folds
  /** The scores of a list of pairs [P]. */
  scores?: Float64Array
  /** The number of embeddings that are zeros: they have no direction and score 0 with every other. Absent for given scores. */
  zeroRows?: number
}

/**
 * Measures how well cosines tell pairs of one class from pairs of different ones: area under the ROC curve, equal error rate, minimum
 * detection cost, true accept rates at given false accept rates, best thresholds, and for lists the accuracy over folds.
 *
 * With labels every pair of rows i < j is judged, blocked: 200 million pairs of 20,000 rows, without a matrix of them. With
 * a `PairList` those pairs are.
 *
 * Every figure is exact for the scores, ties included: no sampling, no interpolated curve. The score of a listed pair is
 * its cosine, computed in double precision and rounded to steps of 2⁻⁴⁰. Those of all pairs are cosines in steps of 2⁻²⁴,
 * the spacing of single precision below 1, in which they are computed (errors near 1e-7). Where all rows point so nearly
 * the same way that cosines are above 1 − 1/16, they are computed without what the rows have in common, and the steps are
 * as much finer as the cosines are nearer to 1. A row of zeros has the score 0 with every other.
 *
 * Runs on the CPU. Memory beyond the inputs: for all pairs at most 320 MB (600 MB from 92,682 rows on), and a copy of
 * embeddings that nearly point the same way; for lists 24 bytes a pair.
 *
 * @param embeddings [N,D]; a Float64Array is rounded to single precision
 * @param pairsOf labels [N], integers from 0, or a `PairList`
 * @throws TypeError, RangeError for arguments, also where all pairs are of one kind; MarginSoftmaxError `ERR_NOT_FINITE`
 *   where an embedding is not finite, `ERR_OUT_OF_MEMORY`; the reason of an aborted `signal`
 */
export async function verification(
  embeddings: FloatArray,
  pairsOf: LabelArray | PairList,
  options?: VerificationOptions
): Promise<VerificationResult> {
  return run(requestOfPairs(embeddings, pairsOf, options, true))
}

/** As `verification`, computed before it returns. */
export function verificationSync(
  embeddings: FloatArray,
  pairsOf: LabelArray | PairList,
  options?: Omit<VerificationOptions, 'signal'>
): VerificationResult {
  return runSync(requestOfPairs(embeddings, pairsOf, options, false))
}

/**
 * Computes the same figures from scores that exist already. A higher score must mean that a pair rather belongs together:
 * take distances negative. Scores are compared in double precision, as they are.
 *
 * @param scores [P]
 * @param same [P]
 * @throws TypeError, RangeError for arguments, also where all pairs are of one kind; MarginSoftmaxError `ERR_NOT_FINITE`
 *   where a score is not finite, `ERR_OUT_OF_MEMORY`; the reason of an aborted `signal`
 * @example
 * const scores = [0.9, 0.8, 0.7, 0.6, 0.3, 0.2]
 * const { equalErrorRate, minimumDetectionCost } = await verificationFromScores(scores, [1, 1, 0, 1, 0, 0])
 */
export async function verificationFromScores(
  scores: FloatArray | readonly number[],
  same: Answers,
  options?: ScoreOptions
): Promise<VerificationResult> {
  return run(requestOfScores(scores, same, options, true))
}

/** As `verificationFromScores`, computed before it returns. */
export function verificationFromScoresSync(
  scores: FloatArray | readonly number[],
  same: Answers,
  options?: Omit<ScoreOptions, 'signal'>
): VerificationResult {
  return runSync(requestOfScores(scores, same, options, false))
}

async function run(request: VerificationRequest): Promise<VerificationResult> {
  const result = await abortable(request.signal, (ticket) =>
    native().verification(nativeRequest(request, ticket))
  )
  return resultOf(result, request)
}

function runSync(request: VerificationRequest): VerificationResult {
  return resultOf(native().verification(nativeRequest(request, 0)) as NativeVerification, request)
}

function resultOf(raw: NativeVerification, request: VerificationRequest): VerificationResult {
  const { order, givenScores } = request
  if (raw.failure === 'ERR_NOT_FINITE') throw notFinite(givenScores ? 'scores' : 'embeddings', raw.row)
  const { samePairs, differentPairs, ...figures } = succeeded(raw)
  if (samePairs === 0 || differentPairs === 0)
    throw new RangeError(
      `Expected pairs of both kinds for verification but received ${samePairs} of one class and ${differentPairs} of different ones`
    )
  const operatingPoints = inGivenOrder(
    order,
    (i): OperatingPoint => ({
      limit: request.limits[i] as number,
      trueAcceptRate: request.trueAcceptRates[i] as number,
      falseAcceptRate: request.falseAcceptRates[i] as number,
      threshold: request.thresholds[i] as number,
    })
  )
  return {
    pairs: { same: samePairs, different: differentPairs },
    areaUnderCurve: figures.areaUnderCurve,
    ties: figures.ties,
    equalErrorRate: figures.equalErrorRate,
    equalErrorThreshold: figures.equalErrorThreshold,
    bestAccuracy: figures.bestAccuracy,
    bestThreshold: figures.bestThreshold,
    bestBalancedAccuracy: figures.bestBalancedAccuracy,
    bestBalancedThreshold: figures.bestBalancedThreshold,
    minimumDetectionCost: figures.minimumDetectionCost,
    minimumDetectionCostThreshold: figures.minimumDetectionCostThreshold,
    operatingPoints,
    histogram: {
      from: figures.histogramFrom,
      to: figures.histogramTo,
      same: request.sameHistogram,
      different: request.differentHistogram,
    },
    ...(request.foldAccuracies && { folds: foldsOf(request.foldAccuracies, request.foldThresholds) }),
    ...(request.scores && { scores: request.scores }),
    ...(!givenScores && { zeroRows: figures.zeroRows }),
  }
}

function foldsOf(accuracies: Float64Array, thresholds: Float64Array | undefined): Folds {
  const mean = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0) / values.length
  const meanAccuracy = mean(accuracies)
  return {
    accuracies,
    thresholds: thresholds as Float64Array,
    meanAccuracy,
    standardDeviation: Math.sqrt(mean(accuracies.map((accuracy) => (accuracy - meanAccuracy) ** 2))),
  }
}
