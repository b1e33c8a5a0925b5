/** Numbers as files hold them, little-endian: how many bytes each takes, and how they become an array of ours. */
import { native } from '../../native'
import { elementsOf } from '../../safetensors'

export type Numbers = Float32Array | Float64Array | Int32Array
export type BigIntegers = BigInt64Array | BigUint64Array

interface Kind {
  bytes: number
  /** An empty array of what the numbers become. */
  make(length: number): Numbers
  read(view: DataView, at: number): number
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

/** What an array takes in a file; no exact number, if any, where no file could hold it. */
export function bytesOfNumbers(kindName: string, shape: number[]): number {
  return elementsOf(shape) * (kinds[kindName]?.bytes ?? Number.NaN)
}

const littleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1
const partBytes = 2 ** 26

/**
 * Reads `length` numbers, in parts: `fill` writes the bytes from `offset` on into `part`.
 * @throws RangeError where no array can hold them
 */
export async function readNumbers(
  kindName: string,
  length: number,
  fill: (part: Uint8Array, offset: number) => void | Promise<void>
): Promise<Numbers> {
  const kind = kinds[kindName] as Kind
  const numbers = kind.make(length)
  if (kind.inPlace && littleEndian) {
    await fill(new Uint8Array(numbers.buffer), 0)
    return numbers
  }
  const part = new Uint8Array(Math.min(partBytes, length * kind.bytes))
  const perPart = partBytes / kind.bytes
  for (let first = 0; first < length; first += perPart) {
    const count = Math.min(perPart, length - first)
    await fill(part.subarray(0, count * kind.bytes), first * kind.bytes)
    const view = new DataView(part.buffer)
    for (let i = 0; i < count; i++) numbers[first + i] = kind.read(view, i * kind.bytes)
  }
  return numbers
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
