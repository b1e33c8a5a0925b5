// maxGradientNorm: an update with the gradient that torch.nn.utils.clip_grad_norm_ would leave of it.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { adamW, arcface, MarginHead, type MarginHeadOptions, sgd, softmaxMargin } from '../../lib/index'
import { distance, makeBatch, norm, onCpu, rejectsLike, sameBits, within } from '../support/support'

const test = suite('clipping')

const [rows, dim, classes] = [29, 37, 53]
const plain = sgd({ learningRate: 0.5, momentum: 0 })

function headOf(options: Partial<MarginHeadOptions>): Promise<MarginHead> {
  return MarginHead.create({
    classes,
    dim,
    optimizer: plain,
    margin: arcface({ scale: 16 }),
    seed: 4,
    ...options,
  })
}

const difference = (a: Float32Array, b: Float32Array) => a.map((value, i) => value - (b[i] as number))

for (const [name, options] of [
  ['ArcFace', {}],
  ['softmax with a bias', { margin: softmaxMargin(), bias: true }],
  ['label smoothing', { labelSmoothing: 0.1 }],
  ['a sample of the classes', { sampleRate: 0.6 }],
  ['bfloat16', { precision: 'bfloat16' }],
] as [string, Partial<MarginHeadOptions>][])
  test(`${name}: the update has the direction of the whole one, and the length that is left`, async () => {
    const { input, labels } = makeBatch(1, { rows, dim, classes })
    const whole = await headOf(options)
    const before = whole.weights()
    const step = await whole.step(input, labels)
    const update = difference(whole.weights(), before)
    const gradient = step.stats.gradientNorm
    const clipped = await headOf({ ...options, maxGradientNorm: gradient / 8 })
    const same = await clipped.step(input, labels)
    // What is reported is what an unclipped step reports.
    assert.equal({ ...same.stats }, { ...step.stats })
    assert.is(same.loss, step.loss)
    sameBits(same.losses, step.losses, 'losses')
    sameBits(same.gradInput, step.gradInput, 'gradInput')
    const expected = update.map((value) => value / 8)
    const taken = difference(clipped.weights(), before)
    within(distance(taken, expected), 2e-4 * norm(expected), 'the clipped update')
    if (!options.bias) return
    const bias = (whole.bias() as Float32Array).map((value) => value / 8)
    within(distance(clipped.bias() as Float32Array, bias), 1e-5 * norm(bias), 'the clipped bias')
  })

test('a gradient that is short enough is spent with the bits of a head that clips nothing', async () => {
  const optimizer = adamW({ learningRate: 0.01 })
  const [free, clipped] = [await headOf({ optimizer }), await headOf({ optimizer, maxGradientNorm: 1e6 })]
  for (let seed = 0; seed < 3; seed++) {
    const { input, labels } = makeBatch(seed, { rows, dim, classes })
    const [a, b] = [free.stepSync(input, labels), clipped.stepSync(input, labels)]
    sameBits(b.gradInput, a.gradInput, 'gradInput')
  }
  sameBits(clipped.weights(), free.weights(), 'weights')
  assert.is(clipped.iteration, 3)
})

test('a step that fails leaves weights and state as they were', async () => {
  const head = await headOf({ maxGradientNorm: 0.1 })
  const before = head.weights()
  const { input, labels } = makeBatch(1, { rows, dim, classes })
  input[3 * dim] = Number.NaN
  await rejectsLike(head.step(input, labels), Error, /row 3/)
  sameBits(head.weights(), before, 'weights')
  assert.is(head.iteration, 0)
})

if (onCpu)
  test('more rows than one pass takes are refused before anything is computed', async () => {
    const head = await headOf({ dim: 512, maxGradientNorm: 1 })
    const many = new Float32Array(3585 * 512).fill(1)
    await rejectsLike(head.step(many, new Int32Array(3585)), RangeError, /at most 3584 rows/)
    assert.is(head.iteration, 0)
  })

test('it may change between steps, and is refused below 0', async () => {
  const head = await headOf({})
  const { input, labels } = makeBatch(1, { rows, dim, classes })
  await head.set({ maxGradientNorm: 1e-9 })
  const before = head.weights()
  await head.step(input, labels)
  assert.ok(norm(difference(head.weights(), before)) <= 0.5 * 1.001e-9 + 1e-9 * norm(before))
  await rejectsLike(head.set({ maxGradientNorm: -1 }), RangeError, /maxGradientNorm/)
  await rejectsLike(headOf({ maxGradientNorm: Number.NaN }), RangeError, /maxGradientNorm/)
})

if (onCpu)
  test('any number of threads gives the same bits', async () => {
    const { input, labels } = makeBatch(1, { rows: 300, dim, classes })
    const weights = []
    for (const threads of [1, 2, 3]) {
      const head = await headOf({ threads, maxGradientNorm: 0.01 })
      await head.step(input, labels)
      weights.push(head.weights())
    }
    for (const other of weights) sameBits(other, weights[0] as Float32Array, 'weights')
  })

test.run()
