// AbortSignals of save and topK: before, while they wait for their turn, and while they run.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { MarginHead } from '../../lib/index'
import { complaint, filesOf, makeBatch, rejectsLike, sameBits } from '../support/support'

const test = suite('head, signals')
const at = filesOf(test)

const [rows, dim, classes] = [8, 16, 50]
const { input, labels } = makeBatch(1, { rows, dim, classes })
const reason = new Error('enough')

async function gaveUp(promise: Promise<unknown>, expected: unknown = reason): Promise<void> {
  let caught: unknown = 'nothing'
  await promise.catch((error) => {
    caught = error
  })
  assert.is(caught, expected)
}

const calls: [string, (head: MarginHead, signal: AbortSignal) => Promise<unknown>][] = [
  ['save', (head, signal) => head.save(at('never'), { signal })],
  ['topK', (head, signal) => head.topK(input, 3, { signal })],
]

for (const [name, call] of calls) {
  test(`${name}: a signal that is aborted already rejects with its reason, whatever that is`, async () => {
    const head = await MarginHead.create({ classes, dim })
    for (const given of [reason, 'a text', null, 0]) await gaveUp(call(head, AbortSignal.abort(given)), given)
    const usual = call(head, AbortSignal.abort())
    await rejectsLike(usual, Error, /abort/)
    await usual.catch((error) => assert.is(error.name, 'AbortError'))
    head.stepSync(input, labels) // nothing is under way
    assert.not(fs.existsSync(at('never')))
  })

  test(`${name}: aborted while it waits it rejects at once and is not begun; what waits behind it keeps its order`, async () => {
    const head = await MarginHead.create({ classes, dim })
    const other = await MarginHead.create({ classes, dim })
    const [first, second] = [at('first'), at('second')]
    const ends: string[] = []
    const note = (what: string) => () => ends.push(what)
    const controller = new AbortController()
    const running: Promise<unknown>[] = [head.step(input, labels), head.save(first).then(note('save'))]
    const given = gaveUp(call(head, controller.signal)).then(note('given up'))
    running.push(head.step(input, labels), head.save(second))
    controller.abort(reason)
    await Promise.all([given, ...running])
    assert.equal(ends, ['given up', 'save'])
    assert.not(fs.existsSync(at('never')))
    assert.is(head.iteration, 2)
    for (const file of [first, second]) {
      await other.step(input, labels)
      const saved = await MarginHead.load(file)
      sameBits(saved.weights(), other.weights(), file)
    }
    head.stepSync(input, labels)
  })

  test(`${name}: a signal that is aborted afterwards changes nothing, and one that never is holds nothing`, async () => {
    const head = await MarginHead.create({ classes, dim })
    const controller = new AbortController()
    const listeners = new Set<unknown>()
    const { signal } = controller
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)]
    signal.addEventListener = (type: string, listener: never) => {
      listeners.add(listener)
      add(type, listener)
    }
    signal.removeEventListener = (type: string, listener: never) => {
      listeners.delete(listener)
      remove(type, listener)
    }
    await call(head, signal)
    await new Promise((resolve) => setImmediate(resolve))
    assert.is(listeners.size, 0)
    controller.abort(reason)
    await call(head, new AbortController().signal)
    fs.rmSync(at('never'), { force: true })
  })

  test(`${name} refuses what is no signal`, async () => {
    const head = await MarginHead.create({ classes, dim })
    for (const wrong of [null, true, 'abort', {}, new AbortController()])
      await rejectsLike(call(head, wrong as never), TypeError, complaint('signal'))
    const unknown =
      name === 'save' ? head.save('x', { sign: 1 } as never) : head.topK(input, 1, { sign: 1 } as never)
    await rejectsLike(unknown, TypeError, /"sign"/)
  })
}

test('a save that is aborted while it writes leaves the old file and nothing beside it', async () => {
  const inner = fs.mkdtempSync(at('writing-'))
  const file = path.join(inner, 'head')
  const head = await MarginHead.create({ classes: 40_000, dim: 256 }) // three parts
  await head.save(file)
  const before = fs.statSync(file)
  await head.step(makeBatch(2, { rows, dim: 256, classes: 40_000 }).input, labels)
  const controller = new AbortController()
  const saving = gaveUp(head.save(file, { signal: controller.signal }))
  const deadline = Date.now() + 30_000
  const isWriting = () => fs.readdirSync(inner).some((name) => name.endsWith('.tmp'))
  while (!isWriting() && Date.now() < deadline) await new Promise((resolve) => setImmediate(resolve))
  controller.abort(reason)
  await saving
  assert.equal(fs.readdirSync(inner), ['head'])
  assert.is(fs.statSync(file).ino, before.ino)
  await head.save(file) // the head goes on
  assert.is((await MarginHead.load(file)).iteration, 1)
})

test('a topK that is aborted while it runs rejects, and the head goes on', async () => {
  const many = 10_000
  const head = await MarginHead.create({ classes: many, dim: 256 })
  const batch = makeBatch(2, { rows: 1000, dim: 256, classes: many })
  const controller = new AbortController()
  const scoring = gaveUp(head.topK(batch.input, 5, { signal: controller.signal }))
  controller.abort(reason) // it has begun: nothing held it up
  await scoring
  const { indices } = await head.topK(batch.input.subarray(0, 256), 1)
  assert.is(indices.length, 1)
})

test.run()
