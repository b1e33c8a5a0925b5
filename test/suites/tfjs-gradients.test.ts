// The gradients for tfjs's wasm backend against those of its cpu backend, which computes them in double precision.
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { arcface, MarginHead, sgd } from '../../lib/index'
import { adapter, registerWasmGradients } from '../../lib/tfjs'
import {
  complaint,
  integer,
  normals,
  pick,
  random,
  relativeError,
  throwsLike,
  within,
} from '../support/support'

tf.enableProdMode()

const test = suite('tfjs gradients for wasm')
const missing = [
  'Conv2DBackpropFilter',
  'DepthwiseConv2dNativeBackpropFilter',
  'DepthwiseConv2dNativeBackpropInput',
  'UnsortedSegmentSum',
]
const better = ['Conv2DBackpropInput', 'MaxPoolGrad']
const kernels = () =>
  new Map(tf.getKernelsForBackend('wasm').map((each) => [each.kernelName, each.kernelFunc]))
const before = kernels()

test('only what is missing is registered, once; what is there is replaced only where asked for', () => {
  assert.equal(registerWasmGradients(tf), missing)
  for (const [name, func] of before) assert.is(kernels().get(name), func, name)
  assert.equal(registerWasmGradients(tf, {}), [])
  assert.equal(registerWasmGradients(tf, { replace: false }), [])
  assert.equal(registerWasmGradients(tf, { replace: true }), better)
  assert.equal(registerWasmGradients(tf, { replace: true }), [])
  const changed = [...before].filter(([name, func]) => kernels().get(name) !== func)
  assert.equal(changed.map(([name]) => name).sort(), better)
})

test('a kernel of somebody else stays', () => {
  const theirs = { kernelName: missing[0], backendName: 'wasm', kernelFunc: () => [] }
  tf.unregisterKernel(missing[0], 'wasm')
  tf.registerKernel(theirs)
  assert.equal(registerWasmGradients(tf, { replace: true }), [])
  assert.is(kernels().get(missing[0]), theirs.kernelFunc)
  tf.unregisterKernel(missing[0], 'wasm')
  assert.equal(registerWasmGradients(tf), [missing[0]])
})

test('what is no tfjs, has no wasm backend or is no option is refused', () => {
  for (const value of [undefined, null, {}, { registerKernel: 1 }])
    throwsLike(() => registerWasmGradients(value as never), TypeError, complaint('tf'))
  throwsLike(
    () => registerWasmGradients({ ...tf, getKernelsForBackend: () => [] }),
    RangeError,
    complaint('tf')
  )
  throwsLike(() => registerWasmGradients(tf, { replace: 1 as never }), TypeError, complaint('replace', 1))
  throwsLike(() => registerWasmGradients(tf, { overwrite: true } as never), TypeError, complaint('options'))
})

type Numbers = tf.TypedArray
interface Given {
  values: Float32Array
  shape: number[]
}

const given = (seed: number, ...shape: number[]): Given => {
  const length = shape.reduce((product, size) => product * size, 1)
  return { values: normals(random(seed), length), shape }
}

const tensorOf = ({ values, shape }: Given) => tf.tensor<tf.Rank.R4>(values, shape as tf.Tensor4D['shape'])

/** Runs `compute` on a backend, and leaves no tensor behind. */
async function on(backend: string, compute: () => tf.Tensor[]): Promise<Numbers[]> {
  assert.ok(await tf.setBackend(backend))
  const count = tf.memory().numTensors
  const results = tf.tidy(() => compute().map((tensor) => tensor.dataSync().slice()))
  assert.is(tf.memory().numTensors, count, 'tensors left behind')
  return results
}

/** Gradients of a function of `parts` for a random upstream gradient, on wasm as on cpu. */
async function agree(
  what: string,
  operation: (...parts: tf.Tensor4D[]) => tf.Tensor,
  ...parts: Given[]
): Promise<void> {
  const compute = () => {
    const tensors = parts.map(tensorOf)
    const result = operation(...tensors)
    const dy = tf.tensor(normals(random(99), result.size), result.shape)
    return tf.grads((...x: tf.Tensor[]) => operation(...(x as tf.Tensor4D[])))(tensors, dy)
  }
  same(what, await on('wasm', compute), await on('cpu', compute))
}

function same(what: string, actual: Numbers[], expected: Numbers[]): void {
  assert.is(actual.length, expected.length)
  for (const [i, values] of expected.entries())
    within(relativeError(actual[i], values), 1e-5, `${what}, gradient ${i}`)
}

type Padding = 'same' | 'valid' | number | [[0, 0], [number, number], [number, number], [0, 0]]

/** Sizes that need not divide, strides that skip rows, paddings of every kind; the filter fits into the image. */
function geometry(seed: number) {
  const next = random(seed)
  const [height, width] = [integer(next, 3, 9), integer(next, 3, 9)]
  const side = (): [number, number] => [integer(next, 0, 3), integer(next, 0, 3)]
  const pad = pick<Padding>(next, ['same', 'valid', 0, 1, 2, [[0, 0], side(), side(), [0, 0]]])
  // A number pads squares only: of others tfjs computes a false width, and wasm writes beyond its memory.
  const sizes = (least: number, most: number): [number, number] => {
    const first = integer(next, least, most)
    return [first, typeof pad === 'number' ? first : integer(next, least, most)]
  }
  const [filterHeight, filterWidth] = sizes(1, 3)
  const strides = sizes(1, 4)
  const [images, channels, filters] = [integer(next, 1, 3), integer(next, 1, 5), integer(next, 1, 9)]
  const what = JSON.stringify({
    seed,
    height,
    width,
    filterHeight,
    filterWidth,
    strides,
    pad,
    channels,
    filters,
  })
  const x = given(seed + 1, images, height, width, channels)
  return { next, what, x, filterHeight, filterWidth, strides, pad, channels, filters }
}

const seeds = Array.from({ length: 120 }, (_, i) => 1000 + i)

test('conv2d: over sizes, strides, paddings and channels', async () => {
  for (const seed of seeds) {
    const { what, x, filterHeight, filterWidth, strides, pad, channels, filters } = geometry(seed)
    const filter = given(seed + 2, filterHeight, filterWidth, channels, filters)
    await agree(what, (images, weights) => tf.conv2d(images, weights, strides, pad), x, filter)
  }
})

test('depthwiseConv2d: the same, and over channel multipliers', async () => {
  for (const seed of seeds) {
    const { next, what, x, filterHeight, filterWidth, strides, pad, channels } = geometry(seed)
    const filter = given(seed + 2, filterHeight, filterWidth, channels, integer(next, 1, 3))
    await agree(what, (images, weights) => tf.depthwiseConv2d(images, weights, strides, pad), x, filter)
  }
})

// tfjs refuses the gradient of a dilated convolution, but it has operations for it. Their cpu kernels ignore the dilation of
// some indices, so what is right is the gradient by the filter with zeros between, at the entries that are not zeros.
test('depthwise kernels: over dilations', async () => {
  for (const seed of seeds.slice(0, 40)) {
    const [down, across] = [1 + (seed % 3), 1 + (Math.floor(seed / 3) % 3)]
    const { next, what, channels } = geometry(seed)
    const pad = pick<'same' | 'valid'>(next, ['same', 'valid'])
    const multiplier = integer(next, 1, 3)
    const x = given(seed + 1, 2, 8, 9, channels)
    const filter = given(seed + 2, 3, 2, channels, multiplier)
    const [tall, wide] = [2 * down + 1, across + 1]
    const spread = {
      values: new Float32Array(tall * wide * channels * multiplier),
      shape: [tall, wide, channels, multiplier],
    }
    const entries: number[] = []
    for (let i = 0; i < filter.values.length; i++) {
      const tap = Math.floor(i / (channels * multiplier))
      const [row, column] = [Math.floor(tap / 2) * down, (tap % 2) * across]
      const at = (row * wide + column) * channels * multiplier + (i % (channels * multiplier))
      entries.push(at)
      spread.values[at] = filter.values[i]
    }
    const forward = (images: tf.Tensor4D, weights: tf.Tensor4D) => tf.depthwiseConv2d(images, weights, 1, pad)
    const expected = await on('cpu', () => {
      const dy = forward(tensorOf(x), tensorOf(spread))
      return tf.grads((...parts) => forward(...(parts as [tf.Tensor4D, tf.Tensor4D])))(
        [tensorOf(x), tensorOf(spread)],
        dy
      )
    })
    expected[1] = Float32Array.from(entries, (at) => expected[1][at])
    const actual = await on('wasm', () => {
      const dy = tf.depthwiseConv2d(tensorOf(x), tensorOf(filter), 1, pad, 'NHWC', [down, across])
      const common = { strides: [1, 1], pad, dilations: [down, across] }
      const run = (kernel: string, inputs: tf.NamedTensorMap, attributes: object) =>
        tf.engine().runKernel(kernel, inputs, { ...common, ...attributes } as never) as tf.Tensor
      return [
        run(missing[2], { dy, filter: tensorOf(filter) }, { inputShape: x.shape }),
        run(missing[1], { dy, x: tensorOf(x) }, { filterShape: filter.shape }),
      ]
    })
    same(`${what}, ${pad}, dilated ${down} × ${across}`, actual, expected)
  }
})

test('maxPool: windows without a value above 0, ties, and windows that overlap', async () => {
  for (const seed of seeds.slice(0, 60)) {
    const { next, what, x, filterHeight, filterWidth, strides } = geometry(seed)
    const pad = pick<'same' | 'valid'>(next, ['same', 'valid'])
    const kind = pick(next, ['any', 'negative', 'coarse'])
    const change = (value: number) =>
      kind === 'negative' ? -Math.abs(value) - 0.1 : kind === 'coarse' ? Math.round(value) : value
    const values = x.values.map(change)
    await agree(
      `${what}, ${pad}, ${kind}`,
      (images) => tf.maxPool(images, [filterHeight, filterWidth], strides, pad),
      { values, shape: x.shape }
    )
  }
})

test('gather: rows that are drawn never, once and often', async () => {
  for (const seed of seeds.slice(0, 20)) {
    const next = random(seed)
    const [rows, columns] = [integer(next, 1, 7), integer(next, 1, 5)]
    const indices = Int32Array.from({ length: integer(next, 1, 20) }, () => integer(next, 0, rows - 1))
    const table = given(seed, rows, columns, 2)
    await agree(`gather ${seed}`, (x) => tf.gather(x, tf.tensor1d(indices, 'int32')), table)
    await agree(`gather ${seed}, axis 1`, (x) => tf.gather(x, tf.scalar(columns - 1, 'int32'), 1), table)
  }
  const sums = () => [
    tf.unsortedSegmentSum(
      tf.tensor2d([1, 2, 4, 8, 16, 32], [6, 1]),
      tf.tensor1d([0, 2, -1, 3, 0, 9], 'int32'),
      3
    ),
  ]
  for (const backend of ['wasm', 'cpu']) assert.equal([...(await on(backend, sums))[0]], [17, 0, 2], backend)
})

const { layers } = tf
const networks: [string, () => tf.layers.Layer[]][] = [
  [
    'conv1d',
    () => [
      layers.reshape({ targetShape: [64, 3] }),
      layers.conv1d({ filters: 4, kernelSize: 3, strides: 2 }),
    ],
  ],
  [
    'conv2d, batch normalization, relu6',
    () => [
      layers.conv2d({ filters: 4, kernelSize: 3, padding: 'same', useBias: false }),
      layers.batchNormalization(),
      layers.activation({ activation: 'relu6' }),
    ],
  ],
  [
    'conv2d with an activation of its own',
    () => [layers.conv2d({ filters: 4, kernelSize: [3, 2], strides: 2, activation: 'elu' })],
  ],
  [
    'conv2dTranspose',
    () => [layers.conv2dTranspose({ filters: 4, kernelSize: 3, strides: 2, padding: 'same' })],
  ],
  ['depthwiseConv2d', () => [layers.depthwiseConv2d({ kernelSize: 3, depthMultiplier: 2, padding: 'same' })]],
  [
    'separableConv2d',
    () => [layers.separableConv2d({ filters: 5, kernelSize: 3, strides: 2, padding: 'same' })],
  ],
  [
    'maxPooling2d, then an activation',
    () => [
      layers.conv2d({ filters: 4, kernelSize: 3 }),
      layers.maxPooling2d({ poolSize: 2 }),
      layers.activation({ activation: 'tanh' }),
    ],
  ],
  ['averagePooling2d', () => [layers.averagePooling2d({ poolSize: 3, strides: 2, padding: 'same' })]],
  ['globalAveragePooling2d', () => [layers.globalAveragePooling2d({})]],
  ['layerNormalization, prelu', () => [layers.layerNormalization(), layers.prelu({})]],
  ['dense, swish', () => [layers.dense({ units: 4 }), layers.activation({ activation: 'swish' })]],
  ['upSampling2d', () => [layers.upSampling2d({ size: [2, 2], interpolation: 'bilinear' })]],
  ['lstm', () => [layers.reshape({ targetShape: [8, 24] }), layers.lstm({ units: 3 })]],
  ['embedding', () => [layers.embedding({ inputDim: 9, outputDim: 3 })]],
]

for (const [name, make] of networks)
  test(`layers: ${name}`, async () => {
    const images = given(5, 2, 8, 8, 3)
    if (name === 'embedding')
      images.values = images.values.map((value) => Math.round(Math.abs(2 * value)) % 9)
    const results: Numbers[][] = []
    for (const backend of ['cpu', 'wasm']) {
      assert.ok(await tf.setBackend(backend))
      const model = tf.sequential({ layers: [layers.inputLayer({ inputShape: [8, 8, 3] }), ...make()] })
      model.setWeights(
        model.getWeights().map(({ size, shape }, i) => {
          const values = normals(random(i + 1), size, 0.5)
          return tf.tensor(i === model.weights.length - 1 ? values.map(Math.abs) : values, shape)
        })
      )
      const x = tf.variable(tensorOf(images))
      const chosen = model.trainableWeights.map((weight) => weight.read() as tf.Variable)
      const variables = name === 'embedding' ? chosen : [x, ...chosen]
      const loss = () => {
        const y = model.apply(x, { training: true }) as tf.Tensor
        return tf.sum(tf.mul(y, tf.tensor(normals(random(3), y.size), y.shape))) as tf.Scalar
      }
      const { grads } = tf.variableGrads(loss, variables)
      results.push(variables.map((variable) => grads[variable.name].dataSync().slice()))
      tf.disposeVariables()
    }
    same(name, results[1], results[0])
  })

test('a small convolutional network with an ArcFace head: five steps as on cpu, and the loss falls', async () => {
  const [rows, classes, dim] = [12, 4, 8]
  const losses: Record<string, number[]> = {}
  for (const [backend, steps] of [
    ['cpu', 5],
    ['wasm', 40],
  ] as const) {
    assert.ok(await tf.setBackend(backend))
    const { headLoss } = adapter(tf)
    const network = tf.sequential({
      layers: [
        layers.conv2d({
          inputShape: [12, 12, 1],
          filters: 8,
          kernelSize: 3,
          padding: 'same',
          useBias: false,
        }),
        layers.batchNormalization(),
        layers.maxPooling2d({ poolSize: 2 }),
        layers.activation({ activation: 'relu' }),
        layers.separableConv2d({ filters: 12, kernelSize: 3, activation: 'relu6' as never }),
        layers.averagePooling2d({ poolSize: 2 }),
        layers.flatten(),
        layers.dense({ units: dim }),
      ],
    })
    network.trainableWeights.forEach((weight, i) => {
      const shape = weight.shape as number[]
      const size = shape.reduce((product, each) => product * each, 1)
      const fanIn = Math.max(1, size / (shape.at(-1) as number))
      if (shape.length > 1) weight.write(tf.tensor(normals(random(i), size, Math.sqrt(2 / fanIn)), shape))
    })
    const next = random(7)
    const labels = Int32Array.from({ length: rows }, (_, i) => i % classes)
    const images = tf.tensor4d(
      Float32Array.from(
        { length: rows * 144 },
        (_, i) => Math.sin((i % 144) * (1 + labels[Math.floor(i / 144)] / 3)) + 0.3 * next()
      ),
      [rows, 12, 12, 1]
    )
    const weights = normals(random(8), classes * dim, 0.1)
    const margin = arcface({ scale: 8, margin: 0.2 })
    const head = await MarginHead.create({
      classes,
      dim,
      margin,
      weights,
      optimizer: sgd({ learningRate: 0.05 }),
    })
    const optimizer = tf.train.momentum(0.02, 0.9)
    const tensors = () => tf.memory().numTensors
    let kept = 0
    losses[backend] = []
    for (let step = 0; step < steps; step++) {
      const onStep = ({ loss }: { loss: number }) => losses[backend].push(loss)
      optimizer.minimize(() =>
        headLoss(head, network.apply(images, { training: true }) as tf.Tensor2D, labels, { onStep })
      )
      if (step === 2) kept = tensors()
    }
    assert.is(tensors(), kept, 'tensors left behind')
    head.dispose()
    tf.disposeVariables()
  }
  for (const [step, loss] of losses.cpu.entries())
    within(
      Math.abs(losses.wasm[step] - loss),
      1e-3,
      `loss of step ${step}: ${losses.wasm[step]} against ${loss}`
    )
  const [first, last] = [losses.wasm[0], losses.wasm.at(-1) as number]
  assert.ok(last < first / 2, `from ${first} to ${last}`)
})

test.run()
