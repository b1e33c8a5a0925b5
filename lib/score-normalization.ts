import { wrongValue } from './errors'
import type { ExecutionOptions } from './execution'
import { checkSignal } from './internal/abort'
import {
  checkOptions,
  countOf,
  type FloatArray,
  floats,
  integerInRange,
  isLabels,
  type LabelArray,
  newArray,
  rowsOf,
  size,
} from './internal/check'
import { lengthOf } from './internal/intrinsics'
import {
  checkedZeroRows,
  inputNow,
  type Searching,
  searchAside,
  searchExecution,
  searchNow,
  topKOfBlocks,
} from './internal/nearest-rows'
import { namesOf } from './internal/option-table'
import { rowPairs } from './internal/verification-request'

/** Pairs of embeddings to score, and the cohort that their scores are compared with. */
export interface AsNormBatch {
  /** [N,D] */
  embeddings: FloatArray
  /** Embeddings of other classes than those of the pairs, such as of the training data [C,D]. */
  cohort: FloatArray
  /** Rows of the embeddings [P,2], from 0. Default: rows 2p and 2p + 1 are pair p. */
  pairs?: LabelArray | undefined
  /** D. */
  dim: number
}

/** Options of `asNorm`. */
export interface AsNormOptions extends Pick<ExecutionOptions, 'threads' | 'instructionSet'> {
  /** The number of the cohort's best scores of each embedding that count, from 2. Default 300, or all where there are fewer. */
  top?: number | undefined
  /** Ends the work: the promise rejects with the signal's reason after the block of rows that runs. Asynchronous calls only. */
  signal?: AbortSignal | undefined
}

const batchNames = namesOf<AsNormBatch>({ embeddings: true, cohort: true, pairs: true, dim: true })
const optionNames = namesOf<Omit<AsNormOptions, 'signal'>>({ top: true, threads: true, instructionSet: true })
const usualTop = 300

/**
 * Scores pairs by cosine with adaptive symmetric normalization (AS-norm): ½·((s − μ_a)/σ_a + (s − μ_b)/σ_b), where μ and σ are
 * the mean and the standard deviation of the `top` highest cosines of either embedding with the cohort (Matějka et al., Analysis
 * of score normalization in multilingual speaker recognition, 2017). With all of the cohort it is S-norm. Give the result to
 * `verificationFromScores`.
 *
 * The cosines of pairs are computed in double precision, those with the cohort in single. Inputs are copied when it is called.
 * A cohort embedding that is the embedding itself counts like any other: leave the pairs' own rows out of it.
 *
 * @returns scores [P]
 * @throws TypeError, RangeError for arguments, also where an embedding's cohort scores are all equal or a row is zeros;
 *   MarginSoftmaxError `ERR_NOT_FINITE`, `ERR_OUT_OF_MEMORY`; the reason of an aborted `signal`
 * @example
 * const scores = await asNorm({ embeddings, pairs, cohort, dim }, { top: 300 })
 * const { equalErrorRate } = await verificationFromScores(scores, same)
 */
export async function asNorm(batch: AsNormBatch, options?: AsNormOptions): Promise<Float64Array> {
  const { searching, signal } = prepare(batch, options, true)
  return searchAside(searching, signal)
}

/** As `asNorm`, computed before it returns, on the caller's arrays in place. */
export function asNormSync(batch: AsNormBatch, options?: Omit<AsNormOptions, 'signal'>): Float64Array {
  return searchNow(prepare(batch, options, false).searching)
}

/** @param asynchronous whether there may be a signal, and the inputs must be copied */
function prepare(batch: AsNormBatch, options: AsNormOptions | undefined, asynchronous: boolean) {
  const checkedOptions = checkOptions(options, 'options', [
    ...optionNames,
    ...(asynchronous ? ['signal'] : []),
  ])
  const taken = checkOptions(batch ?? null, 'batch', batchNames)
  const signal = checkSignal(checkedOptions.signal)
  const execution = searchExecution(checkedOptions)
  const dim = size(taken.dim, 'dim')
  const [embeddings, cohort] = [floats(taken.embeddings, 'embeddings'), floats(taken.cohort, 'cohort')]
  const rows = rowsOf(embeddings, 'embeddings', dim, 'dim')
  const cohortRows = rowsOf(cohort, 'cohort', dim, 'dim')
  if (cohortRows < 2) throw wrongValue('at least two rows', 'cohort', cohort)
  const { top = Math.min(usualTop, cohortRows) } = checkedOptions
  integerInRange(top, 'top', 2, cohortRows)
  const pairs = pairsOf(taken.pairs, rows)
  const nonzero = (array: Float32Array, name: string, count: number) => {
    const input = inputNow(array, name, count * dim, asynchronous)
    checkedZeroRows(input, dim, name, 'refused')
    return input
  }
  const compared = {
    probes: nonzero(embeddings, 'embeddings', rows),
    gallery: nonzero(cohort, 'cohort', cohortRows),
    dim,
    execution,
  }
  return { searching: scoring(compared, pairs, rows, top), signal }
}

function pairsOf(list: LabelArray | undefined, rows: number): Int32Array {
  if (list !== undefined) {
    const pairs = rowPairs(list, isLabels(list) ? Math.ceil(countOf(list) / 2) : 0, rows)
    if (lengthOf(pairs) === 0) throw wrongValue('at least one pair', 'pairs', list)
    return pairs.slice()
  }
  if (rows % 2 !== 0) throw wrongValue('an even number of rows without pairs', 'embeddings', rows)
  return Int32Array.from({ length: rows }, (_, i) => i)
}

function* scoring(
  compared: Parameters<typeof topKOfBlocks>[0],
  pairs: Int32Array,
  rows: number,
  top: number
): Searching<Float64Array> {
  const { probes: embeddings, dim } = compared
  const means = newArray(Float64Array, rows, 'means')
  const deviations = newArray(Float64Array, rows, 'deviations')
  const used = Array.from(new Set(pairs)).sort((a, b) => a - b)
  yield* topKOfBlocks(compared, used, top, ({ scores }, i, row) => {
    const best = scores.subarray(i * top, (i + 1) * top)
    const mean = best.reduce((sum, score) => sum + score, 0) / top
    const deviation = Math.sqrt(best.reduce((sum, score) => sum + (score - mean) ** 2, 0) / top)
    if (deviation === 0) throw wrongValue('cohort scores that differ', `row ${row} of embeddings`, mean)
    means[row] = mean
    deviations[row] = deviation
  })
  const scores = newArray(Float64Array, pairs.length / 2, 'scores')
  for (let p = 0; p < scores.length; p++) {
    const [a, b] = [pairs[2 * p] as number, pairs[2 * p + 1] as number]
    const score = cosine(embeddings, dim, a, b)
    const normalized = (row: number) => (score - (means[row] as number)) / (deviations[row] as number)
    scores[p] = (normalized(a) + normalized(b)) / 2
  }
  return scores
}

function cosine(rows: Float32Array, dim: number, a: number, b: number): number {
  let [product, first, second] = [0, 0, 0]
  for (let i = 0; i < dim; i++) {
    const [x, y] = [rows[a * dim + i] as number, rows[b * dim + i] as number]
    product += x * y
    first += x * x
    second += y * y
  }
  return product / Math.sqrt(first) / Math.sqrt(second)
}
