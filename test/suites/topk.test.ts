// topK: the k best classes of each row, by cosine, or by raw score for softmax.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { instructionSets, softmaxMargin, topK, topKSync } from '../../lib/index'
import { marginCase, table } from '../support/margins'
import { reference, referenceTopK } from '../support/reference'
import type { Batch } from '../support/support'
import {
  makeBatch,
  onCpu,
  pick,
  random,
  rejectsLike,
  sameBits,
  threadCounts,
  throwsLike,
  within,
} from '../support/support'

const test = suite('topK')

/** Scores equal the oracle's in order; where two are closer than rounding, either class may come first. */
function check(batch: Batch, k: number, actual: { indices: Int32Array; scores: Float32Array }, name: string) {
  const classes = batch.weight.length / batch.dim
  const rows = batch.input.length / batch.dim
  const { oracle } = marginCase(name)
  const { scores } = reference({ ...batch, labels: new Int32Array(rows) }, oracle)
  const expected = referenceTopK(scores, classes, k)
  assert.is(actual.indices.length, rows * k)
  assert.is(actual.scores.length, rows * k)
  assert.instance(actual.indices, Int32Array)
  assert.instance(actual.scores, Float32Array)
  const tolerance = oracle.raw ? 1e-4 : 1e-6
  for (let i = 0; i < rows; i++) {
    const chosen = actual.indices.subarray(i * k, (i + 1) * k)
    assert.is(new Set(chosen).size, k, `row ${i} has a class twice: ${chosen}`)
    for (let r = 0; r < k; r++) {
      const what = `${name} ${rows}×${batch.dim}×${classes}, k ${k}, row ${i}, rank ${r}`
      const score = actual.scores[i * k + r] as number
      within(Math.abs(score - (expected.scores[i * k + r] as number)), tolerance, `${what}: score`)
      const own = scores[i * classes + (chosen[r] as number)] as number
      within(Math.abs(score - own), tolerance, `${what}: the score of class ${chosen[r]}`)
    }
  }
}

const dims = [1, 2, 3, 5, 15, 16, 17, 31, 33, 64, 65, 130]
const classCounts = [1, 2, 3, 5, 7, 11, 12, 13, 63, 64, 65, 127, 128, 129, 255, 300, 1031]
const rowCounts = [1, 2, 7, 15, 16, 17, 31, 32, 33, 49, 65]

for (const name of ['softmax', 'arcface']) {
  test(`the oracle on odd sizes, k from 1 to the number of classes: ${name}`, async () => {
    const next = random(3)
    const { margin, row } = marginCase(name)
    for (const classes of classCounts) {
      for (const k of new Set([1, Math.min(5, classes), classes])) {
        const shape = { rows: pick(next, rowCounts), dim: pick(next, dims), classes }
        const { labels: _, ...batch } = makeBatch(classes + k, shape, { bias: row.raw })
        const actual = topKSync(batch, { k, margin })
        check(batch as Batch, k, actual, name)
        const twin = await topK(batch, { k, margin })
        sameBits(twin.indices, actual.indices, 'indices of the asynchronous twin')
        sameBits(twin.scores, actual.scores, 'scores of the asynchronous twin')
        for (const threads of threadCounts.slice(0, 3)) {
          const again = topKSync(batch, { k, margin, threads })
          sameBits(again.indices, actual.indices, `indices with ${threads} threads`)
          sameBits(again.scores, actual.scores, `scores with ${threads} threads`)
        }
      }
    }
  })
}

if (onCpu)
  test('every instruction set gives the oracle, and those with a fused multiply-add the same bits', () => {
    const next = random(5)
    for (let seed = 0; seed < 12; seed++) {
      const shape = { rows: pick(next, rowCounts), dim: pick(next, dims), classes: pick(next, classCounts) }
      const { labels: _, ...batch } = makeBatch(seed, shape)
      const k = Math.min(4, shape.classes)
      const results = instructionSets().map((instructionSet) => {
        const result = topKSync(batch, { k, instructionSet })
        check(batch as Batch, k, result, 'arcface')
        return { instructionSet, result }
      })
      const fused = results.filter(({ instructionSet }) => instructionSet !== 'portable')
      for (const { instructionSet, result } of fused) {
        sameBits(result.indices, fused[0]?.result.indices as Int32Array, `indices on ${instructionSet}`)
        sameBits(result.scores, fused[0]?.result.scores as Float32Array, `scores on ${instructionSet}`)
      }
    }
  })

test('a row has the same bits alone, among few and among many, on every instruction set', () => {
  const next = random(23)
  for (const instructionSet of instructionSets()) {
    for (const raw of [false, true]) {
      const shape = { rows: 70, dim: pick(next, dims), classes: pick(next, classCounts) }
      const { labels: _, ...batch } = makeBatch(shape.dim + shape.classes, shape, { bias: raw })
      const { dim } = batch
      batch.input.fill(0, 3 * dim, 4 * dim)
      batch.input[5 * dim] = Number.NaN
      batch.weight[0] = Number.NaN
      const k = Math.min(3, shape.classes)
      const options = { k, instructionSet, ...(raw && { margin: softmaxMargin() }) }
      const many = topKSync(batch, options)
      for (const [first, last] of [
        [0, 1],
        [3, 6],
        [8, 16],
        [20, 52],
        [1, 34],
        [0, 64],
      ] as const) {
        const input = batch.input.subarray(first * dim, last * dim)
        const few = topKSync({ ...batch, input }, options)
        const what = `rows ${first} to ${last} of ${dim} dimensions, ${shape.classes} classes, ${instructionSet}`
        sameBits(few.indices, many.indices.subarray(first * k, last * k), `indices: ${what}`)
        sameBits(few.scores, many.scores.subarray(first * k, last * k), `scores: ${what}`)
      }
    }
  }
})

test('what is not a number ranks nowhere', () => {
  const { labels: _, ...batch } = makeBatch(11, { rows: 5, dim: 8, classes: 20 })
  const expected = topKSync(batch, { k: 3 })
  batch.input[2 * 8 + 1] = Number.NaN
  const { indices, scores } = topKSync(batch, { k: 3 })
  assert.equal(Array.from(indices.subarray(6, 9)), [-1, -1, -1])
  for (const i of [0, 1, 3, 4]) {
    assert.equal(indices.subarray(3 * i, 3 * i + 3), expected.indices.subarray(3 * i, 3 * i + 3))
    assert.equal(scores.subarray(3 * i, 3 * i + 3), expected.scores.subarray(3 * i, 3 * i + 3))
  }
  const damaged = expected.indices[0] as number
  batch.weight[damaged * 8] = Number.NaN
  assert.not(topKSync(batch, { k: 19 }).indices.subarray(0, 19).includes(damaged))
})

test('k is 1 and scores are cosines unless told otherwise', () => {
  const { labels: _, ...batch } = makeBatch(1, { rows: 5, dim: 8, classes: 20 })
  check(batch as Batch, 1, topKSync(batch), 'arcface')
})

test('every normalised margin ranks by cosine, without the margin', () => {
  const { labels: _, ...batch } = makeBatch(2, { rows: 9, dim: 8, classes: 20 })
  const expected = topKSync(batch, { k: 4 })
  for (const row of table) {
    if (row.raw) continue
    const actual = topKSync(batch, { k: 4, margin: row.make() })
    sameBits(actual.indices, expected.indices, row.name)
    sameBits(actual.scores, expected.scores, row.name)
  }
})

test('equal scores come in the order of the classes', () => {
  const dim = 19
  for (const classes of [6, 70, 300]) {
    const { labels: _, ...batch } = makeBatch(4, { rows: 5, dim, classes })
    const first = batch.weight.slice(0, dim)
    for (let j = 0; j < classes; j++) batch.weight.set(first, j * dim)
    for (const k of [1, 3, classes]) {
      const { indices, scores } = topKSync(batch, { k })
      for (let i = 0; i < 5; i++) {
        assert.equal(
          Array.from(indices.subarray(i * k, (i + 1) * k)),
          Array.from({ length: k }, (_, j) => j)
        )
        assert.is(new Set(scores.subarray(i * k, (i + 1) * k)).size, 1)
      }
    }
  }
})

test('zero rows have cosine 0 with everything', () => {
  const { labels: _, ...batch } = makeBatch(5, { rows: 3, dim: 6, classes: 9 })
  batch.input.fill(0, 6, 12)
  batch.weight.fill(0, 0, 6)
  const { indices, scores } = topKSync(batch, { k: 9 })
  assert.equal(Array.from(scores.subarray(9, 18)), Array(9).fill(0))
  assert.equal(Array.from(indices.subarray(9, 18)), [0, 1, 2, 3, 4, 5, 6, 7, 8])
  check(batch as Batch, 9, { indices, scores }, 'arcface')
})

test('vectors of one direction have cosine 1, whatever their lengths', () => {
  const { labels: _, ...batch } = makeBatch(6, { rows: 4, dim: 50, classes: 30 })
  for (let i = 0; i < 4; i++) {
    for (let d = 0; d < 50; d++) batch.input[i * 50 + d] = (batch.weight[(7 + i) * 50 + d] as number) * 1e10
  }
  const { indices, scores } = topKSync(batch)
  assert.equal(indices, Int32Array.of(7, 8, 9, 10))
  for (const score of scores) within(Math.abs(score - 1), 1e-6, 'cosine')
})

test('a Float64Array input equals its float32 values', () => {
  const { labels: _, ...batch } = makeBatch(7, { rows: 4, dim: 50, classes: 30 })
  const expected = topKSync(batch, { k: 3 })
  const actual = topKSync({ ...batch, input: Float64Array.from(batch.input) }, { k: 3 })
  sameBits(actual.scores, expected.scores, 'scores')
  sameBits(actual.indices, expected.indices, 'indices')
})

test('the result is new on every call and the inputs stay', () => {
  const { labels: _, ...batch } = makeBatch(8, { rows: 4, dim: 50, classes: 30 })
  const copy = structuredClone(batch)
  const first = topKSync(batch, { k: 3 })
  const second = topKSync(batch, { k: 3 })
  assert.is.not(first.indices, second.indices)
  sameBits(batch.input, copy.input, 'input')
  sameBits(batch.weight, copy.weight, 'weight')
})

for (const [k, kind] of [
  [0, RangeError],
  [-1, RangeError],
  [31, RangeError],
  [1.5, RangeError],
  [Number.NaN, RangeError],
  [Number.POSITIVE_INFINITY, RangeError],
  ['3', TypeError],
  [null, TypeError],
] as const) {
  test(`k ${JSON.stringify(k)} is refused`, async () => {
    const { labels: _, ...batch } = makeBatch(9, { rows: 4, dim: 5, classes: 30 })
    const pattern = new RegExp(`^Expected .+ for k but received .*${String(k)}`)
    throwsLike(() => topKSync(batch, { k } as never), kind, pattern)
    await rejectsLike(topK(batch, { k } as never), kind, pattern)
  })
}

test('wrong arrays are refused by name', () => {
  const { labels: _, ...batch } = makeBatch(10, { rows: 4, dim: 5, classes: 30 })
  const refuse = (changed: object, kind: typeof TypeError | typeof RangeError, pattern: RegExp) =>
    throwsLike(() => topKSync({ ...batch, ...changed } as never, { k: 2 }), kind, pattern)
  refuse({ input: [1, 2] }, TypeError, /^Expected .+ for input but received/)
  refuse({ input: undefined }, TypeError, /^Expected .+ for input but received undefined/)
  refuse({ input: batch.input.subarray(1) }, RangeError, /^Expected .+ for input but received .*19/)
  refuse({ weight: Int32Array.from(batch.weight) }, TypeError, /^Expected .+ for weight but received/)
  refuse({ weight: batch.weight.subarray(1) }, RangeError, /^Expected .+ for weight but received .*149/)
  refuse({ dim: 0 }, RangeError, /^Expected .+ for dim but received 0/)
  refuse({ bias: new Float32Array(30) }, Error, /bias/)
  const margin = softmaxMargin()
  throwsLike(
    () => topKSync({ ...batch, bias: new Float32Array(29) }, { margin }),
    RangeError,
    /^Expected .+ for bias but received .*29/
  )
  throwsLike(() => topKSync(batch, { kk: 3 } as never), Error, /kk/)
})

test.run()
