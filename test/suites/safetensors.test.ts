// SafetensorsFile: what is read of a tensor, in which parts, and that a file is closed and quiet whatever happens meanwhile.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { partLength, SafetensorsFile } from '../../lib/internal/safetensors'
import { writeSafetensors } from '../../lib/internal/safetensors-write'
import { rejectsLike } from '../support/support'

const test = suite('safetensors')
let folder = ''
test.before(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-safetensors-'))
})
test.after(() => fs.rmSync(folder, { recursive: true, force: true }))

const length = partLength + 5
const valueAt = (i: number) => (i % 251) - 125 // exact in bfloat16
const file = () => path.join(folder, 'floats.safetensors')
const fill = (offset: number, part: Float32Array) => {
  for (let i = 0; i < part.length; i++) part[i] = valueAt(offset + i)
}

test.before(() =>
  writeSafetensors(
    file(),
    {
      float32: { shape: [length], fill },
      bfloat16: { shape: [length], dtype: 'BF16', fill },
      bytes: { shape: [3], dtype: 'U8', bytes: Uint8Array.of(7, 8, 9) },
      none: { shape: [0, 4], fill },
    },
    { note: 'kept' },
    ['note']
  )
)

async function withOpened<T>(body: (opened: SafetensorsFile) => Promise<T>, of = file()): Promise<T> {
  const opened = await SafetensorsFile.open(of, { checksums: true })
  try {
    return await body(opened)
  } finally {
    await opened.close()
  }
}

/** A copy of the file with one byte of this tensor changed. */
async function damaged(name: string, at: number): Promise<string> {
  const { entries, start } = await SafetensorsFile.headerOf(file())
  const copy = path.join(folder, `damaged-${name}.safetensors`)
  const bytes = fs.readFileSync(file())
  const place = start + (entries.get(name)?.data_offsets[0] as number) + at
  bytes[place] = (bytes[place] as number) ^ 1
  fs.writeFileSync(copy, bytes)
  return copy
}

for (const name of ['float32', 'bfloat16'])
  for (const checksum of [true, false])
    for (const [from, count] of [
      [0, length],
      [3, 9],
      [partLength - 1, 2],
      [length, 0],
    ] as const)
      test(`${name}: ${count} elements from ${from} on, ${checksum ? 'with' : 'without'} the checksum`, () =>
        withOpened(async (opened) => {
          let next = 0
          for await (const { at, values } of opened.parts(name, { from, count, checksum })) {
            assert.is(at, next)
            assert.ok(values.length > 0 && values.length <= partLength)
            for (const value of values) if (value !== valueAt(from + next++)) assert.unreachable(`${value}`)
          }
          assert.is(next, count)
        }))

test('an array is filled across parts', () =>
  withOpened(async (opened) => {
    const into = new Float32Array(6)
    await opened.read('float32', into, { from: partLength - 3 })
    assert.equal(
      [...into],
      [-3, -2, -1, 0, 1, 2].map((i) => valueAt(partLength + i))
    )
  }))

test('bytes and texts of the metadata are held against their checksums', () =>
  withOpened(async (opened) => {
    assert.equal([...(await opened.bytes('bytes', 3))], [7, 8, 9])
    assert.is(opened.metadata.note, 'kept')
    opened.checkMetadata('note')
    assert.throws(() => opened.checkMetadata('other'), /it has no checksum of its other/)
    await rejectsLike(opened.bytes('bytes', 2), Error, /its bytes have 3 bytes, above the limit of 2/)
  }))

for (const [what, read, pattern] of [
  ['a tensor that is not there', (opened: SafetensorsFile) => opened.bytes('weight', 9), /it has no weight/],
  ['bytes as floats', (opened) => opened.read('bytes', new Float32Array(1)), /bytes is U8, not F32 or BF16/],
  [
    'more than there is',
    (opened) => opened.read('float32', new Float32Array(2), { from: length - 1 }),
    /float32 has no elements/,
  ],
  [
    'what begins before the tensor',
    (opened) => opened.read('float32', new Float32Array(2), { from: -1 }),
    /has no elements -1/,
  ],
  [
    'raw bytes of the next tensor',
    (opened) => opened.readBytes('bytes', new Uint8Array(3), 1),
    /bytes ends too early/,
  ],
] as [string, (opened: SafetensorsFile) => Promise<unknown>, RegExp][])
  test(`refused: ${what}`, () => withOpened((opened) => rejectsLike(read(opened), Error, pattern)))

test('damage outside a range is found with the checksum, and is nobody’s without', async () => {
  const copy = await damaged('float32', 4 * (length - 1))
  await withOpened(async (opened) => {
    const into = new Float32Array(2)
    await rejectsLike(opened.read('float32', into), Error, /its float32 does not have the checksum/)
    await opened.read('float32', into, { checksum: false })
    assert.equal([...into], [valueAt(0), valueAt(1)])
    await opened.read('bfloat16', into)
  }, copy)
})

test('checksums of another program are none of ours', async () => {
  const foreign = path.join(folder, 'foreign.safetensors')
  const json = Buffer.from('{"__metadata__":{"sha256":"of the data set"}}   ')
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  fs.writeFileSync(foreign, Buffer.concat([prefix, json]))
  const opened = await SafetensorsFile.open(foreign)
  assert.is(opened.checksums, undefined)
  await opened.close()
  await rejectsLike(SafetensorsFile.open(foreign, { checksums: true }), Error, /its sha256 is no JSON/)
})

test('an opened file stays what it was when another takes its name', async () => {
  const name = path.join(folder, 'replaced.safetensors')
  fs.copyFileSync(file(), name)
  await withOpened(async (opened) => {
    await writeSafetensors(name, { other: { shape: [1], fill } }, {})
    const into = new Float32Array(1)
    await opened.read('float32', into, { from: length - 1 })
    assert.is(into[0], valueAt(length - 1))
  }, name)
})

const descriptors = () => fs.readdirSync('/proc/self/fd').length

test('a reader that stops early or fails leaves nothing under way and nothing open', async () => {
  if (process.platform !== 'linux') return
  const before = descriptors()
  const rejections: unknown[] = []
  const note = (reason: unknown) => rejections.push(reason)
  process.on('unhandledRejection', note)
  await withOpened(async (opened) => {
    for await (const { at } of opened.parts('float32')) {
      assert.is(at, 0)
      break
    }
  })
  const failing = withOpened(async (opened) => {
    for await (const _ of opened.parts('float32')) throw new Error('the reader fails')
  })
  await rejectsLike(failing, Error, /the reader fails/)
  for (const bytes of [0, 7, 30, fs.statSync(file()).size - 1]) {
    const cut = path.join(folder, 'cut.safetensors')
    fs.copyFileSync(file(), cut)
    fs.truncateSync(cut, bytes)
    await rejectsLike(SafetensorsFile.open(cut), Error, /it has only|longer than the file|cut short/)
  }
  // Cut short after it was opened: the second part fails while a slow reader has the first.
  const shrinking = path.join(folder, 'shrinking.safetensors')
  fs.copyFileSync(file(), shrinking)
  const slow = withOpened(async (opened) => {
    fs.truncateSync(shrinking, opened.header.start + 4 * partLength + 4)
    for await (const { at } of opened.parts('float32')) {
      assert.is(at, 0)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }, shrinking)
  await rejectsLike(slow, Error, /it ends too early/)
  process.off('unhandledRejection', note)
  assert.equal(rejections, [])
  assert.is(descriptors(), before)
})

test.run()
