// Labels become classes by one rule, for texts and for numbers of every type.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { FileArray } from '../../lib/cli/data/files'
import { asLabels, type KnownClasses, rowsPerClass } from '../../lib/cli/data/labels'
import { Failure } from '../../lib/cli/terminal'
import { throwsLike } from '../support/support'

const test = suite('labels of the command line')

const array = (values: FileArray['values'], kind?: string): FileArray => ({
  from: 'l',
  shape: [values.length],
  values,
  kind,
  place: (row) => `row ${row} of l`,
})
const numbered = (values: FileArray['values'], known?: KnownClasses) => {
  const { labels, ...others } = asLabels(array(values), known)
  return { labels: [...labels], ...others }
}

/** The same integers as every kind of file holds them. */
const forms = (integers: number[]): FileArray['values'][] => [
  integers.map(String),
  integers.map((integer) => ` ${integer} `),
  Int32Array.from(integers),
  Float32Array.from(integers),
  Float64Array.from(integers),
  BigInt64Array.from(integers, BigInt),
  BigUint64Array.from(integers, BigInt),
]

test('integers from 0 without a gap stay what they are', () => {
  for (const values of forms([2, 0, 1, 2]))
    assert.equal(numbered(values), { labels: [2, 0, 1, 2], classes: 3, numbering: 'as given' })
})

test('integers with gaps are numbered by size and keep their ids, unless the number of classes is given', () => {
  for (const values of forms([3007, 7, 1000, 7])) {
    const names = ['7', '1000', '3007']
    assert.equal(numbered(values), { labels: [2, 0, 1, 0], classes: 3, names, numbering: 'renumbered' })
    assert.equal(numbered(values, { classes: 4000 }), {
      labels: [3007, 7, 1000, 7],
      classes: 4000,
      numbering: 'as given',
    })
    throwsLike(() => numbered(values, { classes: 3007 }), Failure, /below 3007.* received 3007 in row 0 of l/)
  }
  for (const values of forms([1, 2, 3])) assert.equal(numbered(values).names, ['1', '2', '3'])
  for (const values of forms([5])) assert.equal(numbered(values).names, ['5'])
})

test('ids beyond 2^31 and beyond 2^53 are exact', () => {
  const near = [2n ** 53n, 2n ** 53n + 1n, 2n ** 63n - 1n, 2n ** 53n]
  const names = ['9007199254740992', '9007199254740993', '9223372036854775807']
  for (const values of [near.map(String), BigInt64Array.from(near), BigUint64Array.from(near)])
    assert.equal(numbered(values), { labels: [0, 1, 2, 0], classes: 3, names, numbering: 'renumbered' })
  const users = [10 ** 11 + 3, 10 ** 11]
  for (const values of [users.map(String), Float64Array.from(users), BigInt64Array.from(users, BigInt)])
    assert.equal(numbered(values).labels, [1, 0])
  throwsLike(() => numbered(users.map(String), { classes: 10 ** 12 }), Failure, /below 2147483647/)
  // One more than 64 bits hold: texts, and so in the order of sorting.
  assert.is(numbered([String(2n ** 64n), '5']).numbering, 'names')
  assert.is(numbered([String(2n ** 64n - 1n), '5']).numbering, 'renumbered')
})

test('texts are names as soon as one of them is no integer, and no two of them become equal', () => {
  assert.equal(numbered(['zoe', 'ann', 'zoe']), {
    labels: [1, 0, 1],
    classes: 2,
    names: ['ann', 'zoe'],
    numbering: 'names',
  })
  for (const names of [
    ['01', '1'],
    ['1', '1.0'],
    ['+1', '1'],
    ['1', '1e0'],
    ['-0', '0'],
    ['Ann', 'ann'],
    ['Jorg', 'Jörg'],
    ['a b', 'ab'],
    ['0x1', '1'],
    ['-1', '1', 'x'],
  ])
    assert.equal(numbered(names), {
      labels: [...names.keys()],
      classes: names.length,
      names,
      numbering: 'names',
    })
  assert.is(numbered(['ann', 'zoe'], { classes: 5 }).classes, 5)
  throwsLike(
    () => numbered(['ann', 'zoe'], { classes: 1 }),
    Failure,
    /at least 2 for --classes but received 1/
  )
})

test('what only looks like a class of its own is refused, with both places', () => {
  for (const [first, second] of [
    ['ann', 'ann '],
    ['\tann', 'ann'],
    ['Jörg'.normalize('NFC'), 'Jörg'.normalize('NFD')],
    ['ann\u00a0', 'ann'],
  ] as [string, string][])
    throwsLike(
      () => numbered(['x', first, second]),
      Failure,
      /differ to the eye .* in row 2 of l and .* in row 1 of l/
    )
  // Everywhere the same, they are part of how the file is written.
  assert.equal(numbered([' ann', ' zoe', ' ann']).names, ['ann', 'zoe'])
})

test('names of which letters are lost already are refused', () =>
  throwsLike(
    () => numbered(['ann', 'J\ufffdrg']),
    Failure,
    /in row 1 of l but received "J\ufffdrg", of which another/
  ))

test('labels that are missing, negative or broken are refused where they are', () => {
  for (const values of [
    ['a', ''],
    ['a', '  '],
    ['1', ''],
  ])
    throwsLike(() => numbered(values), Failure, /^Expected a label in row 1 of l but received none$/)
  for (const values of forms([0, -1]))
    if (!(values instanceof BigUint64Array))
      throwsLike(
        () => numbered(values),
        Failure,
        /integer from 0 or a name as the label in row 1 of l but received/
      )
  for (const value of [0.5, Number.NaN, Infinity])
    throwsLike(() => numbered(Float32Array.of(0, value)), Failure, /in row 1 of l but received/)
})

test('integers that a type of number has rounded are refused', () => {
  for (const [kind, largest] of [
    ['f2', 2047],
    ['bf2', 255],
    ['f4', 2 ** 24 - 1],
    ['f8', 2 ** 53 - 1],
  ] as const) {
    assert.is(asLabels(array(Float64Array.of(largest, 1), kind)).classes, 2)
    throwsLike(
      () => asLabels(array(Float64Array.of(1, largest + 1), kind)),
      Failure,
      new RegExp(`up to ${largest}, which ${kind} holds exactly, in row 1 of l .*: save labels as integers`)
    )
  }
})

test('names that are known give the numbers that they had', () => {
  const names = ['zoe', '12', 'ann']
  assert.equal(numbered(['ann', 'zoe'], { names }).labels, [2, 0])
  assert.equal(numbered(Int32Array.of(12, 12), { names }).labels, [1, 1])
  throwsLike(
    () => numbered(['ann', 'bo'], { names }),
    Failure,
    /the head's 3 class names in row 1 of l but received "bo"/
  )
})

test('many identities are numbered', () => {
  const count = 300_000
  const ids = Float64Array.from({ length: count }, (_, i) => ((i * 7919) % count) * 1000)
  const { labels, classes, names } = asLabels(array(ids))
  assert.is(classes, count)
  assert.is(
    labels.findIndex((label, row) => label * 1000 !== ids[row]),
    -1
  )
  assert.is(names?.[count - 1], String((count - 1) * 1000))
})

test('rows of each class are counted, also of classes without any', () =>
  assert.equal(rowsPerClass({ labels: Int32Array.of(2, 0, 2), classes: 4 }), Uint32Array.of(1, 0, 2, 0)))

test.run()
