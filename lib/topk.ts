import { type ExecutionOptions, execution, executionOptions } from './execution'
import { checkOptions, integerInRange, newArrayToFill } from './internal/check'
import { type NativeResult, native, succeeded, watched } from './internal/native'
import { namesOf } from './internal/option-table'
import { type Batch, checkBatch } from './loss'
import { arcface, encodeMargin, type Margin } from './margins'

/** Rows to compare with all classes: `input` [B,D], `weight` [C,D], `dim` D, and `bias` [C] for `softmaxMargin()`. */
export type TopKBatch = Omit<Batch, 'labels'>

/** Options of `topK`: how many classes, and by which score. */
export interface TopKOptions extends ExecutionOptions {
  /** The number of classes per row, from 1 to C. Default 1. */
  k?: number | undefined
  /** Scores are cosines, or for `softmaxMargin()` raw dot products plus bias. Margins take no part. Default `arcface()`. */
  margin?: Margin | undefined
}

/** The best classes of each row. */
export interface TopKResult {
  /** Classes, best first [B,k]; equal scores in class order. −1 where fewer than k scores are numbers. */
  indices: Int32Array
  /** Their scores [B,k]. */
  scores: Float32Array
}

const batchNames = namesOf<TopKBatch>({ input: true, weight: true, dim: true, bias: true })
const topKOptions = [
  ...namesOf<Omit<TopKOptions, keyof ExecutionOptions>>({ k: true, margin: true }),
  ...executionOptions,
]

function prepare(batch: TopKBatch, options: TopKOptions | undefined) {
  const checkedOptions = checkOptions(options, 'options', topKOptions)
  const taken = checkOptions(batch ?? null, 'batch', batchNames)
  const encoded = encodeMargin(checkedOptions.margin === undefined ? arcface() : checkedOptions.margin)
  const { input, weight, bias, dim, rows, classes } = checkBatch(taken, encoded.margin)
  const k = checkedOptions.k === undefined ? 1 : integerInRange(checkedOptions.k, 'k', 1, classes)
  const outputs = topKArrays(rows, k)
  const request = {
    __proto__: null,
    input,
    weight,
    bias,
    dim,
    rows,
    classes,
    k,
    marginKind: encoded.marginKind,
    marginParameters: encoded.marginParameters,
    ...execution(checkedOptions),
    ...outputs,
    asynchronous: false,
  }
  return { request, outputs }
}

export function topKArrays(rows: number, k: number): TopKResult {
  return {
    indices: newArrayToFill(Int32Array, rows * k, 'indices'),
    scores: newArrayToFill(Float32Array, rows * k, 'scores'),
  }
}

/**
 * Finds the k classes that score best for each row, without a B×C result: for accuracy and for retrieval.
 * @throws TypeError, RangeError for arguments; MarginSoftmaxError `ERR_OUT_OF_MEMORY`
 */
export async function topK(batch: TopKBatch, options?: TopKOptions): Promise<TopKResult> {
  const { request, outputs } = prepare(batch, options)
  succeeded(await watched(native().topK(Object.assign(request, { asynchronous: true }))))
  return outputs
}

/** As `topK`, computed before it returns. */
export function topKSync(batch: TopKBatch, options?: TopKOptions): TopKResult {
  const { request, outputs } = prepare(batch, options)
  succeeded(native().topK(request) as NativeResult)
  return outputs
}
