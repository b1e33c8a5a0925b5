// verificationIntervals: the bootstrap over identities, against draws made one by one and against theory.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  MarginSoftmaxError,
  verificationFromScoresSync,
  verificationIntervals,
  verificationIntervalsSync,
} from '../../lib/index'
import { seededRandom } from '../../lib/internal/random'
import { integer, normals, random, rejectsLike, throwsLike } from '../support/support'

const test = suite('intervals of verification')

/** Trials of speakers whose utterances resemble each other. */
function trials(seed: number, speakers: number, count: number) {
  const next = random(seed)
  const ease = normals(next, speakers)
  const noise = normals(next, count)
  const identities = Array.from({ length: count }, (_, p) => {
    const a = integer(next, 0, speakers - 1)
    return [a, p % 3 === 0 ? a : (a + integer(next, 1, speakers - 1)) % speakers]
  }) as [number, number][]
  const scores = identities.map(([a, b], p) => (a === b ? 2 + (ease[a] as number) : 0) + (noise[p] as number))
  return { scores, identities }
}

/** The quantile of sorted values on the line between the two nearest. */
function quantile(values: number[], share: number): number {
  const sorted = values.slice().sort((a, b) => a - b)
  const place = share * (sorted.length - 1)
  const [below, above] = [sorted[Math.floor(place)] as number, sorted[Math.ceil(place)] as number]
  return below + (above - below) * (place - Math.floor(place))
}

test('each draw takes identities as often as they were drawn, and a pair as often as both', async () => {
  for (const [speakers, count] of [
    [2, 9],
    [5, 30],
    [12, 90],
  ] as const) {
    const { scores, identities } = trials(count, speakers, count)
    const labels = identities.flat().map((label) => 7 * label)
    const numbers = [...new Set(labels)] // in the order of their first pairs, in which they are drawn
    const next = seededRandom(3)
    const judged: number[][] = []
    for (let draw = 0; draw < 60; draw++) {
      const chosen = numbers.map(() => numbers[Math.floor(next() * numbers.length)])
      const times = (label: number) => chosen.filter((one) => one === 7 * label).length
      const repeated = identities.flatMap(([a, b], p) =>
        new Array<number>(a === b ? times(a) : times(a) * times(b)).fill(p)
      )
      const same = repeated.map((p) => identities[p]?.[0] === identities[p]?.[1])
      if (!same.includes(true) || !same.includes(false)) continue
      const drawn = repeated.map((p) => scores[p] as number)
      const result = verificationFromScoresSync(drawn, same, {
        falseAcceptRates: [0.1, 0.01],
        pTarget: 0.05,
        folds: 0,
      })
      judged.push([
        result.areaUnderCurve,
        result.equalErrorRate,
        result.bestBalancedAccuracy,
        result.minimumDetectionCost,
        ...result.operatingPoints.map((point) => point.trueAcceptRate),
      ])
    }
    const asked = { falseAcceptRates: [0.1, 0.01], pTarget: 0.05, replicates: 60, confidence: 0.9, seed: 3 }
    const actual = verificationIntervalsSync(scores, labels, asked)
    const bound = (share: number) =>
      judged[0]?.map((_, i) =>
        quantile(
          judged.map((of) => of[i] as number),
          share
        )
      )
    const side = (which: 'lower' | 'upper') => [
      actual.areaUnderCurve[which],
      actual.equalErrorRate[which],
      actual.bestBalancedAccuracy[which],
      actual.minimumDetectionCost[which],
      ...actual.trueAcceptRates[which],
    ]
    const near = (a: number[], b: number[] = []) => {
      for (const [i, value] of a.entries())
        assert.ok(Math.abs(value - (b[i] as number)) < 1e-12, `${speakers} speakers, figure ${i}`)
    }
    near(side('lower'), bound((1 - 0.9) / 2))
    near(side('upper'), bound((1 + 0.9) / 2))
    assert.equal(await verificationIntervals(scores, labels, asked), actual, 'the asynchronous twin')
  }
})

test('independent pairs have the interval of the binomial distribution, those of few speakers a wider one', () => {
  const count = 1500
  const { scores, identities } = trials(8, 20, count)
  const alone = identities.flatMap(([a, b], p) => (a === b ? [2 * p, 2 * p] : [2 * p, 2 * p + 1]))
  const asked = { falseAcceptRates: [0.2], replicates: 400 }
  const width = ({ lower, upper }: { lower: Float64Array; upper: Float64Array }) =>
    (upper[0] as number) - (lower[0] as number)
  const same = identities.map(([a, b]) => a === b)
  const { operatingPoints } = verificationFromScoresSync(scores, same, { falseAcceptRates: [0.2] })
  const rate = operatingPoints[0]?.trueAcceptRate as number
  const binomial = 2 * 1.96 * Math.sqrt((rate * (1 - rate)) / same.filter(Boolean).length)
  // Somewhat wider: the threshold of the false accept rate is drawn, too.
  const independent = width(verificationIntervalsSync(scores, alone, asked).trueAcceptRates)
  assert.ok(independent > 0.8 * binomial && independent < 1.8 * binomial, `${independent} beside ${binomial}`)
  const clustered = width(verificationIntervalsSync(scores, identities.flat(), asked).trueAcceptRates)
  assert.ok(clustered > 1.5 * independent, `${clustered} beside ${independent}`)
})

test('what has no interval is refused, and a signal ends the draws', async () => {
  const scores = [0.9, 0.8, 0.2, 0.1]
  const identities = [1, 1, 2, 2, 1, 2, 2, 1]
  const refuse = (changed: unknown[], kind: new (...parameters: never[]) => Error, pattern: RegExp) => {
    const [given = scores, labels = identities, options] = changed
    throwsLike(
      () => verificationIntervalsSync(given as never, labels as never, options as never),
      kind,
      pattern
    )
  }
  refuse([undefined, [1, 1, 2, 2]], RangeError, /^Expected 8 elements for identities/)
  refuse([undefined, [1, 1, 2, 2, 1, -1, 2, 1]], RangeError, /for identities\[5\] but received -1/)
  refuse([undefined, new Array(8).fill(3)], RangeError, /^Expected pairs of both kinds/)
  refuse([[1, 2, Number.NaN, 3]], MarginSoftmaxError, /finite numbers for scores .* row 2/)
  refuse([undefined, undefined, { replicates: 0 }], RangeError, /for replicates but received 0/)
  refuse([undefined, undefined, { folds: 2 }], TypeError, /"folds"/)
  refuse([undefined, undefined, { pTarget: 0 }], RangeError, /for pTarget but received 0/)
  const controller = new AbortController()
  const running = verificationIntervals(scores, identities, { replicates: 1e6, signal: controller.signal })
  setTimeout(() => controller.abort(new Error('enough')), 5)
  await rejectsLike(running, Error, /^enough$/)
})

test.run()
