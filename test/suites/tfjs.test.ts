// The tfjs adapter against tfjs's own automatic differentiation of the textbook formulas, on the backends at hand.
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  arcface,
  combined,
  cosface,
  type Margin,
  MarginHead,
  normface,
  sgd,
  softmaxMargin,
  sphereface,
} from '../../lib/index'
import { native } from '../../lib/internal/native'
import { adapter, type Tensorflow } from '../../lib/tfjs'
import { makeBatch, normals, random } from '../support/support'

tf.enableProdMode() // no advice to install tfjs-node

const { marginLoss, headLoss } = adapter(tf)
const [rows, dim, classes] = [12, 7, 5]

interface Case {
  margin: Margin
  /** ψ of the target's cosines [B], in tfjs operations */
  psi: (cosine: tf.Tensor1D) => tf.Tensor1D
  bias?: boolean
}

const withSine = (cosine: tf.Tensor1D, angle: number) =>
  tf.sub(
    tf.mul(cosine, Math.cos(angle)),
    tf.mul(tf.sqrt(tf.sub(1, tf.square(cosine))), Math.sin(angle))
  ) as tf.Tensor1D

/** `above` where x > 0, else `below`; tf.greater, which would say so in tf.where, has no gradient in tfjs. */
function piecewise(x: tf.Tensor, above: tf.Tensor, below: tf.Tensor): tf.Tensor1D {
  const positive = tf.step(x)
  return tf.add(tf.mul(positive, above), tf.mul(tf.sub(1, positive), below))
}

const cases: Case[] = [
  { margin: softmaxMargin(), psi: (cosine) => cosine },
  { margin: softmaxMargin(), psi: (cosine) => cosine, bias: true },
  { margin: normface({ scale: 12 }), psi: (cosine) => cosine },
  { margin: cosface({ scale: 16, margin: 0.3 }), psi: (cosine) => tf.sub(cosine, 0.3) },
  {
    margin: arcface({ scale: 16, margin: 0.4 }),
    psi: (cosine) =>
      piecewise(
        tf.sub(cosine, Math.cos(Math.PI - 0.4)),
        withSine(cosine, 0.4),
        tf.sub(cosine, 0.4 * Math.sin(0.4))
      ),
  },
  {
    margin: combined({ scale: 16, m1: 1, m2: 0.2, m3: 0.1 }),
    psi: (cosine) => tf.sub(withSine(cosine, 0.2), 0.1),
  },
  {
    margin: sphereface({ m: 2, lambda: 3 }), // cos 2θ = 2c² − 1; past a right angle −cos 2θ − 2
    psi: (cosine) => {
      const double = tf.sub(tf.mul(tf.square(cosine), 2), 1)
      const psi = piecewise(cosine, double, tf.sub(tf.neg(double), 2))
      return tf.div(tf.add(tf.mul(cosine, 3), psi), 4) as tf.Tensor1D
    },
  },
]

/** Losses [B], with nothing of this library. */
function textbook(
  { margin, psi }: Case,
  labels: tf.Tensor1D,
  input: tf.Tensor,
  weight: tf.Tensor,
  bias?: tf.Tensor
): tf.Tensor1D {
  const target = tf.oneHot(labels, classes).toFloat()
  const unit = (x: tf.Tensor) => tf.div(x, tf.norm(x, 2, 1, true))
  const products = (x: tf.Tensor, w: tf.Tensor) => tf.matMul(x as tf.Tensor2D, tf.transpose(w) as tf.Tensor2D)
  let logits: tf.Tensor
  if (margin.name === 'softmax') {
    logits = products(input, weight)
    if (bias) logits = tf.add(logits, bias)
  } else {
    const cosines = products(unit(input), unit(weight))
    const own = tf.sum(tf.mul(cosines, target), 1) as tf.Tensor1D
    const moved = tf.add(cosines, tf.mul(target, tf.expandDims(tf.sub(psi(own), own), 1)))
    logits = tf.mul(moved, margin.scale === 'norm' ? tf.norm(input, 2, 1, true) : margin.scale)
  }
  return tf.sub(tf.logSumExp(logits, 1), tf.sum(tf.mul(logits, target), 1))
}

function close(actual: tf.Tensor, expected: tf.Tensor, what: string): void {
  assert.equal(actual.shape, expected.shape, what)
  const [a, e] = [actual.dataSync(), expected.dataSync()]
  const norm = Math.hypot(...e)
  const difference = Math.hypot(...e.map((value, i) => value - a[i]))
  assert.ok(difference <= 2e-5 * norm + 1e-6, `${what}: off by ${difference} of ${norm}`)
}

function tensors(seed: number, bias = false) {
  const batch = makeBatch(seed, { rows, dim, classes }, { bias, inputScale: 0.8 })
  const parts = [
    tf.tensor2d(batch.input, [rows, dim]),
    tf.tensor2d(batch.weight, [classes, dim]),
  ] as tf.Tensor[]
  if (bias) parts.push(tf.tensor1d(batch.bias as Float32Array))
  return { parts, labels: tf.tensor1d(batch.labels, 'int32') }
}

/** Runs `check` and demands that it leaves no tensor behind beyond those that it got. */
function leavingNothing(check: () => void): void {
  const before = tf.memory().numTensors
  tf.tidy(check)
  assert.is(tf.memory().numTensors, before, 'tensors left behind')
}

/** Counts how often `work` calls the loss of the addon. */
function nativeCalls(work: () => unknown): number {
  const addon = native()
  const { loss } = addon
  let calls = 0
  addon.loss = (request) => {
    calls++
    return loss(request)
  }
  try {
    work()
  } finally {
    addon.loss = loss
  }
  return calls
}

for (const backend of ['cpu', 'wasm']) {
  const test = suite(`tfjs adapter, ${backend} backend`)
  test.before(async () => {
    assert.ok(await tf.setBackend(backend))
  })

  cases.forEach((each, i) => {
    const name = each.margin.name + (each.bias ? ' with a bias' : '')
    for (const reduction of ['mean', 'sum', 'none'] as const) {
      test(`${name}, ${reduction}: loss and gradients as by automatic differentiation`, () =>
        leavingNothing(() => {
          const { parts, labels } = tensors(100 + i, each.bias)
          const { margin } = each
          const ours = (input: tf.Tensor, weight: tf.Tensor, bias?: tf.Tensor): tf.Tensor => {
            const [x, w, b] = [input as tf.Tensor2D, weight as tf.Tensor2D, bias as tf.Tensor1D | undefined]
            if (reduction === 'none') return marginLoss(x, w, labels, { margin, reduction: 'none' }, b)
            return tf.mul(marginLoss(x, w, labels, { margin, reduction }, b), 3)
          }
          const theirs = (input: tf.Tensor, weight: tf.Tensor, bias?: tf.Tensor): tf.Tensor => {
            const losses = textbook(each, labels, input, weight, bias)
            if (reduction === 'none') return losses
            return tf.mul(reduction === 'mean' ? tf.mean(losses) : tf.sum(losses), 3)
          }
          const dy = reduction === 'none' ? tf.tensor1d(normals(random(7), rows)) : undefined
          const actual = tf.valueAndGrads(ours as (...x: tf.Tensor[]) => tf.Tensor)(parts, dy)
          const expected = tf.valueAndGrads(theirs as (...x: tf.Tensor[]) => tf.Tensor)(parts, dy)
          close(actual.value, expected.value, 'loss')
          parts.forEach((_, p) => {
            close(actual.grads[p], expected.grads[p], ['gradInput', 'gradWeight', 'gradBias'][p])
          })
        }))
    }
  })

  test('inside variableGrads, after layers of its own, and with labels of any kind', () =>
    leavingNothing(() => {
      const { parts, labels } = tensors(3)
      const layer = tf.variable(tf.tensor2d(normals(random(4), dim * dim), [dim, dim]))
      const weight = tf.variable(parts[1] as tf.Tensor2D)
      const embed = () => tf.tanh(tf.matMul(parts[0] as tf.Tensor2D, layer)) as tf.Tensor2D
      const expected = tf.variableGrads(() => tf.mean(textbook(cases[4], labels, embed(), weight)))
      const { margin } = cases[4]
      for (const given of [labels, labels.dataSync() as Int32Array, [...labels.dataSync()]]) {
        const actual = tf.variableGrads(() => marginLoss(embed(), weight, given, { margin }))
        close(actual.value, expected.value, 'loss')
        for (const [p, variable] of [layer, weight].entries()) {
          close(actual.grads[variable.name], expected.grads[variable.name], `variable ${p}`)
        }
      }
      tf.dispose([layer, weight])
    }))

  test('no more native calls than gradients ask for', () =>
    leavingNothing(() => {
      const { parts, labels } = tensors(5)
      const [input, weight] = parts as [tf.Tensor2D, tf.Tensor2D]
      const { margin } = cases[4]

      const calls = nativeCalls(() => marginLoss(input, weight, labels, { margin }))
      assert.is(calls, 1, 'without differentiation')

      const [x, w] = [tf.variable(input), tf.variable(weight)]
      const both = nativeCalls(() => tf.variableGrads(() => marginLoss(x, w, labels, { margin })))
      assert.is(both, 1, 'loss and both gradients of variables in one')

      const upstream = nativeCalls(() =>
        tf.variableGrads(() => tf.sum(marginLoss(x, w, labels, { margin, reduction: 'none' })))
      )
      assert.ok(upstream >= 1 && upstream <= 2, 'both gradients of one dy in one')

      const plain = nativeCalls(() =>
        tf.grad((value: tf.Tensor) => marginLoss(value as tf.Tensor2D, weight, labels, { margin }))(input)
      )
      assert.is(plain, 2, 'the gradient of a plain tensor when it is asked for, that of the other never')
      tf.dispose([x, w])
    }))

  test('an optimizer’s minimize makes the loss fall and leaves no tensors', () => {
    const { parts, labels } = tensors(6)
    const weight = tf.variable(parts[1] as tf.Tensor2D)
    const input = tf.variable(parts[0] as tf.Tensor2D)
    const optimizer = tf.train.sgd(0.1)
    const step = () => {
      const cost = optimizer.minimize(() => marginLoss(input, weight, labels), true) as tf.Scalar
      const value = cost.dataSync()[0]
      cost.dispose()
      return value
    }
    const first = step()
    const before = tf.memory().numTensors
    let last = first
    for (let i = 0; i < 60; i++) last = step()
    assert.is(tf.memory().numTensors, before, 'tensors left behind')
    assert.ok(last < first / 4, `from ${first} to ${last}`)
    optimizer.dispose()
    tf.dispose([parts, labels, weight, input])
  })

  test('ignored rows, label smoothing and no rows that count', () =>
    leavingNothing(() => {
      const { parts, labels } = tensors(8)
      const [input, weight] = parts as [tf.Tensor2D, tf.Tensor2D]
      const some = labels.dataSync<'int32'>().map((label, i) => (i % 3 ? label : -1))
      const losses = marginLoss(input, weight, some, { reduction: 'none', labelSmoothing: 0.1 })
      const mean = marginLoss(input, weight, some, { labelSmoothing: 0.1 }).dataSync()[0]
      const values = [...losses.dataSync()]
      assert.equal(
        values.filter((_, i) => i % 3 === 0),
        [0, 0, 0, 0]
      )
      assert.ok(Math.abs(mean - values.reduce((sum, value) => sum + value, 0) / 8) < 1e-5)
      const nobody = new Int32Array(rows).fill(-1)
      const none = tf.valueAndGrad((x: tf.Tensor): tf.Tensor => marginLoss(x as tf.Tensor2D, weight, nobody))(
        input
      )
      assert.is(none.value.dataSync()[0], 0)
      assert.ok(none.grad.dataSync().every((value) => value === 0))
    }))

  test('a head trains a small network', async () => {
    const { parts, labels } = tensors(9)
    const head = await MarginHead.create({
      ...{ classes, dim: 4, margin: cosface({ scale: 10, margin: 0.2 }) },
      ...{ optimizer: sgd({ learningRate: 0.05, momentum: 0.9 }), seed: 1 },
    })
    const layer = tf.variable(tf.tensor2d(normals(random(2), dim * 4, 0.5), [dim, 4]))
    const optimizer = tf.train.sgd(0.05)
    const embed = () => tf.matMul(parts[0] as tf.Tensor2D, layer) as tf.Tensor2D
    const losses: number[] = []
    const accuracies: number[] = []
    const before = tf.memory().numTensors
    for (let i = 0; i < 120; i++) {
      const cost = optimizer.minimize(
        () => headLoss(head, embed(), labels, { onStep: ({ stats }) => accuracies.push(stats.accuracy) }),
        true
      ) as tf.Scalar
      losses.push(cost.dataSync()[0])
      cost.dispose()
    }
    assert.ok(tf.memory().numTensors <= before + 1, 'tensors left behind') // the optimizer keeps its learning rate
    assert.is(head.iteration, 120)
    assert.is(accuracies.length, 120)
    assert.ok(losses[119] < losses[0] / 2, `from ${losses[0]} to ${losses[119]}`)
    assert.ok(accuracies[119] > accuracies[0])
    head.dispose()
    optimizer.dispose()
    tf.dispose([parts, labels, layer])
  })

  test('the gradient of headLoss is that of marginLoss at the weights before the step', async () => {
    const { parts, labels } = tensors(10)
    const [input, weight] = parts as [tf.Tensor2D, tf.Tensor2D]
    const margin = arcface({ scale: 16, margin: 0.3 })
    const weights = weight.dataSync<'float32'>().slice()
    const head = await MarginHead.create({
      classes,
      dim,
      margin,
      weights,
      optimizer: sgd({ learningRate: 1 }),
    })
    leavingNothing(() => {
      const ours = (x: tf.Tensor) =>
        tf.mul(headLoss(head, x as tf.Tensor2D, labels, { learningRate: 0.5 }), 2)
      const theirs = (x: tf.Tensor) => tf.mul(marginLoss(x as tf.Tensor2D, weight, labels, { margin }), 2)
      const actual = tf.valueAndGrad(ours)(input)
      const expected = tf.valueAndGrad(theirs)(input)
      close(actual.value, expected.value, 'loss')
      close(actual.grad, expected.grad, 'gradInput')
      const slope = tf.grad((w: tf.Tensor) => marginLoss(input, w as tf.Tensor2D, labels, { margin }))(weight)
      close(tf.tensor2d(head.weights(), [classes, dim]), tf.sub(weight, tf.mul(slope, 0.5)), 'weights')
      headLoss(head, input, labels) // a step even where nothing is differentiated: the backbone may be frozen
      assert.is(head.iteration, 2)
    })
    head.dispose()
    tf.dispose([parts, labels])
  })

  test.run()
}

const errors = suite('tfjs adapter, errors')

errors('arguments are refused in the shape of the house', async () => {
  const { parts, labels } = tensors(11)
  const [input, weight] = parts as [tf.Tensor2D, tf.Tensor2D]
  const head = await MarginHead.create({ classes, dim: 4 })
  const refused = (call: () => unknown, type: typeof TypeError | typeof RangeError, message: RegExp) => {
    const before = tf.memory().numTensors
    assert.throws(call, (error: Error) => {
      assert.instance(error, type)
      assert.match(error.message, message)
      assert.match(error.message, /^Expected .+ for .+ but received .+$/)
      return true
    })
    assert.is(tf.memory().numTensors, before, 'tensors left behind')
  }
  refused(
    () => adapter(undefined as unknown as Tensorflow),
    TypeError,
    /the tfjs namespace for tf but received undefined/
  )
  refused(() => marginLoss([[1]] as unknown as tf.Tensor2D, weight, labels), TypeError, /for input/)
  const integers = tf.cast(input, 'int32')
  refused(() => marginLoss(integers, weight, labels), TypeError, /a float32 tensor for input/)
  refused(() => marginLoss(labels as unknown as tf.Tensor2D, weight, labels), TypeError, /for input/)
  const flat = tf.tensor1d([1, 2])
  refused(() => marginLoss(flat as unknown as tf.Tensor2D, weight, labels), RangeError, /rank 2 for input/)
  const narrow = tf.zeros([classes, dim - 1]) as tf.Tensor2D
  refused(() => marginLoss(input, narrow, labels), RangeError, /7 columns for weight/)
  const floating = tf.cast(labels, 'float32')
  refused(() => marginLoss(input, weight, floating), TypeError, /an int32 tensor for labels/)
  refused(() => marginLoss(input, weight, [0, 1]), RangeError, /12 elements for labels/)
  refused(() => marginLoss(input, weight, new Int32Array(rows).fill(classes)), RangeError, /for labels\[0\]/)
  refused(
    () =>
      tf.grad((x: tf.Tensor) => marginLoss(x as tf.Tensor2D, weight, labels, { reduction: 'all' as 'mean' }))(
        input
      ),
    RangeError,
    /for reduction/
  )
  refused(
    () =>
      marginLoss(
        input,
        weight,
        labels,
        {},
        tf.tidy(() => flat)
      ),
    TypeError,
    /no bias with arcface/
  )
  refused(
    () => marginLoss(input, weight, labels, null as unknown as object),
    TypeError,
    /an object for options/
  )
  refused(() => headLoss(head, input, labels, { step: 1 } as object), TypeError, /only learningRate, onStep/)
  refused(() => headLoss({} as MarginHead, input, labels), TypeError, /a MarginHead for head/)
  refused(() => headLoss(head, input, labels), RangeError, /4 columns for embeddings/)
  refused(
    () => headLoss(head, input, labels, { onStep: 3 as unknown as () => void }),
    TypeError,
    /a function for onStep/
  )
  assert.is(head.iteration, 0)
  head.dispose()
  tf.dispose([parts, labels, integers, flat, narrow, floating])
})

errors('a second derivative is refused rather than wrong', () =>
  tf.tidy(() => {
    const { parts, labels } = tensors(12)
    const first = tf.grad((x: tf.Tensor) => marginLoss(x as tf.Tensor2D, parts[1] as tf.Tensor2D, labels))
    assert.throws(() => tf.grad((x: tf.Tensor) => tf.sum(first(x)))(parts[0]), /a gradient within a gradient/)
  })
)

errors.run()
