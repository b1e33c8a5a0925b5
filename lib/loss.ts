import { wrongType } from './errors'
import { type ExecutionOptions, execution, executionOptions } from './execution'
import {
  checkOptions,
  type FloatArray,
  floats,
  type LabelArray,
  labels,
  lossWeights,
  number,
  rejectOverlap,
  rowsOf,
  size,
} from './internal/check'
import { type LeftOut, type NativeResult, native, succeeded, watched } from './internal/native'
import {
  choiceRow,
  ignoreIndexRow,
  labelSmoothingRow,
  namesIn,
  namesOf,
  negligibleRow,
  type ValuesOf,
  valuesOf,
} from './internal/option-table'
import { arcface, encodeMargin, isNormalized, type Margin } from './margins'
import {
  copyBack,
  type Gradient,
  type GradientChoice,
  omitUndefined,
  outputArray,
  resultArray,
  stagingArrays,
} from './outputs'

/** One batch. B rows of D numbers, C classes. */
export interface Batch {
  /** Embeddings [B,D], row after row. A Float64Array is rounded to single precision. */
  input: FloatArray
  /**
   * Class weights [C,D]: row j is the centre of class j. Its norm is at most 1e37, and at most 1e38 divided by the scale. A
   * norm below 1e-30 counts as 0.
   */
  weight: FloatArray
  /** The class of each row [B], from 0 to C − 1, or `ignoreIndex`. */
  labels: LabelArray
  /** D, the length of an embedding. */
  dim: number
  /** The classes' biases [C], for `softmaxMargin()` only. */
  bias?: FloatArray | undefined
}

/** The rule that makes one number of the rows' losses. */
export type Reduction = 'mean' | 'sum' | 'none'

/** Options of `marginLoss`: which loss, and what to compute of it. */
export interface MarginLossOptions<
  Input extends GradientChoice = GradientChoice,
  Weight extends GradientChoice = GradientChoice,
  Bias extends GradientChoice = GradientChoice,
> extends ExecutionOptions {
  /** The margin that the loss applies to the target's cosine. Default `arcface()`. */
  margin?: Margin | undefined
  /**
   * `'mean'` (default) and `'sum'` over the rows that are not ignored, or `'none'`. A mean over no row, or over none of any
   * weight, is 0 with gradients 0.
   */
  reduction?: Reduction | undefined
  /** The label of rows that take no part. Default −1. */
  ignoreIndex?: number | undefined
  /** ε from 0 to 1: the target keeps 1 − ε, and every class gets ε/C. Default 0. */
  labelSmoothing?: number | undefined
  /**
   * The weight w_j of each class in the loss [C], finite and not negative, as the `weight` of PyTorch's `cross_entropy`. A
   * row's loss is −(1 − ε)·w_y·log P_y − (ε/C)·Σ_j w_j·log P_j, y its label and P its softmax, margin included; a mean divides
   * by the sum of the rows' w_y. Default all 1.
   */
  classWeights?: FloatArray | undefined
  /**
   * The weight s_i of each row in the loss [B], finite and not negative. A row's loss is multiplied by it, and a mean divides by
   * the sum of weights in place of the number of rows: Σ s_i·loss_i / Σ s_i, with `classWeights` Σ s_i·loss_i / Σ s_i·w_y. Default all 1.
   */
  sampleWeights?: FloatArray | undefined
  /**
   * The norm of the terms that each gradient may lack, as a multiple of that gradient's norm: from 0 (none; the default) to
   * 1e-3. 1e-7 is about the rounding of single precision. In a trained head the probabilities concentrate on few classes, so
   * that most of the backward pass can be skipped. A bound on what is missing is proven before anything depends on it, and
   * `leftOut` reports it. The choice is the same in every run and for any number of threads.
   *
   * Leave it at 0 if a gradient goes to Adam or another optimizer that divides by the gradient's own size. The whole gradient
   * of a class without rows in the batch may be skipped, because it is tiny, and such an optimizer would have taken a full
   * step along it.
   *
   * It has an effect only if all of these hold:
   * - the device is the CPU, and the precision float32;
   * - the margin works on cosines and leaves negatives as they are (not `mvsoftmax()` and `curricularface()`);
   * - there is no label smoothing;
   * - there are at least 128 dimensions, and 250,000 numbers of weights (500 classes of 500 dimensions);
   * - the batch fits one pass (about 3,500 rows of 512 numbers).
   */
  negligible?: number | undefined
  /** Upstream gradient: a number for `'mean'` and `'sum'` (default 1), an array [B] for `'none'` (default all 1). */
  gradOutput?: number | FloatArray | undefined
  /** An array [B] to fill with the rows' losses. */
  losses?: Float32Array | undefined
  /** Whether to compute ∂loss/∂input (default true), or an array [B,D] to fill. `false` saves its share of the time. */
  gradInput?: Input
  /** Whether to compute ∂loss/∂weight (default true), or an array [C,D] to fill. */
  gradWeight?: Weight
  /** Whether to compute ∂loss/∂bias (default: if there is a bias), or an array [C] to fill. */
  gradBias?: Bias
}

/** Loss and gradients of one batch. */
export interface MarginLossResult<
  Input extends GradientChoice = GradientChoice,
  Weight extends GradientChoice = GradientChoice,
  Bias extends GradientChoice = GradientChoice,
> {
  /** The scalar that the gradients belong to: mean or sum of `losses`; for `'none'` Σ gradOutput_i·losses_i. */
  loss: number
  /** Each row's loss in nats, times its weights [B]; 0 for ignored rows. */
  losses: Float32Array
  /** ∂loss/∂input [B,D]. */
  gradInput: Gradient<Input>
  /** ∂loss/∂weight [C,D]. */
  gradWeight: Gradient<Weight>
  /** ∂loss/∂bias [C]; by default where there is a bias. */
  gradBias: Gradient<Bias extends undefined ? GradientChoice : Bias>
  /** The share of the work that the backward pass skipped because it cannot matter, and the bounds. */
  leftOut: LeftOut
}

const outputNames = ['losses', 'gradInput', 'gradWeight', 'gradBias'] as const
export const reductions: readonly Reduction[] = ['mean', 'sum', 'none']
/** The reduction of marginLoss and of crossEntropyLoss. */
export const reductionRow = choiceRow('mean', reductions)

/** The options that say which loss, a row for each. */
const lossSettings = {
  margin: { check: (value: unknown) => encodeMargin(value), default: arcface() },
  reduction: reductionRow,
  ignoreIndex: ignoreIndexRow,
  labelSmoothing: labelSmoothingRow,
  negligible: negligibleRow(0), // as long as it is not known who takes the gradient
}

/** Their values. */
export type LossSettings = ValuesOf<typeof lossSettings>

type LossArrays = Omit<MarginLossOptions, keyof typeof lossSettings | keyof ExecutionOptions>

/** The options of marginLoss. */
export const lossOptions = [
  ...namesIn(lossSettings),
  ...namesOf<LossArrays>({
    classWeights: true,
    sampleWeights: true,
    gradOutput: true,
    losses: true,
    gradInput: true,
    gradWeight: true,
    gradBias: true,
  }),
  ...executionOptions,
]
const batchNames = namesOf<Batch>({ input: true, weight: true, labels: true, dim: true, bias: true })

type Outputs = Omit<MarginLossResult, 'loss' | 'leftOut'>

/** The reduction and the upstream gradient that goes with it: of marginLoss and of crossEntropyLoss. */
export function upstream(gradOutput: number | FloatArray | undefined, reduction: Reduction, rows: number) {
  const perRow = reduction === 'none'
  return {
    reduction: reductions.indexOf(reduction),
    gradScale: perRow || gradOutput === undefined ? 1 : number(gradOutput, 'gradOutput'),
    gradOutput: perRow && gradOutput !== undefined ? floats(gradOutput, 'gradOutput', rows) : undefined,
  }
}

function prepare(batch: Batch, options: MarginLossOptions | undefined) {
  const checkedOptions = checkOptions(options, 'options', lossOptions)
  const taken = checkOptions(batch ?? null, 'batch', batchNames)
  const settings = valuesOf(lossSettings, checkedOptions)
  const { margin: encoded, reduction, ignoreIndex, labelSmoothing, negligible } = settings
  const checked = checkBatch(taken, encoded.margin)
  const { bias, dim, rows, classes } = checked
  if (checkedOptions.gradBias && !bias)
    throw wrongType('no gradBias without a bias', 'gradBias', checkedOptions.gradBias)
  const inputs = {
    labels: labels(taken.labels, 'labels', rows, classes, ignoreIndex),
    // As they are after the labels, which may be a list with getters.
    input: floats(checked.input, 'input', rows * dim),
    weight: floats(checked.weight, 'weight', classes * dim),
    bias: bias && floats(bias, 'bias', classes),
    classWeights: lossWeights(checkedOptions.classWeights, 'classWeights', classes),
    sampleWeights: lossWeights(checkedOptions.sampleWeights, 'sampleWeights', rows),
  }
  const { gradOutput, ...scalars } = upstream(checkedOptions.gradOutput, reduction, rows)
  const how = {
    ...scalars,
    ...execution(checkedOptions),
    labelSmoothing,
    negligible,
  }
  const outputs: Outputs = {
    losses: resultArray(checkedOptions.losses, 'losses', rows),
    gradInput: outputArray(checkedOptions.gradInput, 'gradInput', rows * dim, true),
    gradWeight: outputArray(checkedOptions.gradWeight, 'gradWeight', classes * dim, true),
    gradBias: outputArray(checkedOptions.gradBias, 'gradBias', classes, bias !== undefined),
  }
  checkOutputs(outputs, { ...inputs, gradOutput })
  const request = {
    __proto__: null,
    ...inputs,
    gradOutput,
    marginKind: encoded.marginKind,
    marginParameters: encoded.marginParameters,
    ...how,
    ...outputs,
    rows,
    classes,
    dim,
    asynchronous: false,
  }
  return { request, outputs, checkedOptions }
}

/** The arrays of a batch but for its labels, checked against each other. */
export function checkBatch(batch: Partial<Omit<Batch, 'labels'>>, margin: Margin) {
  const dim = size(batch.dim, 'dim')
  const input = floats(batch.input, 'input')
  const weight = floats(batch.weight, 'weight')
  const rows = rowsOf(input, 'input', dim, 'dim')
  const classes = rowsOf(weight, 'weight', dim, 'dim')
  if (batch.bias !== undefined && isNormalized(margin))
    throw wrongType(`no bias with ${margin.name}, which works on cosines,`, 'bias', batch.bias)
  const bias = batch.bias === undefined ? undefined : floats(batch.bias, 'bias', classes)
  return { input, weight, bias, dim, rows, classes }
}

/** Outputs that the caller handed in may share memory neither with an input nor with each other. */
function checkOutputs(outputs: Outputs, inputs: Record<string, ArrayBufferView | undefined>): void {
  const seen: Record<string, ArrayBufferView | undefined> = { ...inputs }
  for (const name of outputNames) {
    const output = outputs[name]
    if (!output) continue
    rejectOverlap(output, name, seen)
    seen[name] = output
  }
}

/**
 * Computes loss and gradients of one batch from embeddings, class weights and labels, without ever holding the B×C logits.
 * It works in single precision, with the targets' terms in double, and gives the same bits for any number of threads.
 *
 * The asynchronous form works on threads of its own and never blocks the event loop for the computation. It copies its
 * inputs when it is called, so they may be changed, transferred or resized at once, and fills the caller's arrays at the
 * end. The JavaScript thread makes the copies, with the other threads of the computation unless another one runs, in
 * about 0.1 ms a megabyte on two threads. For large weights pass arrays over a SharedArrayBuffer, which are used in place
 * (leave them alone until the promise settles), or use a `MarginHead`.
 *
 * @returns the loss, the rows' losses, and the gradients that were asked for
 * @throws TypeError, RangeError for arguments; MarginSoftmaxError `ERR_OUT_OF_MEMORY`
 */
export async function marginLoss<
  Input extends GradientChoice = true,
  Weight extends GradientChoice = true,
  Bias extends GradientChoice = undefined,
>(
  batch: Batch,
  options?: MarginLossOptions<Input, Weight, Bias>
): Promise<MarginLossResult<Input, Weight, Bias>> {
  const { request, outputs, checkedOptions } = prepare(batch, options)
  const staging = stagingArrays(outputs, checkedOptions)
  const running = native().loss(Object.assign(request, staging, { asynchronous: true }))
  const { loss, leftOut } = succeeded(await watched(running), 'input and weight')
  return { loss, ...copyBack(staging, outputs), leftOut } as MarginLossResult<Input, Weight, Bias>
}

/** As `marginLoss`, computed before it returns, and in place on the caller's arrays: no copy of anything. */
export function marginLossSync<
  Input extends GradientChoice = true,
  Weight extends GradientChoice = true,
  Bias extends GradientChoice = undefined,
>(batch: Batch, options?: MarginLossOptions<Input, Weight, Bias>): MarginLossResult<Input, Weight, Bias> {
  const { request, outputs } = prepare(batch, options)
  const { loss, leftOut } = succeeded(native().loss(request) as NativeResult, 'input and weight')
  return { loss, ...omitUndefined(outputs), leftOut } as MarginLossResult<Input, Weight, Bias>
}
