// The stateless losses at their edges: ignored rows, smoothing, angles of 0 and π, zero rows, very large and very small
// numbers, one dimension, one class. Nothing may come out that is not finite.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { topKSync } from '../../lib/index'
import type { LossResult } from '../support/losses'
import { compareWithOracle, errorsBesideTextbook, gradients, runLoss } from '../support/losses'
import { marginCase, marginCases, oneOfEach } from '../support/margins'
import { reference } from '../support/reference'
import type { Batch } from '../support/support'
import { allFinite, makeBatch, norm, normals, onCpu, random, sameBits, within } from '../support/support'

const test = suite('loss, edges')
/** cuda-suites.test.ts runs this file on the shim. */

function finite(result: LossResult, what: string): void {
  assert.ok(Number.isFinite(result.loss), `${what}: loss is ${result.loss}`)
  allFinite(result.losses, `${what}: losses`)
  for (const name of gradients) allFinite(result[name] as Float32Array, `${what}: ${name}`)
}

const row = (values: Float32Array, index: number, dim: number) =>
  values.subarray(index * dim, (index + 1) * dim)

for (const margin of marginCases) {
  const raw = margin.row.raw === true

  test(`angles of exactly 0 and π, as target and as another class: ${margin.title}`, () => {
    const { dim, rows, classes } = { dim: 24, rows: 6, classes: 5 }
    const batch = makeBatch(4, { rows, dim, classes })
    const first = row(batch.weight, 0, dim)
    const second = row(batch.weight, 1, dim)
    row(batch.input, 0, dim).set(first)
    row(batch.input, 1, dim).set(first.map((value) => -value))
    row(batch.input, 2, dim).set(first.map((value) => 8 * value))
    row(batch.input, 3, dim).set(second) // a wrong class at angle 0
    row(batch.input, 4, dim).set(second.map((value) => -value))
    batch.labels.set([0, 0, 0, 0, 0, 1])
    for (const labelSmoothing of [0, 0.1]) {
      const result = runLoss(margin, batch, { reduction: 'sum', labelSmoothing })
      finite(result, 'aligned')
      // Σ_j |A_ij|/‖x_i‖ bounds a gradient. ŵ − cos·x̂ is 0 here, so not even the slope's floor may show beyond s·m.
      if (raw) continue
      for (let i = 0; i < rows; i++) {
        const inputNorm = norm(row(batch.input, i, dim))
        const scale = margin.oracle.scale === 'norm' ? inputNorm : margin.oracle.scale
        const bound = (scale * 12) / inputNorm + 12
        within(norm(row(result.gradInput as Float32Array, i, dim)), bound, `gradient of row ${i}`)
      }
    }
  })

  test(`targets closer to 0 and π than float32 resolves: ${margin.title}`, () => {
    const dim = 40
    for (const distance of [1e-3, 1e-5, 1e-7, 1e-9]) {
      const batch = makeBatch(5, { rows: 8, dim, classes: 6 })
      const noise = normals(random(6), batch.input.length, distance)
      for (let i = 0; i < 8; i++) {
        const sign = i % 2 === 0 ? 1 : -1
        const centre = row(batch.weight, batch.labels[i] as number, dim)
        row(batch.input, i, dim).forEach((_, d) => {
          batch.input[i * dim + d] = sign * at(centre, d) + at(noise, i * dim + d)
        })
      }
      const result = runLoss(margin, batch)
      finite(result, `at ${distance}`)
      // The losses themselves are well conditioned: a small error of the angle moves them by s·sin m times as much.
      if (distance >= 1e-5) {
        const expected = reference(batch, margin.oracle).loss
        within(Math.abs(result.loss - expected), 1e-4 * expected + 1e-12, `loss at ${distance}`)
      }
    }
  })
}

// Elsewhere a margin's parameters matter little: the shim's GPU gets one case of each.
for (const margin of onCpu ? marginCases : oneOfEach()) {
  const raw = margin.row.raw === true

  test(`all rows ignored: loss 0, gradients 0, for every reduction: ${margin.title}`, () => {
    const batch = makeBatch(1, { rows: 5, dim: 7, classes: 9 }, { bias: raw })
    batch.labels.fill(-1)
    for (const reduction of ['mean', 'sum', 'none'] as const) {
      for (const labelSmoothing of [0, 0.1]) {
        const result = runLoss(margin, batch, { reduction, labelSmoothing })
        assert.is(result.loss, 0)
        assert.is(norm(result.losses), 0)
        for (const name of gradients) assert.is(norm(result[name] as Float32Array), 0, name)
        if (raw) assert.is(norm(result.gradBias as Float32Array), 0)
      }
    }
  })

  test(`label smoothing 0, 0.1 and 1: ${margin.title}`, () => {
    const batch = makeBatch(2, { rows: 21, dim: 33, classes: 47 }, { bias: raw })
    for (const labelSmoothing of [0, 0.1, 1]) compareWithOracle(margin, batch, { labelSmoothing })
  })

  test(`ignored rows leave the others as if they were alone: ${margin.title}`, () => {
    const batch = makeBatch(3, { rows: 6, dim: 12, classes: 20 }, { bias: raw })
    const kept = [0, 2, 3]
    for (const i of [1, 4, 5]) batch.labels[i] = -1
    // What an ignored row holds must not matter.
    row(batch.input, 4, 12).fill(1e30)
    const alone: Batch = {
      ...batch,
      input: Float32Array.from(kept.flatMap((i) => [...row(batch.input, i, 12)])),
      labels: Int32Array.from(kept, (i) => batch.labels[i] as number),
    }
    const result = runLoss(margin, batch)
    const expected = runLoss(margin, alone)
    within(Math.abs(result.loss - expected.loss), 1e-6 * expected.loss, 'loss')
    kept.forEach((i, position) => {
      const gradient = row(result.gradInput as Float32Array, i, 12)
      const wanted = row(expected.gradInput as Float32Array, position, 12)
      for (let d = 0; d < 12; d++)
        within(Math.abs(at(gradient, d) - at(wanted, d)), 1e-5 * norm(wanted), `row ${i}`)
    })
    for (const i of [1, 4, 5]) {
      assert.is(result.losses[i], 0)
      assert.is(norm(row(result.gradInput as Float32Array, i, 12)), 0)
    }
    finite(result, 'with ignored rows')
  })

  if (!raw) {
    test(`zero rows of input and weight: finite loss, zero gradient for that row: ${margin.title}`, () => {
      const dim = 9
      const batch = makeBatch(7, { rows: 7, dim, classes: 11 })
      row(batch.input, 0, dim).fill(0)
      row(batch.input, 3, dim).fill(0)
      row(batch.weight, 0, dim).fill(0)
      row(batch.weight, 10, dim).fill(0)
      batch.labels.set([0, 0, 10, 4, 5, 10, 6])
      for (const labelSmoothing of [0, 0.1]) {
        const result = compareWithOracle(margin, batch, { labelSmoothing })
        finite(result, 'zero rows')
        for (const i of [0, 3])
          assert.is(norm(row(result.gradInput as Float32Array, i, dim)), 0, `input row ${i}`)
        for (const j of [0, 10])
          assert.is(norm(row(result.gradWeight as Float32Array, j, dim)), 0, `weight row ${j}`)
      }
    })

    test(`cosines do not depend on lengths of 1e±15: ${margin.title}`, () => {
      for (const [inputScale, weightScale] of [
        [1e15, 1e-15],
        [1e-15, 1e15],
        [1e15, 1e15],
        [1e-15, 1e-15],
        [1e-15, 1e14],
        [1e15, 1e-14],
      ] as const) {
        const what = `${inputScale}, ${weightScale}`
        const few = makeBatch(8, { rows: 25, dim: 3, classes: 280 }, { inputScale, weightScale })
        finite(runLoss(margin, few), what)
        const batch = makeBatch(8, { rows: 25, dim: 40, classes: 280 }, { inputScale, weightScale })
        finite(compareWithOracle(margin, batch), what)
      }
    })
  }

  if (!raw)
    test(`few dimensions, embeddings close to a class: ${margin.title}`, () => {
      for (const dim of [1, 2, 3, 5, 15, 16])
        for (const seed of onCpu ? [1, 2, 3, 4, 5, 6, 7, 8, 45] : [1, 2, 45]) {
          const [rows, classes] = [1 + (seed % 5) * 9, 3 + ((seed * 37) % 400)]
          const batch = makeBatch(seed, { rows, dim, classes })
          const away = 10 ** -(1 + (seed % 4))
          for (let k = 0; k < rows * dim; k++)
            batch.input[k] =
              (batch.weight[(k + seed * 7 * dim) % (classes * dim)] as number) +
              away * (batch.input[k] as number)
          const { library, textbook } = errorsBesideTextbook(margin, batch)
          // What float32 can't tell from 0 has no digits to be right. (D = 1: embeddings have no gradient.)
          const { gradInput, magnitudeInput } = reference(batch, margin.oracle)
          if (norm(gradInput) < 1e-4 * magnitudeInput) continue
          const [, error = 0] = library
          within(error, Math.max(2e-6, textbook[1] ?? 0), `gradInput, ${rows}×${dim}×${classes}`)
          within(error, 1e-5, `gradInput, ${rows}×${dim}×${classes}`)
        }
    })

  test(`one dimension and one class: ${margin.title}`, () => {
    for (const [rows, dim, classes] of [
      [5, 1, 4],
      [1, 1, 1],
      [6, 10, 1],
      [3, 1, 300],
    ] as const) {
      const batch = makeBatch(9, { rows, dim, classes }, { bias: raw })
      const result = compareWithOracle(margin, batch)
      finite(result, `${rows}×${dim}×${classes}`)
      if (classes === 1) {
        assert.is(result.loss, 0)
        for (const name of gradients) assert.is(norm(result[name] as Float32Array), 0, name)
      }
    }
  })
}

const at = (values: ArrayLike<number>, index: number) => values[index] as number

test('norms of class weights from 1e-29 to 1e36 change nothing; the CPU refuses larger ones with the class', () => {
  for (const precision of ['float32', 'bfloat16'] as const)
    for (const [rows, dim, classes] of [
      [5, 7, 300],
      [70, 130, 40],
    ] as const)
      for (const exponent of [-29, -20, 0, 20, 30, 35]) {
        const batch = makeBatch(30, { rows, dim, classes }, { weightScale: 10 ** exponent })
        const { input, weight } = batch
        const margin = marginCase('arcface')
        compareWithOracle(margin, batch, { precision }, precision === 'float32' ? 1e-5 : 1e-2)
        if (!onCpu) continue // a GPU has each class normalised before it is multiplied
        const large = 17
        const size = norm(row(weight, large, dim))
        for (let d = 0; d < dim; d++) weight[large * dim + d] *= 2e36 / size // times the scale, 64: above 1e38
        const message =
          /^Expected a norm of at most 1e37, .* for the weights of class 17 but received a larger one$/
        assert.throws(
          () => runLoss(margin, batch, { precision }),
          (error: Error) => error instanceof RangeError && message.test(error.message)
        )
        assert.is(topKSync({ input, weight, dim }, { k: 2 }).indices.length, rows * 2)
        for (let d = 0; d < dim; d++) weight[large * dim + d] *= 10
        assert.throws(() => topKSync({ input, weight, dim }), message)
      }
})

test('class weights of a norm below 1e-30 count as zero: cosine 0, no gradient', () => {
  const batch = makeBatch(31, { rows: 9, dim: 20, classes: 30 })
  row(batch.weight, 4, 20).fill(1e-32)
  const zero = { ...batch, weight: batch.weight.slice() }
  row(zero.weight, 4, 20).fill(0)
  const [one, other] = [runLoss(marginCase('cosface'), batch), runLoss(marginCase('cosface'), zero)]
  sameBits(one.losses, other.losses, 'losses')
  assert.is(norm(row(one.gradWeight as Float32Array, 4, 20)), 0)
})

test('large raw logits: finite, and the oracle’s', () => {
  const margin = marginCase('softmax')
  for (const inputScale of [1e15, 1e-15, 100]) {
    const batch = makeBatch(10, { rows: 9, dim: 18, classes: 15 }, { inputScale, bias: inputScale === 100 })
    finite(compareWithOracle(margin, batch), `input scale ${inputScale}`)
  }
})

test('a scale of 1e4 overflows nowhere', () => {
  for (const name of ['normface', 'cosface', 'arcface', 'combined', 'sphereface']) {
    const margin = marginCase(name, { scale: 1e4 })
    finite(runLoss(margin, makeBatch(11, { rows: 9, dim: 18, classes: 15 })), name)
  }
})

test('a loss of 1e-20 keeps its digits', () => {
  // cos 1 for the target and −1 for the other class: R = exp(s·(−1 − (1 − m))).
  const weight = Float32Array.of(1, 0, -1, 0)
  const batch: Batch = { input: Float32Array.of(3, 0), weight, labels: Int32Array.of(0), dim: 2 }
  const { loss, losses } = runLoss(marginCase('cosface', { scale: 30, margin: 0.4 }), batch)
  const expected = Math.log1p(Math.exp(30 * (-1 - 0.6)))
  within(Math.abs(loss - expected) / expected, 1e-5, 'loss')
  within(Math.abs(at(losses, 0) - expected) / expected, 1e-5, 'losses')
})

test('a NaN in one row stays in that row, and in the weights that it touches', () => {
  for (const margin of marginCases) {
    const batch = makeBatch(14, { rows: 20, dim: 9, classes: 33 })
    const expected = runLoss(margin, batch, { reduction: 'none' })
    batch.input[7 * 9 + 2] = Number.NaN
    const result = runLoss(margin, batch, { reduction: 'none' })
    for (let i = 0; i < 20; i++) {
      if (i === 7) continue
      assert.is(result.losses[i], expected.losses[i], `${margin.title}: loss of row ${i}`)
      const actual = row(result.gradInput as Float32Array, i, 9)
      sameBits(actual, row(expected.gradInput as Float32Array, i, 9), `${margin.title}: gradient of row ${i}`)
    }
    assert.ok(Number.isNaN(result.losses[7]), `${margin.title}: a wrong input must not pass for a right one`)
    assert.ok(Number.isNaN(result.loss))
  }
})

test('labels may repeat, and all rows may share one class', () => {
  for (const margin of marginCases) {
    const batch = makeBatch(12, { rows: 33, dim: 16, classes: 5 }, { bias: margin.row.raw })
    batch.labels.fill(4)
    compareWithOracle(margin, batch)
  }
})

test('a row twice has the same gradient twice', () => {
  for (const margin of marginCases) {
    const batch = makeBatch(13, { rows: 35, dim: 31, classes: 70 })
    row(batch.input, 34, 31).set(row(batch.input, 0, 31))
    batch.labels[34] = at(batch.labels, 0)
    const gradient = runLoss(margin, batch).gradInput as Float32Array
    sameBits(row(gradient, 34, 31), row(gradient, 0, 31), margin.title)
  }
})

test.run()
