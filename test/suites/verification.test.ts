// verification: exact figures of all pairs and of lists of pairs, against brute force.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  instructionSets,
  type VerificationResult,
  verification,
  verificationFromScoresSync,
  verificationSync,
} from '../../lib/index'
import { integer, normals, random, rejectsLike, sameBits, throwsLike, within } from '../support/support'
import {
  allPairs,
  bestThreshold,
  cosine,
  detectionCost,
  exactRows,
  referenceVerification,
  type ScoredPair,
  usualCosts,
} from '../support/verification-reference'

const limits = [0, 1e-6, 1e-3, 0.01, 0.1, 1 / 3, 0.5, 0.999, 1]
const usual = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]

function scored(embeddings: Float32Array, labels: ArrayLike<number>, dim: number) {
  const pairs = allPairs(labels.length)
  return Array.from({ length: pairs.length / 2 }, (_, p) => {
    const [a, b] = [pairs[2 * p] as number, pairs[2 * p + 1] as number]
    return { score: cosine(embeddings, dim, a, b), same: labels[a] === labels[b] }
  })
}

type Expected = ReturnType<typeof referenceVerification>

/** The reference's figures to the last bit, but for the detection cost, a sum that may be rounded otherwise. */
function checkFigures(
  result: VerificationResult,
  expected: Expected,
  pairs: ScoredPair[],
  costs = usualCosts,
  what = ''
) {
  const apart = ({ minimumDetectionCost: _, minimumDetectionCostThreshold: __, ...rest }: Expected) => rest
  const actual = figures(result) as Expected
  assert.equal(apart(actual), apart(expected), what)
  const { minimumDetectionCost, minimumDetectionCostThreshold } = actual
  within(Math.abs(minimumDetectionCost - expected.minimumDetectionCost), 1e-13, `${what}: cost`)
  const there = detectionCost(pairs, minimumDetectionCostThreshold, costs)
  within(Math.abs(there - expected.minimumDetectionCost), 1e-13, `${what}: cost at its threshold`)
}

/** Figures without what only one form has, as plain arrays. */
function figures({ scores: _, folds: __, zeroRows: ___, histogram, ...rest }: VerificationResult) {
  return {
    ...rest,
    histogram: { ...histogram, same: [...histogram.same], different: [...histogram.different] },
  }
}

const classes = (seed: number, rows: number, many: number) => {
  const next = random(seed)
  const labels = Int32Array.from({ length: rows }, () => integer(next, 0, many - 1))
  if (rows > 2) labels.set([0, 0, 1]) // pairs of both kinds
  return labels
}

const all = suite('verification of all pairs')

all('brute force, to the last bit, where cosines are exact', async () => {
  for (const [rows, dim, many] of [
    [3, 1, 2],
    [5, 2, 2],
    [17, 5, 3],
    [33, 16, 4],
    [64, 17, 2],
    [65, 31, 20],
    [97, 64, 5],
    [129, 33, 7],
  ] as const) {
    const embeddings = exactRows(rows, rows, dim)
    const labels = classes(rows, rows, many)
    const pairs = scored(embeddings, labels, dim)
    const expected = referenceVerification(pairs, limits)
    const check = (result: VerificationResult) =>
      checkFigures(result, expected, pairs, undefined, `${rows}×${dim}`)
    for (const instructionSet of instructionSets())
      for (const threads of [1, 2, 3]) {
        const options = { dim, falseAcceptRates: limits, threads, instructionSet }
        check(verificationSync(embeddings, labels, options))
      }
    check(await verification(embeddings, labels, { falseAcceptRates: limits }))
  }
})

all('brute force within rounding on numbers of every length', () => {
  const next = random(4)
  let exact = 0
  for (let seed = 0; seed < 20; seed++) {
    const [rows, dim, many] = [integer(next, 4, 60), integer(next, 2, 70), integer(next, 2, 6)]
    const labels = classes(seed, rows, many)
    const scale = 10 ** integer(next, -9, 9)
    const embeddings = normals(next, rows * dim).map((x, i) => {
      const row = Math.floor(i / dim)
      return (x + ((labels[row] as number) === i % dim ? 1 : 0)) * scale
    })
    // Scores within rounding of each other may change places: the figures lie between those of pairs of one class moved
    // down and up by twice a score's error.
    const pairs = scored(embeddings, labels, dim)
    const [low, high] = [-5e-7, 5e-7].map((by) => {
      const moved = pairs.map((pair) => (pair.same ? { ...pair, score: pair.score + by } : pair))
      return referenceVerification(moved, usual)
    }) as [ReturnType<typeof referenceVerification>, ReturnType<typeof referenceVerification>]
    const actual = verificationSync(embeddings, labels)
    const between = (least: number, value: number, most: number, what: string) =>
      assert.ok(least <= value && value <= most, `${what} of ${value} is not from ${least} to ${most}`)
    between(low.areaUnderCurve, actual.areaUnderCurve, high.areaUnderCurve, 'area')
    between(high.equalErrorRate, actual.equalErrorRate, low.equalErrorRate, 'equal error rate')
    between(high.minimumDetectionCost, actual.minimumDetectionCost, low.minimumDetectionCost, 'cost')
    between(low.bestBalancedAccuracy, actual.bestBalancedAccuracy, high.bestBalancedAccuracy, 'balanced')
    between(low.bestAccuracy, actual.bestAccuracy, high.bestAccuracy, 'best accuracy')
    actual.operatingPoints.forEach(({ trueAcceptRate, limit }, i) => {
      const at = (of: typeof low) => of.operatingPoints[i]?.trueAcceptRate ?? Number.NaN
      between(at(low), trueAcceptRate, at(high), `true accept rate at ${limit}`)
    })
    // Sharp cases: no two scores were that close.
    if (low.areaUnderCurve === high.areaUnderCurve) exact++
  }
  assert.ok(exact >= 10, `only ${exact} of 20 cases were sharp`)
})

all('millions of pairs are counted as a list of them is', async () => {
  const [rows, dim] = [2950, 20] // 4.3 million pairs: more than are sorted
  const embeddings = exactRows(9, rows, dim)
  const labels = classes(9, rows, 40)
  const pairs = allPairs(rows)
  const same = Array.from(
    { length: pairs.length / 2 },
    (_, p) => labels[pairs[2 * p] as number] === labels[pairs[2 * p + 1] as number]
  )
  const options = { dim, falseAcceptRates: limits }
  const expected = figures(verificationSync(embeddings, { pairs, same }, { ...options, folds: 0 }))
  assert.equal(figures(await verification(embeddings, labels, options)), expected)
  for (const threads of [1, 3])
    assert.equal(figures(verificationSync(embeddings, labels, { ...options, threads })), expected)
})

all('the same figures for any number of threads, on every instruction set that fuses', () => {
  const [rows, dim] = [3000, 24]
  const labels = classes(2, rows, 30)
  const embeddings = normals(random(2), rows * dim)
  const results = instructionSets()
    .filter((name) => name !== 'portable')
    .flatMap((instructionSet) =>
      [1, 2, 5].map((threads) => figures(verificationSync(embeddings, labels, { instructionSet, threads })))
    )
  for (const result of results) assert.equal(result, results[0])
})

all('identical embeddings tell nothing', () => {
  const embeddings = new Float32Array(3000 * 8).fill(0.3)
  for (const rows of [4, 3000]) {
    const labels = Int32Array.from({ length: rows }, (_, i) => i % 2)
    const { areaUnderCurve, equalErrorRate, operatingPoints, pairs } = verificationSync(
      embeddings.subarray(0, rows * 8),
      labels
    )
    assert.is(pairs.same + pairs.different, (rows * (rows - 1)) / 2)
    assert.is(areaUnderCurve, 0.5)
    assert.is(equalErrorRate, 0.5)
    for (const { trueAcceptRate, threshold } of operatingPoints) {
      assert.is(trueAcceptRate, 0)
      assert.is(threshold, Infinity)
    }
  }
})

all('rows of zeros score 0 with every other', () => {
  const { histogram } = verificationSync(Float32Array.of(0, 0, 0, 0, 1, 0, 1, 0), [0, 0, 1, 1])
  assert.equal(
    [...histogram.same].flatMap((n, bin) => (n ? [[bin, n]] : [])),
    [
      [64, 1],
      [127, 1],
    ]
  )
  assert.equal(
    [...histogram.different].flatMap((n, bin) => (n ? [[bin, n]] : [])),
    [[64, 4]]
  )
})

all('only one kind of pairs is refused', async () => {
  const embeddings = normals(random(1), 12)
  const message = (same: number, different: number) =>
    new RegExp(
      `^Expected pairs of both kinds for verification but received ${same} of one class and ${different} of different ones$`
    )
  throwsLike(() => verificationSync(embeddings, [5, 5, 5]), RangeError, message(3, 0))
  throwsLike(() => verificationSync(embeddings, [1, 2, 3]), RangeError, message(0, 3))
  throwsLike(() => verificationSync(embeddings, [1]), RangeError, message(0, 0))
  await rejectsLike(verification(embeddings, { same: [true, true] }), RangeError, message(2, 0))
})

all('what is not finite is refused with its row', async () => {
  for (const wrong of [Number.NaN, Infinity, -Infinity]) {
    const embeddings = normals(random(1), 40 * 5)
    embeddings[17 * 5 + 4] = wrong
    embeddings[33 * 5] = wrong
    const labels = classes(1, 40, 3)
    const pattern = /^Expected finite numbers for embeddings but received one that is not finite in row 17$/
    await rejectsLike(verification(embeddings, labels, { threads: 3 }), Error, pattern)
    throwsLike(() => verificationSync(embeddings, { same: labels.subarray(0, 20).fill(1) }), Error, pattern)
  }
})

all('wrong arguments are named', () => {
  const embeddings = normals(random(1), 20)
  const refuse = (run: () => unknown, kind: typeof TypeError | typeof RangeError, pattern: RegExp) =>
    throwsLike(run, kind, pattern)
  const labels = [0, 0, 1, 1]
  refuse(() => verificationSync([1] as never, labels), TypeError, /^Expected .+ for embeddings but received/)
  refuse(() => verificationSync(embeddings, undefined as never), TypeError, /for pairsOf but received undef/)
  refuse(() => verificationSync(embeddings, [0, 0, 1]), RangeError, /for dim but received 6.66/)
  refuse(() => verificationSync(embeddings, [0, 0, 1, -1]), RangeError, /for labels\[3\] but received -1/)
  refuse(() => verificationSync(embeddings, labels, { dim: 4 }), RangeError, /5 elements for labels but/)
  refuse(() => verificationSync(embeddings, labels, { folds: 5 }), TypeError, /for folds but received 5/)
  refuse(() => verificationSync(embeddings, labels, { fold: 5 } as never), TypeError, /fold/)
  const rates = (falseAcceptRates: number[]) => verificationSync(embeddings, labels, { falseAcceptRates })
  refuse(() => rates([0.1, 2]), RangeError, /for falseAcceptRates\[1\] but received 2/)
  refuse(() => rates([Number.NaN]), RangeError, /for falseAcceptRates\[0\] but received NaN/)
  const list = (given: object, options?: object) => verificationSync(embeddings, given as never, options)
  refuse(() => list({ pairs: [0, 1], same: [1] }), TypeError, /for dim with a list of pairs but received/)
  refuse(() => list({ pairs: [0, 1, 2], same: [1] }, { dim: 5 }), RangeError, /2 elements for pairs/)
  refuse(() => list({ pairs: [0, 4], same: [1] }, { dim: 5 }), RangeError, /for pairs\[1\] but received 4/)
  refuse(() => list({ pairs: [0, -1], same: [1] }, { dim: 5 }), RangeError, /for pairs\[1\] but received -1/)
  refuse(() => list({ same: [1, 2] }), RangeError, /for same\[1\] but received 2/)
  refuse(() => list({}), TypeError, /for same but received undefined/)
  refuse(() => list({ same: [1, 0] }, { folds: 3 }), RangeError, /from 0 to 2 for folds but received 3/)
  refuse(() => list({ same: [1, 0] }, { folds: 1 }), RangeError, /at least 2 for folds but received 1/)
  refuse(() => list({ same: [1, 0, 1] }, { dim: 5 }), RangeError, /every two of 4 rows for same/)
})

all('inputs stay, and limits come back in their order', () => {
  const embeddings = exactRows(3, 30, 16)
  const labels = classes(3, 30, 3)
  const copy = embeddings.slice()
  const falseAcceptRates = [0.5, 0.001, 0.2]
  const { operatingPoints } = verificationSync(embeddings, labels, { falseAcceptRates })
  assert.equal(
    operatingPoints.map(({ limit }) => limit),
    falseAcceptRates
  )
  assert.ok((operatingPoints[0]?.trueAcceptRate ?? 0) > (operatingPoints[1]?.trueAcceptRate ?? 1))
  sameBits(embeddings, copy, 'embeddings')
})

all.run()

const list = suite('verification of a list of pairs')

list('a case counted by hand', () => {
  // From the highest score: + + − +, then + and − at once, then −.
  const scores = [0.875, 0.75, 0.625, 0.375, 0.6875, 0.375, 0.125]
  const falseAcceptRates = [0, 1 / 3, 0.99]
  const given = scores.map((_, p) => p < 4)
  const result = verificationFromScoresSync(scores, given, { falseAcceptRates })
  within(Math.abs(result.areaUnderCurve - (3 + 3 + 2 + 1.5) / 12), 1e-15, 'area')
  // False rejects fall from 1/2 to 1/4 while false accepts stay at 1/3.
  within(Math.abs(result.equalErrorRate - 1 / 3), 1e-15, 'equal error rate')
  assert.is(result.equalErrorThreshold, 0.625)
  assert.is(result.bestAccuracy, 5 / 7)
  assert.is(result.bestThreshold, 0.75)
  assert.equal(
    result.operatingPoints.map(({ trueAcceptRate, threshold }) => [trueAcceptRate, threshold]),
    [
      [0.5, 0.75],
      [0.75, 0.625],
      [1, 0.375],
    ]
  )
  // At 0.75 half is missed and nothing wrongly accepted; each pair of one class is a quarter of its kind.
  assert.is(result.bestBalancedAccuracy, 0.75)
  assert.is(result.bestBalancedThreshold, 0.75)
  assert.is(result.minimumDetectionCost, 0.5)
  assert.is(result.minimumDetectionCostThreshold, 0.75)
  within(Math.abs(result.ties - 1 / 12), 1e-15, 'ties')
  assert.not(result.folds)
  assert.not(result.scores)
})

list('a perfect and a wholly wrong order', () => {
  const good = verificationFromScoresSync([0.5, 0.25, 0.125, 0, -0.5], [1, 1, 0, 0, 0])
  assert.equal(
    [good.areaUnderCurve, good.equalErrorRate, good.bestAccuracy, good.bestThreshold],
    [1, 0, 1, 0.25]
  )
  const bad = verificationFromScoresSync([-0.5, -0.25, 0.5, 0.25], [1, 1, 0, 0])
  assert.equal(
    [bad.areaUnderCurve, bad.equalErrorRate, bad.bestAccuracy, bad.bestThreshold],
    [0, 1, 0.5, Infinity]
  )
})

list('brute force, folds included, in float64', async () => {
  const next = random(8)
  for (const [rows, dim, count, folds] of [
    [20, 3, 50, 10],
    [40, 17, 101, 10],
    [41, 65, 333, 7],
    [30, 512, 64, 2],
    [25, 8, 12, 12],
  ] as const) {
    const embeddings = normals(next, rows * dim)
    const pairs = Int32Array.from({ length: 2 * count }, () => integer(next, 0, rows - 1))
    const scoredPairs = Array.from({ length: count }, (_, p) => {
      const score = cosine(embeddings, dim, pairs[2 * p] as number, pairs[2 * p + 1] as number)
      return { score, same: next() < 0.5 + score / 2 }
    })
    const same = scoredPairs.map((pair) => pair.same)
    const options = { dim, folds, falseAcceptRates: limits }
    const result = verificationSync(embeddings, { pairs, same }, options)
    assert.equal(
      [...(result.scores as Float64Array)],
      scoredPairs.map(({ score }) => score)
    )
    checkFigures(result, referenceVerification(scoredPairs, limits), scoredPairs)
    const accuracies = Array.from({ length: folds }, (_, fold) => {
      const inFold = (p: number) => Math.floor((p * folds) / count) === fold
      const { threshold } = bestThreshold(scoredPairs.filter((_, p) => !inFold(p)))
      assert.is(result.folds?.thresholds[fold], threshold)
      const own = scoredPairs.filter((_, p) => inFold(p))
      return own.filter((pair) => pair.score >= threshold === pair.same).length / own.length
    })
    assert.equal([...(result.folds?.accuracies ?? [])], accuracies)
    const mean = accuracies.reduce((a, b) => a + b) / folds
    within(Math.abs((result.folds?.meanAccuracy ?? 0) - mean), 1e-15, 'mean')
    const variance = accuracies.reduce((sum, a) => sum + (a - mean) ** 2, 0) / folds
    within(Math.abs((result.folds?.standardDeviation ?? 0) - Math.sqrt(variance)), 1e-15, 'deviation')
    for (const instructionSet of instructionSets())
      assert.equal(
        await verification(embeddings, { pairs, same }, { ...options, instructionSet, threads: 3 }),
        result
      )
  }
})

list('without rows given, pair p is rows 2p and 2p + 1', () => {
  const embeddings = normals(random(3), 24 * 6)
  const same = Array.from({ length: 12 }, (_, p) => p % 3 === 0)
  const pairs = Array.from({ length: 24 }, (_, i) => i)
  assert.equal(
    verificationSync(embeddings, { same }),
    verificationSync(embeddings, { pairs, same }, { dim: 6 })
  )
})

list('any direction and length, and a Float64Array', () => {
  const rows = Float64Array.of(1e-12, 1e-12, 1e12, 1e12, 2, 0, -1e18, 0)
  const { scores } = verificationSync(rows, { same: [1, 0] })
  assert.equal([...(scores as Float64Array)], [1, -1])
})

list.run()
