// The stateless losses refuse every mistake by the name of its argument and the value received, never by a crash.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { arcface, marginLoss, marginLossSync, softmaxMargin } from '../../lib/index'
import { complaint, makeBatch, rejectsLike, sameBits, throwsLike } from '../support/support'

const test = suite('reject')

const [rows, dim, classes] = [6, 4, 9]
const sound = () => makeBatch(1, { rows, dim, classes })
const softmax = softmaxMargin()

type Kind = typeof TypeError | typeof RangeError | typeof Error
type Change = Record<string, unknown>

function refuses(title: string, batch: Change, options: Change, kind: Kind, pattern: RegExp): void {
  test(title, async () => {
    const run = () => [{ ...sound(), ...batch }, options] as never as Parameters<typeof marginLossSync>
    throwsLike(() => marginLossSync(...run()), kind, pattern)
    // A function that returns a promise reports through it.
    await rejectsLike(marginLoss(...run()), kind, pattern)
  })
}

const brief = (value: unknown): string => {
  if (ArrayBuffer.isView(value)) return `${value.constructor.name}(${(value as Float32Array).length})`
  return typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? 'undefined')
}
const floats = (length: number) => new Float32Array(length)

// [name, value, kind of error, what the message shows of the value]
const batches: [string, unknown, Kind, unknown?][] = [
  ['input', undefined, TypeError, 'undefined'],
  ['input', null, TypeError, 'null'],
  ['input', [1, 2, 3, 4], TypeError],
  ['input', new Int32Array(rows * dim), TypeError],
  ['input', new ArrayBuffer(rows * dim * 4), TypeError],
  ['input', 'text', TypeError, 'text'],
  ['input', floats(rows * dim - 1), RangeError, rows * dim - 1],
  ['input', floats(0), RangeError, 0],
  ['weight', undefined, TypeError, 'undefined'],
  ['weight', new Int32Array(classes * dim), TypeError],
  ['weight', new Float64Array(classes * dim - 1), RangeError, classes * dim - 1],
  ['weight', Array(classes * dim).fill(0), TypeError],
  ['weight', floats(classes * dim + 1), RangeError, classes * dim + 1],
  ['weight', floats(0), RangeError, 0],
  ['labels', undefined, TypeError, 'undefined'],
  ['labels', null, TypeError, 'null'],
  ['labels', floats(rows), TypeError],
  ['labels', new BigInt64Array(rows), TypeError],
  ['labels', '123456', TypeError],
  ['labels', new Int32Array(rows + 1), RangeError, rows + 1],
  ['labels', new Int32Array(0), RangeError, 0],
  ['labels', [], RangeError, 0],
  ['dim', undefined, TypeError, 'undefined'],
  ['dim', '4', TypeError, '4'],
  ['dim', 0, RangeError, 0],
  ['dim', -4, RangeError, -4],
  ['dim', 2.5, RangeError, 2.5],
  ['dim', Number.NaN, RangeError, 'NaN'],
  ['dim', Number.POSITIVE_INFINITY, RangeError, 'Infinity'],
]

for (const [name, value, kind, shown] of batches) {
  refuses(`${name} ${brief(value)}`, { [name]: value }, {}, kind, complaint(name, shown))
}

for (const value of [2 ** 31, 2 ** 32 + 4, 2 ** 53]) {
  refuses(
    `dim ${value}, beyond every array`,
    { dim: value },
    {},
    RangeError,
    /for (dim|input|weight) but received/
  )
}

// One row fewer is a length that fits: the labels are then what does not.
refuses(
  'input of fewer rows than labels',
  { input: floats((rows - 1) * dim) },
  {},
  RangeError,
  complaint('labels', rows)
)

refuses(
  'no arrays at all',
  { input: floats(0), weight: floats(0), labels: [] },
  {},
  RangeError,
  /but received/
)

for (const value of [undefined, null, 5, 'batch']) {
  test(`a batch that is ${brief(value)}`, async () => {
    throwsLike(() => marginLossSync(value as never), TypeError, complaint('batch', value))
    await rejectsLike(marginLoss(value as never), TypeError, complaint('batch', value))
  })
}

// Labels: the wrong one is named with its index.
const labelled = (label: unknown, kind: 'array' | 'typed') => {
  const labels = [0, 1, 2, label, 4, 5]
  return kind === 'array' ? labels : Int32Array.from(labels as number[])
}
for (const [label, kind] of [
  [classes, 'typed'],
  [-2, 'typed'],
  [2 ** 31 - 1, 'typed'],
  [-(2 ** 31), 'typed'],
  [classes, 'array'],
  [-2, 'array'],
  [2 ** 31, 'array'],
  [2 ** 32, 'array'],
  [1.5, 'array'],
  [Number.NaN, 'array'],
  [Number.POSITIVE_INFINITY, 'array'],
] as const) {
  refuses(
    `label ${label} (${kind})`,
    { labels: labelled(label, kind) },
    {},
    RangeError,
    complaint('labels[3]', label)
  )
}
for (const label of ['3', null, undefined, 3n, true]) {
  refuses(
    `label ${String(label)}`,
    { labels: labelled(label, 'array') },
    {},
    TypeError,
    complaint('labels[3]', label)
  )
}
refuses(
  'a label of 2³² − 1 is not −1',
  { labels: Uint32Array.of(0, 1, 2, 2 ** 32 - 1, 4, 5) },
  {},
  RangeError,
  complaint('labels[3]', 2 ** 32 - 1)
)
refuses(
  'a label of 2¹⁶ − 1 is not −1',
  { labels: Uint16Array.of(0, 1, 2, 65535, 4, 5) },
  {},
  RangeError,
  complaint('labels[3]', 65535)
)
refuses(
  'label −1 where ignoreIndex is another',
  { labels: Int32Array.of(0, 1, 2, -1, 4, 5) },
  { ignoreIndex: -100 },
  RangeError,
  complaint('labels[3]', -1)
)

// A bias belongs to softmax only.
refuses('a bias with a margin', { bias: floats(classes) }, {}, Error, /bias/)
refuses(
  'a bias of another length',
  { bias: floats(classes - 1) },
  { margin: softmax },
  RangeError,
  complaint('bias', classes - 1)
)
refuses(
  'a bias of another type',
  { bias: new Int32Array(classes) },
  { margin: softmax },
  TypeError,
  complaint('bias')
)
refuses(
  'a bias that is a list',
  { bias: Array(classes).fill(0) },
  { margin: softmax },
  TypeError,
  complaint('bias')
)

const options: [string, unknown, Kind, unknown?][] = [
  ['margin', 'arcface', TypeError],
  ['margin', null, TypeError, 'null'],
  ['margin', 3, TypeError, 3],
  ['reduction', 'average', RangeError, 'average'],
  ['reduction', 1, TypeError, 1],
  ['ignoreIndex', 1.5, RangeError, 1.5],
  ['ignoreIndex', Number.NaN, RangeError, 'NaN'],
  ['ignoreIndex', '1', TypeError, '1'],
  ['labelSmoothing', -0.1, RangeError, -0.1],
  ['labelSmoothing', 1.1, RangeError, 1.1],
  ['labelSmoothing', Number.NaN, RangeError, 'NaN'],
  ['labelSmoothing', Number.POSITIVE_INFINITY, RangeError, 'Infinity'],
  ['labelSmoothing', '0.1', TypeError, '0.1'],
  ['gradOutput', Number.NaN, RangeError, 'NaN'],
  ['gradOutput', Number.NEGATIVE_INFINITY, RangeError, '-Infinity'],
  ['gradOutput', '1', TypeError, '1'],
  ['gradOutput', floats(rows), TypeError],
  ['losses', floats(rows + 1), RangeError, rows + 1],
  ['losses', new Float64Array(rows), TypeError],
  ['losses', false, TypeError, 'false'],
  ['losses', 'x', TypeError, 'x'],
  ['gradInput', floats(rows * dim - 1), RangeError, rows * dim - 1],
  ['gradInput', new Float64Array(rows * dim), TypeError],
  ['gradInput', 'yes', TypeError, 'yes'],
  ['gradInput', 1, TypeError, 1],
  ['gradInput', null, TypeError, 'null'],
  ['gradWeight', floats(classes * dim + 1), RangeError, classes * dim + 1],
  ['gradWeight', new Int32Array(classes * dim), TypeError],
  ['gradWeight', {}, TypeError],
  ['threads', 0, RangeError, 0],
  ['threads', -1, RangeError, -1],
  ['threads', 1.5, RangeError, 1.5],
  ['threads', Number.NaN, RangeError, 'NaN'],
  ['threads', 1e9, RangeError, 1000000000],
  ['threads', '2', TypeError, '2'],
  ['device', 'gpu', RangeError, 'gpu'],
  ['device', 0, TypeError, 0],
  ['workspace', -1, RangeError, -1],
  ['workspace', Number.NaN, RangeError, 'NaN'],
  ['workspace', 2 ** 25 - 1, RangeError, 2 ** 25 - 1],
  ['workspace', 2 ** 25 + 0.5, RangeError, 2 ** 25 + 0.5],
  ['workspace', 2 ** 60, RangeError, 2 ** 60],
  ['workspace', '1', TypeError, '1'],
  ['instructionSet', 'mmx', RangeError, 'mmx'],
  ['instructionSet', 2, TypeError, 2],
]

for (const [name, value, kind, shown] of options) {
  refuses(`${name} ${brief(value)}`, {}, { [name]: value }, kind, complaint(name, shown))
}

const none = { reduction: 'none' }
refuses(
  'gradOutput for none: a number',
  {},
  { ...none, gradOutput: 1 },
  TypeError,
  complaint('gradOutput', 1)
)
refuses(
  'gradOutput for none: a list',
  {},
  { ...none, gradOutput: Array(rows).fill(1) },
  TypeError,
  complaint('gradOutput')
)
refuses(
  'gradOutput for none: too short',
  {},
  { ...none, gradOutput: floats(rows - 1) },
  RangeError,
  complaint('gradOutput', rows - 1)
)
refuses(
  'gradBias of another length',
  { bias: floats(classes) },
  { margin: softmax, gradBias: floats(classes + 1) },
  RangeError,
  complaint('gradBias', classes + 1)
)
refuses(
  'gradBias of another type',
  { bias: floats(classes) },
  { margin: softmax, gradBias: 'x' },
  TypeError,
  complaint('gradBias', 'x')
)

refuses('a margin without a name', {}, { margin: {} }, Error, /margin/)
refuses('an unknown margin', {}, { margin: { name: 'nopeface', scale: 64 } }, RangeError, /margin.*nopeface/s)
refuses(
  'a margin whose name is inherited',
  {},
  { margin: { name: 'toString' } },
  RangeError,
  /margin.*toString/s
)
refuses('a margin whose name is a number', {}, { margin: { name: 4 } }, Error, /name/)

for (const value of [null, 5, 'mean', true]) {
  test(`options that are ${brief(value)}`, async () => {
    throwsLike(() => marginLossSync(sound(), value as never), TypeError, complaint('options', value))
    await rejectsLike(marginLoss(sound(), value as never), TypeError, complaint('options', value))
  })
}

for (const name of ['labelsmoothing', 'gradinput', 'reductions', 'Margin', 'toString']) {
  refuses(`the unknown option ${name} is named`, {}, { [name]: 0 }, Error, new RegExp(name))
}

test('a misspelt array of the batch is named', () => {
  throwsLike(() => marginLossSync({ ...sound(), biases: floats(classes) } as never), Error, /biases/)
})

test('options that are undefined mean their defaults', () => {
  const names = [
    'margin',
    'reduction',
    'ignoreIndex',
    'labelSmoothing',
    'gradOutput',
    'losses',
    'gradInput',
    'threads',
  ]
  const given = Object.fromEntries(names.map((name) => [name, undefined]))
  const expected = marginLossSync(sound())
  const actual = marginLossSync({ ...sound(), bias: undefined }, given)
  assert.is(actual.loss, expected.loss)
  sameBits(actual.gradWeight as Float32Array, expected.gradWeight as Float32Array, 'gradWeight')
})

test('after all these refusals a sound call is right', () => {
  assert.ok(Number.isFinite(marginLossSync(sound(), { margin: arcface() }).loss))
})

test.run()
