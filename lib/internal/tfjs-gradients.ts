/**
 * The gradients that TensorFlow.js's wasm backend lacks, made of operations that it has.
 *
 * The gradient of a filter is a convolution itself: of the images, batch and channels swapped, by the upstream gradient in
 * the filter's place, where stride and dilation change roles. The gradient of the images is one by the flipped filter. So
 * both run at about the speed of the forward pass.
 */
import type * as core from '@tensorflow/tfjs-core'
import { wrongType, wrongValue } from '../errors'
import { boolean, checkOptions } from './check'

/** The part of tfjs that the gradients need: `import * as tf from '@tensorflow/tfjs'` (or tfjs-core) has it. */
export type TensorflowKernels = Pick<
  typeof core,
  | 'backend_util'
  | 'conv2d'
  | 'depthwiseConv2d'
  | 'getKernel'
  | 'getKernelsForBackend'
  | 'greaterEqual'
  | 'less'
  | 'logicalAnd'
  | 'pad'
  | 'registerKernel'
  | 'reshape'
  | 'reverse'
  | 'scalar'
  | 'scatterND'
  | 'slice'
  | 'sum'
  | 'tensor'
  | 'tidy'
  | 'transpose'
  | 'unregisterKernel'
  | 'where'
>

/** Options of `registerWasmGradients`: which gradients it registers. */
export interface WasmGradientsOptions {
  /**
   * Replaces two of the backend's own, too; false by default. Its `MaxPoolGrad` loses the gradient of each window without a
   * value above 0, and its `Conv2DBackpropInput` is several times slower than a convolution.
   */
  replace?: boolean | undefined
}

type Convolution = Pick<
  core.Conv2DBackpropFilterAttrs & core.DepthwiseConv2dNativeBackpropInputAttrs,
  'strides' | 'pad' | 'dimRoundingMode' | 'dataFormat' | 'filterShape' | 'inputShape'
> & { dilations?: [number, number] | number }
type Attributes = Convolution & core.MaxPoolGradAttrs & core.UnsortedSegmentSumAttrs
type Inputs = Record<string, core.Tensor>
type Gradient = (inputs: Inputs, attributes: Attributes) => core.Tensor
type Shape4D = core.Tensor4D['shape']
type Info = core.backend_util.Conv2DInfo

const backendName = 'wasm'
const ours = new WeakSet<core.KernelFunc>()

/**
 * Gives TensorFlow.js's wasm backend the gradients that it lacks, so that convolutional networks train there: those of the
 * filters of `conv2d`, `conv2dTranspose`, `depthwiseConv2d` and `separableConv2d`, of the images of a depthwise
 * convolution, and of `gather` (the embedding layer). What the backend has stays as it is, unless `replace` says otherwise.
 *
 *     import '@tensorflow/tfjs-backend-wasm'
 *     registerWasmGradients(tf, { replace: true })
 *     await tf.setBackend('wasm')
 *
 * @param tf the tfjs namespace in use
 * @returns the names of the kernels that this call registered; none of them in a second call
 * @throws TypeError; RangeError where the wasm backend has not been imported
 */
export function registerWasmGradients(tf: TensorflowKernels, options: WasmGradientsOptions = {}): string[] {
  if (typeof tf?.registerKernel !== 'function' || typeof tf.getKernelsForBackend !== 'function')
    throw wrongType('the tfjs namespace', 'tf', tf)
  const { replace = false } = checkOptions(options, 'options', ['replace'])
  boolean(replace, 'replace')
  if (tf.getKernelsForBackend(backendName).length === 0)
    throw wrongValue('@tensorflow/tfjs-backend-wasm to be imported', 'tf', tf)
  const { missing, better } = gradients(tf)
  const registered: string[] = []
  for (const [kernelName, gradient] of Object.entries({ ...missing, ...(replace && better) })) {
    const present = tf.getKernel(kernelName, backendName)
    if (present && (ours.has(present.kernelFunc) || kernelName in missing)) continue
    const kernelFunc: core.KernelFunc = ({ inputs, attrs }) =>
      tf.tidy(() => gradient(inputs as Inputs, attrs as unknown as Attributes))
    ours.add(kernelFunc)
    if (present) tf.unregisterKernel(kernelName, backendName)
    tf.registerKernel({ kernelName, backendName, kernelFunc })
    registered.push(kernelName)
  }
  return registered
}

function gradients(tf: TensorflowKernels): Record<'missing' | 'better', Record<string, Gradient>> {
  function geometry(images: number[], filter: number[], convolution: Convolution, depthwise: boolean): Info {
    const { strides, dilations = 1, pad, dimRoundingMode, dataFormat = 'NHWC' } = convolution
    if (dataFormat !== 'NHWC')
      throw wrongValue("'NHWC', which the wasm backend convolves,", 'dataFormat', dataFormat)
    const [inShape, filterShape] = [images as Shape4D, filter as Shape4D]
    return tf.backend_util.computeConv2DInfo(
      inShape,
      filterShape,
      strides,
      dilations,
      pad,
      dimRoundingMode,
      depthwise
    )
  }

  /** The result of `convolve` with the forward pass's padding in front, and enough behind to reach all of the filter. */
  function overFilter(info: Info, convolve: (pad: core.backend_util.ExplicitPadding) => core.Tensor) {
    const { filterHeight, filterWidth, padInfo } = info
    const height = (filterHeight - 1) * info.dilationHeight + (info.outHeight - 1) * info.strideHeight + 1
    const width = (filterWidth - 1) * info.dilationWidth + (info.outWidth - 1) * info.strideWidth + 1
    const result = convolve([
      [0, 0],
      [padInfo.top, Math.max(0, height - info.inHeight - padInfo.top)],
      [padInfo.left, Math.max(0, width - info.inWidth - padInfo.left)],
      [0, 0],
    ])
    // Rows and columns that the stride never reached make it larger than the filter.
    return tf.slice(result, [0, 0, 0, 0], [-1, filterHeight, filterWidth, -1])
  }

  // [filterHeight, filterWidth, inChannels, outChannels]
  function filterGradient({ x, dy }: Inputs, attributes: Attributes): core.Tensor {
    const info = geometry(x.shape, attributes.filterShape, attributes, false)
    const images = tf.transpose(x, [3, 1, 2, 0]) as core.Tensor4D
    const filter = tf.transpose(dy, [1, 2, 0, 3]) as core.Tensor4D
    const dilations: [number, number] = [info.strideHeight, info.strideWidth]
    const result = overFilter(info, (pad) => tf.conv2d(images, filter, 1, pad, 'NHWC', dilations))
    return tf.transpose(result, [1, 2, 0, 3])
  }

  // [filterHeight, filterWidth, inChannels, multiplier]: one image with the channels of all of them, then their sum
  function depthwiseFilterGradient({ x, dy }: Inputs, attributes: Attributes): core.Tensor {
    const info = geometry(x.shape, attributes.filterShape, attributes, true)
    const { batchSize, inChannels, outChannels, filterHeight, filterWidth } = info
    const channels = batchSize * inChannels
    const images = tf.reshape(tf.transpose(x, [1, 2, 0, 3]), [1, info.inHeight, info.inWidth, channels])
    const filterShape: Shape4D = [info.outHeight, info.outWidth, channels, outChannels / inChannels]
    const filter = tf.reshape(tf.transpose(dy, [1, 2, 0, 3]), filterShape) as core.Tensor4D
    const strides: [number, number] = [info.dilationHeight, info.dilationWidth]
    const dilations: [number, number] = [info.strideHeight, info.strideWidth]
    const result = overFilter(info, (pad) =>
      tf.depthwiseConv2d(images as core.Tensor4D, filter, strides, pad, 'NHWC', dilations)
    )
    const parts = tf.reshape(result, [filterHeight * filterWidth, batchSize, outChannels])
    return tf.reshape(tf.sum(parts, 1), attributes.filterShape)
  }

  /** The upstream gradient as the forward pass's stride, padding and dilation spread it, for a 'valid' convolution. */
  function spreadOut(dy: core.Tensor, info: Info): core.Tensor4D {
    const { filterHeight, filterWidth, padInfo } = info
    const above = (filterHeight - 1) * info.dilationHeight - padInfo.top
    const before = (filterWidth - 1) * info.dilationWidth - padInfo.left
    const rows = spread(dy, 1, info.strideHeight, above, info.inHeight + padInfo.top)
    return spread(rows, 2, info.strideWidth, before, info.inWidth + padInfo.left)
  }

  /** Puts an axis's entries `stride` apart, zeros between and `before` of them in front, and makes it `length` from there. */
  function spread(tensor: core.Tensor, axis: 1 | 2, stride: number, before: number, length: number) {
    const shape: number[] = tensor.shape
    const size = shape[axis] * stride
    const outer = shape.slice(0, axis).reduce((product, each) => product * each, 1)
    const inner = shape.slice(axis + 1).reduce((product, each) => product * each, 1)
    const apart = tf.pad(tf.reshape(tensor, [outer * shape[axis], 1, inner]), [
      [0, 0],
      [0, stride - 1],
      [0, 0],
    ])
    const padded = tf.pad(tf.reshape(apart, [outer, size, inner]), [
      [0, 0],
      [Math.max(0, before), Math.max(0, length - size)],
      [0, 0],
    ])
    const cut = tf.slice(padded, [0, Math.max(0, -before), 0], [-1, before + length, -1])
    return tf.reshape(cut, shape.with(axis, before + length) as Shape4D) as core.Tensor4D
  }

  // [batchSize, inHeight, inWidth, inChannels]
  function inputGradient({ dy, filter }: Inputs, attributes: Attributes): core.Tensor {
    const info = geometry(attributes.inputShape, filter.shape, attributes, false)
    const flipped = tf.transpose(tf.reverse(filter, [0, 1]), [0, 1, 3, 2]) as core.Tensor4D
    return tf.conv2d(spreadOut(dy, info), flipped, 1, 'valid')
  }

  // [batchSize, inHeight, inWidth, inChannels]
  function depthwiseInputGradient({ dy, filter }: Inputs, attributes: Attributes): core.Tensor {
    const info = geometry(attributes.inputShape, filter.shape, attributes, true)
    const { inChannels, outChannels } = info
    const filterShape: Shape4D = [info.filterHeight, info.filterWidth, outChannels, 1]
    const flipped = tf.reshape(tf.reverse(filter, [0, 1]), filterShape) as core.Tensor4D
    const dilations: [number, number] = [info.dilationHeight, info.dilationWidth]
    const result = tf.depthwiseConv2d(spreadOut(dy, info), flipped, 1, 'valid', 'NHWC', dilations)
    if (outChannels === inChannels) return result
    return tf.sum(tf.reshape(result, [...info.inShape, outChannels / inChannels]), 4)
  }

  // [batchSize, inHeight, inWidth, channels]: to each window's first largest entry, as the cpu backend has it
  function maxPoolGradient({ dy, input }: Inputs, attributes: Attributes): core.Tensor {
    const { filterSize, strides, pad, dimRoundingMode } = attributes
    const shape = input.shape as Shape4D
    const info = tf.backend_util.computePool2DInfo(shape, filterSize, strides, 1, pad, dimRoundingMode)
    const { inHeight, inWidth, inChannels, outHeight, outWidth, padInfo } = info
    const [x, upstream] = [input.dataSync(), dy.dataSync()]
    const gradient = new Float32Array(x.length)
    for (let i = 0; i < upstream.length; i++) {
      const channel = i % inChannels
      const column = Math.floor(i / inChannels)
      const row = Math.floor(column / outWidth)
      const left = (column % outWidth) * info.strideWidth - padInfo.left
      const top = (row % outHeight) * info.strideHeight - padInfo.top
      const image = Math.floor(row / outHeight) * inHeight
      const [right, bottom] = [
        Math.min(left + info.filterWidth, inWidth),
        Math.min(top + info.filterHeight, inHeight),
      ]
      let [largest, position] = [-Infinity, -1]
      for (let r = Math.max(0, top); r < bottom; r++)
        for (let c = Math.max(0, left); c < right; c++) {
          const at = ((image + r) * inWidth + c) * inChannels + channel
          if (x[at] > largest) [largest, position] = [x[at], at]
        }
      if (position >= 0) gradient[position] += upstream[i]
    }
    return tf.tensor(gradient, input.shape, 'float32')
  }

  // [numSegments, …]: rows of ids outside it count nowhere, as in the cpu backend
  function segmentSum({ x, segmentIds }: Inputs, { numSegments }: Attributes): core.Tensor {
    const [first, end] = [tf.scalar(0, 'int32'), tf.scalar(numSegments, 'int32')]
    const inside = tf.logicalAnd(tf.greaterEqual(segmentIds, first), tf.less(segmentIds, end))
    const segments = tf.reshape(tf.where(inside, segmentIds, end), [-1, 1])
    const sums = tf.scatterND(segments, x, [numSegments + 1, ...x.shape.slice(1)])
    return tf.slice(sums, [0], [numSegments])
  }

  return {
    missing: {
      Conv2DBackpropFilter: filterGradient,
      DepthwiseConv2dNativeBackpropFilter: depthwiseFilterGradient,
      DepthwiseConv2dNativeBackpropInput: depthwiseInputGradient,
      UnsortedSegmentSum: segmentSum,
    },
    better: { Conv2DBackpropInput: inputGradient, MaxPoolGrad: maxPoolGradient },
  }
}
