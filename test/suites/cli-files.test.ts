// The files that the command line reads: every type of number, and what is wrong with a file.
import fs from 'node:fs'
import path from 'node:path'
import { zipSync } from 'fflate'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { asIntegers, asMatrix, parseSource, readArray } from '../../lib/cli/data/files'
import { asLabels } from '../../lib/cli/data/labels'
import { Failure } from '../../lib/cli/terminal'
import { inFolder, npyBytes, writeNpy, writeTensors } from '../support/cli-support'
import { integer, random, rejectsLike, throwsLike } from '../support/support'

const test = suite('files of the command line')
const numbers = [0, 1, -2, 100, 7, 3]
const f16 = Uint16Array.of(0x0000, 0x3c00, 0xc000, 0x5640, 0x4700, 0x4200)
const bf16 = Uint16Array.of(0x0000, 0x3f80, 0xc000, 0x42c8, 0x40e0, 0x4040)
const unsigned = numbers.map(Math.abs)

const types: [string, string, ArrayBufferView, number[]][] = [
  ['<f2', 'F16', f16, numbers],
  ['', 'BF16', bf16, numbers],
  ['<f4', 'F32', Float32Array.from(numbers), numbers],
  ['<f8', 'F64', Float64Array.from(numbers), numbers],
  ['|i1', 'I8', Int8Array.from(numbers), numbers],
  ['|u1', 'U8', Uint8Array.from(unsigned), unsigned],
  ['<i2', 'I16', Int16Array.from(numbers), numbers],
  ['<u2', 'U16', Uint16Array.from(unsigned), unsigned],
  ['<i4', 'I32', Int32Array.from(numbers), numbers],
  ['<u4', 'U32', Uint32Array.from(unsigned), unsigned],
  ['<i8', 'I64', BigInt64Array.from(numbers, BigInt), numbers],
  ['<u8', 'U64', BigUint64Array.from(unsigned, BigInt), unsigned],
  ['|b1', 'BOOL', Uint8Array.of(0, 1, 1, 0, 1, 1), [0, 1, 1, 0, 1, 1]],
]

for (const [npy, dtype, values, expected] of types)
  test(`${npy || 'no NumPy type'} and ${dtype}`, () =>
    inFolder(async (folder) => {
      const file = path.join(folder, npy ? 'a.npy' : 'a.safetensors')
      if (npy) writeNpy(file, npy, [2, 3], values)
      const tensors = path.join(folder, 'a.safetensors')
      writeTensors(tensors, { embeddings: { dtype, shape: [2, 3], values } })
      for (const name of new Set([file, tensors])) {
        const array = await readArray(parseSource(name), 'embeddings')
        assert.equal([...(array.values as Float32Array)], expected, name)
        assert.equal(asMatrix(array), { embeddings: Float32Array.from(expected), rows: 2, dim: 3 })
      }
    }))

const swapped = (values: ArrayBufferView, width: number) => {
  const bytes = Buffer.from(Buffer.from(values.buffer, values.byteOffset, values.byteLength))
  if (width === 2) return bytes.swap16()
  if (width === 4) return bytes.swap32()
  return width === 8 ? bytes.swap64() : bytes
}

test('.npy and .npz by columns (Fortran order), and big-endian ones of every type', () =>
  inFolder(async (folder) => {
    const at = (name: string) => path.join(folder, name)
    for (const [type, , values, expected] of types.filter(([name]) => name)) {
      const width = Number(type.slice(2))
      const byColumns = [0, 3, 1, 4, 2, 5].map((i) => i * width) // of the elements of 2 × 3
      const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength)
      const turned = Buffer.concat(byColumns.map((first) => bytes.subarray(first, first + width)))
      for (const [name, content, order] of [
        [type.replace('<', '>'), swapped(values, width), 'False'],
        [type, turned, 'True'],
        [type.replace('<', '>'), swapped(turned, width), 'True'],
      ] as const) {
        const file = npyBytes(name, [2, 3], content, order)
        fs.writeFileSync(at('a.npy'), file)
        fs.writeFileSync(at('a.npz'), zipSync({ 'embeddings.npy': new Uint8Array(file) }))
        for (const ending of ['npy', 'npz'])
          assert.equal(
            [...(await readArray(parseSource(at(`a.${ending}`)), 'embeddings')).values],
            expected,
            name
          )
      }
    }
    // One row, one column, none: there is nothing to turn.
    for (const shape of [[3, 1], [1, 3], [3]])
      assert.equal(await valuesOf(at('b.npy'), '<i4', shape, Int32Array.of(1, 2, 3)), [1, 2, 3])
    assert.equal(await valuesOf(at('b.npy'), '<i4', [0, 3], new Int32Array(0)), [])
  }))

async function valuesOf(file: string, type: string, shape: number[], values: ArrayBufferView) {
  writeNpy(file, type, shape, values, 'True')
  return [...(await readArray({ path: file }, 'embeddings')).values]
}

test('by columns, also where a column or several are more than is read at a time', () =>
  inFolder(async (folder) => {
    const file = path.join(folder, 'a.npy')
    for (const [rows, columns] of [
      [2 ** 23 + 3, 2], // a column of 64 MiB and more
      [2 ** 22, 3], // two columns at a time, then one
    ] as const) {
      const values = Float64Array.from({ length: rows * columns }, (_, i) => i)
      writeNpy(file, '<f8', [rows, columns], values, 'True')
      const read = (await readArray({ path: file }, 'embeddings')).values as Float64Array
      let wrong = -1
      for (let i = 0; i < read.length && wrong < 0; i++)
        if (read[i] !== (i % columns) * rows + Math.floor(i / columns)) wrong = i
      assert.is(wrong, -1)
    }
  }))

test('labels of .npy and .npz may be texts, and integers of 64 bits', () =>
  inFolder(async (folder) => {
    const at = (name: string) => path.join(folder, name)
    const labelsOf = async (type: string, shape: number[], values: ArrayBufferView) => {
      const file = npyBytes(type, shape, values)
      fs.writeFileSync(at('l.npy'), file)
      fs.writeFileSync(at('l.npz'), zipSync({ 'labels.npy': new Uint8Array(file) }))
      const read = await readArray({ path: at('l.npy') }, 'labels', 'labels')
      assert.equal((await readArray({ path: at('l.npz') }, 'labels', 'labels')).values, read.values)
      return asLabels(read)
    }
    const points = ['zoé', '🙂', 'a', 'zoé'].flatMap((name) =>
      Array.from({ length: 4 }, (_, i) => [...name][i]?.codePointAt(0) ?? 0)
    )
    const wide = Uint32Array.from(points)
    for (const [type, content] of [
      ['<U4', wide],
      ['>U4', swapped(wide, 4)],
    ] as const) {
      const { labels, names } = await labelsOf(type, [4], content)
      assert.equal(
        [names, [...labels]],
        [
          ['a', 'zoé', '🙂'],
          [1, 2, 0, 1],
        ]
      )
    }
    assert.equal((await labelsOf('|S3', [3, 1], Buffer.from('bo\0ann\xc3\xa9\0', 'latin1'))).names, [
      'ann',
      'bo',
      'é',
    ])
    await rejectsLike(
      labelsOf('|S2', [2], Buffer.from('J\xf6bo', 'latin1')),
      Failure,
      /row 0 .* no text in UTF-8/
    )
    await rejectsLike(labelsOf('<U1', [1], Uint32Array.of(0x110000)), Failure, /row 0 .* no text in UTF-32/)
    const ids = [2n ** 60n + 1n, 2n ** 60n, 2n ** 60n + 1n]
    for (const [type, values] of [
      ['<i8', BigInt64Array.from(ids)],
      ['<u8', BigUint64Array.from(ids)],
      ['>i8', swapped(BigInt64Array.from(ids), 8)],
    ] as const)
      assert.equal((await labelsOf(type, [3], values)).names, ['1152921504606846976', '1152921504606846977'])
    writeTensors(at('l.safetensors'), {
      labels: { dtype: 'I64', shape: [3], values: BigInt64Array.from(ids) },
    })
    assert.is(asLabels(await readArray({ path: at('l.safetensors') }, 'labels', 'labels')).classes, 2)
  }))

test('half precision: denormal numbers, the largest, and what is no number', () =>
  inFolder(async (folder) => {
    const file = path.join(folder, 'a.npy')
    writeNpy(file, '<f2', [6], Uint16Array.of(0x0001, 0x03ff, 0x7bff, 0x7c00, 0xfc00, 0x7e00))
    const { values } = await readArray({ path: file }, 'embeddings')
    assert.equal([...(values as Float32Array)].slice(0, 5), [
      2 ** -24,
      1023 * 2 ** -24,
      65504,
      Infinity,
      -Infinity,
    ])
    assert.ok(Number.isNaN((values as Float32Array)[5]))
  }))

test('what is read in several pieces, or by parts, is read whole', () =>
  inFolder(async (folder) => {
    const file = path.join(folder, 'a.npy')
    for (const [type, length, values] of [
      ['<u4', 2 ** 24 + 5, new Uint32Array(2 ** 24 + 5)], // parts of 64 MiB
      ['<f4', 2 ** 25 + 5, new Float32Array(2 ** 25 + 5)], // pieces of 32 MiB, four at a time
    ] as const) {
      for (let i = 0; i < length; i++) values[i] = i % 16_777_213
      writeNpy(file, type, [length], values)
      const read = (await readArray(parseSource(file), 'labels')).values as Float64Array
      assert.is(
        read.findIndex((value, i) => value !== values[i]),
        -1
      )
    }
    fs.truncateSync(file, 2 ** 26) // all but the first pieces are missing
    await rejectsLike(readArray(parseSource(file), 'labels'), Failure, /it ends too early/)
  }))

test('.npz, stored and deflated, by name', () =>
  inFolder(async (folder) => {
    for (const level of [0, 6] as const) {
      const file = path.join(folder, 'a.npz')
      const zip = {
        'embeddings.npy': new Uint8Array(npyBytes('<f4', [2, 1], Float32Array.of(1, 2))),
        'labels.npy': new Uint8Array(npyBytes('<i8', [2], BigInt64Array.of(3n, 4n))),
      }
      fs.writeFileSync(file, zipSync(zip, { level }))
      assert.equal([...(await readArray(parseSource(file), 'embeddings')).values], [1, 2])
      assert.equal(asLabels(await readArray(parseSource(file), 'labels')).names, ['3', '4'])
      assert.equal([...(await readArray(parseSource(`${file}:labels`), 'embeddings')).values], [3, 4])
      await rejectsLike(
        readArray(parseSource(`${file}:x`), 'labels'),
        Failure,
        /named x: it has embeddings, labels/
      )
      await rejectsLike(
        readArray(parseSource(file), 'pairs'),
        Failure,
        /named pairs: it has embeddings, labels; name/
      )
    }
  }))

test('CSV: every way to write a number gives the double that JavaScript reads in it', () =>
  inFolder(async (folder) => {
    const next = random(8)
    const texts = ['0', '-0', '.5', '-.5', '5.', '+3', ' 7', '8 ', '1e3', '1E-7', '-2.5e+2', '0x10', '1e-400']
    texts.push('999999999999999', '9999999999999999', '0.1', '0.30000000000000004', '123456.789012345')
    texts.push(
      '0.000000000000001',
      '0.0000000000000001',
      '9007199254740993',
      '00012',
      '-1.7976931348623157e308'
    )
    for (let i = 0; i < 20_000; i++) {
      const value = (next() - 0.5) * 10 ** integer(next, -8, 9)
      texts.push(
        [value.toFixed(integer(next, 0, 12)), String(value), String(Math.fround(value))][i % 3] as string
      )
    }
    // More than the megabyte that is read at a time.
    while (texts.length < 120_000) texts.push(...texts.slice(0, 120_000 - texts.length))
    const file = path.join(folder, 'a.csv')
    fs.writeFileSync(file, `0,0\n${texts.map((text) => `1,${text}\r\n`).join('')}`)
    const { values, shape } = await readArray({ path: file }, 'embeddings')
    assert.equal(shape, [texts.length + 1, 2])
    const wrong = texts.findIndex((text, i) => !Object.is(values[2 * i + 3], Number(text)))
    assert.is(wrong, -1, `${texts[wrong]} was read as ${values[2 * wrong + 3]}`)
  }))

const bad: [string, string, Buffer | string, RegExp][] = [
  ['no such file', 'none.npy', '', /ENOENT/],
  ['another ending', 'a.pickle', 'x', /its name ends neither in \.npy/],
  ['no .npy file', 'a.npy', 'hello, this is text', /it is no \.npy file/],
  ['an empty file', 'a.npy', '', /it is no \.npy file/],
  ['cut short', 'a.npy', npyBytes('<f4', [2, 3], Float32Array.of(1, 2)), /it ends too early/],
  [
    'a cube by columns',
    'a.npy',
    npyBytes('<f4', [2, 2, 2], new Float32Array(8), 'True'),
    /ascontiguousarray/,
  ],
  ['texts', 'a.npy', npyBytes('<U1', [1], Uint32Array.of(65)), /its elements are texts, of the type U1/],
  ['texts without a length', 'a.npy', npyBytes('<U0', [2 ** 50], new Uint32Array(0)), /of the type U0/],
  ['complex', 'a.npy', npyBytes('<c8', [1], Float32Array.of(1, 2)), /of the type c8/],
  [
    'objects',
    'a.npy',
    npyBytes('|O', [1], Float32Array.of(1, 2)),
    /Python objects: save names after array\.astype/,
  ],
  ['no zip', 'a.npz', 'hello', /End of central directory record signature not found/],
  ['no safetensors file', 'a.safetensors', 'hello, this is text', /its header would be longer than the file/],
  ['a name that is not UTF-8', 'none\ufffd.npy', '', /its name is not UTF-8, which Node\.js cannot be told/],
]
for (const [name, file, content, pattern] of bad)
  test(`refused: ${name}`, () =>
    inFolder(async (folder) => {
      const full = path.join(folder, file)
      if (!file.startsWith('none')) fs.writeFileSync(full, content)
      await rejectsLike(readArray(parseSource(full), 'embeddings'), Failure, pattern)
      await rejectsLike(
        readArray(parseSource(full), 'embeddings'),
        Failure,
        /^Expected embeddings in .* but: /
      )
    }))

test('what an array may be', () => {
  const array = (shape: number[], values: Float32Array | string[]) => ({
    from: 'a.npy',
    shape,
    values,
    place: (row: number) => `row ${row}`,
  })
  throwsLike(
    () => asMatrix(array([4], new Float32Array(4))),
    Failure,
    /rows of numbers in a\.npy .* shape \[4\]/
  )
  throwsLike(() => asMatrix(array([0, 4], new Float32Array(0))), Failure, /shape \[0,4\]/)
  throwsLike(() => asLabels(array([2, 2], new Float32Array(4))), Failure, /one label a row in a\.npy/)
  throwsLike(() => asIntegers(array([2], Float32Array.of(1, 0.5))), Failure, /received 0\.5 at position 1/)
  throwsLike(() => asIntegers(array([1], Float32Array.of(-1))), Failure, /received -1 at position 0/)
})

test.run()
