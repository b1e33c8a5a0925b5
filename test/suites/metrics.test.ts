import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { anglesToCentres, classCentres, median } from '../../lib/demo/metrics'

const f32 = (...values: number[]) => Float32Array.from(values)
const near = (actual: number, expected: number) =>
  assert.ok(Math.abs(actual - expected) < 1e-5, `Expected ${expected} but received ${actual}`)

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
