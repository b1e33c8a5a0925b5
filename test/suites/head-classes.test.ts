// A head whose classes are added and removed: weights, optimizer state, names, and what is refused.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { MarginHeadOptions } from '../../lib/index'
import { adamW, MarginHead, sgd, softmaxMargin } from '../../lib/index'
import { classes, contentsOf, dim, train, trained } from '../support/changed-heads'
import { complaint, filesOf, makeBatch, norm, onCpu, rejectsLike, sameBits, within } from '../support/support'

const test = suite('head, classes')
const at = filesOf(test)
let files = 0
const newFile = () => at(`head-${files++}`)

const kinds: [string, Partial<MarginHeadOptions>][] = [
  ['momentum', {}],
  ['AdamW', { optimizer: adamW() }],
  ['no state', { optimizer: sgd() }],
  ['a bias', { margin: softmaxMargin(), bias: true }],
  ...(onCpu
    ? [['weights in bfloat16', { weightStorage: 'bfloat16' }] as [string, { weightStorage: 'bfloat16' }]]
    : []),
]
/** Rows of every array of a head. */
async function rowsOf(head: MarginHead): Promise<Record<string, number[][]>> {
  const { tensors } = await contentsOf(head, newFile())
  return Object.fromEntries(
    Object.entries(tensors).map(([name, { data, shape }]) => {
      const width = shape[1] ?? 1
      return [
        name,
        Array.from({ length: shape[0] as number }, (_, j) =>
          Array.from(data.slice(j * width, (j + 1) * width))
        ),
      ]
    })
  )
}

for (const [what, options] of kinds) {
  test(`added classes come last with state zero, the others stay: ${what}`, async () => {
    const head = await trained(options)
    const before = await rowsOf(head)
    const weights = makeBatch(7, { rows: 2, dim, classes }).input
    assert.equal(await head.addClasses(2, { weights }), { first: classes, count: 2 })
    assert.is(head.classes, classes + 2)
    assert.equal(head.shard, { first: 0, count: classes + 2 })
    assert.is(head.iteration, 3)
    for (const [name, all] of Object.entries(await rowsOf(head))) {
      assert.equal(all.slice(0, classes), before[name], name)
      assert.is(all.length, classes + 2)
      if (name !== 'weight') for (const row of all.slice(classes)) assert.is(norm(row), 0, name)
    }
    if (options.weightStorage)
      within(Math.abs(norm(head.weights().slice(classes * dim)) / norm(weights) - 1), 0.01, 'rounded')
    else sameBits(head.weights().slice(classes * dim), weights, 'new weights')
    await train(head, 3, 5)
  })

  test(`removed classes go with their state, the others close up: ${what}`, async () => {
    for (const list of [
      [0],
      [classes - 1],
      [5, 3, 4],
      [0, 2, 4, 36],
      Uint8Array.of(1),
      [],
      [...Array(classes - 1).keys()],
    ]) {
      const head = await trained(options)
      const before = await rowsOf(head)
      const places = await head.removeClasses(list)
      const kept = [...Array(classes).keys()].filter((j) => !list.includes(j as never))
      assert.equal(
        [...places],
        [...Array(classes).keys()].map((j) => kept.indexOf(j))
      )
      for (const [name, all] of Object.entries(await rowsOf(head)))
        assert.equal(
          all,
          kept.map((j) => before[name]?.[j]),
          name
        )
      assert.is(head.classes, kept.length)
      assert.is(head.iteration, 3)
      await train(head, 3, 4)
      head.dispose()
    }
  })
}

test('a head with added classes trains as one that was made with all of them', async () => {
  const head = await trained({ optimizer: sgd() })
  await head.addClasses(3)
  const other = await MarginHead.create({
    classes: classes + 3,
    dim,
    optimizer: sgd(),
    weights: head.weights(),
  })
  assert.equal(await train(head, 3, 6), await train(other, 3, 6))
  sameBits(head.weights(), other.weights(), 'weights')
})

test('random weights of added classes: reproducible, near 0.01, never those of a class before', async () => {
  const added = async () => {
    const head = await trained()
    await head.addClasses(60)
    return head.weights().slice(classes * dim)
  }
  const weights = await added()
  sameBits(weights, await added(), 'the same again')
  within(Math.abs(norm(weights) / Math.sqrt(weights.length) / 0.01 - 1), 0.1, 'deviation')
  const head = await MarginHead.create({ classes: 3, dim })
  const last = head.weights().slice(2 * dim)
  await head.removeClasses([0])
  await head.addClasses(1)
  assert.not.equal(head.weights().slice(2 * dim), last)
})

test('names go with their classes', async () => {
  const head = await MarginHead.create({ classes: 3, dim, classNames: ['a', 'b', 'c'] })
  await head.addClasses(2, { classNames: ['d', 'e'] })
  assert.equal(head.classNames, ['a', 'b', 'c', 'd', 'e'])
  await head.removeClasses([1, 3])
  assert.equal(head.classNames, ['a', 'c', 'e'])
  assert.ok(Object.isFrozen(head.classNames))
  const file = newFile()
  await head.save(file)
  assert.equal((await MarginHead.load(file)).classNames, ['a', 'c', 'e'])
  for (const [given, pattern] of [
    [undefined, complaint('classNames', undefined)],
    [{ classNames: ['a'] }, complaint('classNames[0]', 'a')],
    [{ classNames: ['x', 'y'] }, complaint('classNames')],
  ] as const)
    await rejectsLike(head.addClasses(1, given), Error, pattern)
  assert.equal(head.classNames, ['a', 'c', 'e'])
  const nameless = await trained()
  await rejectsLike(nameless.addClasses(1, { classNames: ['x'] }), TypeError, complaint('classNames'))
})

test('wrong classes are refused by name, and change nothing', async () => {
  const head = await trained()
  const before = (await contentsOf(head, newFile())).bytes
  const weights = new Float32Array(dim)
  const notFinite = Float32Array.from({ length: 2 * dim }, (_, i) => (i === dim + 1 ? Number.NaN : 1))
  const calls: [() => Promise<unknown>, RegExp][] = [
    [() => head.addClasses(0), complaint('count', 0)],
    [() => head.addClasses('1' as never), complaint('count', '1')],
    [() => head.addClasses(2 ** 31 - 1), /classes/],
    [() => head.addClasses(2, { weights }), complaint('weights')],
    [() => head.addClasses(2, { weights: notFinite }), /finite numbers for weights .* row 1$/],
    [() => head.addClasses(1, { weight: weights } as never), /"weight"/],
    [() => head.addClasses(2 ** 31 - 100), /bytes of memory/],
    [() => head.removeClasses([classes]), complaint('classes[0]', classes)],
    [() => head.removeClasses([0, -1]), complaint('classes[1]', -1)],
    [() => head.removeClasses([3, 4, 3]), complaint('classes[2]', 3)],
    [() => head.removeClasses(Array.from({ length: classes }, (_, j) => j)), complaint('classes')],
    [() => head.removeClasses([0.5]), complaint('classes[0]', 0.5)],
    [() => head.removeClasses(new Array(2 ** 32 - 1)), complaint('classes[0]', undefined)], // no time for so many
    [() => head.removeClasses(new Set([1]) as never), complaint('classes')],
    [() => head.removeClasses(3 as never), complaint('classes', 3)],
    [() => head.removeClasses(new Float32Array(1) as never), complaint('classes')],
  ]
  for (const [call, pattern] of calls) await rejectsLike(call(), Error, pattern)
  assert.equal((await contentsOf(head, newFile())).bytes, before)
})

test.run()
