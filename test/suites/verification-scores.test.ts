// Verification where scores are given or hard to tell apart, and where it is to end early.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  type VerificationResult,
  verification,
  verificationFromScores,
  verificationFromScoresSync,
  verificationSync,
} from '../../lib/index'
import {
  complaint,
  integer,
  normals,
  pick,
  random,
  rejectsLike,
  threadCounts,
  throwsLike,
  within,
} from '../support/support'
import {
  allPairs,
  bestThreshold,
  type Costs,
  cosine,
  detectionCost,
  referenceVerification,
  type ScoredPair,
} from '../support/verification-reference'

const limits = [0, 1e-3, 0.01, 0.1, 1 / 3, 0.999, 1]

function check(result: VerificationResult, pairs: ScoredPair[], costs: Costs, range: number[], what: string) {
  const apart = ({ minimumDetectionCost: _, minimumDetectionCostThreshold: __, ...rest }: typeof expected) =>
    rest
  const expected = referenceVerification(pairs, limits, costs, range)
  const { folds: _, scores: __, zeroRows: ___, ...rest } = result
  const { from, to, same, different } = rest.histogram
  const actual = { ...rest, histogram: { from, to, same: [...same], different: [...different] } }
  assert.equal(apart(actual), apart(expected), what)
  within(Math.abs(actual.minimumDetectionCost - expected.minimumDetectionCost), 1e-13, `${what}: cost`)
  const there = detectionCost(pairs, actual.minimumDetectionCostThreshold, costs)
  within(Math.abs(there - expected.minimumDetectionCost), 1e-13, `${what}: cost at its threshold`)
}

const scores = suite('verification from scores')

scores('brute force to the last bit: any range, ties, costs and folds', async () => {
  const next = random(11)
  for (let seed = 0; seed < 30; seed++) {
    const count = integer(next, 12, 150)
    const scale = 10 ** integer(next, -300, 300)
    const steps = pick(next, [3, 20, 1e9]) // many ties, some, none
    const pairs = Array.from({ length: count }, (_, p) => {
      const same = p === 0 || (p > 1 && next() < 0.3)
      const score = (Math.round((next() + (same ? 0.4 : 0) - 0.7) * steps) / steps) * scale
      return { score: score || 0, same }
    })
    const values = pairs.map(({ score }) => score)
    const same = pairs.map((pair) => pair.same)
    const [pTarget, cMiss, cFalseAlarm] = [
      pick(next, [0.001, 0.05, 0.5, 0.99]),
      pick(next, [1, 10]),
      1 + next(),
    ]
    const folds = integer(next, 2, 12)
    const options = { falseAcceptRates: limits, folds, pTarget, cMiss, cFalseAlarm }
    const result = verificationFromScoresSync(values, same, options)
    check(result, pairs, [pTarget, cMiss, cFalseAlarm], [Math.min(...values), Math.max(...values)], `${seed}`)
    const accuracies = Array.from({ length: folds }, (_, fold) => {
      const inFold = (p: number) => Math.floor((p * folds) / count) === fold
      const { threshold } = bestThreshold(pairs.filter((_, p) => !inFold(p)))
      const own = pairs.filter((_, p) => inFold(p))
      return own.filter((pair) => pair.score >= threshold === pair.same).length / own.length
    })
    assert.equal([...(result.folds?.accuracies ?? [])], accuracies)
    for (const threads of threadCounts)
      assert.equal(
        await verificationFromScores(Float64Array.from(values), Uint8Array.from(same, Number), {
          ...options,
          threads,
        }),
        result
      )
  }
})

scores('the scores of a list of embeddings give its figures again', () => {
  const next = random(2)
  const embeddings = normals(next, 60 * 9)
  const same = Array.from({ length: 30 }, () => next() < 0.5)
  const { scores: given, histogram: _, zeroRows: __, ...rest } = verificationSync(embeddings, { same })
  const { histogram: ___, ...again } = verificationFromScoresSync(given as Float64Array, same)
  assert.equal(again, rest)
})

scores('neighbouring doubles are told apart, and a Float32Array is taken as it is', () => {
  const near = verificationFromScoresSync([1 + 2 ** -52, 1], [1, 0])
  assert.equal([near.areaUnderCurve, near.ties, near.bestThreshold], [1, 0, 1 + 2 ** -52])
  const single = verificationFromScoresSync(Float32Array.of(0.1, 0.2), [0, 1])
  assert.is(single.bestThreshold, Math.fround(0.2))
  const huge = verificationFromScoresSync([Number.MAX_VALUE, -Number.MAX_VALUE, -0, 0], [1, 0, 1, 0])
  assert.equal([huge.areaUnderCurve, huge.ties], [0.875, 0.25])
  assert.equal([huge.histogram.from, huge.histogram.to], [-Number.MAX_VALUE, Number.MAX_VALUE])
})

scores('one score for all pairs tells nothing', () => {
  const result = verificationFromScoresSync([3, 3, 3], [1, 0, 0])
  assert.equal([result.areaUnderCurve, result.ties, result.equalErrorRate], [0.5, 1, 0.5])
  assert.equal([result.bestBalancedAccuracy, result.minimumDetectionCost], [0.5, 1])
  assert.is(result.histogram.different[127], 2)
})

scores('where most pairs are of one kind, accuracy says nothing and balanced accuracy does', () => {
  const next = random(5)
  const same = Array.from({ length: 2400 }, (_, p) => p < 10)
  const result = verificationFromScoresSync(
    same.map(() => next()),
    same
  )
  assert.ok(result.bestAccuracy >= 2390 / 2400)
  assert.ok(result.bestBalancedAccuracy < 0.75)
  const perfect = verificationFromScoresSync(same.map(Number), same)
  assert.equal([perfect.bestBalancedAccuracy, perfect.minimumDetectionCost], [1, 0])
})

scores('wrong arguments are named', async () => {
  const from = verificationFromScoresSync
  throwsLike(() => from('0.5' as never, [1]), TypeError, complaint('scores', '0.5'))
  throwsLike(() => from([0.5, '1'] as never, [1, 0]), TypeError, complaint('scores[1]', '1'))
  throwsLike(() => from([0.5, 1], [1] as never), RangeError, /one answer for each of 2 scores for same/)
  throwsLike(() => from([0.5, 1], [1, 2]), RangeError, complaint('same[1]', 2))
  throwsLike(() => from([0.5, 1], {} as never), TypeError, complaint('same', 'an object'))
  throwsLike(() => from([0.5, 1], [1, 1]), RangeError, /both kinds for verification but received 2 of one/)
  throwsLike(() => from([], []), RangeError, /both kinds for verification but received 0 of one/)
  throwsLike(() => from([0.5, 1], [1, 0], { dim: 3 } as never), TypeError, /for options but received "dim"/)
  throwsLike(() => from([0.5, 1], [1, 0], { folds: 3 }), RangeError, /from 0 to 2 for folds but received 3/)
  for (const pTarget of [0, 1, -1, Number.NaN])
    throwsLike(() => from([0.5, 1], [1, 0], { pTarget }), RangeError, complaint('pTarget', pTarget))
  throwsLike(() => from([0.5, 1], [1, 0], { cMiss: 0 }), RangeError, complaint('cMiss', 0))
  throwsLike(() => from([0.5, 1], [1, 0], { cFalseAlarm: -1 }), RangeError, complaint('cFalseAlarm', -1))
  for (const wrong of [Number.NaN, Infinity, -Infinity]) {
    const pattern = /^Expected finite numbers for scores but received one that is not finite in row 2$/
    throwsLike(() => from([0.5, 1, wrong, wrong], [1, 0, 1, 0]), Error, pattern)
    await rejectsLike(verificationFromScores(Float32Array.of(0.5, 1, wrong), [1, 0, 1]), Error, pattern)
  }
  const gone = new Float64Array(4)
  structuredClone(gone.buffer, { transfer: [gone.buffer] })
  throwsLike(() => from(gone, [1]), RangeError, /an array that has its memory for scores/)
})

scores.run()

const parallel = suite('verification of embeddings that nearly point one way')

/** Rows around the direction of their class, plus the same large vector in all of them. */
function shifted(seed: number, rows: number, dim: number, many: number, common: number) {
  const next = random(seed)
  const centres = normals(next, many * dim)
  const labels = Int32Array.from({ length: rows }, (_, i) => i % many)
  const embeddings = normals(next, rows * dim).map(
    (x, i) => x + (centres[(labels[Math.floor(i / dim)] as number) * dim + (i % dim)] as number) + common
  )
  return { embeddings, labels }
}

parallel('all pairs and lists of them agree with cosines in double precision', () => {
  for (const [rows, dim, many, common] of [
    [40, 8, 4, 30],
    [61, 33, 5, 1000],
    [530, 16, 9, 300], // more than one chunk of rows
    [90, 128, 6, 20000],
  ] as const) {
    const { embeddings, labels } = shifted(rows, rows, dim, many, common)
    const pairs = allPairs(rows)
    const same = Array.from(
      { length: pairs.length / 2 },
      (_, p) => labels[pairs[2 * p] as number] === labels[pairs[2 * p + 1] as number]
    )
    const exact = same.map((answer, p) => ({
      same: answer,
      score: cosine(embeddings, dim, pairs[2 * p] as number, pairs[2 * p + 1] as number, 2 ** 53),
    }))
    const expected = verificationFromScoresSync(
      exact.map(({ score }) => score),
      same
    )
    const single = verificationFromScoresSync(
      exact.map(({ score }) => Math.round(score * 2 ** 24)),
      same
    )
    const what = `${rows}×${dim} + ${common}`
    if (common >= 1000) assert.ok(single.ties > 0.002, `${what}: single precision tells them apart`)
    for (const threads of threadCounts) {
      const ofAll = verificationSync(embeddings, labels, { dim, threads })
      const ofList = verificationSync(embeddings, { pairs, same }, { dim, threads, folds: 0 })
      for (const result of [ofAll, ofList]) {
        within(Math.abs(result.areaUnderCurve - expected.areaUnderCurve), 2e-5, `${what}: area`)
        within(Math.abs(result.equalErrorRate - expected.equalErrorRate), 1e-3, `${what}: equal error rate`)
        within(result.ties, 1e-4, `${what}: ties`)
        const spread = 1 - exact.reduce((least, { score }) => Math.min(least, score), 1)
        const by = Math.abs(result.equalErrorThreshold - expected.equalErrorThreshold)
        within(by / spread, 1e-5, `${what}: threshold`)
      }
    }
  }
})

parallel('many pairs, which are counted, as few, which are sorted', () => {
  const [rows, dim] = [2950, 8]
  const { embeddings, labels } = shifted(3, rows, dim, 20, 400)
  const pairs = allPairs(rows)
  const same = Array.from(
    { length: pairs.length / 2 },
    (_, p) => labels[pairs[2 * p] as number] === labels[pairs[2 * p + 1] as number]
  )
  const ofList = verificationSync(embeddings, { pairs, same }, { dim, folds: 0 })
  const [one, three] = [1, 3].map((threads) => verificationSync(embeddings, labels, { dim, threads }))
  assert.equal(one, three)
  within(Math.abs((one as VerificationResult).areaUnderCurve - ofList.areaUnderCurve), 1e-6, 'area')
  within((one as VerificationResult).ties, 1e-5, 'ties')
})

parallel('rows of zeros and one row apart are no reason to lose the others', () => {
  const { embeddings, labels } = shifted(8, 30, 6, 3, 1e5)
  const odd = embeddings.map((x, i) => (i < 6 ? -x : i < 12 ? 0 : x))
  const result = verificationSync(odd, labels)
  assert.is(result.zeroRows, 1)
  assert.is(result.pairs.same + result.pairs.different, 435)
  assert.ok(result.ties > 0.1) // what single precision can't tell apart is said
  assert.is(verificationSync(embeddings, labels).zeroRows, 0)
})

parallel.run()

const ending = suite('verification with a signal')
const rows = 1500
const [embeddings, labels] = [
  normals(random(1), rows * 64),
  Int32Array.from({ length: rows }, (_, i) => i % 9),
]
// Work of seconds.
const [many, halves] = [normals(random(2), 12000 * 256), new Int32Array(12000).fill(1, 6000)]
const caught = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) => error
  )

ending('a signal that is aborted already: its reason, before anything', async () => {
  const reason = new Error('changed my mind')
  assert.is(await caught(verification(embeddings, labels, { signal: AbortSignal.abort(reason) })), reason)
  assert.is(
    await caught(verificationFromScores([1, 0], [1, 0], { signal: AbortSignal.abort(reason) })),
    reason
  )
  const usual = (await caught(verification(embeddings, labels, { signal: AbortSignal.abort() }))) as Error
  assert.is(usual.name, 'AbortError')
})

ending('an abort ends what runs and what waits, and nothing else', async () => {
  const [first, second] = [new AbortController(), new AbortController()]
  const running = caught(verification(many, halves, { signal: first.signal }))
  const waiting = caught(verification(embeddings, labels, { signal: second.signal }))
  const other = verification(embeddings.subarray(0, 640), labels.subarray(0, 10))
  second.abort('second')
  first.abort('first')
  assert.is(await waiting, 'second')
  assert.is(await running, 'first')
  assert.equal(await other, verificationSync(embeddings.subarray(0, 640), labels.subarray(0, 10)))
})

ending('an abort from a timer ends work of seconds', async () => {
  const signal = AbortSignal.timeout(20)
  const error = (await caught(verification(many, halves, { signal }))) as Error
  assert.is(error.name, 'TimeoutError')
})

ending('an abort after the end changes nothing, and no listener stays', async () => {
  const control = new AbortController()
  let listeners = 0
  const counting = {
    aborted: false,
    addEventListener: (...words: [string, () => void]) => {
      listeners++
      control.signal.addEventListener(...words)
    },
    removeEventListener: (...words: [string, () => void]) => {
      listeners--
      control.signal.removeEventListener(...words)
    },
  }
  const result = await verificationFromScores([1, 0], [1, 0], { signal: counting as never })
  control.abort()
  assert.is(result.areaUnderCurve, 1)
  assert.is(listeners, 0)
})

ending('what is no signal is refused, and synchronous calls take none', async () => {
  for (const signal of [null, 1, {}, 'abort'])
    await rejectsLike(verification(embeddings, labels, { signal } as never), TypeError, complaint('signal'))
  const { signal } = new AbortController()
  throwsLike(
    () => verificationSync(embeddings, labels, { signal } as never),
    TypeError,
    /for options but received "signal"$/
  )
})

ending('errors of arguments come before the signal', async () => {
  const options = { signal: AbortSignal.abort() }
  await rejectsLike(
    verification(embeddings, 'none' as never, options),
    TypeError,
    complaint('pairsOf', 'none')
  )
})

ending.run()
