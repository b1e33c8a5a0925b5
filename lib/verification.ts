import {
  countOf,
  type FloatArray,
  floats,
  integerFrom,
  type LabelArray,
  labels,
  newArray,
  numberFrom,
  options,
  rowsOf,
  size,
} from './check'
import { notFinite, wrongType, wrongValue } from './errors'
import { type ExecutionOptions, execution } from './execution'
import { isGone, isList, isObject, lengthOf, typeOf } from './intrinsics'
import { type NativeResult, native, succeeded } from './native'

/** Pairs of rows, each with the answer whether the two belong together. */
export interface PairList {
  /** Rows of the embeddings [P,2], from 0. Default: rows 2p and 2p + 1 are pair p. */
  pairs?: LabelArray | undefined
  /** Of each pair [P]: true or 1 where both rows are of one class, false or 0 where they are not. */
  same: LabelArray | readonly boolean[]
}

/** How pairs are judged. */
export interface VerificationOptions extends Pick<ExecutionOptions, 'threads' | 'instructionSet'> {
  /** D. Default: with labels, as many numbers as there are for each label; it must be given with a list of `pairs`. */
  dim?: number | undefined
  /** The false accept rates, from 0 to 1, at which true accept rates are wanted. Default 1e-1, 1e-2 … 1e-6. */
  falseAcceptRates?: ArrayLike<number> | undefined
  /** For lists of pairs: into how many runs of the list it is cut for `folds` of the result, or 0. Default 10, as for LFW. */
  folds?: number | undefined
}

/** What a threshold does: a pair is accepted where its score is at least the threshold. */
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
  /** Of each fold, under its threshold. */
  accuracies: Float64Array
  /** Of each fold: the one that is best on the others. */
  thresholds: Float64Array
  /** Of the folds. */
  meanAccuracy: number
  /** Of the accuracies, √(Σ(a − mean)²/folds). */
  standardDeviation: number
}

/** How well the scores tell pairs of one class from pairs of different ones. */
export interface VerificationResult {
  /** How many pairs there were of either kind. */
  pairs: {
    /** Of one class. */
    same: number
    /** Of two classes. */
    different: number
  }
  /** The chance that a pair of one class scores above a pair of different ones, equal scores counting one half. */
  areaUnderCurve: number
  /** Where false accepts are as frequent as false rejects, on the straight line between two thresholds. */
  equalErrorRate: number
  /** The threshold there. */
  equalErrorThreshold: number
  /** The largest share of pairs that one threshold judges rightly. */
  bestAccuracy: number
  /** The highest such threshold. */
  bestThreshold: number
  /** One for each of `falseAcceptRates`. */
  operatingPoints: OperatingPoint[]
  /** How many pairs of either kind score in each of 128 equal parts of [−1, 1], the last one with 1. */
  histogram: {
    /** Of pairs of one class [128]. */
    same: Float64Array
    /** Of pairs of two classes [128]. */
    different: Float64Array
  }
  /** With a list of pairs. */
  folds?: Folds
  /** With a list of pairs: their scores [P]. */
  scores?: Float32Array
}

const knownOptions = ['dim', 'falseAcceptRates', 'folds', 'threads', 'instructionSet']
const usualRates = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
const histogramBins = 128
const usualFolds = 10
const mostRows = 2 ** 31 - 1

/**
 * How well cosines tell pairs of one class from pairs of different ones: area under the ROC curve, equal error rate, true
 * accept rates at given false accept rates, best threshold, and for lists of pairs the accuracy over folds.
 *
 * With labels every pair of rows i < j is judged, blocked: 200 million pairs of 20,000 rows, without a matrix of them. With
 * a `PairList` those pairs are.
 *
 * A score is a cosine in steps of 2⁻²⁴, the spacing of single precision below 1; a row of zeros has the score 0 with every
 * other. Every figure is exact for the scores, ties included: no sampling, no interpolated curve. Cosines are computed in
 * single precision for all pairs (errors near 1e-7), in double precision for lists. Runs on the CPU. Memory beyond the
 * inputs: for all pairs at most 320 MB (600 MB from 92,682 rows on), for lists 12 bytes a pair.
 *
 * @param embeddings [N,D]; a Float64Array is rounded to single precision
 * @param pairsOf labels [N], integers from 0, or a `PairList`
 * @throws TypeError, RangeError for arguments, also where all pairs are of one kind; MarginSoftmaxError `ERR_NOT_FINITE`
 *   where an embedding is not finite, `ERR_OUT_OF_MEMORY`
 */
export async function verification(
  embeddings: FloatArray,
  pairsOf: LabelArray | PairList,
  options?: VerificationOptions
): Promise<VerificationResult> {
  const { request, order } = prepare(embeddings, pairsOf, options)
  return resultOf(
    await native().verification({ ...request, asynchronous: true, __proto__: null }),
    request,
    order
  )
}

/** As `verification`, computed before it returns. */
export function verificationSync(
  embeddings: FloatArray,
  pairsOf: LabelArray | PairList,
  options?: VerificationOptions
): VerificationResult {
  const { request, order } = prepare(embeddings, pairsOf, options)
  return resultOf(native().verification(request) as NativeVerification, request, order)
}

/** What the addon returns beside the arrays that it fills. */
export interface NativeVerification extends Partial<NativeResult> {
  samePairs: number
  differentPairs: number
  areaUnderCurve: number
  equalErrorRate: number
  equalErrorThreshold: number
  bestAccuracy: number
  bestThreshold: number
}

function prepare(given: FloatArray, pairsOf: LabelArray | PairList, asked: VerificationOptions | undefined) {
  const known = options(asked, 'options', knownOptions)
  const taken = floats(given, 'embeddings')
  const limits = ratesOf(known.falseAcceptRates)
  const order = [...limits.keys()].sort((a, b) => (limits[a] as number) - (limits[b] as number))
  const inputs = isValues(pairsOf) ? allPairs(taken, pairsOf, known) : listedPairs(taken, pairsOf, known)
  // As they are after labels and answers, which may be lists with getters.
  const embeddings = floats(taken, 'embeddings', inputs.rows * inputs.dim)
  const request = {
    __proto__: null,
    embeddings,
    ...inputs,
    ...execution({ threads: known.threads, instructionSet: known.instructionSet, device: 'cpu' }),
    limits: Float64Array.from(order, (i) => limits[i] as number),
    trueAcceptRates: new Float64Array(limits.length),
    falseAcceptRates: new Float64Array(limits.length),
    thresholds: new Float64Array(limits.length),
    sameHistogram: new Float64Array(histogramBins),
    differentHistogram: new Float64Array(histogramBins),
    asynchronous: false,
  }
  return { request, order }
}

interface Inputs {
  rows: number
  dim: number
  labels?: Int32Array
  pairs?: Int32Array
  same?: Uint8Array
  foldAccuracies?: Float64Array
  foldThresholds?: Float64Array
  scores?: Float32Array
}

/** Whether these are labels rather than a `PairList`. */
function isValues(value: unknown): value is LabelArray {
  if (!isObject(value)) throw wrongType('labels or an object with same and pairs', 'pairsOf', value)
  return isArray(value)
}

/** Whether it is a list or a typed array of any type. */
function isArray(value: unknown): value is readonly unknown[] {
  return typeOf(value) !== undefined || isList(value)
}

function allPairs(embeddings: Float32Array, given: LabelArray, known: Partial<VerificationOptions>): Inputs {
  if (known.folds !== undefined && known.folds !== 0)
    throw wrongType('no folds without a list of pairs', 'folds', known.folds)
  const dim = size(known.dim === undefined ? lengthOf(embeddings) / countOf(given) : known.dim, 'dim')
  const rows = rowsOf(embeddings, 'embeddings', dim, 'dim')
  const checked = labels(given, 'labels', rows, mostRows, -1)
  const ignored = indexOfIgnored(checked, rows)
  if (ignored >= 0) throw wrongValue('an integer from 0', `labels[${ignored}]`, -1)
  return { rows, dim, labels: checked }
}

/** The first −1, or −1. */
function indexOfIgnored(checked: Int32Array, count: number): number {
  for (let i = 0; i < count; i++) if (checked[i] === -1) return i
  return -1
}

function listedPairs(embeddings: Float32Array, given: PairList, known: Partial<VerificationOptions>): Inputs {
  const { pairs, same: answers } = options(given, 'pairsOf', ['pairs', 'same'])
  if (!isArray(answers)) throw wrongType('an array of true and false', 'same', answers)
  const count = countOf(answers)
  if (pairs !== undefined && known.dim === undefined)
    throw wrongType('a positive integer', 'dim with a list of pairs', undefined)
  const dim = size(known.dim === undefined ? lengthOf(embeddings) / (2 * count) : known.dim, 'dim')
  const rows = rowsOf(embeddings, 'embeddings', dim, 'dim')
  if (pairs === undefined && rows !== 2 * count)
    throw wrongValue(`one answer for every two of ${rows} rows`, 'same', answers)
  const same = newArray(Uint8Array, count, 'same')
  for (let i = 0; i < count; i++) {
    const answer: unknown = answers[i]
    if (answer !== true && answer !== false && answer !== 0 && answer !== 1)
      throw wrongValue('true or false', `same[${i}]`, answer)
    same[i] = Number(answer)
  }
  const folds =
    known.folds === undefined
      ? count < usualFolds
        ? 0
        : usualFolds
      : integerFrom(known.folds, 'folds', 0, count)
  if (folds === 1) throw wrongValue('0 or at least 2', 'folds', folds)
  return {
    rows,
    dim,
    pairs: pairs === undefined ? undefined : rowPairs(pairs, count, rows),
    same,
    ...(folds && {
      foldAccuracies: newArray(Float64Array, folds, 'folds'),
      foldThresholds: newArray(Float64Array, folds, 'folds'),
    }),
    scores: newArray(Float32Array, count, 'scores'),
  }
}

function rowPairs(given: LabelArray, count: number, rows: number): Int32Array {
  const pairs = labels(given, 'pairs', 2 * count, rows, -1)
  const missing = indexOfIgnored(pairs, 2 * count)
  if (missing >= 0) throw wrongValue(`an integer from 0 to ${rows - 1}`, `pairs[${missing}]`, -1)
  return pairs
}

function ratesOf(given: unknown): Float64Array {
  if (given === undefined) return Float64Array.from(usualRates)
  if (!isArray(given)) throw wrongType('an array of numbers from 0 to 1', 'falseAcceptRates', given)
  if (typeOf(given) !== undefined && isGone(given as never))
    throw wrongValue('an array that has its memory', 'falseAcceptRates', given)
  const rates: number[] = []
  const count = countOf(given)
  for (let i = 0; i < count; i++) rates.push(numberFrom(given[i], `falseAcceptRates[${i}]`, 0, 1))
  return Float64Array.from(rates)
}

function resultOf(
  raw: NativeVerification,
  request: ReturnType<typeof prepare>['request'],
  order: number[]
): VerificationResult {
  if (raw.failure === 'ERR_NOT_FINITE') throw notFinite('embeddings', raw.row)
  const { samePairs, differentPairs, ...figures } = succeeded(raw)
  if (samePairs === 0 || differentPairs === 0)
    throw new RangeError(
      `Expected pairs of both kinds for verification but received ${samePairs} of one class and ${differentPairs} of different ones`
    )
  const operatingPoints: OperatingPoint[] = new Array(order.length)
  order.forEach((asked, i) => {
    operatingPoints[asked] = {
      limit: request.limits[i] as number,
      trueAcceptRate: request.trueAcceptRates[i] as number,
      falseAcceptRate: request.falseAcceptRates[i] as number,
      threshold: request.thresholds[i] as number,
    }
  })
  return {
    pairs: { same: samePairs, different: differentPairs },
    areaUnderCurve: figures.areaUnderCurve,
    equalErrorRate: figures.equalErrorRate,
    equalErrorThreshold: figures.equalErrorThreshold,
    bestAccuracy: figures.bestAccuracy,
    bestThreshold: figures.bestThreshold,
    operatingPoints,
    histogram: { same: request.sameHistogram, different: request.differentHistogram },
    ...(request.foldAccuracies && { folds: foldsOf(request.foldAccuracies, request.foldThresholds) }),
    ...(request.scores && { scores: request.scores }),
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
