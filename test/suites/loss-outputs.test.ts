// The stateless losses take and give: parts of the result, arrays to fill, the kinds of labels and inputs.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { marginLoss, marginLossSync } from '../../lib/index'
import type { LossOptions } from '../support/losses'
import { runLoss } from '../support/losses'
import { marginCase, table } from '../support/margins'
import type { Batch } from '../support/support'
import { makeBatch, normals, onCpu, random, sameBits } from '../support/support'

const test = suite('loss, outputs')

const shape = { rows: 21, dim: 35, classes: 77 }
const names = ['gradInput', 'gradWeight', 'gradBias'] as const

for (const row of table) {
  const margin = marginCase(row.name)
  const batch = makeBatch(1, shape, { bias: row.raw })
  const wanted = row.raw ? names : names.slice(0, 2)

  test(`every part alone has the bits of the whole: ${row.name}`, () => {
    const whole = runLoss(margin, batch)
    for (let mask = 0; mask < 2 ** wanted.length; mask++) {
      const parts = Object.fromEntries(wanted.map((name, bit) => [name, (mask & (1 << bit)) !== 0]))
      const ways: LossOptions[] = onCpu ? [{}, { workspace: 1 << 25 }, { threads: 2 }] : [{}]
      for (const options of ways.map((way) => ({ ...parts, ...way }))) {
        const result = runLoss(margin, batch, options)
        assert.is(result.loss, whole.loss)
        sameBits(result.losses, whole.losses, 'losses')
        for (const name of wanted) {
          if (parts[name]) sameBits(result[name] as Float32Array, whole[name] as Float32Array, name)
          else assert.is(result[name], undefined, `${name} was not wanted`)
        }
      }
    }
  })

  test(`arrays to fill are filled and returned: ${row.name}`, async () => {
    const whole = runLoss(margin, batch)
    const fill = {
      losses: new Float32Array(shape.rows).fill(9),
      gradInput: new Float32Array(shape.rows * shape.dim).fill(9),
      gradWeight: new Float32Array(shape.classes * shape.dim).fill(9),
      ...(row.raw && { gradBias: new Float32Array(shape.classes).fill(9) }),
    }
    const check = (result: ReturnType<typeof marginLossSync>) => {
      assert.is(result.loss, whole.loss)
      for (const name of ['losses', ...wanted] as const) {
        assert.is(result[name], fill[name], `${name} is not the array given`)
        sameBits(result[name] as Float32Array, whole[name] as Float32Array, name)
        fill[name]?.fill(Number.NaN)
      }
    }
    check(marginLossSync(batch, { margin: margin.margin, ...fill }))
    check(await marginLoss(batch, { margin: margin.margin, ...fill }))
  })
}

test('without a bias there is no gradBias', () => {
  assert.is(runLoss(marginCase('softmax'), makeBatch(2, shape)).gradBias, undefined)
})

test('arrays inside a larger buffer: nothing beside them is read or written', () => {
  const margin = marginCase('arcface')
  const batch = makeBatch(3, shape)
  const whole = runLoss(margin, batch)
  const embed = (values: Float32Array) => {
    const large = new Float32Array(values.length + 14).fill(Number.NaN)
    large.set(values, 7)
    return large.subarray(7, 7 + values.length)
  }
  const losses = embed(new Float32Array(shape.rows))
  const gradInput = embed(new Float32Array(batch.input.length))
  const gradWeight = embed(new Float32Array(batch.weight.length))
  const inside = { ...batch, input: embed(batch.input), weight: embed(batch.weight) }
  const result = runLoss(margin, inside, { losses, gradInput, gradWeight })
  sameBits(result.gradInput as Float32Array, whole.gradInput as Float32Array, 'gradInput')
  sameBits(result.gradWeight as Float32Array, whole.gradWeight as Float32Array, 'gradWeight')
  for (const array of [losses, gradInput, gradWeight, inside.input, inside.weight]) {
    const all = new Float32Array(array.buffer)
    for (let i = 0; i < 7; i++) {
      assert.ok(
        Number.isNaN(all[i]) && Number.isNaN(all[all.length - 1 - i]),
        'a value beside the array was changed'
      )
    }
  }
})

test('the inputs are left as they were', async () => {
  for (const row of table) {
    const batch = makeBatch(4, shape, { bias: row.raw })
    const copy = structuredClone(batch)
    const margin = marginCase(row.name)
    runLoss(margin, batch)
    await marginLoss(batch, { margin: margin.margin })
    for (const name of ['input', 'weight', 'labels'] as const)
      sameBits(batch[name], copy[name], `${row.name}: ${name}`)
    if (batch.bias) sameBits(batch.bias, copy.bias as Float32Array, 'bias')
  }
})

test('labels of every kind give the same bits', async () => {
  const margin = marginCase('cosface')
  const batch = makeBatch(5, shape)
  const whole = runLoss(margin, batch)
  const kinds = [
    Int32Array.from(batch.labels),
    Uint32Array.from(batch.labels),
    Uint16Array.from(batch.labels),
    Uint8Array.from(batch.labels),
    Array.from(batch.labels),
  ]
  for (const labels of kinds) {
    const given = { ...batch, labels }
    for (const result of [
      marginLossSync(given, { margin: margin.margin }),
      await marginLoss(given, { margin: margin.margin }),
    ]) {
      assert.is(result.loss, whole.loss)
      sameBits(result.gradInput as Float32Array, whole.gradInput as Float32Array, labels.constructor.name)
      sameBits(result.gradWeight as Float32Array, whole.gradWeight as Float32Array, labels.constructor.name)
    }
  }
})

test('ignored rows with labels of every kind that can hold the ignoreIndex', () => {
  const margin = marginCase('arcface')
  const batch = makeBatch(6, shape)
  batch.labels[3] = 255
  const whole = runLoss(margin, batch, { ignoreIndex: 255 })
  assert.is(whole.losses[3], 0)
  for (const labels of [
    Uint32Array.from(batch.labels),
    Uint16Array.from(batch.labels),
    Uint8Array.from(batch.labels),
    Array.from(batch.labels),
  ]) {
    const result = marginLossSync({ ...batch, labels }, { margin: margin.margin, ignoreIndex: 255 })
    sameBits(result.losses, whole.losses, labels.constructor.name)
    sameBits(result.gradWeight as Float32Array, whole.gradWeight as Float32Array, labels.constructor.name)
  }
})

test('a Float64Array input equals its float32 values', () => {
  const margin = marginCase('arcface')
  const batch = makeBatch(7, shape)
  const whole = runLoss(margin, batch)
  const exact = marginLossSync({ ...batch, input: Float64Array.from(batch.input) }, { margin: margin.margin })
  sameBits(exact.losses, whole.losses, 'losses')
  sameBits(exact.gradInput as Float32Array, whole.gradInput as Float32Array, 'gradInput')
  sameBits(exact.gradWeight as Float32Array, whole.gradWeight as Float32Array, 'gradWeight')
  const fine = Float64Array.from(batch.input, (value) => value * (1 + 1e-9))
  const rounded: Batch = { ...batch, input: Float32Array.from(fine) }
  const result = marginLossSync({ ...batch, input: fine }, { margin: margin.margin })
  sameBits(result.losses, runLoss(margin, rounded).losses, 'losses of rounded values')
})

test('views over a SharedArrayBuffer are read and filled in place', async () => {
  const margin = marginCase('arcface')
  const batch = makeBatch(8, shape)
  const whole = runLoss(margin, batch)
  const share = <T extends Float32Array | Int32Array>(values: T): T => {
    const View = values.constructor as new (buffer: SharedArrayBuffer) => T
    const view = new View(new SharedArrayBuffer(values.byteLength))
    view.set(values)
    return view
  }
  const shared = {
    input: share(batch.input),
    weight: share(batch.weight),
    labels: share(batch.labels),
    dim: batch.dim,
  }
  const fill = () => ({
    losses: share(new Float32Array(shape.rows)),
    gradInput: share(new Float32Array(batch.input.length)),
    gradWeight: share(new Float32Array(batch.weight.length)),
  })
  for (const result of [
    marginLossSync(shared, { margin: margin.margin, ...fill() }),
    await marginLoss(shared, { margin: margin.margin, ...fill() }),
  ]) {
    assert.is(result.loss, whole.loss)
    assert.instance(result.losses.buffer, SharedArrayBuffer)
    for (const name of ['losses', 'gradInput', 'gradWeight'] as const) {
      const copy = new Float32Array(result[name] as Float32Array)
      sameBits(copy, whole[name] as Float32Array, name)
    }
  }
})

test("reduction 'none' weighs the rows' losses with gradOutput", () => {
  for (const row of table) {
    const margin = marginCase(row.name)
    const batch = makeBatch(9, shape)
    const gradOutput = normals(random(10), shape.rows)
    const weighted = runLoss(margin, batch, { reduction: 'none', gradOutput })
    const plain = runLoss(margin, batch, { reduction: 'none' })
    const sum = runLoss(margin, batch, { reduction: 'sum' })
    sameBits(weighted.losses, sum.losses, 'losses do not depend on the reduction')
    sameBits(plain.gradInput as Float32Array, sum.gradInput as Float32Array, 'gradOutput of ones')
    const expected = weighted.losses.reduce((total, loss, i) => total + loss * (gradOutput[i] as number), 0)
    const size = weighted.losses.reduce(
      (total, loss, i) => total + Math.abs(loss * (gradOutput[i] as number)),
      0
    )
    assert.ok(Math.abs(weighted.loss - expected) <= 1e-6 * size, `${row.name}: ${weighted.loss}, ${expected}`)
  }
})

test.run()
