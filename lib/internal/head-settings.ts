import os from 'node:os'
import type { ProcessGroup } from '../distributed'
import { MarginSoftmaxError } from '../errors'
import type { Execution, ExecutionOptions } from '../execution'
import type { Margin } from '../margins'
import type { Optimizer } from '../optimizers'
import type { Gradient, GradientChoice } from '../outputs'
import type { FloatArray } from './check'
import type { LoadedName, Settings, WeightStorage } from './head-options'
import type { LeftOut } from './native'
import { type ProjectionOptions, projectionTensors } from './projection'
import { elementBytes } from './safetensors'

/** Options of a new head. */
export interface MarginHeadOptions extends ExecutionOptions {
  /** C, the number of classes. */
  classes: number
  /** D, the dimension of the embeddings. */
  dim: number
  /**
   * A projection that is trained with the head: every call then takes features [B,from] in place of embeddings, and `gradInput`
   * is the features' gradient [B,from]. Its weights begin as those of `torch.nn.Linear`, drawn with `seed`; the head's optimizer,
   * learning rate and `maxGradientNorm` are its own, too. It computes on the CPU, in the head's precision, also below a head on
   * a GPU. Of a sharded head every rank has it whole. docs/frozen-features.md shows one. Default: none.
   */
  projection?: ProjectionOptions | undefined
  /** The margin that the loss applies to the target's cosine. Default `arcface()`. */
  margin?: Margin | undefined
  /** Whether the head has a bias [C], for `softmaxMargin()` only. Default false. */
  bias?: boolean | undefined
  /** The optimizer of the weights: `sgd({…})` or `adamW({…})`. Default `sgd()`. */
  optimizer?: Optimizer | undefined
  /**
   * The number of steps over which the margin grows from nothing to its full size, in a straight line. It is the cure if the
   * loss stays near its first value and the accuracy near 0. SphereFace has its λ for that and ignores it. Default 0.
   */
  marginWarmupSteps?: number | undefined
  /** ε from 0 to 1. Default 0. */
  labelSmoothing?: number | undefined
  /**
   * The weight of each class in the loss [C], as `MarginLossOptions` defines it; not to be mistaken for the weights [C,D] that
   * are trained. They go into the head's file. `evaluate` has the same loss; statistics are unweighted. Default all 1.
   */
  classWeights?: FloatArray | undefined
  /** The label of rows that take no part. Default −1. */
  ignoreIndex?: number | undefined
  /**
   * The share of the classes that take part in a training step, above 0 to 1: those of the batch always, others at random up
   * to ⌈sampleRate·C⌉, drawn anew each step without replacement (Partial FC, An et al. 2022, arXiv:2203.15565). Loss,
   * statistics, gradients, weight decay and optimizer state then concern these classes alone; the others stay as they
   * are. Time goes with the sample; evaluation uses every class. Default 1.
   */
  sampleRate?: number | undefined
  /**
   * Whether each negative of the sample stands for (C − 1)/(n − 1) of them in the softmax, where n of C classes are in the
   * sample. Loss and gradients then estimate those of all classes: without the correction, fewer classes push each
   * embedding less (Jean et al. 2015, arXiv:1412.2007; TensorFlow's `subtract_log_q`). Partial FC has none. Default false.
   */
  sampleCorrection?: boolean | undefined
  /**
   * The cosine above which a row excludes a negative from its loss: in noisy data sets such a class is often the same
   * identity under another label. From −1 to 1; not for `softmaxMargin()`, nor together with `labelSmoothing`. Default 1: no
   * class is excluded.
   */
  interclassFilter?: number | undefined
  /**
   * The norm of the terms that a step may skip in each gradient because they cannot matter, as a multiple of the gradient's
   * norm: see `MarginLossOptions`. From 0 (none) to 1e-3. Default 1e-7. With `adamW`, which divides a gradient by its own
   * size, it has no effect: everything is computed.
   */
  negligible?: number | undefined
  /**
   * The norm to which the gradient of class weights, bias and projection is clipped, all of it together, as by
   * `torch.nn.utils.clip_grad_norm_`: a longer gradient is scaled down to this norm, and one that is not finite counts as 0.
   * `gradInput` and the reported `gradientNorm` are those before clipping. The gradient is never stored but computed twice, so
   * a step takes about 1.7 times as long. From 0. Default 0: no clipping.
   */
  maxGradientNorm?: number | undefined
  /**
   * The type in which the class weights [C,D] are stored. Default `'float32'`. `'bfloat16'` halves their memory, on the CPU
   * alone. A step reads such weights as they are, computes the new ones in float32, and rounds each at random to one of its two
   * neighbours: the mean is exact, and updates far below bfloat16's resolution add up. The random bits follow from seed, step,
   * class and column. First values are rounded to the nearest. Bias and optimizer state stay float32. Either `precision`
   * goes with it; docs/half-precision.md says when it is safe.
   */
  weightStorage?: WeightStorage | undefined
  /**
   * Seeds the weights' first values (normally distributed with deviation 0.01), the samples, and the rounding of bfloat16
   * weights: an integer from 0. Default 0.
   */
  seed?: number | undefined
  /** First values of the weights [C,D] in place of random ones. */
  weights?: FloatArray | undefined
  /** The name of each class [C], no two alike. They go into the head's file. Default: classes have no names. */
  classNames?: readonly string[] | undefined
  /**
   * Spreads the classes over the ranks of a process group (`margin-softmax/distributed`): each holds C/R of them with their
   * optimizer state. Every rank makes the same calls with the same options, each with a batch of its own, of any length. Loss
   * and statistics are those of all batches together; `losses` and `gradInput` are those of the rank's own rows. The results
   * are those of one process with the batches in rank order, within rounding.
   */
  group?: ProcessGroup | undefined
}

/** Options of a new head with a projection, which says the dimension of the embeddings. */
export interface ProjectedHeadOptions extends Omit<MarginHeadOptions, 'dim' | 'projection'> {
  /** D. Default `projection.to`. */
  dim?: number | undefined
  /** As in `MarginHeadOptions`. */
  projection: ProjectionOptions
}

/** Options of `MarginHead.load`, besides changes. */
export interface LoadOptions
  extends ExecutionOptions,
    HeadChanges,
    Pick<MarginHeadOptions, 'group' | LoadedName> {
  /**
   * Whether to compare what is read with the SHA-256 of each tensor that `save` put into the file. A rank that needs only a
   * part of a file reads all of it for that. Files without checksums load either way. Default true.
   */
  checksums?: boolean | undefined
}

/** Option of calls that can be aborted. */
export interface SignalOptions {
  /** Rejects the call with its reason once it is aborted. */
  signal?: AbortSignal | undefined
}

/** Options of one training step. */
export interface StepOptions<Choice extends GradientChoice = GradientChoice> {
  /** Replaces the optimizer's learning rate in this step; schedules are up to the caller. */
  learningRate?: number | undefined
  /** Whether to compute the gradient of the rows that go in (default true), or an array of their shape to fill. */
  gradInput?: Choice
  /** The weight of each row in the loss [B], as `MarginLossOptions` defines it. Default all 1. */
  sampleWeights?: FloatArray | undefined
}

/**
 * Statistics that tell why training goes well or stalls: means over the rows that are not ignored, each of which counts the
 * same, whatever its weight in the loss.
 */
export interface StepStatistics {
  /** Share of the rows whose own class scores above every other, without any margin. */
  accuracy: number
  /** Mean cosine to the own class; null for `softmaxMargin()`, which has no cosines. */
  meanTargetCosine: number | null
  /** Mean of the largest cosine to another class; null for `softmaxMargin()`. */
  meanLargestOtherCosine: number | null
  /** Norm of the gradient of all class weights (and bias, and projection); 0 where nothing was updated. */
  gradientNorm: number
  /** Norm of `gradInput`; 0 where it was not asked for. */
  gradInputNorm: number
  /** The share of the work that the backward pass skipped because it cannot matter, and the bounds. */
  leftOut: LeftOut
}

/** Loss and statistics of a batch. */
export interface EvaluateResult {
  /** Mean loss in nats over the rows that are not ignored, weighted by `classWeights` and `sampleWeights`. */
  loss: number
  /** Each row's loss times its weights [B]; 0 for ignored rows. */
  losses: Float32Array
  /** Means over the batch, which tell why training goes well or stalls. */
  stats: StepStatistics
}

/** Loss and statistics of a batch before the update, and the gradient that goes back through the network. */
export interface StepResult<Choice extends GradientChoice = GradientChoice> extends EvaluateResult {
  /** ∂loss/∂embeddings [B,D], at the weights before the update; with a projection ∂loss/∂features [B,from]. */
  gradInput: Gradient<Choice>
}

/**
 * Changes of how an existing head trains: each option as for a new head; an undefined one stays as it is.
 * `classes`, `dim` and `bias` may only be what they are. Steps of `marginWarmupSteps` count from the head's first.
 */
export interface HeadChanges
  extends Partial<Pick<MarginHeadOptions, Exclude<keyof Settings, LoadedName> | 'classNames'>> {}

/** First values of classes that are added to a head. */
export interface AddedClasses {
  /** Their weights [n,D]. Default: random ones, as of a new head. */
  weights?: FloatArray | undefined
  /** Their names [n]: to be given where the other classes have names, and only there. */
  classNames?: readonly string[] | undefined
  /** Their weights in the loss [n]: to be given where the other classes have `classWeights`, and only there. */
  classWeights?: FloatArray | undefined
}

/** All that a head is made of, apart from the numbers that it holds. */
export interface HeadPlan {
  settings: Settings
  execution: Execution
  group?: ProcessGroup
  /** Updates made so far. */
  iteration: number
  /** The iteration at which the optimizer's state was zero. */
  optimizerStart: number
  /** The name of each class, all of them on every rank. */
  classNames?: readonly string[]
  /** The weight of each class in the loss [C], of all classes on every rank; nobody changes it. */
  classWeights?: Float32Array
}

/** No machine maps more than this many bytes. */
const addressable = 2n ** 47n

/** The tensor of the classes' weights in the loss, in a file: those of its classes. */
export const weightsTensor = 'class_weights'

/** Native arrays of the optimizer's state by the names that they have in a file. */
export const stateNames = {
  sgd: { weightState0: 'optimizer.momentum', biasState0: 'optimizer.biasMomentum' },
  adamw: {
    weightState0: 'optimizer.firstMoment',
    weightState1: 'optimizer.secondMoment',
    biasState0: 'optimizer.biasFirstMoment',
    biasState1: 'optimizer.biasSecondMoment',
  },
}

/** The type in a file, and in memory, of a head's tensor. (Spelt out: the public types may need none of Node's.) */
export function tensorType(settings: Settings, name: string): 'F32' | 'BF16' {
  return name === 'weight' && settings.weightStorage === 'bfloat16' ? 'BF16' : 'F32'
}

/** The tensors of a head's file, or of a shard of `classes` of its classes, and their shapes. */
export function expectedShapes(settings: Settings, classes = settings.classes): Record<string, number[]> {
  const matrix = [classes, settings.dim]
  const row = [classes]
  const { bias } = settings
  const shapes: Record<string, number[]> = { weight: matrix }
  if (bias) shapes.bias = row
  for (const [name, fileName] of Object.entries(statesOf(settings)))
    if (bias || !name.startsWith('bias')) shapes[fileName] = name.startsWith('bias') ? row : matrix
  for (const { fileName, shape } of projectionArrays(settings)) shapes[fileName] = shape
  return shapes
}

/** The optimizer's state by its native names, of the class weights and the bias. */
function statesOf({ optimizer }: Settings): Record<string, string> {
  return optimizer.name === 'sgd' && optimizer.momentum === 0 ? {} : stateNames[optimizer.name]
}

/** The projection's arrays with their optimizer state: native names, names in a file, shapes. */
export function projectionArrays(settings: Settings): { name: string; fileName: string; shape: number[] }[] {
  const tensors = projectionTensors(settings.projection)
  const states = Object.entries(statesOf(settings)).filter(([name]) => name.startsWith('weight'))
  const trained = tensors.filter((tensor) => tensor.trained)
  const statesOfTensors = states.flatMap(([state, stateName]) =>
    trained.map(({ name, fileName, shape }) => ({
      name: state.replace('weight', name),
      fileName: `${stateName}.${fileName}`,
      shape,
    }))
  )
  return [...tensors, ...statesOfTensors]
}

/**
 * Refuses a head that does not fit, before anything is allocated: of what goes beyond a container's memory, the system
 * would kill the process.
 * @param onCpu whether its arrays lie in this machine's memory
 * @param besides bytes of another head that is there meanwhile
 */
export function checkBytes(settings: Settings, classes: number, onCpu: boolean, besides = 0n): void {
  const bytes = bytesOf(settings, classes) + besides
  const limit = onCpu ? memoryLimit() : addressable
  if (bytes > limit)
    throw new MarginSoftmaxError(
      'ERR_OUT_OF_MEMORY',
      `Expected ${bytes} bytes of memory for the head but this process may use ${limit}`
    )
}

/** Counts the bytes of a head's arrays. */
export function bytesOf(settings: Settings, classes: number): bigint {
  return Object.entries(expectedShapes(settings, classes)).reduce(
    (sum, [name, shape]) =>
      sum +
      shape.reduce(
        (product, length) => product * BigInt(length),
        BigInt(elementBytes[tensorType(settings, name)])
      ),
    0n
  )
}

/** The bytes that this process may use: the machine's memory, or its container's. */
function memoryLimit(): bigint {
  const constrained = process.constrainedMemory?.() ?? 0 // 0 and 2^64 − 1 stand for no limit
  const total = os.totalmem()
  return BigInt(Math.floor(constrained > 0 ? Math.min(constrained, total) : total))
}
