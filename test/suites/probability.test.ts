// Probability functions against the float64 oracle and the float32 textbook, on every instruction set.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import * as library from '../../lib/probability'
import * as reference from '../support/probability-reference'
import { double, type Rounding, single } from '../support/probability-reference'
import { at, byRow, distributions, fused, sets, sizes, worstElement } from '../support/probability-support'
import {
  normals,
  onCpu,
  random,
  relativeError,
  sameBits,
  threadCounts,
  throwsLike,
  within,
} from '../support/support'

const test = suite('probability')

type How = library.RowOptions

const list = (...values: number[]) => Float32Array.from(values)
/** Equal elements; NaN equals NaN, which a comparison of typed arrays denies. */
const same = (actual: Float32Array, expected: Float32Array, what?: string) =>
  assert.equal([...actual], [...expected], what)

/** Every function under one signature: a call of ours, and the row's answer by the reference. */
const functions = [
  {
    name: 'informationContent',
    perRow: false,
    logits: false,
    call: (p: Float32Array, _q: Float32Array, { classes: _, ...how }: How) =>
      library.informationContent(p, how),
    answer: (f: Rounding, p: Float32Array) => reference.informationContent(f, p),
  },
  {
    name: 'entropy',
    perRow: true,
    logits: false,
    call: (p: Float32Array, _q: Float32Array, how: How) => library.entropy(p, how),
    answer: (f: Rounding, p: Float32Array) => reference.crossEntropy(f, p, p),
  },
  {
    name: 'klDivergence',
    perRow: true,
    logits: false,
    call: (p: Float32Array, q: Float32Array, how: How) => library.klDivergence(p, q, how),
    answer: (f: Rounding, p: Float32Array, q: Float32Array) => reference.klDivergence(f, p, q),
  },
  {
    name: 'crossEntropy',
    perRow: true,
    logits: false,
    call: (p: Float32Array, q: Float32Array, how: How) => library.crossEntropy(p, q, how),
    answer: (f: Rounding, p: Float32Array, q: Float32Array) => reference.crossEntropy(f, p, q),
  },
  {
    name: 'softmax',
    perRow: false,
    logits: true,
    call: (z: Float32Array, _q: Float32Array, how: How) => library.softmax(z, how),
    answer: (f: Rounding, z: Float32Array) => reference.softmax(f, z),
  },
  {
    name: 'logSoftmax',
    perRow: false,
    logits: true,
    call: (z: Float32Array, _q: Float32Array, how: How) => library.logSoftmax(z, how),
    answer: (f: Rounding, z: Float32Array) => reference.logSoftmax(f, z),
  },
]
type Case = (typeof functions)[number]

const rowsFor = (classes: number) => (classes > 5000 ? 2 : 5)

function data({ logits }: Case, classes: number, seed: number): [Float32Array, Float32Array] {
  const rows = rowsFor(classes)
  if (logits) return [normals(random(seed), rows * classes, 10), new Float32Array(0)]
  return [distributions(seed, rows, classes), distributions(seed + 1, rows, classes)]
}

for (const one of functions) {
  test(`${one.name}: within 1e-6 of the oracle, and twice the textbook's error, for every size and set`, () => {
    for (const classes of sizes) {
      const [p, q] = data(one, classes, classes)
      const arrays = q.length ? [p, q] : [p]
      const expected = byRow(classes, arrays, (a, b) =>
        one.answer(double, a as Float32Array, b as Float32Array)
      )
      const textbook = byRow(classes, arrays, (a, b) =>
        one.answer(single, a as Float32Array, b as Float32Array)
      )
      for (const instructionSet of sets) {
        const actual = one.call(p, q, { classes, instructionSet })
        const what = `${one.name} ${classes} ${instructionSet}`
        const error = relativeError(actual, expected)
        within(error, 3e-7, what)
        within(error, Math.max(2 * relativeError(textbook, expected), 6e-8), `${what} against the textbook`)
        const smallest = one.name === 'logSoftmax' ? 1 : 1e-30
        const bound = Math.max(2 * worstElement(textbook, expected, smallest), 1e-6)
        within(worstElement(actual, expected, smallest), bound, `${what}, worst element`)
      }
    }
  })

  test(`${one.name}: the same bits for any number of threads, and on every set with a fused multiply-add`, () => {
    for (const classes of [3, 1000, 70001]) {
      const next = random(9)
      const rows = classes > 3 ? 7 : onCpu ? 40_001 : 401
      const p = one.logits ? normals(next, rows * classes, 5) : distributions(3, rows, classes)
      const q = one.logits ? p : distributions(4, rows, classes)
      const expected = one.call(p, q, { classes, threads: 1 })
      for (const threads of threadCounts)
        sameBits(one.call(p, q, { classes, threads }), expected, `${threads} threads`)
      sameBits(one.call(p, q, { classes }), expected, 'usual threads')
      const [first, ...others] = fused.map((instructionSet) => one.call(p, q, { classes, instructionSet }))
      for (const other of others) sameBits(other, first as Float32Array, 'instruction set')
    }
  })

  test(`${one.name}: a caller's array, Float64Array, shared memory, no rows`, () => {
    const classes = 37
    const [p, q] = data(one, classes, 1)
    const expected = one.call(p, q, { classes })
    const out = new Float32Array(expected.length).fill(7)
    assert.is(one.call(p, q, { classes, out }), out)
    sameBits(out, expected, 'out')
    const doubles = Float64Array.from(p, (value) => value * (1 + 1e-12)) as unknown as Float32Array
    sameBits(one.call(doubles, q, { classes }), expected, 'Float64Array')
    const shared = new Float32Array(new SharedArrayBuffer(4 * p.length))
    shared.set(p)
    sameBits(one.call(shared, q, { classes }), expected, 'shared')
    if (!one.perRow) {
      assert.is(one.call(p, q, { classes, out: p }), p)
      sameBits(p, expected, 'in place')
    }
    const none = new Float32Array(0)
    assert.equal(one.call(none, none, {}), none)
    assert.equal(one.call(none, none, { classes: 3 }), none)
  })

  test(`${one.name}: NaN reaches the row it is in, and no other, from every place`, () => {
    for (const classes of [1, 5, 16, 23, 1030]) {
      for (const place of new Set([0, 1, classes >> 1, classes - 2, classes - 1])) {
        if (place < 0 || place >= classes) continue
        for (const instructionSet of sets) {
          const p = one.logits ? normals(random(1), 3 * classes) : distributions(1, 3, classes)
          p[classes + place] = Number.NaN
          const result = one.call(p, p, { classes, instructionSet })
          for (let i = 0; i < result.length; i++) {
            const row = one.perRow ? i : Math.floor(i / classes)
            const expected = one.name === 'informationContent' ? i === classes + place : row === 1
            assert.is(Number.isNaN(result[i]), expected, `${classes} ${place} ${instructionSet} at ${i}`)
          }
        }
      }
    }
  })

  test(`${one.name}: rejected arguments`, () => {
    const p = distributions(1, 2, 3)
    const call = (array: unknown, how: unknown) => () => one.call(array as Float32Array, p, how as How)
    const first = one.logits ? 'logits' : 'p'
    throwsLike(
      call([1, 2], {}),
      TypeError,
      new RegExp(`^Expected a Float32Array, Float64Array or Float16Array for ${first} but rec`)
    )
    throwsLike(call(p, { out: [1] }), TypeError, /^Expected a Float32Array for out but received Array\(1\)$/)
    throwsLike(
      call(p, { out: new Float32Array(5) }),
      RangeError,
      /^Expected \d elements for out but received/
    )
    throwsLike(
      call(p, { threads: 0 }),
      RangeError,
      /^Expected an integer from 1 to 1023 for threads but received 0$/
    )
    throwsLike(call(p, { threads: '2' }), TypeError, /for threads but received "2"$/)
    throwsLike(call(p, { instructionSet: 'mmx' }), RangeError, /for instructionSet but received "mmx"$/)
    throwsLike(call(p, { class: 3 }), TypeError, /for options but received "class"$/)
    const memory = new Float32Array(9)
    const overlapping = { out: memory.subarray(0, one.perRow ? 1 : 6) }
    throwsLike(
      () => one.call(memory.subarray(one.perRow ? 0 : 1, one.perRow ? 6 : 7), p, overlapping),
      RangeError,
      /^Expected memory apart from \w+ for out/
    )
    if (one.name === 'informationContent') return
    throwsLike(call(p, 3), TypeError, /^Expected an object for options but received 3$/)
    throwsLike(
      call(p, { classes: 0 }),
      RangeError,
      /^Expected a positive integer for classes but received 0$/
    )
    throwsLike(
      call(p, { classes: 1.5 }),
      RangeError,
      /^Expected a positive integer for classes but received 1.5$/
    )
    throwsLike(
      call(p, { classes: '3' }),
      TypeError,
      /^Expected a positive integer for classes but received "3"$/
    )
    throwsLike(call(p, { classes: 4 }), RangeError, /^Expected a multiple of classes 4 elements for/)
  })
}

test('two distributions of different lengths are rejected', () => {
  const p = new Float32Array(6)
  for (const two of [library.klDivergence, library.crossEntropy]) {
    throwsLike(
      () => two(p, new Float32Array(5)),
      RangeError,
      /^Expected 6 elements for q but received Float32Array\(5\)$/
    )
    throwsLike(
      () => two(p, 'q' as never),
      TypeError,
      /^Expected a Float32Array, Float64Array or Float16Array for q/
    )
    const out = new Float32Array(1)
    throwsLike(() => two(out, out, { out }), RangeError, /^Expected memory apart from p for out/)
    throwsLike(
      () => two(new Float32Array(1), out, { out }),
      RangeError,
      /^Expected memory apart from q for out/
    )
  }
})

test('exact zeros, ones and infinities', () => {
  for (const instructionSet of sets) {
    const how = { instructionSet }
    const { entropy, klDivergence, crossEntropy, informationContent } = library
    same(
      informationContent(list(0, -0, 1, Infinity, -1, -Infinity, 2 ** -149), how),
      list(Infinity, Infinity, 0, -Infinity, Number.NaN, Number.NaN, 149 * Math.LN2)
    )
    same(entropy(list(0, 1, 0, -0), how), list(0))
    same(entropy(list(0.5, 0, 0, 0.5), how), list(Math.LN2))
    same(klDivergence(list(0.5, 0.5, 0), list(0.5, 0.5, 0), how), list(0))
    same(klDivergence(list(1, 0), list(0.5, 0.5), how), list(Math.LN2))
    same(klDivergence(list(0.5, 0.5), list(1, 0), how), list(Infinity))
    same(klDivergence(list(0.5, 0.5), list(1, -0), how), list(Infinity))
    same(klDivergence(list(-0.5, 0.5), list(-0.5, 0.5), how), list(Number.NaN))
    same(klDivergence(list(0, 1), list(Number.NaN, 1), how), list(Number.NaN))
    same(crossEntropy(list(1, 0), list(0.5, 0), how), list(Math.LN2))
    same(crossEntropy(list(0.5, 0.5), list(1, 0), how), list(Infinity))
    same(crossEntropy(list(0, 1), list(Number.NaN, 1), how), list(Number.NaN))
    assert.ok(Object.is(entropy(list(1), how)[0], 0), 'not −0')
  }
})

test('logarithms of every magnitude, denormal numbers included', () => {
  const p = new Float32Array(1 << 16)
  const bits = new Int32Array(p.buffer)
  for (let i = 0; i < bits.length; i++) bits[i] = 1 + Math.floor((i * 0x7f7ffffe) / (bits.length - 1))
  // Around 1, where a logarithm is small and its relative error large.
  const near = Float32Array.from({ length: 100_000 }, (_, i) => 0.5 + i / 66_000)
  for (const instructionSet of sets) {
    const actual = library.informationContent(p, { instructionSet })
    within(worstElement(actual, reference.informationContent(double, p)), 1e-7, `on ${instructionSet}`)
    const nearly = library.informationContent(near, { instructionSet })
    within(
      worstElement(nearly, reference.informationContent(double, near)),
      1e-7,
      `${instructionSet} around 1`
    )
  }
})

test('klDivergence of nearly equal distributions, where the terms cancel', () => {
  for (const difference of [1e-2, 1e-4, 1e-6]) {
    const classes = 1001
    const p = distributions(1, 3, classes)
    const next = random(2)
    const q = p.map((value) => value * (1 + difference * (next() - 0.5)))
    const expected = byRow(classes, [p, q], (a, b) =>
      reference.klDivergence(double, a as Float32Array, b as Float32Array)
    )
    for (const instructionSet of sets) {
      within(
        worstElement(library.klDivergence(p, q, { classes, instructionSet }), expected),
        1e-6,
        `${difference}`
      )
    }
  }
})

test('softmax goes down to denormal numbers and 0', () => {
  const z = Float32Array.from({ length: 1200 }, (_, i) => -i / 10)
  const expected = reference.softmax(double, z)
  for (const instructionSet of sets) {
    const actual = library.softmax(z, { instructionSet })
    for (let i = 0; i < z.length; i++) {
      within(
        Math.abs(at(actual, i) - at(expected, i)),
        Math.max(4e-7 * at(expected, i), 2 ** -148),
        `e^${z[i]}`
      )
    }
    assert.ok(actual.some((value) => value > 0 && value < 2 ** -126))
    assert.is(actual[1199], 0)
  }
})

test('extreme logits', () => {
  const { softmax, logSoftmax } = library
  const big = Math.fround(1e15)
  const largest = 3.4028234663852886e38
  for (const instructionSet of sets) {
    const how = { instructionSet }
    same(softmax(list(big, -big), how), list(1, 0))
    same(logSoftmax(list(big, -big), how), list(0, -2 * big))
    same(softmax(list(big, big), how), list(0.5, 0.5))
    same(logSoftmax(list(-big, -big), how), list(-Math.LN2, -Math.LN2))
    same(softmax(list(largest, -largest), how), list(1, 0))
    same(softmax(list(0, -Infinity), how), list(1, 0))
    same(logSoftmax(list(0, -Infinity), how), list(0, -Infinity))
    for (const row of [[-Infinity, -Infinity], [Infinity, 0], [Infinity, -Infinity], [-Infinity]]) {
      const nan = new Float32Array(row.length).fill(Number.NaN)
      same(softmax(list(...row), how), nan, `softmax ${row}`)
      same(logSoftmax(list(...row), how), nan, `logSoftmax ${row}`)
    }
    // Blocks of nothing but −∞ before and after the first finite logit.
    const sparse = new Float32Array(40_000).fill(-Infinity)
    sparse[3000] = 5
    sparse[35_000] = 5
    const expected = new Float32Array(40_000)
    expected[3000] = expected[35_000] = 0.5
    same(softmax(sparse, how), expected)
  }
})

test('log probabilities near 0 keep their digits', () => {
  for (const instructionSet of sets) {
    const [largest] = library.logSoftmax(Float32Array.of(30, 0), { instructionSet })
    within(Math.abs((largest as number) / -Math.log1p(Math.exp(-30)) - 1), 2e-7, `on ${instructionSet}`)
  }
})

test('rising and falling logits, whose maximum changes from block to block', () => {
  for (const direction of [1, -1]) {
    const z = Float32Array.from({ length: 100_000 }, (_, i) => (direction * i) / 500)
    const expected = reference.softmax(double, z)
    for (const instructionSet of sets)
      within(relativeError(library.softmax(z, { instructionSet }), expected), 2e-7, `${direction}`)
  }
})

test('outputs too large for the caches, written past them, wherever rows begin', () => {
  const classes = 10_007
  const z = normals(random(1), 421 * classes, 5)
  for (const call of [
    library.softmax,
    library.logSoftmax,
    library.informationContent as typeof library.softmax,
  ]) {
    const how = call === (library.informationContent as typeof library.softmax) ? {} : { classes }
    const memory = new Float32Array(z.length + 1)
    for (const instructionSet of sets) {
      const out = memory.subarray(1)
      call(z, { ...how, instructionSet, out })
      const inPlace = z.slice()
      call(inPlace, { ...how, instructionSet, out: inPlace })
      sameBits(out, inPlace, `${call.name} ${instructionSet}`)
    }
  }
})

test.run()
