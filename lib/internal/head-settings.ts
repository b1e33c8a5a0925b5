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
import { elementBytes } from './safetensors'

/** What a new head is. */
export interface MarginHeadOptions extends ExecutionOptions {
  /** C, the number of classes. */
  classes: number
  /** D, the dimension of the embeddings. */
  dim: number
  /** Default `arcface()`. */
  margin?: Margin | undefined
  /** Whether the head has a bias [C], for `softmaxMargin()` only. Default false. */
  bias?: boolean | undefined
  /** `sgd({…})` or `adamW({…})`; default `sgd()`. */
  optimizer?: Optimizer | undefined
  /**
   * Steps over which the margin grows from nothing to its full size, in a straight line. The cure where the loss stays
   * near its first value and the accuracy near 0. SphereFace has its λ for that and takes no part. Default 0.
   */
  marginWarmupSteps?: number | undefined
  /** ε from 0 to 1. Default 0. */
  labelSmoothing?: number | undefined
  /**
   * What each class counts in the loss [C], as `MarginLossOptions` defines it; not to be mistaken for the weights [C,D] that
   * are trained. They go into the head's file. `evaluate` has the same loss; statistics are unweighted. Default all 1.
   */
  classWeights?: FloatArray | undefined
  /** The label of rows that take no part. Default −1. */
  ignoreIndex?: number | undefined
  /**
   * Share of the classes that take part in a training step, above 0 to 1: those of the batch always, others at random up
   * to ⌈sampleRate·C⌉, drawn anew each step without replacement (Partial FC, An et al. 2022, arXiv:2203.15565). Loss,
   * statistics, gradients, weight decay and optimizer state then concern these classes alone; the others stay as they
   * are. Time goes with the sample; evaluation uses every class. Default 1.
   */
  sampleRate?: number | undefined
  /**
   * Whether each other class that takes part stands for (C − 1)/(n − 1) of them in the softmax, n of C classes being in
   * the sample. Loss and gradients then estimate those of all classes: without the correction, fewer classes push each
   * embedding less (Jean et al. 2015, arXiv:1412.2007; TensorFlow's `subtract_log_q`). Partial FC has none. Default false.
   */
  sampleCorrection?: boolean | undefined
  /**
   * A row leaves out other classes whose cosine to it exceeds this: in noisy data sets they often are the same identity
   * under another label. From −1 to 1; not for `softmaxMargin()`, nor together with `labelSmoothing`. Default 1: none is
   * left out.
   */
  interclassFilter?: number | undefined
  /**
   * What a step may leave out of each gradient because it cannot matter, as a multiple of the gradient's norm: see
   * `MarginLossOptions`. From 0 (nothing) to 1e-3. Default 1e-7. With `adamW`, which divides a gradient by its own size, it
   * has no effect: everything is computed.
   */
  negligible?: number | undefined
  /**
   * To which the gradient of class weights and bias is clipped, all classes together, as `torch.nn.utils.clip_grad_norm_` has
   * it: a longer one is scaled down to this norm, and one that is not finite counts as 0. `gradInput` and the reported
   * `gradientNorm` are those before. The gradient is computed twice, since it is never stored: a step takes about 1.7 times
   * as long. From 0. Default 0: it is not clipped.
   */
  maxGradientNorm?: number | undefined
  /**
   * What the class weights [C,D] are stored in. `'bfloat16'` halves their memory, on the CPU alone: a step reads them as
   * they are, computes the new ones in float32 and rounds each at random to one of its two neighbours, so that the mean
   * is the exact one and updates far below a bfloat16's resolution add up. The random bits belong to seed, step, class
   * and column. Bias and optimizer state stay float32. Goes with either `precision`; docs/half-precision.md says when it
   * is safe. First values are rounded to the nearest. Default `'float32'`.
   */
  weightStorage?: WeightStorage | undefined
  /**
   * Of the weights' first values, normally distributed with deviation 0.01, of the samples, and of the rounding of
   * bfloat16 weights: an integer from 0. Default 0.
   */
  seed?: number | undefined
  /** First values of the weights [C,D] in place of random ones. */
  weights?: FloatArray | undefined
  /** The name of each class [C], no two alike. They go into the head's file. Default: classes have no names. */
  classNames?: readonly string[] | undefined
  /**
   * Shares the classes out over the ranks of a process group (`margin-softmax/distributed`): each holds C/R of them with
   * their optimizer state. Every rank makes the same calls with the same options, each with its own batch of whatever
   * length; loss and statistics are those of all batches together, `losses` and `gradInput` are the rank's own rows'.
   * The results are those of one process with the batches in rank order, within rounding.
   */
  group?: ProcessGroup | undefined
}

/** How a head is read from its file. */
export interface LoadOptions
  extends ExecutionOptions,
    HeadChanges,
    Pick<MarginHeadOptions, 'group' | LoadedName> {
  /**
   * Whether to hold what is read against the SHA-256 of each tensor that `save` put into the file. A rank that needs only
   * a part of a file reads all of it for that. Files without checksums load either way. Default true.
   */
  checksums?: boolean | undefined
}

/** How a call may be given up. */
export interface SignalOptions {
  /** Rejects the call with its reason once it is aborted. */
  signal?: AbortSignal | undefined
}

/** Of one training step. */
export interface StepOptions<Choice extends GradientChoice = GradientChoice> {
  /** Takes the place of the optimizer's learning rate in this step: schedules are the caller's. */
  learningRate?: number | undefined
  /** Whether to compute the embeddings' gradient (default true), or an array [B,D] to fill. */
  gradInput?: Choice
  /** What each row counts in the loss [B], as `MarginLossOptions` defines it. Default all 1. */
  sampleWeights?: FloatArray | undefined
}

/**
 * What tells why training goes well or stalls: means over the rows that are not ignored, each of which counts the same
 * whatever its weight in the loss.
 */
export interface StepStatistics {
  /** Share of the rows whose own class scores above every other, without any margin. */
  accuracy: number
  /** Mean cosine to the own class; null for `softmaxMargin()`, which has no cosines. */
  meanTargetCosine: number | null
  /** Mean of the largest cosine to another class; null for `softmaxMargin()`. */
  meanLargestOtherCosine: number | null
  /** Norm of the gradient of all class weights (and bias); 0 where nothing was updated. */
  gradientNorm: number
  /** Norm of `gradInput`; 0 where it was not asked for. */
  gradInputNorm: number
  /** What the backward pass left out because it cannot matter. */
  leftOut: LeftOut
}

/** What a batch scores. */
export interface EvaluateResult {
  /** Mean loss in nats over the rows that are not ignored, weighted by `classWeights` and `sampleWeights`. */
  loss: number
  /** Each row's loss times its weights [B]; 0 for ignored rows. */
  losses: Float32Array
  /** Means over the batch: why training goes well or stalls. */
  stats: StepStatistics
}

/** What a batch scored before the update, and what goes back through the network. */
export interface StepResult<Choice extends GradientChoice = GradientChoice> extends EvaluateResult {
  /** ∂loss/∂embeddings [B,D], at the weights before the update. */
  gradInput: Gradient<Choice>
}

/**
 * How a head that there is already trains from now on: each option as for a new head, and undefined leaves it as it is.
 * `classes`, `dim` and `bias` may only be what they are. Steps of `marginWarmupSteps` count from the head's first.
 */
export interface HeadChanges
  extends Partial<Pick<MarginHeadOptions, Exclude<keyof Settings, LoadedName> | 'classNames'>> {}

/** What classes that are added to a head begin with. */
export interface AddedClasses {
  /** Their weights [n,D]. Default: random ones, as of a new head. */
  weights?: FloatArray | undefined
  /** Their names [n]: to be given where the other classes have names, and only there. */
  classNames?: readonly string[] | undefined
  /** What they count in the loss [n]: to be given where the other classes have `classWeights`, and only there. */
  classWeights?: FloatArray | undefined
}

/** What a head is made as, apart from the numbers that it holds. */
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
  /** What each class counts in the loss [C], of all classes on every rank; nobody changes it. */
  classWeights?: Float32Array
}

/** No machine maps more than this many bytes. */
const addressable = 2n ** 47n

/** The classes' names in a file: a JSON array in UTF-8. */
export const namesTensor = 'class_names'

/** What each class counts in the loss, in a file: those of its classes. */
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
  const { optimizer, bias } = settings
  const shapes: Record<string, number[]> = { weight: matrix }
  if (bias) shapes.bias = row
  if (optimizer.name === 'sgd' && optimizer.momentum === 0) return shapes
  for (const [name, fileName] of Object.entries(stateNames[optimizer.name]))
    if (bias || !name.startsWith('bias')) shapes[fileName] = name.startsWith('bias') ? row : matrix
  return shapes
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

/** What this process may use at most: the machine's memory, or its container's. */
function memoryLimit(): bigint {
  const constrained = process.constrainedMemory?.() ?? 0 // 0 and 2^64 − 1 stand for no limit
  const total = os.totalmem()
  return BigInt(Math.floor(constrained > 0 ? Math.min(constrained, total) : total))
}
