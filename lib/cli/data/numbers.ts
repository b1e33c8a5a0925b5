/** The element types of files: their sizes in bytes, and their conversion into our arrays. */
import { isUtf8 } from 'node:buffer'
import { native } from '../../internal/native'
import { elementsOf } from '../../internal/safetensors'

export type Numbers = Float32Array | Float64Array | Int32Array
export type BigIntegers = BigInt64Array | BigUint64Array

/** The layout of an array's elements in a file. */
export interface ArrayLayout {
  /** By a name of `kinds`, or `U` or `S` and a length: texts, in UTF-32 or bytes. */
  kind: string
  shape: number[]
  /** Bytes of an element. */
  bytes: number
  isText: boolean
  bigEndian: boolean
  /** Fortran order, of an array of two dimensions. */
  columnsFirst: boolean
}

interface Kind {
  bytes: number
  /** An empty array of what the numbers become. */
  make(length: number): Numbers | BigIntegers
  read(view: DataView, at: number): number | bigint
  /** Little-endian memory is already what is wanted: no loop over the elements. */
  inPlace?: boolean
}

/** Over shared memory, which asynchronous work uses in place: no second copy of embeddings of gigabytes. */
export function toFloat32(length: number): Float32Array {
  const array = new Float32Array(new SharedArrayBuffer(length * 4))
  native().preferHugePages(array)
  return array
}
const toInt32 = (length: number) => new Int32Array(length)
const toFloat64 = (length: number) => new Float64Array(length)

/** By the names of NumPy, without the sign of the byte order. 64-bit integers are read as doubles: exact up to 2^53. */
export const kinds: Record<string, Kind> = {
  f2: { bytes: 2, make: toFloat32, read: (view, at) => half(view.getUint16(at, true)) },
  bf2: { bytes: 2, make: toFloat32, read: (view, at) => bfloat(view.getUint16(at, true)) },
  f4: { bytes: 4, make: toFloat32, read: (view, at) => view.getFloat32(at, true), inPlace: true },
  f8: { bytes: 8, make: toFloat64, read: (view, at) => view.getFloat64(at, true), inPlace: true },
  i1: { bytes: 1, make: toInt32, read: (view, at) => view.getInt8(at) },
  u1: { bytes: 1, make: toInt32, read: (view, at) => view.getUint8(at) },
  b1: { bytes: 1, make: toInt32, read: (view, at) => (view.getUint8(at) ? 1 : 0) },
  i2: { bytes: 2, make: toInt32, read: (view, at) => view.getInt16(at, true) },
  u2: { bytes: 2, make: toInt32, read: (view, at) => view.getUint16(at, true) },
  i4: { bytes: 4, make: toInt32, read: (view, at) => view.getInt32(at, true), inPlace: true },
  u4: { bytes: 4, make: toFloat64, read: (view, at) => view.getUint32(at, true) },
  i8: { bytes: 8, make: toFloat64, read: (view, at) => Number(view.getBigInt64(at, true)) },
  u8: { bytes: 8, make: toFloat64, read: (view, at) => Number(view.getBigUint64(at, true)) },
}

const fractionBits: Record<string, number> = { f2: 11, bf2: 8, f4: 24, f8: 53 }

/** Up to here every integer is a number of this kind. Above, it may be what another one was rounded to. */
export function largestExactInteger(kind: string): number {
  return 2 ** (fractionBits[kind] ?? 53) - 1
}

/** safetensors' names of the same. */
export const safetensorsKinds: Record<string, string> = {
  ...{ F16: 'f2', BF16: 'bf2', F32: 'f4', F64: 'f8', BOOL: 'b1' },
  ...{ I8: 'i1', U8: 'u1', I16: 'i2', U16: 'u2', I32: 'i4', U32: 'u4', I64: 'i8', U64: 'u8' },
}

/** 64-bit integers as they are, for ids. */
const exactKinds: Record<string, Kind> = {
  i8: {
    bytes: 8,
    make: (length) => new BigInt64Array(length),
    read: (view, at) => view.getBigInt64(at, true),
    inPlace: true,
  },
  u8: {
    bytes: 8,
    make: (length) => new BigUint64Array(length),
    read: (view, at) => view.getBigUint64(at, true),
    inPlace: true,
  },
}

const littleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1
const partBytes = 2 ** 26

/** Writes the bytes from `offset` on into `part`. Whoever reads calls it in the order of the file. */
type Fill = (part: Uint8Array, offset: number) => void | Promise<void>

/**
 * Reads numbers, in parts.
 * @param exact whether 64-bit integers stay what they are; else they become doubles
 * @throws RangeError where no array can hold them
 */
export async function readNumbers(
  { kind: kindName, shape, bigEndian, columnsFirst }: ArrayLayout,
  exact: boolean,
  fill: Fill
): Promise<Numbers | BigIntegers> {
  const kind = ((exact && exactKinds[kindName]) || kinds[kindName]) as Kind
  const length = elementsOf(shape)
  const numbers = kind.make(length)
  if (kind.inPlace && littleEndian && !columnsFirst) {
    const bytes = new Uint8Array(numbers.buffer)
    await fill(bytes, 0)
    if (bigEndian)
      for (let at = 0; at < bytes.length; at += partBytes)
        swap(bytes.subarray(at, at + partBytes), kind.bytes)
    return numbers
  }
  const [rows, columns] = columnsFirst ? (shape as [number, number]) : [1, length]
  const put = numbers as { [index: number]: number | bigint }
  const part = new Uint8Array(Math.min(partBytes, length * kind.bytes))
  const view = new DataView(part.buffer)
  // A part holds whole columns, or a piece of a column that is longer than a part.
  const perPart = partBytes / kind.bytes
  const columnsAtOnce = Math.max(1, Math.floor(perPart / rows))
  for (let column = 0; column < columns; column += columnsAtOnce) {
    const wide = Math.min(columnsAtOnce, columns - column)
    for (let row = 0; row < rows; row += perPart) {
      const high = Math.min(perPart, rows - row)
      const bytes = part.subarray(0, wide * high * kind.bytes)
      await fill(bytes, (column * rows + row) * kind.bytes)
      if (bigEndian) swap(bytes, kind.bytes)
      for (let i = 0; i < high; i++)
        for (let j = 0; j < wide; j++)
          put[(row + i) * columns + column + j] = kind.read(view, (j * high + i) * kind.bytes)
    }
  }
  return numbers
}

function swap(bytes: Uint8Array, width: number): void {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (width === 2) buffer.swap16()
  else if (width === 4) buffer.swap32()
  else if (width === 8) buffer.swap64()
}

/** Reads texts, in parts. Zeros at an element's end are none of it. */
export async function readTexts(layout: ArrayLayout, fill: Fill): Promise<string[]> {
  const { kind, shape, bytes, bigEndian } = layout
  if (bytes > partBytes)
    throw new Error(`its texts have ${bytes} bytes each, above the limit of ${partBytes}`)
  const length = elementsOf(shape)
  const texts: string[] = []
  const perPart = Math.floor(partBytes / bytes)
  for (let first = 0; first < length; first += perPart) {
    const part = Buffer.alloc(Math.min(perPart, length - first) * bytes)
    await fill(part, first * bytes)
    if (kind.startsWith('U') && bigEndian) part.swap32()
    for (let at = 0; at < part.length; at += bytes) {
      const element = part.subarray(at, at + bytes)
      texts.push(kind.startsWith('U') ? utf32(element, texts.length) : utf8(element, texts.length))
    }
  }
  return texts
}

function utf32(bytes: Buffer, row: number): string {
  let text = ''
  for (let at = 0; at < bytes.length; at += 4) {
    const point = bytes.readUInt32LE(at)
    if (point > 0x10ffff) throw new Error(`row ${row} (from 0) is no text in UTF-32`)
    text += String.fromCodePoint(point)
  }
  return text.replace(/\0+$/, '')
}

function utf8(bytes: Buffer, row: number): string {
  if (!isUtf8(bytes))
    throw new Error(
      `row ${row} (from 0) is no text in UTF-8: save it after numpy.char.decode(array, encoding)`
    )
  return bytes.toString('utf8').replace(/\0+$/, '')
}

/** IEEE half precision: 5 bits of exponent, 10 of fraction. */
function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return exponent ? sign * 2 ** (exponent - 25) * (1024 + fraction) : sign * 2 ** -24 * fraction
}

const scratch = new DataView(new ArrayBuffer(4))

/** The upper half of a single precision number. */
function bfloat(bits: number): number {
  scratch.setUint32(0, bits << 16)
  return scratch.getFloat32(0)
}
