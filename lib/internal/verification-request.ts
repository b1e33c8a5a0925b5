// Checks the arguments of verification and makes the request that native code takes.

import { notFinite, wrongType, wrongValue } from '../errors'
import { type ExecutionOptions, execution } from '../execution'
import { checkSignal } from './abort'
import {
  checkOptions,
  classLabels,
  countOf,
  type FloatArray,
  floats,
  indexOfIgnored,
  integerInRange,
  isFloatArray,
  type LabelArray,
  labels,
  newArray,
  numberBetween,
  numberInRange,
  positiveNumber,
  rowsOf,
  size,
} from './check'
import { isGone, isList, isObject, lengthOf, typeOf } from './intrinsics'

/** Pairs of rows, each with the answer whether the two belong together. */
export interface PairList {
  /** Rows of the embeddings [P,2], from 0. Default: rows 2p and 2p + 1 are pair p. */
  pairs?: LabelArray | undefined
  /** The answer for each pair [P]: true or 1 if both rows are of one class, else false or 0. */
  same: LabelArray | readonly boolean[]
}

/** The answers for pairs [P]: true or 1 if both rows are of one class, else false or 0. */
export type Answers = PairList['same']

/** Options that say how scores are judged. */
export interface ScoreOptions extends Pick<ExecutionOptions, 'threads' | 'instructionSet'> {
  /** The false accept rates, from 0 to 1, at which true accept rates are wanted. Default 1e-1, 1e-2 … 1e-6. */
  falseAcceptRates?: ArrayLike<number> | undefined
  /** Into how many runs a list of pairs is cut for `folds` of the result; 0 for none. Default 10, as for LFW. */
  folds?: number | undefined
  /**
   * P_target of the detection cost: the prior probability that a pair belongs together, above 0 and below 1. Default 0.01,
   * with costs of 1: an operating point of NIST's SRE 2016, and what VoxCeleb's results are usually given at.
   */
  pTarget?: number | undefined
  /** C_Miss of the detection cost, above 0: what it costs to reject a pair that belongs together. Default 1. */
  cMiss?: number | undefined
  /** C_FalseAlarm of the detection cost, above 0: what it costs to accept a pair that does not. Default 1. */
  cFalseAlarm?: number | undefined
  /** Ends the work: the promise rejects with the signal's reason once no thread works on it any more. Asynchronous calls only. */
  signal?: AbortSignal | undefined
}

/** Options that say how pairs of embeddings are judged. */
export interface VerificationOptions extends ScoreOptions {
  /** D. Default: with labels, as many numbers as there are for each label; it must be given with a list of `pairs`. */
  dim?: number | undefined
}

const scoreOptions = [
  'falseAcceptRates',
  'folds',
  'pTarget',
  'cMiss',
  'cFalseAlarm',
  'threads',
  'instructionSet',
]
const usualRates = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
const histogramBins = 128
const usualFolds = 10

/** @param asynchronous whether there may be a signal, and a promise is wanted */
export function requestOfPairs(
  array: FloatArray,
  pairsOf: LabelArray | PairList,
  options: VerificationOptions | undefined,
  asynchronous: boolean
) {
  const checkedOptions = checkOptions(options, 'options', [
    'dim',
    ...scoreOptions,
    ...(asynchronous ? ['signal'] : []),
  ])
  const taken = floats(array, 'embeddings')
  const judged = judgementOf(checkedOptions)
  const inputs = isValues(pairsOf)
    ? allPairs(taken, pairsOf, checkedOptions)
    : listedPairs(taken, pairsOf, checkedOptions)
  // As they are after labels and answers, which may be lists with getters.
  const embeddings = floats(taken, 'embeddings', inputs.rows * inputs.dim)
  return { ...judged, ...inputs, embeddings, asynchronous, __proto__: null }
}

/** @param asynchronous as for `requestOfPairs` */
export function requestOfScores(
  values: FloatArray | readonly number[],
  answers: Answers,
  options: ScoreOptions | undefined,
  asynchronous: boolean
) {
  const checkedOptions = checkOptions(options, 'options', [
    ...scoreOptions,
    ...(asynchronous ? ['signal'] : []),
  ])
  const judged = judgementOf(checkedOptions)
  const { scores: givenScores, same } = scoredAnswers(values, answers)
  const inputs: Inputs = { rows: 0, dim: 0, same, givenScores, ...foldsOf(checkedOptions.folds, same.length) }
  return { ...judged, ...inputs, asynchronous, __proto__: null }
}

/** Refuses scores that are not finite, as native code does. */
export function rejectNotFinite(scores: Float64Array): void {
  const wrong = scores.findIndex((score) => !Number.isFinite(score))
  if (wrong >= 0) throw notFinite('scores', wrong)
}

/** Scores, and an answer for each of them. A Float64Array stays the caller's. */
export function scoredAnswers(values: FloatArray | readonly number[], answers: Answers) {
  const scores = scoresOf(values)
  const count = lengthOf(scores)
  if (!isArray(answers)) throw wrongType('an array of true and false', 'same', answers)
  if (countOf(answers) !== count) throw wrongValue(`one answer for each of ${count} scores`, 'same', answers)
  const same = answersOf(answers, count)
  if (lengthOf(scores) !== count) throw wrongValue(`${count} elements`, 'scores', values)
  return { scores, same }
}

export type VerificationRequest = ReturnType<typeof requestOfPairs> | ReturnType<typeof requestOfScores>

/** The request for native code, with every name that it reads. */
export function nativeRequest(
  { signal: _, order: __, ...request }: VerificationRequest,
  ticket: number
): object {
  return { ...noInputs, ...request, ticket, __proto__: null }
}

/** Checks the options that all kinds of verification share. */
function judgementOf(options: Partial<ScoreOptions>) {
  const { pTarget = 0.01, cMiss = 1, cFalseAlarm = 1 } = options
  const { limits, order } = ascendingRates(options.falseAcceptRates, 'falseAcceptRates', usualRates)
  return {
    signal: checkSignal(options.signal),
    ...execution({ threads: options.threads, instructionSet: options.instructionSet, device: 'cpu' }),
    pTarget: numberBetween(pTarget, 'pTarget', 0, 1),
    cMiss: positiveNumber(cMiss, 'cMiss'),
    cFalseAlarm: positiveNumber(cFalseAlarm, 'cFalseAlarm'),
    order,
    limits,
    trueAcceptRates: new Float64Array(limits.length),
    falseAcceptRates: new Float64Array(limits.length),
    thresholds: new Float64Array(limits.length),
    sameHistogram: new Float64Array(histogramBins),
    differentHistogram: new Float64Array(histogramBins),
  }
}

interface Inputs {
  rows: number
  dim: number
  labels?: Int32Array
  pairs?: Int32Array
  same?: Uint8Array
  foldAccuracies?: Float64Array
  foldThresholds?: Float64Array
  scores?: Float64Array
  givenScores?: Float64Array
}

const noInputs: Record<Exclude<keyof Inputs, 'rows' | 'dim'> | 'embeddings', undefined> = {
  embeddings: undefined,
  labels: undefined,
  pairs: undefined,
  same: undefined,
  foldAccuracies: undefined,
  foldThresholds: undefined,
  scores: undefined,
  givenScores: undefined,
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

function allPairs(
  embeddings: Float32Array,
  labelsOf: LabelArray,
  options: Partial<VerificationOptions>
): Inputs {
  if (options.folds !== undefined && options.folds !== 0)
    throw wrongType('no folds without a list of pairs', 'folds', options.folds)
  const dim = size(options.dim === undefined ? lengthOf(embeddings) / countOf(labelsOf) : options.dim, 'dim')
  const rows = rowsOf(embeddings, 'embeddings', dim, 'dim')
  return { rows, dim, labels: classLabels(labelsOf, 'labels', rows) }
}

function listedPairs(
  embeddings: Float32Array,
  list: PairList,
  options: Partial<VerificationOptions>
): Inputs {
  const { pairs, same: answers } = checkOptions(list, 'pairsOf', ['pairs', 'same'])
  if (!isArray(answers)) throw wrongType('an array of true and false', 'same', answers)
  const count = countOf(answers)
  if (pairs !== undefined && options.dim === undefined)
    throw wrongType('a positive integer', 'dim with a list of pairs', undefined)
  const dim = size(options.dim === undefined ? lengthOf(embeddings) / (2 * count) : options.dim, 'dim')
  const rows = rowsOf(embeddings, 'embeddings', dim, 'dim')
  if (pairs === undefined && rows !== 2 * count)
    throw wrongValue(`one answer for every two of ${rows} rows`, 'same', answers)
  const same = answersOf(answers, count)
  return {
    rows,
    dim,
    pairs: pairs === undefined ? undefined : rowPairs(pairs, count, rows),
    same,
    ...foldsOf(options.folds, count),
    scores: newArray(Float64Array, count, 'scores'),
  }
}

/** Answers as 0 and 1. `answers` is an array of `count` elements. */
function answersOf(answers: readonly unknown[], count: number): Uint8Array {
  const same = newArray(Uint8Array, count, 'same')
  for (let i = 0; i < count; i++) {
    const answer: unknown = answers[i]
    if (answer !== true && answer !== false && answer !== 0 && answer !== 1)
      throw wrongValue('true or false', `same[${i}]`, answer)
    same[i] = Number(answer)
  }
  return same
}

/** Arrays for the folds of a list of `count` pairs, if there are to be folds. */
function foldsOf(asked: number | undefined, count: number): Partial<Inputs> {
  const usual = count < usualFolds ? 0 : usualFolds
  const folds = asked === undefined ? usual : integerInRange(asked, 'folds', 0, count)
  if (folds === 1) throw wrongValue('0 or at least 2', 'folds', folds)
  if (folds === 0) return {}
  return {
    foldAccuracies: newArray(Float64Array, folds, 'folds'),
    foldThresholds: newArray(Float64Array, folds, 'folds'),
  }
}

/** The scores in double precision. A list's elements may be getters; a Float64Array stays the caller's. */
export function scoresOf(values: unknown): Float64Array {
  if (isFloatArray(values)) {
    if (isGone(values)) throw wrongValue('an array that has its memory', 'scores', values)
    return typeOf(values) === 'Float64Array'
      ? (values as Float64Array)
      : newArray(Float64Array, values, 'scores')
  }
  if (!isList(values))
    throw wrongType('a Float64Array, Float32Array, Float16Array or number[]', 'scores', values)
  const count = countOf(values)
  const scores = newArray(Float64Array, count, 'scores')
  for (let i = 0; i < count; i++) {
    const score: unknown = values[i]
    if (typeof score !== 'number') throw wrongType('a number', `scores[${i}]`, score)
    scores[i] = score
  }
  return scores
}

/** Pairs of rows [count,2], each from 0 and below `rows`. */
export function rowPairs(list: LabelArray, count: number, rows: number): Int32Array {
  const length = 2 * count
  const pairs = labels(list, 'pairs', length, rows, -1)
  const missing = indexOfIgnored(pairs, length)
  if (missing >= 0) throw wrongValue(`an integer from 0 to ${rows - 1}`, `pairs[${missing}]`, -1)
  return pairs
}

/**
 * Rates from 0 to 1 in ascending order, and the place of each in what was given.
 * @param usual for undefined
 */
export function ascendingRates(values: unknown, name: string, usual: readonly number[]) {
  const rates = values === undefined ? usual : ratesOf(values, name)
  const order = [...rates.keys()].sort((a, b) => (rates[a] as number) - (rates[b] as number))
  return { limits: Float64Array.from(order, (i) => rates[i] as number), order }
}

/** Puts what belongs to the ascending rates into the order in which the rates were given: `order` is that of `ascendingRates`. */
export function inGivenOrder<T>(order: readonly number[], valueAt: (ascending: number) => T): T[] {
  const values: T[] = new Array(order.length)
  for (const [i, place] of order.entries()) values[place] = valueAt(i)
  return values
}

function ratesOf(values: unknown, name: string): number[] {
  if (!isArray(values)) throw wrongType('an array of numbers from 0 to 1', name, values)
  if (typeOf(values) !== undefined && isGone(values as never))
    throw wrongValue('an array that has its memory', name, values)
  const rates: number[] = []
  const count = integerInRange(countOf(values), `${name}.length`, 0)
  for (let i = 0; i < count; i++) rates.push(numberInRange(values[i], `${name}[${i}]`, 0, 1))
  return rates
}
