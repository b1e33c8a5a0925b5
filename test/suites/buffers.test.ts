// Buffers that are gone, that can move under a running call, that are shared, or that serve twice: refused or handled.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { marginLoss, marginLossSync } from '../../lib/index'
import { complaint, makeBatch, rejectsLike, sameBits, throwsLike } from '../support/support'

const test = suite('buffers')

const [rows, dim, classes] = [6, 4, 9]
const sound = () => makeBatch(1, { rows, dim, classes })
const floats = (length: number) => new Float32Array(length)

for (const name of ['input', 'weight', 'labels'] as const) {
  test(`a detached ${name}`, async () => {
    const batch = sound()
    structuredClone(batch[name], { transfer: [batch[name].buffer as ArrayBuffer] })
    throwsLike(() => marginLossSync(batch), Error, complaint(name))
    await rejectsLike(marginLoss(batch), Error, complaint(name))
  })
}

for (const [name, length] of [
  ['losses', rows],
  ['gradInput', rows * dim],
  ['gradWeight', classes * dim],
] as const) {
  test(`a detached ${name} to fill`, async () => {
    const array = floats(length)
    structuredClone(array, { transfer: [array.buffer as ArrayBuffer] })
    throwsLike(() => marginLossSync(sound(), { [name]: array }), Error, complaint(name))
    await rejectsLike(marginLoss(sound(), { [name]: array }), Error, complaint(name))
  })
}

type Resizable = ArrayBuffer & { resize(length: number): void }
const resizable = (values: Float32Array | Int32Array): [Float32Array | Int32Array, Resizable] => {
  const limits = { maxByteLength: 4 * values.byteLength }
  const Buffers = ArrayBuffer as unknown as new (length: number, limits: object) => Resizable
  const buffer = new Buffers(values.byteLength, limits)
  const View = values.constructor as new (buffer: ArrayBuffer) => Float32Array | Int32Array
  const view = new View(buffer)
  view.set(values)
  return [view, buffer]
}

for (const name of ['input', 'weight', 'labels'] as const) {
  test(`a resizable buffer behind ${name}: refused, or right`, async () => {
    const expected = marginLossSync(sound())
    const run = async (resizeTo: number | undefined) => {
      const batch = sound()
      const [view, buffer] = resizable(batch[name])
      const running = marginLoss({ ...batch, [name]: view } as never)
      if (resizeTo !== undefined) buffer.resize(resizeTo)
      return running
    }
    for (const resizeTo of [undefined, 0, 8]) {
      try {
        const result = await run(resizeTo)
        assert.is(result.loss, expected.loss)
      } catch (error) {
        assert.instance(error, TypeError)
        assert.match((error as Error).message, complaint(name))
      }
    }
    // Shrunk before the call: its length is what counts.
    const batch = sound()
    const [view, buffer] = resizable(batch[name])
    buffer.resize(4)
    throwsLike(() => marginLossSync({ ...batch, [name]: view } as never), Error, complaint(name))
  })
}

test('an array to fill that is resized or transferred in flight: refused, or an error, never a crash', async () => {
  for (const resizeTo of [0, 8]) {
    const [gradInput, buffer] = resizable(floats(rows * dim))
    try {
      const running = marginLoss(sound(), { gradInput: gradInput as Float32Array })
      buffer.resize(resizeTo)
      await running
    } catch (error) {
      assert.match((error as Error).message, /gradInput/)
    }
  }
  const gradInput = floats(rows * dim)
  const running = marginLoss(sound(), { gradInput })
  structuredClone(gradInput, { transfer: [gradInput.buffer as ArrayBuffer] })
  try {
    await running
  } catch (error) {
    assert.match((error as Error).message, /gradInput/)
  }
})

test('views over a SharedArrayBuffer are accepted', async () => {
  const batch = sound()
  const expected = marginLossSync(batch)
  const shared = new Float32Array(new SharedArrayBuffer(batch.input.byteLength))
  shared.set(batch.input)
  for (const result of [
    marginLossSync({ ...batch, input: shared }),
    await marginLoss({ ...batch, input: shared }),
  ]) {
    assert.is(result.loss, expected.loss)
  }
})

test('an array that serves as input and as output is refused, or gives the right result', async () => {
  const expected = marginLossSync(sound())
  for (const [from, to] of [
    ['input', 'gradInput'],
    ['weight', 'gradWeight'],
  ] as const) {
    const call = async (run: typeof marginLossSync | typeof marginLoss) => {
      const batch = sound()
      try {
        const result = await run(batch, { [to]: batch[from] })
        for (const name of ['losses', 'gradInput', 'gradWeight'] as const) {
          sameBits(
            result[name] as Float32Array,
            expected[name] as Float32Array,
            `${name} with ${to} over ${from}`
          )
        }
      } catch (error) {
        if ((error as Error).name === 'Assertion') throw error
        assert.match((error as Error).message, new RegExp(to))
      }
    }
    await call(marginLossSync)
    await call(marginLoss)
  }
})

test('two arrays to fill that are one are refused, or nothing crashes', () => {
  const array = floats(rows * dim)
  const labels = new Int32Array(rows)
  try {
    marginLossSync(
      { ...sound(), labels, weight: floats(rows * dim).fill(1) },
      { gradInput: array, gradWeight: array }
    )
  } catch (error) {
    assert.match((error as Error).message, /grad(Input|Weight)/)
  }
})

test.run()
