/**
 * The tfjs adapter: margin losses as differentiable operations over tfjs tensors.
 *
 * tfjs is not imported here, only its types: the caller hands over the namespace in use, so there is one copy of
 * tfjs-core, whichever backend it runs on. Values cross to the native side through `dataSync`.
 * @module margin-softmax/tfjs
 */
import type * as core from '@tensorflow/tfjs-core'
import { wrongType, wrongValue } from './errors'
import {
  type Batch,
  type LabelArray,
  type MarginLossOptions as LossOptions,
  type MarginHead,
  type MarginLossResult,
  marginLossSync,
  type StepResult,
} from './index'
import { checkOptions } from './internal/check'

import { isObject } from './internal/intrinsics'
import { lossOptions } from './loss'

export {
  registerWasmGradients,
  type TensorflowKernels,
  type WasmGradientsOptions,
} from './internal/tfjs-gradients'

/** The part of tfjs that the adapter needs: `import * as tf from '@tensorflow/tfjs'` (or tfjs-node, or tfjs-core) has it. */
export type Tensorflow = Pick<
  typeof core,
  'Tensor' | 'addN' | 'customGrad' | 'engine' | 'mul' | 'scalar' | 'tensor' | 'tidy' | 'zeros'
>

/** Class indices [B]: an int32 tensor, or any labels that `marginLossSync` takes. */
export type Labels = core.Tensor1D | LabelArray

/** The options of `marginLossSync` but those that tfjs decides: the upstream gradient, and which gradients to compute. */
export type MarginLossOptions = Omit<
  LossOptions,
  'gradOutput' | 'losses' | 'gradInput' | 'gradWeight' | 'gradBias'
>

/** Options of `headLoss`: of one training step of a head. */
export interface HeadLossOptions {
  /** The learning rate of this step of the head. Default: that of the head's optimizer. */
  learningRate?: number | undefined
  /** Called with the head's result (loss, losses, stats) as soon as the head has made its step. */
  onStep?: ((step: StepResult) => void) | undefined
}

/** The losses, bound to one tfjs. */
export interface Adapter {
  /**
   * Margin-softmax loss, differentiable with respect to input, weight and bias (first derivatives).
   *
   * @param input embeddings, float32 [B, D]
   * @param weight class centres, float32 [C, D]
   * @param labels classes [B], 0 to C − 1, or `ignoreIndex`
   * @param options margin (default arcface()), reduction (default 'mean'), ignoreIndex, labelSmoothing, threads …
   * @param bias float32 [C], for softmaxMargin() only
   * @returns the loss, a scalar; with reduction 'none' the losses [B]
   * @throws TypeError, RangeError
   */
  marginLoss(
    input: core.Tensor2D,
    weight: core.Tensor2D,
    labels: Labels,
    options: MarginLossOptions & { reduction: 'none' },
    bias?: core.Tensor1D
  ): core.Tensor1D
  /** The same, reduced to a scalar. */
  marginLoss(
    input: core.Tensor2D,
    weight: core.Tensor2D,
    labels: Labels,
    options?: MarginLossOptions,
    bias?: core.Tensor1D
  ): core.Scalar
  /**
   * The loss of a MarginHead over a backbone's embeddings. **Evaluating it makes one step of the head**, with the head's
   * own optimizer; its gradient with respect to the embeddings is what the backbone's optimizer then gets. So call it
   * exactly once in the function given to `minimize` or `variableGrads`, and nowhere else (`head.evaluateSync` gives
   * losses without a step):
   *
   *     optimizer.minimize(() => headLoss(head, backbone.predict(images), labels, { onStep: ({ stats }) => … }))
   *
   * Factors on the returned loss reach the backbone only: the head has made its step by then.
   *
   * @param embeddings float32 [B, head.dim]; of a head with a projection features [B, head.projection.from]
   * @param labels classes [B], or the head's ignoreIndex
   * @returns the head's loss, a scalar, before the step
   * @throws TypeError, RangeError
   */
  headLoss(
    head: MarginHead,
    embeddings: core.Tensor2D,
    labels: Labels,
    options?: HeadLossOptions
  ): core.Scalar
}

const decidedByTfjs = ['gradOutput', 'losses', 'gradInput', 'gradWeight', 'gradBias']
const optionNames = lossOptions.filter((name) => !decidedByTfjs.includes(name))

type Differentiable = 'gradInput' | 'gradWeight' | 'gradBias'

/** Binds the losses to a tfjs namespace: `const { marginLoss, headLoss } = adapter(tf)`. */
export function adapter(tf: Tensorflow): Adapter {
  if (typeof tf?.customGrad !== 'function' || typeof tf.engine !== 'function') {
    throw wrongType('the tfjs namespace', 'tf', tf)
  }

  function marginLoss(
    input: core.Tensor2D,
    weight: core.Tensor2D,
    labels: Labels,
    options: MarginLossOptions = {},
    bias?: core.Tensor1D
  ): core.Scalar | core.Tensor1D {
    const checkedOptions = checkOptions(options, 'options', optionNames)
    const batch: Batch = {
      input: floats(input, 2, 'input'),
      weight: floats(weight, 2, 'weight'),
      labels: classes(labels),
      dim: input.shape[1],
      ...(bias !== undefined && { bias: floats(bias, 1, 'bias') }),
    }
    if (weight.shape[1] !== batch.dim) {
      throw wrongValue(`${batch.dim} columns`, 'weight', weight.shape[1])
    }
    const parts: [Differentiable, core.Tensor][] = [
      ['gradInput', input],
      ['gradWeight', weight],
      ...(bias ? [['gradBias', bias] as [Differentiable, core.Tensor]] : []),
    ]
    const reduced = checkedOptions.reduction !== 'none'
    const likely = parts.filter(([, tensor]) => expectsGradient(tensor)).map(([name]) => name)
    // A gradient of mean or sum only needs the upstream factor at the end, so what is likely to be asked for comes along
    // with the loss. That of 'none' needs dy from the start.
    let computed: Partial<MarginLossResult> = compute(reduced ? likely : [])
    const { loss, losses } = computed as MarginLossResult
    let computedFor: Float32Array | undefined

    function compute(names: Differentiable[], gradOutput?: Float32Array): MarginLossResult {
      const wanted = (name: Differentiable) => names.includes(name)
      return marginLossSync(batch, {
        ...checkedOptions,
        gradOutput,
        gradInput: wanted('gradInput'),
        gradWeight: wanted('gradWeight'),
        gradBias: bias !== undefined && wanted('gradBias'),
      })
    }

    function gradient(name: Differentiable, shape: number[], dy: core.Tensor): core.Tensor {
      firstDerivative('marginLoss')
      if (reduced) {
        const values = computed[name] ?? compute([name])[name]
        return scaled(values as Float32Array, shape, dy)
      }
      const upstream = dy.dataSync() as Float32Array
      if (!computed[name] || !computedFor?.every((value, row) => Object.is(value, upstream[row]))) {
        computed = compute(likely.includes(name) ? likely : [name], upstream)
        computedFor = upstream
      }
      return tf.tensor(computed[name] as Float32Array, shape, 'float32')
    }

    const value = () => (reduced ? tf.scalar(loss) : tf.tensor(losses, [losses.length], 'float32'))
    if (!taping()) return value() as core.Scalar
    // tf.customGrad evaluates the gradients of all its inputs, asked for or not. Hence one of them for each input: the
    // first carries the loss, the others add nothing to it, and tfjs visits those that lead to what it differentiates.
    return tf.tidy(() => {
      const terms = parts.map(([name, tensor], i) =>
        tf.customGrad(() => ({
          value: i === 0 ? value() : tf.zeros(reduced ? [] : [losses.length]),
          gradFunc: (dy: core.Tensor) => gradient(name, tensor.shape, dy),
        }))(tensor)
      )
      return tf.addN(terms) as core.Scalar
    })
  }

  function headLoss(
    head: MarginHead,
    embeddings: core.Tensor2D,
    labels: Labels,
    options: HeadLossOptions = {}
  ): core.Scalar {
    if (!isObject(head) || typeof head.stepSync !== 'function') {
      throw wrongType('a MarginHead', 'head', head)
    }
    const { learningRate, onStep } = checkOptions(options, 'options', ['learningRate', 'onStep'])
    if (onStep !== undefined && typeof onStep !== 'function') {
      throw wrongType('a function', 'onStep', onStep)
    }
    const values = floats(embeddings, 2, 'embeddings')
    const columns = head.projection?.from ?? head.dim
    if (embeddings.shape[1] !== columns) {
      throw wrongValue(`${columns} columns`, 'embeddings', embeddings.shape[1])
    }
    const wanted = taping()
    const step = head.stepSync(values, classes(labels), {
      ...(learningRate !== undefined && { learningRate }),
      gradInput: wanted,
    })
    onStep?.(step)
    if (!wanted) return tf.scalar(step.loss)
    return tf.customGrad(() => ({
      value: tf.scalar(step.loss),
      gradFunc: (dy: core.Tensor) => {
        firstDerivative('headLoss')
        return scaled(step.gradInput as Float32Array, embeddings.shape, dy)
      },
    }))(embeddings) as core.Scalar
  }

  /** Whether tfjs is recording operations to differentiate them. */
  function taping(): boolean {
    return tf.engine().state.gradientDepth > 0
  }

  /** A trainable variable, or computed since recording began. Only a forecast: any other gets its gradient when asked for. */
  function expectsGradient(tensor: core.Tensor): boolean {
    if (!taping()) return false
    if ((tensor as core.Variable).trainable) return true
    return tf.engine().state.activeTape.some((node) => node.outputs.some((output) => output.id === tensor.id))
  }

  /** The gradients come from outside tfjs, so a second derivative would silently lack their share. */
  function firstDerivative(name: string): void {
    if (taping()) {
      throw new RangeError(`Expected first derivatives for ${name} but received a gradient within a gradient`)
    }
  }

  function scaled(values: Float32Array, shape: number[], dy: core.Tensor): core.Tensor {
    const gradient = tf.tensor(values, shape, 'float32')
    return dy.dataSync()[0] === 1 ? gradient : tf.mul(gradient, dy)
  }

  function isTensor(value: unknown): value is core.Tensor {
    return isObject(value) && value instanceof tf.Tensor
  }

  function floats(tensor: core.Tensor, rank: number, name: string): Float32Array {
    if (!isTensor(tensor)) {
      throw wrongType('a tensor of the bound tfjs', name, tensor)
    }
    inUse(tensor, name)
    if (tensor.dtype !== 'float32') {
      throw new TypeError(`Expected a float32 tensor for ${name} but received ${describe(tensor)}`)
    }
    if (tensor.rank !== rank) {
      throw new RangeError(`Expected a tensor of rank ${rank} for ${name} but received ${describe(tensor)}`)
    }
    return tensor.dataSync<'float32'>()
  }

  function classes(labels: Labels): LabelArray {
    if (!isTensor(labels)) return labels
    inUse(labels, 'labels')
    if (labels.dtype !== 'int32') {
      throw new TypeError(`Expected an int32 tensor for labels but received ${describe(labels)}`)
    }
    if (labels.rank !== 1) {
      throw new RangeError(`Expected a tensor of rank 1 for labels but received ${describe(labels)}`)
    }
    return labels.dataSync<'int32'>()
  }

  return { marginLoss: marginLoss as Adapter['marginLoss'], headLoss }
}

function inUse(tensor: core.Tensor, name: string): void {
  if (tensor.isDisposed)
    throw new RangeError(`Expected a tensor in use for ${name} but received a disposed ${describe(tensor)}`)
}

function describe({ dtype, shape }: core.Tensor): string {
  return `${dtype} [${shape.join(', ')}]`
}
