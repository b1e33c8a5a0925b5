// The mean direction of each class, against a plain computation in double precision.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { classMeans, MarginHead, MarginSoftmaxError } from '../../lib/index'
import { referenceClassMeans } from '../support/reference'
import { complaint, makeBatch, norm, relativeError, sameBits, throwsLike, within } from '../support/support'

const test = suite('class means')
const [rows, dim, classes] = [60, 5, 7]

for (const scale of [1, 1e-30, 1e30])
  test(`directions alone count: embeddings of length ${scale}`, () => {
    const { input, labels } = makeBatch(1, { rows, dim, classes }, { inputScale: scale })
    labels[3] = -1
    within(
      relativeError(
        classMeans(input, labels, { classes, dim }),
        referenceClassMeans(input, labels, { classes, dim }).means
      ),
      3e-7,
      'means'
    )
  })

test('float64 embeddings, a list of labels, another ignoreIndex', () => {
  const { input, labels } = makeBatch(2, { rows, dim, classes })
  const list = Array.from(labels, (label, i) => (i % 5 ? label : -100))
  const expected = classMeans(
    input,
    Int32Array.from(list, (label) => Math.max(label, -1)),
    { classes, dim }
  )
  sameBits(classMeans(Float64Array.from(input), list, { classes, dim, ignoreIndex: -100 }), expected, 'means')
})

test('a class without rows, or of rows that are zero or cancel, gets a random direction by the seed', () => {
  const input = Float32Array.of(1, 2, 0, 0, 3, 1, -3, -1)
  const labels = [0, 1, 2, 2] // none of class 3
  const means = (seed?: number) => classMeans(input, labels, { classes: 4, dim: 2, seed })
  sameBits(means(), means(0), 'the default seed')
  const [first, second] = [means(1), means(2)]
  for (let j = 0; j < 4; j++) {
    const row = (of: Float32Array) => of.subarray(2 * j, 2 * j + 2)
    within(Math.abs(norm(row(first)) - 1), 1e-6, `length of ${j}`)
    assert.is(String(row(first)) === String(row(second)), j === 0)
  }
})

test('they are first weights', async () => {
  const { input, labels } = makeBatch(3, { rows, dim, classes })
  const weights = classMeans(input, labels, { classes, dim })
  const head = await MarginHead.create({ classes, dim, weights })
  sameBits(head.weights(), weights, 'weights')
})

test('what is wrong is named', () => {
  const { input, labels } = makeBatch(4, { rows, dim, classes })
  const means = (changes: object) => () => classMeans(input, labels, { classes, dim, ...changes })
  throwsLike(means({ classes: 0 }), RangeError, complaint('classes', 0))
  throwsLike(means({ classes: undefined }), TypeError, complaint('classes'))
  throwsLike(means({ classes: 6 }), RangeError, complaint('labels[0]', 6))
  throwsLike(means({ dim: 7 }), RangeError, complaint('embeddings'))
  throwsLike(means({ seed: -1 }), RangeError, complaint('seed', -1))
  throwsLike(means({ class: 3 }), TypeError, /"class"/)
  throwsLike(() => classMeans(input, labels, null as never), TypeError, complaint('options', null))
  throwsLike(() => classMeans([1] as never, labels, { classes, dim }), TypeError, complaint('embeddings'))
  for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY]) {
    const spoiled = input.slice()
    spoiled[2 * dim + 1] = wrong
    throwsLike(
      () => classMeans(spoiled, labels, { classes, dim }),
      MarginSoftmaxError,
      /embeddings .* row 2$/
    )
  }
})

test.run()
