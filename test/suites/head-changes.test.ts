// A head that changes after it was made: its margin, its optimizer, how it trains. Its classes: head-classes.test.ts.
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
import { batchOf, classes, contentsOf, dim, momentum, train, trained } from '../support/changed-heads'
import { complaint, filesOf, norm, onCpu, rejectsLike, sameBits, within } from '../support/support'

const test = suite('head, changes')
const at = filesOf(test)
let files = 0
const newFile = () => at(`head-${files++}`)

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
    assert.equal((await contentsOf(head, newFile())).bytes, (await contentsOf(loaded, newFile())).bytes)
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
  const state = async () =>
    (await contentsOf(head, newFile())).tensors['optimizer.momentum']?.data as Float32Array
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
  assert.is((await contentsOf(head, newFile())).head.optimizerStart, 3)
  await head.set({ optimizer: sgd() })
  await head.set({ optimizer: adamW() })
  assert.is((await contentsOf(head, newFile())).head.optimizerStart, 4)
  const never = await trained({ optimizer: adamW() })
  assert.is((await contentsOf(never, newFile())).head.optimizerStart, undefined)
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
  assert.equal(fs.readFileSync(first), (await contentsOf(other, newFile())).bytes)
  await other.set({ margin: cosface(), optimizer: adamW() })
  const { input, labels } = batchOf(4)
  await other.step(input, labels, { learningRate: 0.3 })
  await other.set({ margin: arcface() })
  assert.equal(fs.readFileSync(second), (await contentsOf(other, newFile())).bytes)
  await other.addClasses(2)
  const last = batchOf(5)
  await other.step(last.input, last.labels)
  await other.removeClasses([0, 5])
  assert.equal((await contentsOf(head, newFile())).bytes, (await contentsOf(other, newFile())).bytes)
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
  const before = (await contentsOf(head, newFile())).bytes
  const file = newFile()
  await head.save(file)
  for (const [change, pattern] of refused) {
    await rejectsLike(head.set(change as HeadChanges), Error, pattern)
    const loadable = change && ['weightStorage', 'threads'].some((name) => name in change)
    if (change && !loadable) await rejectsLike(MarginHead.load(file, change), Error, pattern)
  }
  assert.equal((await contentsOf(head, newFile())).bytes, before)
  const biased = await trained({ margin: softmaxMargin(), bias: true })
  await rejectsLike(biased.set({ margin: arcface() }), RangeError, complaint('bias', true))
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
    const matrix = 4 * 16_000 * 500 // large beside what else comes and goes meanwhile
    const head = await MarginHead.create({ classes: 16_000, dim: 500, optimizer: sgd() })
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
    await head.addClasses(16_000)
    grown(3) // weights and momentum, twice as many
    await head.removeClasses(Array.from({ length: 24_000 }, (_, j) => j))
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
