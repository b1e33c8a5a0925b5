// A head that changes after it was made: how it trains, and which classes it has.
import fs from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { HeadChanges, MarginHeadOptions } from '../../lib/index'
import {
  adamW,
  arcface,
  combined,
  cosface,
  MarginHead,
  MarginSoftmaxError,
  sgd,
  softmaxMargin,
  sphereface,
} from '../../lib/index'
import { native } from '../../lib/internal/native'
import { readSafetensors } from '../support/golden'
import { complaint, filesOf, makeBatch, norm, onCpu, rejectsLike, sameBits, within } from '../support/support'

const test = suite('head, changes')
const at = filesOf(test)
let files = 0
const newFile = () => at(`head-${files++}`)

const [rows, dim, classes] = [13, 24, 37]
const batchOf = (seed: number, of = classes) => makeBatch(seed, { rows, dim, classes: of })
const momentum = sgd({ learningRate: 0.05, momentum: 0.9, weightDecay: 0.01 })

async function train(head: MarginHead, from: number, to: number): Promise<number[]> {
  const losses = []
  for (let seed = from; seed < to; seed++) {
    const { input, labels } = batchOf(seed, head.classes)
    losses.push((await head.step(input, labels)).loss)
  }
  return losses
}

async function trained(options: Partial<MarginHeadOptions> = {}): Promise<MarginHead> {
  const head = await MarginHead.create({ classes, dim, optimizer: momentum, seed: 1, ...options })
  await train(head, 0, 3)
  return head
}

/** Everything that a head holds, by its file. */
async function contentsOf(head: MarginHead) {
  const file = newFile()
  await head.save(file)
  const { tensors, metadata } = readSafetensors(file)
  return { tensors, head: JSON.parse(metadata.head as string), bytes: fs.readFileSync(file) }
}

const changes: [string, HeadChanges, Partial<MarginHeadOptions>?][] = [
  ['nothing', {}],
  ['nothing, spelt out', { margin: undefined, classes, dim, bias: false }],
  ['the margin', { margin: cosface({ margin: 0.2, scale: 32 }) }],
  ['a margin that counts steps', { margin: sphereface({ m: 3 }) }],
  ['a margin without cosines', { margin: softmaxMargin() }],
  ['the margin of a head with a bias', { margin: softmaxMargin() }, { margin: softmaxMargin(), bias: true }],
  ['the learning rate and the momentum', { optimizer: sgd({ learningRate: 0.2, momentum: 0.5 }) }],
  ['momentum away', { optimizer: sgd({ learningRate: 0.2 }) }],
  ['momentum where there was none', { optimizer: momentum }, { optimizer: sgd() }],
  ['SGD to AdamW', { optimizer: adamW() }],
  ['AdamW to SGD', { optimizer: momentum }, { optimizer: adamW() }],
  ["AdamW's parameters", { optimizer: adamW({ beta1: 0.5, weightDecay: 0 }) }, { optimizer: adamW() }],
  ['AdamW with a bias', { optimizer: adamW() }, { margin: softmaxMargin(), bias: true }],
  ['the warm-up', { marginWarmupSteps: 9 }],
  ['label smoothing', { labelSmoothing: 0.1 }],
  ['the ignoreIndex', { ignoreIndex: 0 }],
  ['sampling', { sampleRate: 0.5, sampleCorrection: true }],
  ['the seed of the samples', { seed: 8 }, { sampleRate: 0.5 }],
  ['the filter', { interclassFilter: 0.1 }],
  ['what is negligible', { negligible: 0 }],
  ['several at once', { margin: combined(), optimizer: adamW(), labelSmoothing: 0.2, negligible: 0 }],
  ['names', { classNames: Array.from({ length: classes }, (_, j) => `class ${j}`) }],
]

for (const [what, change, options] of changes)
  test(`set and load change the same: ${what}`, async () => {
    const head = await trained(options)
    const file = newFile()
    await head.save(file)
    const before = head.weights()
    await head.set(change)
    const loaded = await MarginHead.load(file, change)
    sameBits(head.weights(), before, 'weights')
    for (const one of [head, loaded]) {
      assert.is(one.iteration, 3)
      if (change.margin) assert.equal(one.margin, change.margin)
      if (change.optimizer) assert.equal(one.optimizer, change.optimizer)
      assert.equal(one.classNames, change.classNames)
    }
    assert.equal((await contentsOf(head)).bytes, (await contentsOf(loaded)).bytes)
    assert.equal(await train(head, 3, 6), await train(loaded, 3, 6))
    sameBits(head.weights(), loaded.weights(), 'weights of the next steps')
    // What is saved after the change goes on with the same bits.
    await head.save(file)
    const resumed = await MarginHead.load(file)
    assert.equal(await train(head, 6, 8), await train(resumed, 6, 8))
  })

for (const [what, change, options] of changes.filter(
  ([, { marginWarmupSteps, sampleRate, seed, margin }]) =>
    [marginWarmupSteps, sampleRate, seed].every((one) => one === undefined) && margin?.name !== 'sphereface'
))
  test(`a changed head trains as one that was made so: ${what}`, async () => {
    const head = await trained(options)
    const made = { optimizer: momentum, ...options, ...change }
    // Momentum goes on; what begins anew is compared.
    const fresh = change.optimizer && change.optimizer.name !== (options?.optimizer ?? momentum).name
    await head.set(fresh ? change : { ...change, optimizer: sgd({ learningRate: 0.1 }) })
    if (!fresh) made.optimizer = sgd({ learningRate: 0.1 })
    const other = await MarginHead.create({ ...made, classes, dim, weights: head.weights() })
    if (head.bias()) return // it has no way into a new head
    assert.equal(await train(head, 3, 6), await train(other, 3, 6))
    sameBits(head.weights(), other.weights(), 'weights')
  })

test('the state of an optimizer of the same kind stays, momentum that was away begins at zero', async () => {
  const head = await trained()
  const state = async () => (await contentsOf(head)).tensors['optimizer.momentum']?.data as Float32Array
  const before = await state()
  assert.ok(norm(before) > 0)
  await head.set({ optimizer: sgd({ learningRate: 7, momentum: 0.1, nesterov: true }) })
  sameBits(await state(), before, 'momentum')
  await head.set({ optimizer: sgd() })
  assert.is(await state(), undefined)
  await head.set({ optimizer: momentum })
  assert.is(norm(await state()), 0)
})

test("AdamW's steps count from where its state began, and on from there when its parameters change", async () => {
  const head = await trained()
  await head.set({ optimizer: adamW() })
  await train(head, 3, 4)
  await head.set({ optimizer: adamW({ learningRate: 0.01 }) })
  assert.is((await contentsOf(head)).head.optimizerStart, 3)
  await head.set({ optimizer: sgd() })
  await head.set({ optimizer: adamW() })
  assert.is((await contentsOf(head)).head.optimizerStart, 4)
  const never = await trained({ optimizer: adamW() })
  assert.is((await contentsOf(never)).head.optimizerStart, undefined)
})

test('a change takes its turn among steps and saves that nobody awaits', async () => {
  const [head, other] = [await trained(), await trained()]
  const [first, second] = [newFile(), newFile()]
  const batches = [3, 4, 5].map((seed) => batchOf(seed))
  const running: Promise<unknown>[] = []
  const rate = { learningRate: 0.3 }
  const step = (i: number, options?: object) => {
    const { input, labels } = batches[i] as ReturnType<typeof batchOf>
    const list = i === 1 ? Array.from(labels) : labels
    running.push(head.step(input, list, options))
    input.fill(Number.NaN) // taken as it was when the step was called
    list.fill(-1)
  }
  step(0)
  running.push(head.save(first), head.set({ margin: cosface(), optimizer: adamW() }))
  step(1, rate)
  rate.learningRate = Number.NaN
  running.push(head.set({ margin: arcface() }), head.save(second), head.addClasses(2))
  step(2)
  running.push(head.removeClasses([0, 5]), head.topK(batchOf(9).input, classes))
  await Promise.all(running)

  await train(other, 3, 4)
  assert.equal(fs.readFileSync(first), (await contentsOf(other)).bytes)
  await other.set({ margin: cosface(), optimizer: adamW() })
  const { input, labels } = batchOf(4)
  await other.step(input, labels, { learningRate: 0.3 })
  await other.set({ margin: arcface() })
  assert.equal(fs.readFileSync(second), (await contentsOf(other)).bytes)
  await other.addClasses(2)
  const last = batchOf(5)
  await other.step(last.input, last.labels)
  await other.removeClasses([0, 5])
  assert.equal((await contentsOf(head)).bytes, (await contentsOf(other)).bytes)
})

test('synchronous calls and copies are refused while a change waits', async () => {
  const head = await trained()
  const { input, labels } = batchOf(3)
  for (const changing of [() => head.set({}), () => head.addClasses(1), () => head.removeClasses([0])]) {
    const running = changing()
    for (const call of [() => head.stepSync(input, labels), () => head.weights(), () => head.topKSync(input)])
      assert.throws(call, (error: MarginSoftmaxError) => error.code === 'ERR_BUSY')
    await running
  }
})

const refused: [HeadChanges | null, RegExp][] = [
  [{ classes: 38 }, complaint('classes', 38)],
  [{ dim: 25 }, complaint('dim', 25)],
  [{ bias: true }, complaint('bias', true)],
  [{ weights: new Float32Array(classes * dim) } as never, /"weights"/],
  [{ weightStorage: 'bfloat16' } as never, /"weightStorage"/],
  [{ threads: 1 } as never, /"threads"/],
  [{ margins: arcface() } as never, /"margins"/],
  [null, complaint('options', null)],
  [{ margin: null as never }, complaint('margin', null)],
  [{ margin: { name: 'x' } as never }, /margin/],
  [{ optimizer: { name: 'sgd', momentum: 2 } as never }, complaint('momentum', 2)],
  [{ sampleRate: 0 }, complaint('sampleRate', 0)],
  [{ interclassFilter: 0.5, labelSmoothing: 0.1 }, complaint('interclassFilter')],
  [{ interclassFilter: 0.5, margin: softmaxMargin() }, complaint('interclassFilter')],
  [{ marginWarmupSteps: -1 }, complaint('marginWarmupSteps', -1)],
  [{ classNames: ['a'] }, complaint('classNames')],
]
test('what contradicts the head is refused by name, and changes nothing', async () => {
  const head = await trained()
  const before = (await contentsOf(head)).bytes
  const file = newFile()
  await head.save(file)
  for (const [change, pattern] of refused) {
    await rejectsLike(head.set(change as HeadChanges), Error, pattern)
    const loadable = change && ['weightStorage', 'threads'].some((name) => name in change)
    if (change && !loadable) await rejectsLike(MarginHead.load(file, change), Error, pattern)
  }
  assert.equal((await contentsOf(head)).bytes, before)
  const biased = await trained({ margin: softmaxMargin(), bias: true })
  await rejectsLike(biased.set({ margin: arcface() }), RangeError, complaint('bias', true))
})

const kinds: [string, Partial<MarginHeadOptions>][] = [
  ['momentum', {}],
  ['AdamW', { optimizer: adamW() }],
  ['no state', { optimizer: sgd() }],
  ['a bias', { margin: softmaxMargin(), bias: true }],
  ...(onCpu
    ? [['weights in bfloat16', { weightStorage: 'bfloat16' }] as [string, { weightStorage: 'bfloat16' }]]
    : []),
]
/** Rows of every array of a head. */
async function rowsOf(head: MarginHead): Promise<Record<string, number[][]>> {
  const { tensors } = await contentsOf(head)
  return Object.fromEntries(
    Object.entries(tensors).map(([name, { data, shape }]) => {
      const width = shape[1] ?? 1
      return [
        name,
        Array.from({ length: shape[0] as number }, (_, j) =>
          Array.from(data.slice(j * width, (j + 1) * width))
        ),
      ]
    })
  )
}

for (const [what, options] of kinds) {
  test(`added classes come last with state zero, the others stay: ${what}`, async () => {
    const head = await trained(options)
    const before = await rowsOf(head)
    const weights = makeBatch(7, { rows: 2, dim, classes }).input
    assert.equal(await head.addClasses(2, { weights }), { first: classes, count: 2 })
    assert.is(head.classes, classes + 2)
    assert.equal(head.shard, { first: 0, count: classes + 2 })
    assert.is(head.iteration, 3)
    for (const [name, all] of Object.entries(await rowsOf(head))) {
      assert.equal(all.slice(0, classes), before[name], name)
      assert.is(all.length, classes + 2)
      if (name !== 'weight') for (const row of all.slice(classes)) assert.is(norm(row), 0, name)
    }
    if (options.weightStorage)
      within(Math.abs(norm(head.weights().slice(classes * dim)) / norm(weights) - 1), 0.01, 'rounded')
    else sameBits(head.weights().slice(classes * dim), weights, 'new weights')
    await train(head, 3, 5)
  })

  test(`removed classes go with their state, the others close up: ${what}`, async () => {
    for (const list of [
      [0],
      [classes - 1],
      [5, 3, 4],
      [0, 2, 4, 36],
      Uint8Array.of(1),
      [],
      [...Array(classes - 1).keys()],
    ]) {
      const head = await trained(options)
      const before = await rowsOf(head)
      const places = await head.removeClasses(list)
      const kept = [...Array(classes).keys()].filter((j) => !list.includes(j as never))
      assert.equal(
        [...places],
        [...Array(classes).keys()].map((j) => kept.indexOf(j))
      )
      for (const [name, all] of Object.entries(await rowsOf(head)))
        assert.equal(
          all,
          kept.map((j) => before[name]?.[j]),
          name
        )
      assert.is(head.classes, kept.length)
      assert.is(head.iteration, 3)
      await train(head, 3, 4)
      head.dispose()
    }
  })
}

test('a head with added classes trains as one that was made with all of them', async () => {
  const head = await trained({ optimizer: sgd() })
  await head.addClasses(3)
  const other = await MarginHead.create({
    classes: classes + 3,
    dim,
    optimizer: sgd(),
    weights: head.weights(),
  })
  assert.equal(await train(head, 3, 6), await train(other, 3, 6))
  sameBits(head.weights(), other.weights(), 'weights')
})

test('random weights of added classes: reproducible, near 0.01, never those of a class before', async () => {
  const added = async () => {
    const head = await trained()
    await head.addClasses(60)
    return head.weights().slice(classes * dim)
  }
  const weights = await added()
  sameBits(weights, await added(), 'the same again')
  within(Math.abs(norm(weights) / Math.sqrt(weights.length) / 0.01 - 1), 0.1, 'deviation')
  const head = await MarginHead.create({ classes: 3, dim })
  const last = head.weights().slice(2 * dim)
  await head.removeClasses([0])
  await head.addClasses(1)
  assert.not.equal(head.weights().slice(2 * dim), last)
})

test('names go with their classes', async () => {
  const head = await MarginHead.create({ classes: 3, dim, classNames: ['a', 'b', 'c'] })
  await head.addClasses(2, { classNames: ['d', 'e'] })
  assert.equal(head.classNames, ['a', 'b', 'c', 'd', 'e'])
  await head.removeClasses([1, 3])
  assert.equal(head.classNames, ['a', 'c', 'e'])
  assert.ok(Object.isFrozen(head.classNames))
  const file = newFile()
  await head.save(file)
  assert.equal((await MarginHead.load(file)).classNames, ['a', 'c', 'e'])
  for (const [given, pattern] of [
    [undefined, complaint('classNames', undefined)],
    [{ classNames: ['a'] }, complaint('classNames[0]', 'a')],
    [{ classNames: ['x', 'y'] }, complaint('classNames')],
  ] as const)
    await rejectsLike(head.addClasses(1, given), Error, pattern)
  assert.equal(head.classNames, ['a', 'c', 'e'])
  const nameless = await trained()
  await rejectsLike(nameless.addClasses(1, { classNames: ['x'] }), TypeError, complaint('classNames'))
})

test('wrong classes are refused by name, and change nothing', async () => {
  const head = await trained()
  const before = (await contentsOf(head)).bytes
  const weights = new Float32Array(dim)
  const notFinite = Float32Array.from({ length: 2 * dim }, (_, i) => (i === dim + 1 ? Number.NaN : 1))
  const calls: [() => Promise<unknown>, RegExp][] = [
    [() => head.addClasses(0), complaint('count', 0)],
    [() => head.addClasses('1' as never), complaint('count', '1')],
    [() => head.addClasses(2 ** 31 - 1), /classes/],
    [() => head.addClasses(2, { weights }), complaint('weights')],
    [() => head.addClasses(2, { weights: notFinite }), /finite numbers for weights .* row 1$/],
    [() => head.addClasses(1, { weight: weights } as never), /"weight"/],
    [() => head.addClasses(2 ** 31 - 100), /bytes of memory/],
    [() => head.removeClasses([classes]), complaint('classes[0]', classes)],
    [() => head.removeClasses([0, -1]), complaint('classes[1]', -1)],
    [() => head.removeClasses([3, 4, 3]), complaint('classes[2]', 3)],
    [() => head.removeClasses(Array.from({ length: classes }, (_, j) => j)), complaint('classes')],
    [() => head.removeClasses([0.5]), complaint('classes[0]', 0.5)],
    [() => head.removeClasses(new Array(2 ** 32 - 1)), complaint('classes[0]', undefined)], // no time for so many
    [() => head.removeClasses(new Set([1]) as never), complaint('classes')],
    [() => head.removeClasses(3 as never), complaint('classes', 3)],
    [() => head.removeClasses(new Float32Array(1) as never), complaint('classes')],
  ]
  for (const [call, pattern] of calls) await rejectsLike(call(), Error, pattern)
  assert.equal((await contentsOf(head)).bytes, before)
})

test('a step that waits takes no time for elements that its labels do not have', async () => {
  const head = await trained()
  const { input } = batchOf(3)
  const lying = new Proxy([1], { get: (list, key) => (key === 'length' ? -1 : Reflect.get(list, key)) })
  for (const labels of [new Array(2 ** 32 - 1), Object.assign([1, 2], { length: 2 ** 31 }), lying]) {
    const saving = head.save(newFile())
    await rejectsLike(head.step(input, labels), Error, complaint('labels'))
    await saving
  }
})

if (onCpu)
  test('the garbage collector is told of the bytes that a head has, whatever changes', async () => {
    const matrix = 4 * 2000 * 500
    const head = await MarginHead.create({ classes: 2000, dim: 500, optimizer: sgd() })
    const before = native().externalMemory()
    const grown = (matrices: number) =>
      within(Math.abs(native().externalMemory() - before - matrices * matrix), matrix / 4, 'bytes')
    for (const [optimizer, matrices] of [
      [adamW(), 2],
      [sgd({ momentum: 0.9 }), 1],
      [sgd(), 0],
      [momentum, 1],
    ] as const) {
      await head.set({ optimizer })
      grown(matrices)
    }
    await head.addClasses(2000)
    grown(3) // weights and momentum, twice as many
    await head.removeClasses(Array.from({ length: 3000 }, (_, j) => j))
    grown(0)
    head.dispose()
    grown(-1)
  })

test('a head that is disposed of meanwhile stays so, and says so', async () => {
  for (const change of ['set', 'addClasses', 'removeClasses'] as const) {
    const head = await trained()
    const running =
      change === 'set' ? head.set({}) : change === 'addClasses' ? head.addClasses(1) : head.removeClasses([0])
    head.dispose()
    await running.then(
      () => {},
      (error) => assert.is((error as MarginSoftmaxError).code, 'ERR_DISPOSED')
    )
    assert.ok(head.disposed)
    await rejectsLike(head.set({}), MarginSoftmaxError, /in use/)
    await rejectsLike(head.addClasses(1), MarginSoftmaxError, /in use/)
    await rejectsLike(head.removeClasses([0]), MarginSoftmaxError, /in use/)
  }
})

test.run()
