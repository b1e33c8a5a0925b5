// Calibration of scores (Cllr, minCllr, fitCalibration) and asNorm, against definitions in float64.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { asNorm, asNormSync, calibrationCost, fitCalibration, MarginSoftmaxError } from '../../lib/index'
import { integer, normals, random, rejectsLike, throwsLike, within } from '../support/support'
import { cosine64 } from '../support/verification-reference'

const test = suite('calibration')

const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length

/** Cllr by its definition. */
function cllr(ratios: number[], same: number[]): number {
  const costs = (kind: number, sign: number) =>
    mean(ratios.filter((_, p) => same[p] === kind).map((ratio) => Math.log2(1 + Math.exp(sign * ratio))))
  return (costs(1, -1) + costs(0, 1)) / 2
}

/**
 * The best increasing ratios by the min-max formula of isotonic regression, over every pair of bounds (Robertson, Wright and
 * Dykstra, 1988): of a score, the largest over lower bounds of the least over upper bounds of the targets' share.
 */
function isotonicRatios(scores: number[], same: number[]): number[] {
  const values = [...new Set(scores)].sort((a, b) => a - b)
  const isWithin = (score: number | undefined, low: number, high: number) =>
    score !== undefined && score >= low && score <= high
  const among = (low: number, high: number) => same.filter((_, p) => isWithin(scores[p], low, high))
  const [targets, others] = [same.filter((one) => one === 1).length, same.filter((one) => one === 0).length]
  return scores.map((score) => {
    const lowest = values.filter((value) => value <= score)
    const highest = values.filter((value) => value >= score)
    const share = Math.max(...lowest.map((low) => Math.min(...highest.map((high) => mean(among(low, high))))))
    return Math.log(share / (1 - share)) - Math.log(targets / others)
  })
}

function drawn(seed: number, count: number, coarse: boolean) {
  const next = random(seed)
  const same = Array.from({ length: count }, (_, p) => (p < 2 ? p : integer(next, 0, 2) === 0 ? 1 : 0))
  const noise = normals(next, count)
  const scores = same.map((one, p) => {
    const score = 1.3 * one - 0.4 + (noise[p] as number)
    return coarse ? Math.round(2 * score) / 2 : score
  })
  return { scores, same }
}

test('Cllr and minCllr are those of the definitions, ties included', () => {
  for (const count of [2, 3, 5, 10, 24])
    for (const coarse of [true, false])
      for (const seed of [1, 2, 3]) {
        const { scores, same } = drawn(100 * seed + count, count, coarse)
        const actual = calibrationCost(scores, same)
        within(Math.abs(actual.cllr - cllr(scores, same)), 1e-12, `Cllr of ${count}`)
        const least = cllr(isotonicRatios(scores, same), same)
        within(Math.abs(actual.minCllr - least), 1e-12, `minCllr of ${count}, coarse ${coarse}`)
        const stretched = scores.map((score) => Math.exp(2 * score))
        within(Math.abs(calibrationCost(stretched, same).minCllr - least), 1e-12, 'of an increasing function')
      }
})

test('scores that say nothing cost one bit, those that tell all cost none at best', () => {
  assert.equal(calibrationCost([0, 0, 0], [true, false, false]), { cllr: 1, minCllr: 1 })
  assert.is(calibrationCost([3, 2, -1], [1, 1, 0]).minCllr, 0)
  within(Math.abs(calibrationCost([1, 2, 3], [1, 0, 0]).minCllr - 1), 1e-15, 'the wrong way round')
  const large = calibrationCost([-1e300, 1e300], [1, 0]).cllr
  within(Math.abs(large / (1e300 / Math.LN2) - 1), 1e-12, 'no overflow')
})

test('the fitted line costs less than any line beside it, for its prior', () => {
  for (const pTarget of [0.5, 0.01]) {
    const { scores, same } = drawn(9, 300, false)
    const shifted = scores.map((score) => 1e-3 * score + 5)
    const { scale, offset } = fitCalibration(shifted, same, { pTarget })
    const prior = Math.log(pTarget / (1 - pTarget))
    const cost = (by: number, to: number) => {
      const ratios = shifted.map((score) => by * score + to + prior)
      const costs = (kind: number, sign: number) =>
        mean(ratios.filter((_, p) => same[p] === kind).map((ratio) => Math.log1p(Math.exp(sign * ratio))))
      return pTarget * costs(1, -1) + (1 - pTarget) * costs(0, 1)
    }
    const best = cost(scale, offset)
    for (const [by, to] of [
      [1.001, 0],
      [0.999, 0],
      [1, 0.01],
      [1, -0.01],
    ] as const)
      assert.ok(cost(scale * by, offset + to + scale * (1 - by) * 5) > best, `${pTarget}: ${by}, ${to}`)
    if (pTarget !== 0.5) continue
    const after = calibrationCost(
      shifted.map((score) => scale * score + offset),
      same
    )
    assert.ok(after.cllr >= after.minCllr && after.cllr < 1)
    // Scores that are log-likelihood ratios already: of unit normals around ±d/2 the line is d·score.
    const next = random(4)
    const answers = Uint8Array.from({ length: 40000 }, (_, p) => p % 2)
    const ratios = normals(next, 40000).map((x, p) => x + (p % 2 ? 0.75 : -0.75))
    const line = fitCalibration(ratios, answers)
    within(Math.abs(line.scale - 1.5), 0.05, 'the scale of known distributions')
    within(Math.abs(line.offset), 0.05, 'their offset')
  }
})

test('what has no cost or no line is refused', () => {
  throwsLike(() => calibrationCost([1, 2], [1, 1]), RangeError, /^Expected pairs of both kinds/)
  throwsLike(
    () => calibrationCost([1, 2], [1]),
    RangeError,
    /^Expected one answer for each of 2 scores for same/
  )
  throwsLike(
    () => calibrationCost([1, Infinity], [1, 0]),
    MarginSoftmaxError,
    /finite numbers for scores .* row 1/
  )
  throwsLike(() => calibrationCost('12' as never, [1, 0]), TypeError, /for scores but received "12"/)
  throwsLike(
    () => fitCalibration([1, 2, 3], [0, 1, 1]),
    RangeError,
    /^Expected scores of both kinds that overlap/
  )
  throwsLike(() => fitCalibration([1, 1], [0, 1]), RangeError, /overlap/)
  throwsLike(
    () => fitCalibration([1, 2, 3], [0, 1, 0], { pTarget: 1 }),
    RangeError,
    /for pTarget but received 1/
  )
})

test('asNorm is its definition, of the best of the cohort and of all of it', async () => {
  for (const [rows, cohortRows, dim, top] of [
    [6, 2, 3, 2],
    [10, 40, 5, 7],
    [8, 33, 16, 33],
  ] as const) {
    const next = random(rows)
    const embeddings = normals(next, rows * dim)
    const cohort = normals(next, cohortRows * dim)
    const pairs = [0, 1, 5, 2, 2, 5, 3, 3]
    const statistics = (row: number) => {
      const all = Array.from({ length: cohortRows }, (_, j) => cosine64(embeddings, row, cohort, j, dim))
      const best = all.sort((a, b) => b - a).slice(0, top)
      const middle = mean(best)
      return [middle, Math.sqrt(mean(best.map((score) => (score - middle) ** 2)))] as const
    }
    const expected = (list: number[]) =>
      Array.from({ length: list.length / 2 }, (_, p) => {
        const [a, b] = [list[2 * p] as number, list[2 * p + 1] as number]
        const score = cosine64(embeddings, a, embeddings, b, dim)
        return mean([a, b].map((row) => (score - statistics(row)[0]) / statistics(row)[1]))
      })
    const check = (actual: Float64Array, list: number[]) => {
      assert.is(actual.length, list.length / 2)
      for (const [p, score] of expected(list).entries())
        within(Math.abs((actual[p] as number) / score - 1), 1e-4, `${rows} × ${dim}, pair ${p}`)
    }
    const batch = { embeddings, cohort, pairs, dim }
    check(await asNorm(batch, { top }), pairs)
    assert.equal(asNormSync(batch, { top }), await asNorm(batch, { top }))
    check(
      await asNorm({ embeddings, cohort, dim }, { top, threads: 1 }),
      Array.from({ length: rows }, (_, i) => i)
    )
  }
})

test('asNorm refuses what it cannot normalize', async () => {
  const embeddings = Float32Array.of(1, 0, 0, 1)
  const batch = { embeddings, cohort: Float32Array.of(1, 1, 1, 2), dim: 2 }
  const refused = (changed: object, how: object, kind: typeof Error, pattern: RegExp) =>
    rejectsLike(asNorm({ ...batch, ...changed } as never, how as never), kind, pattern)
  await refused({ cohort: Float32Array.of(1, 1) }, {}, RangeError, /^Expected at least two rows for cohort/)
  await refused(
    { cohort: Float32Array.of(1, 1, 2, 2) },
    {},
    RangeError,
    /cohort scores that differ for row 0 of embeddings/
  )
  await refused({ embeddings: Float32Array.of(1, 0) }, {}, RangeError, /even number of rows/)
  await refused({ pairs: [0, 2] }, {}, RangeError, /for pairs\[1\] but received 2/)
  await refused({ pairs: [0, 1, 1] }, {}, RangeError, /^Expected 4 elements for pairs/)
  await refused({ pairs: 3 }, {}, TypeError, /for pairs but received 3/)
  await refused({}, { top: 3 }, RangeError, /from 2 to 2 for top but received 3/)
  await refused(
    { embeddings: Float32Array.of(1, 0, 0, 0) },
    {},
    RangeError,
    /for row 1 of embeddings but received 0/
  )
  await refused({}, { signal: AbortSignal.abort(new Error('enough')) }, Error, /^enough$/)
})

test.run()
