// The margins: THE TABLE is complete, factories give plain values, and ψ and ψ' of the addon equal the oracle's.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Margin } from '../../lib/index'
import {
  arcface,
  combined,
  cosface,
  MarginHead,
  marginLossSync,
  normface,
  sgd,
  sphereface,
} from '../../lib/index'
import { native } from '../../lib/internal/native'
import { marginNames } from '../../lib/margins'
import { marginCases, type Parameters, rowOf, table } from '../support/margins'
import { reference } from '../support/reference'
import type { Batch } from '../support/support'
import { complaint, rejectsLike, throwsLike, within } from '../support/support'

const test = suite('margins')

test('THE TABLE has a row for every margin of the native addon, and no other', () => {
  const reported = native().margins()
  assert.equal(
    table.map((row) => row.name),
    reported.map(({ name }) => name)
  )
  assert.equal(
    [...marginNames],
    table.map((row) => row.name)
  )
  assert.equal(
    table.map((row) => row.raw !== true),
    reported.map(({ normalized }) => normalized)
  )
})

for (const row of table) {
  test(`the factory gives a plain value with the documented defaults: ${row.name}`, () => {
    const margin = row.make()
    const given = Object.fromEntries(Object.entries(margin).filter(([, value]) => value !== undefined))
    assert.equal(given, { name: row.name, ...row.defaults })
    assert.equal(row.make({}), margin)
    assert.equal(JSON.parse(JSON.stringify(margin)), given)
    assert.equal(structuredClone(margin), margin)
  })
}

for (const margin of marginCases) {
  test(`the factory keeps what it is given: ${margin.title}`, () => {
    const value = margin.margin as unknown as Record<string, unknown>
    const { lambda, ...parameters } = margin.parameters
    // A given λ is kept as an annealing that stands still.
    const standing = lambda === undefined ? {} : { base: lambda, gamma: 0, lambdaMin: lambda }
    for (const [key, expected] of Object.entries({ ...parameters, ...standing }))
      assert.is(value[key], expected, key)
  })

  // With one other class at a right angle, z = (s·ψ, 0): the loss tells ψ and the gradient ψ'.
  test(`ψ and ψ' from angle 0 to π: ${margin.title}`, () => {
    const steps = 720
    const angles = Array.from({ length: steps + 1 }, (_, i) => (Math.PI * i) / steps)
    for (const small of [1e-3, 1e-4, 1e-5]) angles.push(small, Math.PI - small)
    const batch: Batch = {
      input: Float32Array.from(angles.flatMap((angle) => [Math.cos(angle), Math.sin(angle), 0])),
      weight: Float32Array.of(1, 0, 0, 0, 0, 1),
      labels: new Int32Array(angles.length),
      dim: 3,
    }
    batch.input.set([1, 0, 0], 0)
    batch.input.set([-1, 0, 0], 3 * steps)
    batch.input.set([0, 1, 0], (3 * steps) / 2)
    const result = marginLossSync(batch, { margin: margin.margin, reduction: 'sum' })
    const expected = reference(batch, margin.oracle, { reduction: 'sum' })
    for (let i = 0; i < angles.length; i++) {
      const loss = expected.losses[i] as number
      // The table's own rounding of the logit in double, then of the loss in float32.
      within(Math.abs((result.losses[i] as number) - loss), 1e-6 * loss + 1e-30, `loss at angle ${angles[i]}`)
      for (let d = 0; d < 3; d++) {
        const gradient = expected.gradInput[3 * i + d] as number
        const size = Math.hypot(...expected.gradInput.subarray(3 * i, 3 * i + 3))
        const cosine = expected.scores[2 * i] as number
        if (Math.abs(cosine) === 1) continue // no direction to move in
        const error = Math.abs((result.gradInput?.[3 * i + d] as number) - gradient)
        // Double precision, which both sides compute the target in, holds 1 − cos² only to so many digits.
        const lost = 1e-15 / (1 - cosine ** 2)
        within(error, (1e-5 + lost) * size + 1e-30, `gradient ${d} at angle ${angles[i]}`)
      }
    }
  })
}

test('combined contains arcface and cosface', () => {
  const angles = Array.from({ length: 50 }, (_, i) => 0.05 + i / 25)
  const batch: Batch = {
    input: Float32Array.from(angles.flatMap((angle) => [Math.cos(angle), Math.sin(angle), 0.3])),
    weight: Float32Array.of(1, 0, 0, 0.2, 0.4, 1, -1, 0.5, 0.1),
    labels: new Int32Array(angles.length),
    dim: 3,
  }
  const losses = (margin: Margin) => marginLossSync(batch, { margin }).losses
  const pairs = [
    [losses(combined({ m2: 0.5, m3: 0 })), losses(arcface())],
    [losses(combined({ m2: 0, m3: 0.35 })), losses(cosface())],
    [losses(combined({ scale: 30, m2: 0, m3: 0 })), losses(normface())],
  ] as const
  for (const [actual, expected] of pairs) {
    actual.forEach((loss, i) => {
      within(Math.abs(loss - (expected[i] as number)), 1e-6 * (expected[i] as number) + 1e-12, `row ${i}`)
    })
  }
})

test('sphereface takes a λ or what λ follows from, not both', () => {
  for (const name of ['base', 'gamma', 'power', 'lambdaMin', 'iteration']) {
    throwsLike(() => sphereface({ lambda: 5, [name]: 1 }), RangeError, new RegExp(name))
    assert.equal(sphereface({ lambda: 5, [name]: undefined }), sphereface({ lambda: 5 }))
  }
})

test("sphereface's λ from the iteration equals the same λ given", () => {
  const batch: Batch = {
    input: Float32Array.of(1, 2, 3, -1, 0.5, 2),
    weight: Float32Array.of(1, 0, 1, 0, 1, -1),
    labels: Int32Array.of(0, 1),
    dim: 3,
  }
  for (const iteration of [0, 1, 10, 1000, 1e9]) {
    const lambda = Math.max(5, 1000 / (1 + 0.12 * iteration))
    const annealed = marginLossSync(batch, { margin: sphereface({ iteration }) })
    const given = marginLossSync(batch, { margin: sphereface({ lambda }) })
    within(Math.abs(annealed.loss - given.loss), 1e-7 * given.loss, `iteration ${iteration}`)
  }
})

// Wrong parameters: named, with the value received. [factory, its parameters, kind of error, name of the parameter]
const wrong: [string, Record<string, unknown>, typeof TypeError | typeof RangeError, string][] = [
  ...['normface', 'cosface', 'arcface', 'combined', 'sphereface', 'mvsoftmax', 'curricularface'].flatMap(
    (name) =>
      (
        [
          [{ scale: 0 }, RangeError],
          [{ scale: -1 }, RangeError],
          [{ scale: Number.NaN }, RangeError],
          [{ scale: Number.POSITIVE_INFINITY }, RangeError],
          [{ scale: null }, TypeError],
          [{ scale: true }, TypeError],
        ] as const
      ).map(
        ([parameters, kind]) =>
          [name, parameters, kind, 'scale'] as [string, typeof parameters, typeof kind, string]
      )
  ),
  ['cosface', { scale: '64' }, TypeError, 'scale'],
  ['sphereface', { scale: 'length' }, TypeError, 'scale'],
  ['cosface', { margin: Number.NaN }, RangeError, 'margin'],
  ['cosface', { margin: '0.3' }, TypeError, 'margin'],
  ['cosface', { margin: 3n }, TypeError, 'margin'],
  ['arcface', { margin: -0.1 }, RangeError, 'margin'],
  ['arcface', { margin: 3.2 }, RangeError, 'margin'],
  ['combined', { m1: -1 }, RangeError, 'm1'],
  ['arcface', { margin: Number.POSITIVE_INFINITY }, RangeError, 'margin'],
  ['arcface', { easyMargin: 1 }, TypeError, 'easyMargin'],
  ['combined', { m1: Number.NaN }, RangeError, 'm1'],
  ['combined', { m2: '1' }, TypeError, 'm2'],
  ['combined', { m3: Number.NEGATIVE_INFINITY }, RangeError, 'm3'],
  ['sphereface', { m: 6 }, RangeError, 'm'],
  ['sphereface', { m: -1 }, RangeError, 'm'],
  ['sphereface', { m: 2.5 }, RangeError, 'm'],
  ['sphereface', { m: '4' }, TypeError, 'm'],
  ['sphereface', { lambda: -1 }, RangeError, 'lambda'],
  ['sphereface', { lambda: Number.NaN }, RangeError, 'lambda'],
  ['sphereface', { iteration: -1 }, RangeError, 'iteration'],
  ['sphereface', { iteration: Number.NaN }, RangeError, 'iteration'],
  ['sphereface', { base: -1 }, RangeError, 'base'],
  ['sphereface', { gamma: -0.1 }, RangeError, 'gamma'],
  ['sphereface', { power: Number.NaN }, RangeError, 'power'],
  ['sphereface', { lambdaMin: -1 }, RangeError, 'lambdaMin'],
  ['mvsoftmax', { kind: 'am' }, RangeError, 'kind'],
  ['mvsoftmax', { margin: -0.1 }, RangeError, 'margin'],
  ['mvsoftmax', { margin: '0.3' }, TypeError, 'margin'],
  ['mvsoftmax', { margin: 3.2, kind: 'arc' }, RangeError, 'margin'],
  ['mvsoftmax', { t: -0.1 }, RangeError, 't'],
  ['mvsoftmax', { t: null }, TypeError, 't'],
  ['mvsoftmax', { adaptive: 1 }, TypeError, 'adaptive'],
  ['mvsoftmax', { easyMargin: 'no' }, TypeError, 'easyMargin'],
  ['curricularface', { margin: 3.2 }, RangeError, 'margin'],
  ['curricularface', { t: 1.1 }, RangeError, 't'],
  ['curricularface', { t: Number.NaN }, RangeError, 't'],
]

const tiny = { input: new Float32Array(2), weight: new Float32Array(4), labels: [0], dim: 2 }

for (const [name, parameters, kind, parameter] of wrong) {
  const [value] = Object.values(parameters)
  test(`${name} refuses ${parameter} ${typeof value === 'string' ? `'${value}'` : value}`, async () => {
    const row = rowOf(name)
    const pattern = complaint(parameter, value)
    throwsLike(() => row.make(parameters as Parameters), kind, pattern)
    // The same from a value written by hand, which no factory has seen.
    const margin = { ...(parameter === 'lambda' ? { name } : row.make()), ...parameters } as never
    throwsLike(() => marginLossSync(tiny, { margin }), kind, pattern)
    const optimizer = sgd({ learningRate: 0.1 })
    await rejectsLike(MarginHead.create({ classes: 2, dim: 2, margin, optimizer }), kind, pattern)
  })
}

for (const row of table) {
  test(`${row.name} names a parameter that it does not know`, () => {
    throwsLike(() => row.make({ margn: 0.5 }), Error, /margn/)
    const margin = { ...row.make(), margn: 0.5 } as never
    throwsLike(() => marginLossSync(tiny, { margin }), Error, /margn/)
  })
}

test.run()
