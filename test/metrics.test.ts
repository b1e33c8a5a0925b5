import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  anglesToCentres,
  areaUnderCurve,
  classCentres,
  equalErrorRate,
  median,
  pairScores,
  rocCurve,
  trueAcceptRateAt,
} from '../examples/metrics'

const f32 = (...values: number[]) => Float32Array.from(values)
const near = (actual: number, expected: number) =>
  assert.ok(Math.abs(actual - expected) < 1e-5, `Expected ${expected} but received ${actual}`)

const verification = suite('the demo’s verification metrics')

verification('a perfect separation', () => {
  const roc = rocCurve(f32(0.9, 0.8), f32(0.1, 0.2, 0.3))
  assert.is(areaUnderCurve(roc), 1)
  assert.is(equalErrorRate(roc), 0)
  assert.is(trueAcceptRateAt(roc, 0.01), 1)
  assert.equal([...roc.trueAcceptRate], [0, 0.5, 1, 1, 1, 1])
})

verification('a wholly wrong order', () => {
  const roc = rocCurve(f32(0.1, 0.2), f32(0.8, 0.9))
  assert.is(areaUnderCurve(roc), 0)
  assert.is(equalErrorRate(roc), 1)
  assert.is(trueAcceptRateAt(roc, 0.49), 0)
})

verification('equal scores tell nothing, and tie with each other', () => {
  const roc = rocCurve(f32(0.5, 0.5, 0.5), f32(0.5, 0.5))
  assert.equal([...roc.falseAcceptRate], [0, 1])
  near(areaUnderCurve(roc), 0.5)
  near(equalErrorRate(roc), 0.5)
  assert.is(trueAcceptRateAt(roc, 0.99), 0)
})

verification('a case counted by hand', () => {
  // From the highest score: + + − +, then + and − at once, then −.
  const roc = rocCurve(f32(0.9, 0.8, 0.6, 0.4), f32(0.7, 0.4, 0.1))
  assert.equal([...roc.falseAcceptRate], [0, 0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
  assert.equal([...roc.trueAcceptRate], [0, 0.25, 0.5, 0.5, 0.75, 1, 1])
  near(areaUnderCurve(roc), (3 + 3 + 2 + 1.5) / 12)
  near(trueAcceptRateAt(roc, 0), 0.5)
  near(trueAcceptRateAt(roc, 1 / 3), 0.75)
  near(trueAcceptRateAt(roc, 0.99), 1)
  // False rejects fall from 1/2 to 1/4 while false accepts stay at 1/3.
  near(equalErrorRate(roc), 1 / 3)
})

verification('the area is the share of ordered pairs', () => {
  const random = (seed: number) => (i: number) => ((Math.imul(i + 1, 2654435761) ^ seed) >>> 0) % 97
  const same = Float32Array.from({ length: 83 }, (_, i) => random(11)(i) + 20)
  const different = Float32Array.from({ length: 61 }, (_, i) => random(29)(i))
  let ordered = 0
  for (const s of same) for (const d of different) ordered += s > d ? 1 : s === d ? 0.5 : 0
  near(areaUnderCurve(rocCurve(same, different)), ordered / (same.length * different.length))
})

verification('every pair of rows is scored once', () => {
  const { same, different } = pairScores(f32(1, 0, 2, 0, 0, 3, -1, 0), [5, 5, 9, 9], 2)
  assert.equal([...same], [1, 0])
  assert.equal([...different], [0, -1, 0, -1])
})

verification('no pairs of a kind are refused', () => {
  assert.throws(
    () => rocCurve(f32(), f32(1)),
    /^Expected pairs of both kinds for the ROC curve but received 0 and 1$/
  )
})

verification.run()

const angles = suite('the demo’s angles')

angles('centres are mean directions, whatever the norms', () => {
  const centres = classCentres(f32(100, 0, 0, 1, 0, -2, 0, -5), [0, 0, 1, 1], 2, 2)
  const diagonal = Math.SQRT1_2
  ;[diagonal, diagonal, 0, -1].forEach((expected, i) => {
    near(centres[i], expected)
  })
})

angles('own, nearest other, accuracy', () => {
  const centres = f32(1, 0, 0, 1, -3, 0)
  const { own, other, accuracy, meanOwn, meanOther } = anglesToCentres(
    f32(2, 0, 1, 1.7320508, 0, 5),
    [0, 0, 1],
    centres,
    2
  )
  ;[0, 60, 0].forEach((expected, i) => {
    near(own[i], expected)
  })
  ;[90, 30, 90].forEach((expected, i) => {
    near(other[i], expected)
  })
  near(accuracy, 2 / 3)
  near(meanOwn, 20)
  near(meanOther, 70)
})

angles('a tie between two classes is not right', () => {
  assert.is(anglesToCentres(f32(1, 0), [0], f32(1, 0, 2, 0), 2).accuracy, 0)
})

angles('the median', () => {
  assert.is(median(f32(10, 9, 1)), 9)
  assert.is(median(f32(4, 3, 2, 1)), 2)
})

angles.run()
