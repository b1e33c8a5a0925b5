// The names of a head's classes: checked, kept in its file, read back from it, and refused where the file contradicts itself.
import fs from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { MarginHead } from '../../lib/index'
import { openHead, readClassNames } from '../../lib/internal/head-file'
import { classes, dim, namesFor, refused, runOf, saveHead } from '../support/saved-heads'
import { complaint, filesOf, rejectsLike } from '../support/support'

const test = suite('head, class names')
const at = filesOf(test)

const lists: [string, string[]][] = [
  ['plain', ['zero', 'one', 'two']],
  ['empty, blank, quoted', ['', ' ', '"']],
  ['of any script, with control characters', ['名前', 'a\u0000\n\u202e', '👩‍🚀']],
  ['half a surrogate pair', ['\ud83d', '\ude80', '\u{1f680}']],
  ['properties of every object', ['__proto__', 'constructor', 'toString']],
  ['the same to a reader, not to a computer', ['é', 'e\u0301', 'E\u0301']],
]

for (const [what, names] of lists)
  test(`names come back from the file: ${what}`, async () => {
    const head = await MarginHead.create({ classes: 3, dim: 2, classNames: names })
    assert.equal(head.classNames, names)
    assert.ok(Object.isFrozen(head.classNames))
    await head.save(at('named'))
    const loaded = await MarginHead.load(at('named'))
    assert.equal(loaded.classNames, names)
    assert.ok(Object.isFrozen(loaded.classNames))
    await loaded.save(at('again'))
    assert.ok(fs.readFileSync(at('again')).equals(fs.readFileSync(at('named'))))
  })

test('the names are those of the call, whatever becomes of the array', async () => {
  const names = ['a', 'b', 'c']
  const creating = MarginHead.create({ classes: 3, dim: 2, classNames: names })
  names[0] = 'b'
  assert.equal((await creating).classNames, ['a', 'b', 'c'])
})

test('a head and a file without names have none', async () => {
  const head = await MarginHead.create({ classes: 3, dim: 2 })
  assert.is(head.classNames, undefined)
  await head.save(at('nameless'))
  assert.is((await MarginHead.load(at('nameless'))).classNames, undefined)
})

for (const [value, name, kind] of [
  ['abc', 'classNames', TypeError],
  [null, 'classNames', TypeError],
  [{ length: 3 }, 'classNames', TypeError],
  [new Set(['a', 'b', 'c']), 'classNames', TypeError],
  [['a', 'b'], 'classNames', RangeError],
  [['a', 'b', 'c', 'd'], 'classNames', RangeError],
  [['a', 1, 'c'], 'classNames[1]', TypeError],
  [['a', 'b', undefined], 'classNames[2]', TypeError],
  [new Array(3), 'classNames[0]', TypeError],
  [['a', 'b', 'a'], 'classNames[2]', RangeError],
] as const)
  test(`create refuses ${name} of ${JSON.stringify(value)}`, () =>
    rejectsLike(MarginHead.create({ classes: 3, dim: 2, classNames: value as never }), kind, complaint(name)))

for (const ranks of [1, 2, 3, 11])
  test(`${ranks} ranks save each its own names, which any reader joins`, async () => {
    const file = at(`of-${ranks}`)
    await saveHead(file, 5, ranks, namesFor(5))
    const opened = await openHead(file)
    try {
      assert.equal(await readClassNames(opened, true), namesFor(5))
      const { first, count } = runOf(ranks - 1, ranks)
      const own = opened.shards.at(-1)?.file.entries.get('class_names')?.shape
      assert.equal(own, [Buffer.byteLength(JSON.stringify(namesFor(5).slice(first, first + count)))])
    } finally {
      await opened.close()
    }
  })

/** A file with other bytes for the names; without its checksum, unless `checked`. */
async function tampered(bytes: Uint8Array, { checked = false, dtype = 'U8' } = {}): Promise<string> {
  const file = at('tampered')
  await saveHead(file, 5, undefined, namesFor(5))
  const whole = fs.readFileSync(file)
  const length = Number(whole.readBigUInt64LE(0))
  const header = JSON.parse(whole.toString('utf8', 8, 8 + length))
  const { class_names: entry, __metadata__: metadata } = header
  const [from] = entry.data_offsets
  Object.assign(entry, { dtype, shape: [bytes.length], data_offsets: [from, from + bytes.length] })
  if (!checked) delete metadata.sha256
  const json = Buffer.from(JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  fs.writeFileSync(file, Buffer.concat([prefix, json, whole.subarray(8 + length, 8 + length + from), bytes]))
  return file
}

const json = (value: unknown) => Buffer.from(JSON.stringify(value))
const damages: [string, Uint8Array, RegExp][] = [
  ['no names', new Uint8Array(), /class_names is no JSON/],
  ['no JSON', Buffer.from('["a",'), /class_names is no JSON/],
  ['no UTF-8', Buffer.from([0x5b, 0x22, 0xff, 0x22, 0x5d]), /class_names are no UTF-8/],
  ['an object', json({ a: 1 }), /class_names are an object, not an array/],
  ['too few', json(namesFor(5).slice(1)), /names 10 of 11 classes/],
  ['too many', json([...namesFor(5), 'more']), /names 12 of 11 classes/],
  ['a number', json([...namesFor(5).slice(1), 7]), /a class 7, not with a string/],
  ['one name twice', json([...namesFor(5).slice(1), namesFor(5)[3]]), /two of its classes are named/],
]
for (const [what, bytes, pattern] of damages)
  test(`a file with ${what} in class_names is refused`, async () =>
    refused(MarginHead.load(await tampered(bytes)), pattern))

test('a checksum that is wrong is found; checksums: false loads', async () => {
  const others = namesFor(6)
  await refused(MarginHead.load(await tampered(json(others), { checked: true })), /class_names/)
  const loaded = await MarginHead.load(at('tampered'), { checksums: false })
  assert.equal(loaded.classNames, others)
})

test('class_names of another type are refused', async () =>
  refused(MarginHead.load(await tampered(new Uint8Array(8), { dtype: 'BF16' })), /class_names/))

test('names of different shards must differ', async () => {
  const file = at('shards')
  await saveHead(file, 5, 2, ['again', ...namesFor(5).slice(1, 10), 'again'])
  await refused(MarginHead.load(file), /two of its classes are named "again"/)
})

test('loading with names keeps weights and settings', async () => {
  await saveHead(at('kept'), 5, undefined, namesFor(5))
  const head = await MarginHead.load(at('kept'))
  assert.is(head.iteration, 5)
  assert.is(head.classes, classes)
  assert.is(head.weights().length, classes * dim)
})

test.run()
