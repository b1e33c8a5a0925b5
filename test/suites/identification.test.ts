// identify: figures against brute force in float64, with ties, unknown probes and leave-one-out; and its intervals.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  type IdentificationResult,
  identify,
  identifySync,
  instructionSets,
  type OpenSetPoint,
} from '../../lib/index'
import { type Gallery, referenceIdentification } from '../support/identification-reference'
import { integer, normals, random, rejectsLike, sameBits, throwsLike, within } from '../support/support'
import { exactRows } from '../support/verification-reference'

const test = suite('identification')
const rates = [0, 0.01, 0.1, 1 / 3, 1, 0.05]

type Expected = ReturnType<typeof referenceIdentification>

/** @param tolerance of scores and thresholds; the figures are means, whose order of summation may differ */
function check(actual: IdentificationResult, expected: Expected, tolerance: number, what: string) {
  const near = (a: ArrayLike<number> | undefined, b: ArrayLike<number>, bound: number, name: string) => {
    assert.is(a?.length, b.length, `${what}: length of ${name}`)
    for (let i = 0; i < b.length; i++) {
      const [x, y] = [a?.[i] as number, b[i] as number]
      if (x !== y) within(Math.abs(x - y), bound, `${what}: ${name}[${i}]`)
    }
  }
  assert.equal(actual.probes, expected.probes, what)
  near(actual.cumulativeMatch, expected.cumulativeMatch, 1e-13, 'cumulativeMatch')
  near(actual.precision, expected.precision, 1e-13, 'precision')
  near([actual.meanAveragePrecisionAtR], [expected.meanAveragePrecisionAtR], 1e-13, 'MAP@R')
  near([actual.rPrecision], [expected.rPrecision], 1e-13, 'R-precision')
  assert.equal([...actual.ranks], expected.ranks, `${what}: ranks`)
  // Two rows whose scores single precision cannot tell apart may change places.
  const isClose = (i: number, j: number) =>
    Math.abs((expected.scores[i] as number) - (expected.scores[j] as number)) <= tolerance
  for (const [i, row] of expected.indices.entries())
    if (actual.indices[i] !== row)
      assert.ok(tolerance > 0 && (isClose(i, i + 1) || isClose(i, i - 1)), `${what}: indices[${i}]`)
  near(actual.scores, expected.scores, tolerance, 'scores')
  assert.is(actual.openSet?.length, expected.openSet?.length, what)
  for (const [i, { threshold, ...shares }] of (expected.openSet ?? []).entries()) {
    const { threshold: found, ...others } = (actual.openSet as OpenSetPoint[])[i] as OpenSetPoint
    assert.equal(others, shares, `${what}: open set at ${shares.limit}`)
    near([found], [threshold], tolerance, `threshold at ${shares.limit}`)
  }
}

interface Made {
  gallery: Gallery & { values: Float32Array; labels: Int32Array }
  probes: Gallery & { values: Float32Array; labels: Int32Array }
}

function make(
  seed: number,
  rows: number,
  probes: number,
  dim: number,
  classes: number,
  exact: boolean
): Made {
  const next = random(seed)
  const set = (count: number, most: number, from: number) => ({
    values: exact ? exactRows(seed + count, count, dim) : normals(next, count * dim),
    labels: Int32Array.from({ length: count }, () => integer(next, from, most)),
  })
  const made = { gallery: set(rows, classes - 1, 0), probes: set(probes, classes + 2, -1) }
  made.probes.labels[0] = made.gallery.labels[0] as number
  return made
}

const batchOf = ({ gallery, probes }: Made, dim: number) => ({
  gallery: gallery.values,
  galleryLabels: gallery.labels,
  probes: probes.values,
  probeLabels: probes.labels,
  dim,
})

for (const exact of [true, false])
  test(`brute force, with unknown probes${exact ? ' and many ties' : ''}`, async () => {
    for (const [rows, probes, dim, classes] of [
      [1, 1, 1, 1],
      [2, 5, 3, 1],
      [17, 9, 5, 3],
      [40, 33, 16, 2],
      [65, 31, 17, 30],
      [130, 64, 33, 9],
    ] as const) {
      const made = make(rows + probes, rows, probes, dim, classes, exact)
      for (const maxRank of new Set([1, Math.min(7, rows), rows])) {
        const detectionRank = Math.min(3, maxRank)
        const what = `${rows} × ${dim}, ${probes} probes, rank ${maxRank}`
        const asked = { maxRank, falseAlarmRates: rates, detectionRank }
        const batch = batchOf(made, dim)
        const actual = identifySync(batch, asked)
        const reference = { maxRank, rates, detectionRank }
        const tolerance = exact ? 0 : 1e-6
        check(actual, referenceIdentification(made.gallery, made.probes, dim, reference), tolerance, what)
        assert.equal(await identify(batch, { ...asked, threads: 2 }), actual, `${what}: asynchronous twin`)
      }
    }
  })

test('brute force of each row among the others', () => {
  for (const [rows, dim, classes, exact] of [
    [2, 2, 1, true],
    [3, 16, 2, true],
    [50, 5, 20, true],
    [90, 16, 4, true],
    [70, 33, 9, false],
  ] as const) {
    const { gallery } = make(rows, rows, 1, dim, classes, exact)
    gallery.labels.set([0, 0])
    const maxRank = Math.min(6, rows - 1)
    const batch = { gallery: gallery.values, galleryLabels: gallery.labels, dim }
    const actual = identifySync(batch, { maxRank, falseAlarmRates: rates })
    const expected = referenceIdentification(gallery, undefined, dim, { maxRank, rates })
    check(actual, expected, exact ? 0 : 1e-6, `${rows} × ${dim}`)
  }
})

test('embeddings that are all equal, or zeros, identify nobody', () => {
  for (const value of [0, 1]) {
    const dim = 3
    const labels = Int32Array.from({ length: 700 }, (_, i) => Math.floor(i / 7))
    const gallery = new Float32Array(700 * dim).fill(value)
    const probes = gallery.slice(0, 100 * dim)
    const probeLabels = labels.filter((_, i) => i % 7 === 0)
    const result = identifySync({ gallery, galleryLabels: labels, probes, probeLabels, dim }, { maxRank: 7 })
    assert.equal([...result.cumulativeMatch], [0, 0, 0, 0, 0, 0, 0])
    assert.is(result.meanAveragePrecisionAtR, 0)
    assert.is(result.zeroRows, value === 0 ? 800 : 0)
    const alone = identifySync({ gallery, galleryLabels: labels, dim }, { maxRank: 7 })
    assert.is(alone.cumulativeMatch[6], 0)
    assert.is(alone.zeroRows, value === 0 ? 700 : 0)
  }
})

test('a class of most rows, all duplicates, ranks behind the ties of others', () => {
  // More mates at the head of the gallery than the first list is long, so that longer lists are asked for.
  const dim = 4
  const rows = 3000
  const gallery = new Float32Array(rows * dim).fill(1)
  const labels = Int32Array.from({ length: rows }, (_, i) => (i < rows - 5 ? 0 : 1))
  const probes = Float32Array.of(1, 1, 1, 1, 1, 1, 1, 1)
  const made = { gallery, galleryLabels: labels, probes, probeLabels: [0, 1], dim }
  const expected = referenceIdentification(
    { values: gallery, labels },
    { values: probes, labels: [0, 1] },
    dim,
    {
      maxRank: 8,
      rates,
    }
  )
  check(identifySync(made, { maxRank: 8, falseAlarmRates: rates }), expected, 0, 'duplicates')
})

test('every instruction set with a fused multiply-add gives the same bits', () => {
  const made = make(9, 200, 40, 24, 12, false)
  const results = instructionSets()
    .filter((name) => name !== 'portable')
    .map((instructionSet) => identifySync(batchOf(made, 24), { instructionSet }))
  for (const { scores, indices } of results) {
    sameBits(scores, results[0]?.scores as Float32Array, 'scores')
    sameBits(indices, results[0]?.indices as Int32Array, 'indices')
  }
})

test('the inputs of asynchronous work may be changed at once', async () => {
  const made = make(10, 60, 20, 8, 6, false)
  const expected = identifySync(batchOf(made, 8))
  const batch = batchOf(structuredClone(made), 8)
  const running = identify(batch)
  for (const array of [batch.gallery, batch.galleryLabels, batch.probes, batch.probeLabels]) array.fill(0)
  assert.equal(await running, expected)
})

/** Figures of draws that the test makes itself: identities repeated as drawn, and everything computed anew by `identify`. */
test('intervals are percentiles over draws of identities', () => {
  const dim = 6
  const made = make(12, 40, 60, dim, 8, false)
  const batch = batchOf(made, dim)
  const plain = identifySync(batch, { maxRank: 4 })
  const { intervals, ...figures } = identifySync(batch, { maxRank: 4, replicates: 2000 })
  assert.equal(figures, plain, 'the figures are those without intervals')
  if (!intervals) throw new Error('no intervals')
  // The standard error of rank-1 accuracy by the formula for a ratio of sums over clusters (Cochran 1977, 2.39).
  const clusters = new Map<number, [found: number, probes: number]>()
  made.probes.labels.forEach((label, probe) => {
    if (!made.gallery.labels.includes(label)) return
    const [found, probes] = clusters.get(label) ?? [0, 0]
    clusters.set(label, [found + Number(plain.ranks[probe] === 1), probes + 1])
  })
  const ratio = plain.cumulativeMatch[0] as number
  const squares = [...clusters.values()].reduce(
    (sum, [found, probes]) => sum + (found - ratio * probes) ** 2,
    0
  )
  const error = Math.sqrt(squares) / plain.probes.known
  const width =
    (intervals.cumulativeMatch.upper[0] as number) - (intervals.cumulativeMatch.lower[0] as number)
  assert.ok(
    width > 0.6 * 2 * 1.96 * error && width < 1.4 * 2 * 1.96 * error,
    `${width} beside ${2 * 1.96 * error}`
  )
  for (const name of ['cumulativeMatch', 'precision'] as const)
    for (const [i, value] of plain[name].entries()) {
      assert.ok((intervals[name].lower[i] as number) <= value, name)
      assert.ok((intervals[name].upper[i] as number) >= value, name)
    }
  const rate = plain.openSet?.[0]?.detectionRate as number
  assert.ok((intervals.detectionRates?.lower[0] as number) <= rate)
  assert.ok((intervals.detectionRates?.upper[0] as number) >= rate)
  const again = identifySync(batch, { maxRank: 4, replicates: 2000 }).intervals
  assert.equal(again, intervals, 'the same draws for the same seed')
  assert.not.equal(identifySync(batch, { maxRank: 4, replicates: 2000, seed: 1 }).intervals, intervals)
  const wide = identifySync(batch, { maxRank: 4, replicates: 2000, confidence: 0.5 }).intervals
  assert.ok((wide?.rPrecision.upper as number) < intervals.rPrecision.upper)
})

test('with one identity of either kind, every draw is the same', () => {
  const gallery = Float32Array.of(1, 0, 0, 1)
  const probes = Float32Array.of(1, 0.1, 0.1, 1, 0.5, 0.5)
  const batch = { gallery, galleryLabels: [3, 4], probes, probeLabels: [3, 3, 9], dim: 2 }
  const { cumulativeMatch, intervals, openSet } = identifySync(batch, { replicates: 50 })
  assert.equal(intervals?.cumulativeMatch.lower, cumulativeMatch)
  assert.equal(intervals?.cumulativeMatch.upper, cumulativeMatch)
  assert.equal(
    [...(intervals?.detectionRates?.upper ?? [])],
    openSet?.map(({ detectionRate }) => detectionRate)
  )
})

test('a signal ends the work', async () => {
  const made = make(13, 60, 20, 8, 6, false)
  const reason = new Error('enough')
  await rejectsLike(identify(batchOf(made, 8), { signal: AbortSignal.abort(reason) }), Error, /^enough$/)
  const controller = new AbortController()
  const running = identify(batchOf(made, 8), { replicates: 1e6, signal: controller.signal })
  setTimeout(() => controller.abort(reason), 20)
  await rejectsLike(running, Error, /^enough$/)
})

test('what cannot be judged is refused', async () => {
  const made = make(14, 6, 5, 2, 3, false)
  const batch = batchOf(made, 2)
  const refuse = async (changed: object, options: object, kind: typeof Error, pattern: RegExp) => {
    throwsLike(() => identifySync({ ...batch, ...changed } as never, options as never), kind, pattern)
    await rejectsLike(identify({ ...batch, ...changed } as never, options as never), kind, pattern)
  }
  await refuse({ gallery: [1] }, {}, TypeError, /^Expected .+ for gallery but received/)
  await refuse(
    { gallery: batch.gallery.subarray(1) },
    {},
    RangeError,
    /^Expected .+ for gallery but received/
  )
  await refuse({ galleryLabels: [1] }, {}, RangeError, /^Expected 6 elements for galleryLabels/)
  await refuse(
    { galleryLabels: [0, 1, 2, -1, 0, 0] },
    {},
    RangeError,
    /for galleryLabels\[3\] but received -1/
  )
  await refuse({ probeLabels: [0, 1, 2, -2, 0] }, {}, RangeError, /for probeLabels\[3\] but received -2/)
  await refuse({ probeLabels: undefined }, {}, TypeError, /for probeLabels but received undefined/)
  await refuse({ probes: undefined }, {}, TypeError, /^Expected no probeLabels without probes/)
  await refuse({ probeLabels: [9, 9, 9, 9, -1] }, {}, RangeError, /^Expected at least one probe of a class/)
  await refuse({ dim: 0 }, {}, RangeError, /for dim but received 0/)
  await refuse({ labels: [] }, {}, TypeError, /for batch but received "labels"/)
  await refuse({}, { maxRank: 7 }, RangeError, /from 1 to 6 for maxRank but received 7/)
  await refuse({}, { maxRank: 2, detectionRank: 3 }, RangeError, /from 1 to 2 for detectionRank/)
  await refuse({}, { falseAlarmRates: [0.1, 2] }, RangeError, /for falseAlarmRates\[1\] but received 2/)
  await refuse({}, { replicates: -1 }, RangeError, /for replicates but received -1/)
  await refuse({}, { confidence: 1 }, RangeError, /for confidence but received 1/)
  await refuse({}, { threads: 0 }, RangeError, /for threads but received 0/)
  const alone = { probes: undefined, probeLabels: undefined }
  await refuse(
    { ...alone, galleryLabels: [0, 1, 2, 3, 4, 5] },
    {},
    RangeError,
    /^Expected at least two rows of one class/
  )
  await refuse(
    { ...alone, gallery: batch.gallery.slice(0, 2), galleryLabels: [0] },
    {},
    RangeError,
    /at least two rows/
  )
  const spoiled = batch.probes.slice()
  spoiled[7] = Number.NaN
  await refuse({ probes: spoiled }, {}, Error, /^Expected finite numbers for probes .+ row 3$/)
  const large = batch.gallery.slice()
  large[4] = 3e38
  await refuse({ gallery: large }, {}, RangeError, /^Expected a norm of at most 1e\+37 for row 2 of gallery/)
  throwsLike(() => identifySync(batch, { signal: AbortSignal.abort() } as never), TypeError, /"signal"/)
})

test.run()
