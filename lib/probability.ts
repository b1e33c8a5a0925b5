import { wrongType, wrongValue } from './errors'
import { type ExecutionOptions, execution } from './execution'
import type { FloatArray, LabelArray } from './internal/check'
import {
  checkOptions,
  countOf,
  floats,
  isFloatArray,
  labels,
  lossWeights,
  rejectOverlap,
  size,
} from './internal/check'
import { isList, lengthOf, typeOf } from './internal/intrinsics'
import { native, succeeded } from './internal/native'
import { ignoreIndexRow, labelSmoothingRow, namesIn, namesOf, valuesOf } from './internal/option-table'
import { type Reduction, reductionRow, upstream } from './loss'
import { type Gradient, type GradientChoice, outputArray, resultArray } from './outputs'

/**
 * Options that say how a function of given numbers runs. `device: 'auto'` is the CPU here, because one pass over memory takes
 * less time than the way to a GPU and back. `'cuda'` computes on the GPU all the same.
 */
export type RowExecution = Pick<ExecutionOptions, 'device' | 'threads' | 'instructionSet'>

const rowExecution = ['device', 'threads', 'instructionSet'] as const

/** Options of a function of each element: how it runs, and where its result goes. */
export interface ElementwiseOptions extends RowExecution {
  /** An array to fill with the result and to return. */
  out?: Float32Array | undefined
}

/** Options of a function over the last axis of [rows, classes]. */
export interface RowOptions extends ElementwiseOptions {
  /** Length of a row. Default: the whole array is one row. */
  classes?: number | undefined
}

const elementwiseOptions = ['out', ...rowExecution] as const
const rowOptions = ['classes', ...elementwiseOptions] as const
/** In the order of `Measure` in native/core/probability.h. */
const measures = [
  'informationContent',
  'entropy',
  'klDivergence',
  'crossEntropy',
  'softmax',
  'logSoftmax',
] as const

/** Rows in an array of [rows, classes]; there may be none. */
function rowsIn(array: Float32Array, name: string, classes: number): number {
  const length = lengthOf(array)
  if (length % classes) throw wrongValue(`a multiple of classes ${classes} elements`, name, array)
  return length / classes
}

/** Like `rejectOverlap`, but the very array that is named may be overwritten: each element is read before it is written. */
function apartOrSame(output: Float32Array, name: string, input: Float32Array, inputName: string): void {
  if (output !== input) rejectOverlap(output, name, { [inputName]: input })
}

/** The option `classes`: whole rows of `input`, which is one row where it was not given. */
function classesIn(input: Float32Array, name: string, value: unknown): { classes: number; rows: number } {
  const classes = value === undefined ? Math.max(lengthOf(input), 1) : size(value, 'classes')
  return { classes, rows: rowsIn(input, name, classes) }
}

function measure(
  name: (typeof measures)[number],
  arrays: { p: Float32Array; q?: Float32Array; out: Float32Array },
  classes: number,
  how: RowExecution
) {
  const request = {
    __proto__: null,
    ...execution(how, 'cpu'),
    measure: measures.indexOf(name),
    classes,
    ...arrays,
  }
  succeeded(native().measure(request))
  return arrays.out
}

function elementwise(
  name: (typeof measures)[number],
  inputName: string,
  values: FloatArray,
  options: RowOptions
) {
  const p = floats(values, inputName)
  const { classes } = classesIn(p, inputName, options.classes)
  const out = resultArray(options.out, 'out', lengthOf(p))
  apartOrSame(out, 'out', p, inputName)
  return measure(name, { p, out }, classes, options)
}

function perRow(
  name: (typeof measures)[number],
  options: RowOptions | undefined,
  first: FloatArray,
  second?: FloatArray
) {
  const checkedOptions = checkOptions(options, 'options', rowOptions)
  const p = floats(first, 'p')
  const q = second && floats(second, 'q', lengthOf(p))
  const { classes, rows } = classesIn(p, 'p', checkedOptions.classes)
  const out = resultArray(checkedOptions.out, 'out', rows)
  rejectOverlap(out, 'out', { p, q })
  return measure(name, { p, q, out }, classes, checkedOptions)
}

/**
 * Computes the information content −log p of every element, in nats. I(0) = +∞; a negative number gives NaN.
 *
 * @param p probabilities of any shape; a Float64Array is rounded to single precision
 * @param options `out` may be p itself
 * @returns as many elements as p
 * @throws TypeError, RangeError
 */
export function informationContent(p: FloatArray, options?: ElementwiseOptions): Float32Array {
  return elementwise('informationContent', 'p', p, checkOptions(options, 'options', elementwiseOptions))
}

/**
 * Computes the entropy H(p) = −Σ p log p of every row, in nats, with 0·log 0 = 0. Rows are not checked to add up to 1.
 *
 * @param p [rows, classes]; a Float64Array is rounded to single precision
 * @returns [rows]
 * @throws TypeError, RangeError
 */
export function entropy(p: FloatArray, options?: RowOptions): Float32Array {
  return perRow('entropy', options, p)
}

/**
 * Computes the Kullback–Leibler divergence D(p‖q) = Σ p log(p/q) of every row, in nats. It is +∞ if q = 0 < p anywhere, and
 * a term with p = 0 adds nothing. It works in double precision, because the terms cancel where q is near p.
 *
 * @param p [rows, classes]; a Float64Array is rounded to single precision
 * @param q [rows, classes]
 * @returns [rows]
 * @throws TypeError, RangeError
 */
export function klDivergence(p: FloatArray, q: FloatArray, options?: RowOptions): Float32Array {
  return perRow('klDivergence', options, p, floats(q, 'q'))
}

/**
 * Computes the cross-entropy H(p, q) = −Σ p log q of every row of two distributions, in nats. It is +∞ if q = 0 < p anywhere,
 * and a term with p = 0 adds nothing. For a loss from logits see `crossEntropyLoss`.
 *
 * @param p [rows, classes]; a Float64Array is rounded to single precision
 * @param q [rows, classes]
 * @returns [rows]
 * @throws TypeError, RangeError
 */
export function crossEntropy(p: FloatArray, q: FloatArray, options?: RowOptions): Float32Array {
  return perRow('crossEntropy', options, p, floats(q, 'q'))
}

/**
 * Computes the softmax of every row. The row's maximum is subtracted first, so that no logit is too large. Probabilities
 * below the range of single precision become denormal numbers, then 0. A logit of −∞ gives 0; a row that holds NaN or +∞,
 * or nothing but −∞, gives NaN.
 *
 * @param logits [rows, classes]; a Float64Array is rounded to single precision
 * @param options `out` may be logits itself
 * @returns [rows, classes]
 * @throws TypeError, RangeError
 */
export function softmax(logits: FloatArray, options?: RowOptions): Float32Array {
  return elementwise('softmax', 'logits', logits, checkOptions(options, 'options', rowOptions))
}

/** Computes the logarithm of the softmax without the softmax, so log probabilities that it would round to 0 stay exact. */
export function logSoftmax(logits: FloatArray, options?: RowOptions): Float32Array {
  return elementwise('logSoftmax', 'logits', logits, checkOptions(options, 'options', rowOptions))
}

/** Options of `crossEntropyLoss`. */
export interface CrossEntropyLossOptions<Choice extends GradientChoice = GradientChoice>
  extends RowExecution {
  /** C. Default: as many logits as there are for each label; with probabilities the whole array is one row. */
  classes?: number | undefined
  /** `'mean'` (default): with labels Σ loss_i / Σ weight of the labels, over the rows that are not ignored; with
   * probabilities Σ loss_i / B. Or `'sum'`, or `'none'`. */
  reduction?: Reduction | undefined
  /** The label of rows that take no part, for labels only. Default −1. */
  ignoreIndex?: number | undefined
  /** ε from 0 to 1: the target keeps 1 − ε, and every class gets ε/C. Default 0. */
  labelSmoothing?: number | undefined
  /** Weights of the classes' shares of a target [C], finite and not negative. Default all 1. */
  classWeights?: FloatArray | undefined
  /** Upstream gradient: a number for `'mean'` and `'sum'` (default 1), an array [B] for `'none'` (default all 1). */
  gradOutput?: number | FloatArray | undefined
  /** Whether to compute the gradient (default true), or an array [B,C] to fill, which may be logits itself. */
  gradLogits?: Choice
  /** An array [B] to fill with the rows' losses. */
  losses?: Float32Array | undefined
}

/** Loss and gradient of given logits. */
export interface CrossEntropyLossResult<Choice extends GradientChoice = GradientChoice> {
  /** The scalar that the gradient belongs to: mean or sum of `losses`; for `'none'` Σ gradOutput_i·losses_i. */
  loss: number
  /** Each row's loss in nats [B]; 0 for ignored rows. */
  losses: Float32Array
  /** ∂loss/∂logits [B,C]. */
  gradLogits: Gradient<Choice>
}

/** The options that say which loss, a row for each. */
const crossEntropySettings = {
  reduction: reductionRow,
  ignoreIndex: ignoreIndexRow,
  labelSmoothing: labelSmoothingRow,
}

type OtherOptions = Omit<CrossEntropyLossOptions, keyof typeof crossEntropySettings | keyof RowExecution>

/** The options of crossEntropyLoss. */
export const crossEntropyOptions = [
  ...namesIn(crossEntropySettings),
  ...namesOf<OtherOptions>({
    classes: true,
    classWeights: true,
    gradOutput: true,
    gradLogits: true,
    losses: true,
  }),
  ...rowExecution,
]

/**
 * Computes the cross-entropy loss of given logits, with its gradient:
 * loss_i = −Σ_j weight_j · t_ij · log softmax(logits_i)_j, where t_i is the label's class or the row of probabilities,
 * smoothed. A class with t = 0 adds nothing, whatever its logit. A mean over no weight at all is 0, with gradient 0.
 * Synchronous; a batch's logits are read once from memory. `device: 'auto'` is the CPU: see `RowExecution`.
 *
 * @param logits [B,C]; a Float64Array is rounded to single precision
 * @param target labels [B], each from 0 to C − 1 or `ignoreIndex`; or probabilities [B,C] as a Float32Array or
 *   Float64Array (not checked to add up to 1)
 * @returns the loss, the rows' losses, and the gradient if wanted
 * @throws TypeError, RangeError for arguments; MarginSoftmaxError `ERR_OUT_OF_MEMORY`
 */
export function crossEntropyLoss<Choice extends GradientChoice = true>(
  logits: FloatArray,
  target: LabelArray | FloatArray,
  options?: CrossEntropyLossOptions<Choice>
): CrossEntropyLossResult<Choice> {
  const checkedOptions = checkOptions(options, 'options', crossEntropyOptions)
  const input = floats(logits, 'logits')
  const elements = lengthOf(input)
  if (typeOf(target) === undefined && !isList(target))
    throw wrongType('labels or a Float32Array of probabilities', 'target', target)
  const probabilities = isFloatArray(target)
  const perLabel = elements === 0 || probabilities ? undefined : () => elements / countOf(target)
  const { classes, rows } = classesIn(
    input,
    'logits',
    checkedOptions.classes === undefined ? perLabel?.() : checkedOptions.classes
  )
  if (probabilities && checkedOptions.ignoreIndex !== undefined)
    throw wrongType('no ignoreIndex with probabilities', 'ignoreIndex', checkedOptions.ignoreIndex)
  const { reduction, ignoreIndex, labelSmoothing } = valuesOf(crossEntropySettings, checkedOptions)
  const inputs = {
    labels: probabilities ? undefined : labels(target, 'target', rows, classes, ignoreIndex),
    targets: probabilities ? floats(target, 'target', elements) : undefined,
    classWeights: lossWeights(checkedOptions.classWeights, 'classWeights', classes),
    // As it is after the labels, which may be a list with getters.
    logits: floats(input, 'logits', elements),
  }
  const { gradOutput, ...scalars } = upstream(checkedOptions.gradOutput, reduction, rows)
  const losses = resultArray(checkedOptions.losses, 'losses', rows)
  const gradLogits = outputArray(checkedOptions.gradLogits, 'gradLogits', elements, true)
  rejectOverlap(losses, 'losses', { ...inputs, gradOutput })
  if (gradLogits) {
    rejectOverlap(gradLogits, 'gradLogits', { ...inputs, logits: undefined, gradOutput, losses })
    apartOrSame(gradLogits, 'gradLogits', input, 'logits')
  }
  const request = {
    __proto__: null,
    ...execution(checkedOptions, 'cpu'),
    ...inputs,
    ...scalars,
    gradOutput,
    classes,
    labelSmoothing,
    losses,
    gradLogits,
  }
  const { loss } = succeeded(native().crossEntropyLoss(request))
  return { loss, losses, ...(gradLogits && { gradLogits }) } as CrossEntropyLossResult<Choice>
}
