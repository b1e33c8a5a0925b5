// A head refuses wrong arguments, and a refusal leaves weights, state and iteration as they were.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ProcessGroup } from '../../lib/distributed'
import { adamW, arcface, MarginHead, MarginSoftmaxError, sgd, softmaxMargin } from '../../lib/index'
import { complaint, makeBatch, rejectsLike, sameBits, throwsLike } from '../support/support'

const test = suite('head, refusals')

const [rows, dim, classes] = [6, 4, 9]
const optimizer = sgd({ learningRate: 0.1, momentum: 0.9 })
const make = (changes: object = {}) => MarginHead.create({ classes, dim, optimizer, seed: 1, ...changes })
const sound = () => makeBatch(1, { rows, dim, classes })

type Kind = typeof TypeError | typeof RangeError | typeof Error

const failsWith = async (promise: Promise<unknown>, code: string, pattern = /./) => {
  await rejectsLike(promise, MarginSoftmaxError, pattern)
  await promise.catch((error: MarginSoftmaxError) => assert.is(error.code, code))
}

const settings: [string, unknown, Kind][] = [
  ['classes', undefined, TypeError],
  ['classes', '9', TypeError],
  ['classes', 0, RangeError],
  ['classes', -1, RangeError],
  ['classes', 1.5, RangeError],
  ['classes', Number.NaN, RangeError],
  ['classes', Number.POSITIVE_INFINITY, RangeError],
  ['classes', 2 ** 31, RangeError],
  ['classes', 2 ** 53, RangeError],
  ['dim', undefined, TypeError],
  ['dim', 0, RangeError],
  ['dim', -4, RangeError],
  ['dim', 2 ** 31, RangeError],
  ['dim', 4n, TypeError],
  ['margin', 'arcface', TypeError],
  ['margin', null, TypeError],
  ['optimizer', 'sgd', TypeError],
  ['optimizer', null, TypeError],
  ['bias', 1, TypeError],
  ['marginWarmupSteps', -1, RangeError],
  ['marginWarmupSteps', 1.5, RangeError],
  ['marginWarmupSteps', '5', TypeError],
  ['labelSmoothing', 1.5, RangeError],
  ['labelSmoothing', '0', TypeError],
  ['ignoreIndex', 0.5, RangeError],
  ['seed', -1, RangeError],
  ['seed', 0.5, RangeError],
  ['seed', 'x', TypeError],
  ['threads', 0, RangeError],
  ['device', 'gpu', RangeError],
]

for (const [name, value, kind] of settings) {
  test(`create refuses ${name} ${typeof value === 'bigint' ? '4n' : JSON.stringify(value)}`, () =>
    rejectsLike(make({ [name]: value }), kind, complaint(name, value)))
}

test('create refuses what is no object, and names an option that it does not know', async () => {
  await rejectsLike(MarginHead.create(undefined as never), TypeError, /^Expected .+ but received /)
  await rejectsLike(MarginHead.create(null as never), TypeError, /^Expected .+ but received null/)
  await rejectsLike(make({ warmupSteps: 3 }), Error, /warmupSteps/)
  await rejectsLike(make({ weight: new Float32Array(classes * dim) }), Error, /"weight"/)
})

test('create refuses weights of another length or type, and a bias with cosines', async () => {
  await rejectsLike(
    make({ weights: new Float32Array(classes * dim - 1) }),
    RangeError,
    complaint('weights', classes * dim - 1)
  )
  await rejectsLike(make({ weights: [1, 2] }), TypeError, complaint('weights'))
  await rejectsLike(make({ bias: true, margin: arcface() }), Error, /bias/)
  await (await make({ bias: true, margin: softmaxMargin() })).step(sound().input, sound().labels)
})

for (const [changes, kind, name] of [
  [{ learningRate: -1 }, RangeError, 'learningRate'],
  [{ learningRate: Number.NaN }, RangeError, 'learningRate'],
  [{ learningRate: '0.1' }, TypeError, 'learningRate'],
  [{ momentum: -0.1 }, RangeError, 'momentum'],
  [{ momentum: 1.1 }, RangeError, 'momentum'],
  [{ nesterov: 1 }, TypeError, 'nesterov'],
  [{ weightDecay: -1 }, RangeError, 'weightDecay'],
  [{ weightDecay: Number.POSITIVE_INFINITY }, RangeError, 'weightDecay'],
] as const) {
  test(`sgd refuses ${name} ${Object.values(changes)}`, async () => {
    throwsLike(() => sgd(changes as never), kind, complaint(name))
    await rejectsLike(make({ optimizer: { ...sgd(), ...changes } }), kind, complaint(name))
  })
}

for (const [changes, kind, name] of [
  [{ learningRate: -1 }, RangeError, 'learningRate'],
  [{ beta1: 1 }, RangeError, 'beta1'],
  [{ beta2: 1 }, RangeError, 'beta2'],
  [{ beta1: -0.1 }, RangeError, 'beta1'],
  [{ epsilon: -1e-8 }, RangeError, 'epsilon'],
  [{ weightDecay: Number.NaN }, RangeError, 'weightDecay'],
  [{ epsilon: '1' }, TypeError, 'epsilon'],
] as const) {
  test(`adamW refuses ${name} ${Object.values(changes)}`, async () => {
    throwsLike(() => adamW(changes as never), kind, complaint(name))
    await rejectsLike(make({ optimizer: { ...adamW(), ...changes } }), kind, complaint(name))
  })
}

test('optimizers name an option that they do not know', () => {
  throwsLike(() => sgd({ lr: 0.1 } as never), Error, /"lr"/)
  throwsLike(() => adamW({ betas: [0.9, 0.999] } as never), Error, /betas/)
})

// Sizes whose memory no machine has: an error with the number of bytes, not a crash and not a short array.
for (const [large, wide, states] of [
  [2 ** 31 - 1, 2 ** 31 - 1, 1],
  [2 ** 31 - 1, 2 ** 20, 1],
  [2 ** 30, 2 ** 30, 3],
] as const) {
  test(`${large} classes × ${wide}: an error that names the bytes`, async () => {
    const memory = { classes: large, dim: wide, optimizer: states === 3 ? adamW() : sgd() }
    const bytes = String(BigInt(large) * BigInt(wide) * 4n * BigInt(states))
    await failsWith(MarginHead.create(memory), 'ERR_OUT_OF_MEMORY', new RegExp(`${bytes} bytes`))
    await rejectsLike(
      MarginHead.create({ ...memory, weights: new Float32Array(8) }),
      RangeError,
      complaint('weights', 8)
    )
  })
}

// [what, embeddings, labels, kind or code, pattern]
const steps: [string, unknown, unknown, Kind | string, RegExp][] = [
  ['embeddings undefined', undefined, sound().labels, TypeError, complaint('embeddings', 'undefined')],
  ['embeddings in a list', [1, 2, 3, 4], sound().labels, TypeError, complaint('embeddings')],
  [
    'embeddings of another length',
    sound().input.subarray(1),
    sound().labels,
    RangeError,
    complaint('embeddings', rows * dim - 1),
  ],
  ['no embeddings', new Float32Array(0), [], RangeError, complaint('embeddings', 0)],
  ['labels undefined', sound().input, undefined, TypeError, complaint('labels', 'undefined')],
  ['labels of another length', sound().input, [0, 1], RangeError, complaint('labels', 2)],
  [
    'a label beyond the classes',
    sound().input,
    [0, 1, 2, 3, classes, 5],
    RangeError,
    complaint('labels[4]', classes),
  ],
  [
    'a negative label',
    sound().input,
    Int32Array.of(0, 1, 2, 3, -2, 5),
    RangeError,
    complaint('labels[4]', -2),
  ],
  ['a label that is no number', sound().input, [0, 1, '2', 3, 4, 5], TypeError, complaint('labels[2]', 2)],
  [
    'a NaN embedding',
    sound().input.fill(Number.NaN, 9, 10),
    sound().labels,
    'ERR_NOT_FINITE',
    /embeddings.*row 2/,
  ],
  [
    'an infinite embedding',
    sound().input.fill(Infinity, 0, 1),
    sound().labels,
    'ERR_NOT_FINITE',
    /embeddings.*row 0/,
  ],
  [
    'a −∞ embedding',
    sound().input.fill(-Infinity, 23, 24),
    sound().labels,
    'ERR_NOT_FINITE',
    /embeddings.*row 5/,
  ],
]

const setups = {
  'arcface, momentum': {},
  'softmax with bias, adamW': { margin: softmaxMargin(), bias: true, optimizer: adamW() },
}

for (const [what, embeddings, labels, failure, pattern] of steps) {
  for (const [setup, changes] of Object.entries(setups)) {
    test(`a step with ${what} changes nothing: ${setup}`, async () => {
      const [head, untouched] = [await make(changes), await make(changes)]
      const { input, labels: good } = sound()
      for (const each of [head, untouched]) await each.step(input, good)
      const before = head.weights()
      const step = () => head.step(embeddings as never, labels as never)
      const stepSync = () => head.stepSync(embeddings as never, labels as never)
      if (typeof failure === 'string') {
        await failsWith(step(), failure, pattern)
        throwsLike(stepSync, MarginSoftmaxError, pattern)
      } else {
        await rejectsLike(step(), failure, pattern)
        throwsLike(stepSync, failure, pattern)
      }
      assert.is(head.iteration, 1)
      sameBits(head.weights(), before, 'weights')
      // Nor has the optimizer's state changed: the next step is the untouched head's.
      for (const each of [head, untouched]) await each.step(input, good)
      sameBits(head.weights(), untouched.weights(), 'weights after another step')
      if (head.bias()) sameBits(head.bias() as Float32Array, untouched.bias() as Float32Array, 'bias')
    })
  }
}

test('a NaN in an ignored row does not matter', async () => {
  const [head, other] = [await make(), await make()]
  const { input, labels } = sound()
  labels[2] = -1
  await other.step(input, labels)
  input.fill(Number.NaN, 2 * dim, 3 * dim)
  const { loss, gradInput } = await head.step(input, labels)
  assert.ok(Number.isFinite(loss))
  assert.ok(gradInput?.every(Number.isFinite))
  sameBits(head.weights(), other.weights(), 'weights')
})

test('a step with every row ignored: loss 0, and only weight decay and momentum move the weights', async () => {
  const head = await make({ optimizer: sgd({ learningRate: 0.1 }) })
  const before = head.weights()
  const { input } = sound()
  const { loss, losses, stats } = await head.step(input, Array(rows).fill(-1))
  assert.is(loss, 0)
  assert.ok(losses.every((value) => value === 0))
  assert.is(stats.accuracy, 0)
  assert.is(stats.gradientNorm, 0)
  sameBits(head.weights(), before, 'weights')
})

for (const [name, value, kind] of [
  ['learningRate', -0.1, RangeError],
  ['learningRate', Number.NaN, RangeError],
  ['learningRate', '0.1', TypeError],
  ['gradInput', new Float32Array(3), RangeError],
  ['gradInput', new Float64Array(rows * dim), TypeError],
  ['gradInput', 'yes', TypeError],
  ['learningrate', 0.1, Error],
] as const) {
  test(`step refuses the option ${name} ${typeof value === 'object' ? value.constructor.name : value}`, async () => {
    const head = await make()
    const { input, labels } = sound()
    await rejectsLike(head.step(input, labels, { [name]: value }), kind, new RegExp(name))
    throwsLike(() => head.stepSync(input, labels, { [name]: value }), kind, new RegExp(name))
    assert.is(head.iteration, 0)
  })
}

for (const k of [0, -1, classes + 1, 1.5, Number.NaN, '2', null]) {
  test(`head.topK refuses k ${k}`, async () => {
    const head = await make()
    const kind = typeof k === 'number' ? RangeError : TypeError
    await rejectsLike(head.topK(sound().input, k as never), kind, complaint('k', k))
    throwsLike(() => head.topKSync(sound().input, k as never), kind, complaint('k', k))
  })
}

test('after dispose everything says so, and a second dispose is nothing', async () => {
  const head = await make()
  const { input, labels } = sound()
  head.dispose()
  head.dispose()
  head[Symbol.dispose]()
  await failsWith(head.step(input, labels), 'ERR_DISPOSED')
  await failsWith(head.evaluate(input, labels), 'ERR_DISPOSED')
  await failsWith(head.topK(input, 1), 'ERR_DISPOSED')
  await failsWith(head.save('unused.safetensors'), 'ERR_DISPOSED')
  for (const use of [
    () => head.stepSync(input, labels),
    () => head.evaluateSync(input, labels),
    () => head.topKSync(input, 1),
    () => head.weights(),
  ]) {
    throwsLike(use, MarginSoftmaxError, /disposed/)
  }
  assert.is(head.classes, classes)
  assert.is(head.dim, dim)
  assert.is(head.iteration, 0)
})

test('dispose while steps are under way: each ends well or says so', async () => {
  for (let round = 0; round < 5; round++) {
    const head = await make({ classes: 2000, dim: 64 })
    const { input, labels } = makeBatch(round, { rows: 64, dim: 64, classes: 2000 })
    const running = Array.from({ length: 6 }, () => head.step(input, labels))
    if (round > 1) await running[round - 2]
    head.dispose()
    const results = await Promise.allSettled(running)
    for (const result of results) {
      if (result.status === 'fulfilled') assert.ok(Number.isFinite(result.value.loss))
      else assert.is((result.reason as MarginSoftmaxError).code, 'ERR_DISPOSED')
    }
    await failsWith(head.step(input, labels), 'ERR_DISPOSED')
  }
})

test('synchronous calls do not overtake asynchronous ones', async () => {
  const head = await make()
  const { input, labels } = sound()
  const running = head.step(input, labels)
  for (const use of [
    () => head.stepSync(input, labels),
    () => head.weights(),
    () => head.topKSync(input, 1),
  ]) {
    throwsLike(use, MarginSoftmaxError, /await/)
  }
  await running
  assert.is(head.iteration, 1)
  head.stepSync(input, labels)
  assert.is(head.iteration, 2)
})

test('a head and a group are made by their functions alone', () => {
  for (const Class of [MarginHead, ProcessGroup] as unknown as (new (
    options?: unknown
  ) => unknown)[])
    for (const options of [undefined, null, 'x', { classes: 3, dim: 2 }])
      throwsLike(() => new Class(options), TypeError, /^Expected (MarginHead\.create|processGroup\()/)
})

test.run()
