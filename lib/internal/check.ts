import { Buffer } from 'node:buffer'
import { outOfMemory, wrongType, wrongValue } from '../errors'
import {
  bufferOf,
  byteLengthOf,
  byteOffsetOf,
  copyInto,
  isFloat32,
  isGone,
  isList,
  isRecord,
  lengthOf,
  typeOf,
} from './intrinsics'

const allocateUninitialized = Buffer.allocUnsafeSlow

/**
 * Numbers that come in as arrays, of this realm or another; every one is computed with in single precision. A Float64Array
 * is rounded to it, a Float16Array converted exactly. The third type is the Float16Array of Node.js 24, Bun and Deno: older
 * TypeScript does not know its name.
 */
export type FloatArray =
  | Float32Array
  | Float64Array
  | (ArrayBufferView & ArrayLike<number> & Readonly<Record<typeof Symbol.toStringTag, 'Float16Array'>>)
/** Class labels, one per row. */
export type LabelArray = Int32Array | Uint32Array | Uint16Array | Uint8Array | readonly number[]

/** The parameters of a factory such as `arcface()`: its result's, without the name; undefined means the default. */
export type ParametersOf<Made> = { [Name in keyof Omit<Made, 'name'>]?: Made[Name] | undefined }

/** Largest size of a dimension: class labels are 32-bit integers. */
export const largestSize = 2 ** 31 - 1

/** Checks an ignoreIndex: anything that a label array can hold. */
export const ignoreIndexRange = [-(2 ** 31), 2 ** 32] as const

/**
 * The properties of an options object, each read once: a getter may answer otherwise the next time, or free what was
 * checked before. A name that is not in `names` is a mistake, most often a typing mistake.
 */
export function checkOptions<T extends object>(
  value: T | undefined,
  name: string,
  names: readonly string[]
): Partial<T> {
  const taken: Record<string, unknown> = Object.create(null)
  if (value === undefined) return taken as Partial<T>
  if (!isRecord(value)) throw wrongType('an object', name, value)
  for (const key of Object.keys(value))
    if (!names.includes(key))
      throw wrongType(names.length ? `only ${names.join(', ')}` : 'no parameters', name, key)
  for (const key of names) taken[key] = (value as Record<string, unknown>)[key]
  return taken as Partial<T>
}

export function number(value: unknown, name: string): number {
  if (typeof value !== 'number') throw wrongType('a number', name, value)
  if (!Number.isFinite(value)) throw wrongValue('a finite number', name, value)
  return value
}

export function numberInRange(value: unknown, name: string, min: number, max = Infinity): number {
  const checked = number(value, name)
  if (checked < min || checked > max)
    throw wrongValue(
      max === Infinity ? `a number of at least ${min}` : `a number from ${min} to ${max}`,
      name,
      value
    )
  return checked
}

/** A number above `low` and below `high`. */
export function numberBetween(value: unknown, name: string, low: number, high: number): number {
  const checked = number(value, name)
  if (checked <= low || checked >= high)
    throw wrongValue(`a number above ${low} and below ${high}`, name, value)
  return checked
}

export function positiveNumber(value: unknown, name: string): number {
  const checked = number(value, name)
  if (checked <= 0) throw wrongValue('a positive number', name, value)
  return checked
}

export function integerInRange(
  value: unknown,
  name: string,
  min: number,
  max = Number.MAX_SAFE_INTEGER
): number {
  if (typeof value !== 'number') throw wrongType('an integer', name, value)
  if (!Number.isInteger(value) || value < min || value > max)
    throw wrongValue(
      max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`,
      name,
      value
    )
  return value
}

/** A count of rows, classes or dimensions. */
export function size(value: unknown, name: string): number {
  if (typeof value !== 'number') throw wrongType('a positive integer', name, value)
  if (!Number.isInteger(value) || value < 1) throw wrongValue('a positive integer', name, value)
  if (value > largestSize) throw wrongValue(`at most ${largestSize}`, name, value)
  return value
}

export function fileName(path: unknown): string {
  if (typeof path !== 'string' || path === '') throw wrongType('a file name', 'path', path)
  return path
}

/** Whether a row or a class may count so much in a loss. */
export const isLossWeight = (weight: number) => weight >= 0 && weight < Infinity

/** Weights in a loss, one for each of `count` rows or classes, if there are any. */
export function lossWeights(value: unknown, name: string, count: number): Float32Array | undefined {
  if (value === undefined) return undefined
  const weights = floats(value, name, count)
  for (let i = 0; i < count; i++) {
    const weight = weights[i] as number
    if (!isLossWeight(weight)) throw wrongValue('a finite number of at least 0', `${name}[${i}]`, weight)
  }
  return weights
}

export function boolean(value: unknown, name: string): boolean {
  if (typeof value !== 'boolean') throw wrongType('true or false', name, value)
  return value
}

export function oneOf<T extends string>(value: unknown, name: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === value)
  if (found === undefined) {
    const what = choices.length ? choices.map((choice) => JSON.stringify(choice)).join(' or ') : 'nothing'
    throw (typeof value === 'string' ? wrongValue : wrongType)(what, name, value)
  }
  return found
}

interface ArrayType<T> {
  new (from: number | ArrayBufferView | ArrayBufferLike): T
  readonly BYTES_PER_ELEMENT: number
}

/** A new array for `name`: of so many elements, or of those of another typed array. */
export function newArray<T>(Type: ArrayType<T>, from: number | ArrayBufferView, name: string): T {
  const bytes = () => Type.BYTES_PER_ELEMENT * (typeof from === 'number' ? from : lengthOf(from))
  return withMemory(() => new Type(from), name, bytes)
}

/**
 * A new array for `name` whose elements may hold anything: for callers that overwrite all of them before a user sees one.
 * Zeroing 256 KiB takes 12 µs, a quarter of what a step of that size costs beside its computation.
 */
export function newArrayToFill<T>(Type: ArrayType<T>, length: number, name: string): T {
  const bytes = length * Type.BYTES_PER_ELEMENT
  // The system zeroes what is larger, whoever asks: glibc's malloc does not reuse such memory.
  if (bytes > 2 ** 25) return newArray(Type, length, name)
  return withMemory(
    () => new Type(bufferOf(allocateUninitialized(bytes))),
    name,
    () => bytes
  )
}

/** An array in shared memory, which asynchronous native work uses in place instead of copying it at each call. */
export function newSharedArray(length: number, name: string): Float32Array {
  const bytes = length * Float32Array.BYTES_PER_ELEMENT
  return withMemory(
    () => new Float32Array(new SharedArrayBuffer(bytes)),
    name,
    () => bytes
  )
}

/** A copy of an array, as `newSharedArray`. */
export function newSharedCopy(array: Float32Array, name: string): Float32Array {
  const copy = newSharedArray(lengthOf(array), name)
  copyInto(copy, array)
  return copy
}

function withMemory<T>(allocate: () => T, name: string, bytes: () => number): T {
  try {
    return allocate()
  } catch {
    throw outOfMemory(name, bytes())
  }
}

const convertedTypes = ['Float64Array', 'Float16Array']

export function isFloatArray(value: unknown): value is FloatArray {
  return isFloat32(value) || convertedTypes.includes(typeOf(value) ?? '')
}

/** A Float32Array, or one made of a `FloatArray`; with `length` elements, where a length is given. */
export function floats(value: unknown, name: string, length?: number): Float32Array {
  if (!isFloatArray(value)) throw wrongType('a Float32Array, Float64Array or Float16Array', name, value)
  const single = isFloat32(value)
  const array = value as Float32Array
  if (length !== undefined && lengthOf(array) !== length) throw wrongValue(`${length} elements`, name, value)
  if (isGone(array)) throw wrongValue('an array that has its memory', name, value)
  return single ? array : newArray(Float32Array, array, `${name} in single precision`)
}

/** A Float32Array of the caller's, to be filled. */
export function floatsToFill(value: unknown, name: string, length: number): Float32Array {
  if (!isFloat32(value)) throw wrongType('a Float32Array', name, value)
  return floats(value, name, length)
}

/** Rows of a matrix given as one array: its length divided by `columns`, which must come out even and positive. */
export function rowsOf(array: Float32Array, name: string, columns: number, columnsName: string): number {
  const rows = lengthOf(array) / columns
  if (!Number.isInteger(rows) || rows < 1)
    throw wrongValue(`a positive multiple of ${columnsName} ${columns} elements`, name, array)
  return rows
}

/** The number of elements of a typed array or a list. */
export function countOf(values: ArrayBufferView | readonly unknown[]): number {
  return typeOf(values) === undefined
    ? (values as readonly unknown[]).length
    : lengthOf(values as ArrayBufferView)
}

const labelArrays = [Int32Array, Uint32Array, Uint16Array, Uint8Array]
const labelTypes = labelArrays.map(({ name }) => name)

/** Whether it is an array that may hold labels. */
export function isLabels(value: unknown): value is LabelArray {
  const type = typeOf(value)
  return type === undefined ? isList(value) : labelTypes.includes(type)
}

/** A copy of what may be embeddings or labels, for a check later on. */
export function copyOf<T>(value: T, name: string): T {
  const type = typeOf(value)
  if (type === undefined) return (isList(value) ? copyOfList(value, name) : value) as T
  const Type = isFloatArray(value) ? Float32Array : labelArrays.find((labelArray) => labelArray.name === type)
  return Type ? (newArray<unknown>(Type, value as ArrayBufferView, name) as T) : value
}

/**
 * A list as long as the other, with its numbers up to the first element that is none: the check will stop there. So a
 * list takes no more time than it has elements, whatever length it claims.
 */
function copyOfList(list: readonly unknown[], name: string): unknown[] {
  const { length } = list
  if (!Number.isInteger(length) || length < 0 || length >= 2 ** 32)
    throw wrongType('a list of up to 4294967295 elements', name, list)
  const copy: unknown[] = []
  for (let i = 0; i < length; i++) {
    const element = list[i]
    copy.push(element)
    if (typeof element !== 'number') break
  }
  copy.length = length
  return copy
}

/**
 * Labels as 32-bit integers, with −1 for the ignored rows. The elements of a list may be getters, which may detach any
 * array of the call: check lengths (again) after it.
 */
export function labels(
  value: unknown,
  name: string,
  rows: number,
  classes: number,
  ignoreIndex: number
): Int32Array {
  const type = typeOf(value)
  if (type === undefined ? !isList(value) : !labelTypes.includes(type))
    throw wrongType('an Int32Array, Uint32Array, Uint16Array, Uint8Array or number[]', name, value)
  const array = value as LabelArray
  if (countOf(array) !== rows) throw wrongValue(`${rows} elements`, name, value)
  const converted = type === 'Int32Array' && ignoreIndex === -1 ? undefined : newArray(Int32Array, rows, name)
  for (let i = 0; i < rows; i++) {
    const label: unknown = array[i]
    if (label === ignoreIndex) {
      if (converted) converted[i] = -1
      continue
    }
    if (typeof label !== 'number' || !Number.isInteger(label) || label < 0 || label >= classes) {
      const wrong = typeof label === 'number' ? wrongValue : wrongType
      throw wrong(
        `an integer from 0 to ${classes - 1} or the ignoreIndex ${ignoreIndex}`,
        `${name}[${i}]`,
        label
      )
    }
    if (converted) converted[i] = label
  }
  return converted ?? (array as Int32Array)
}

/** Labels as `labels` takes them, of any class and none of them −1: one for each of so many rows. */
export function classLabels(value: unknown, name: string, rows: number): Int32Array {
  const checked = labels(value, name, rows, largestSize, -1)
  const ignored = indexOfIgnored(checked, rows)
  if (ignored >= 0) throw wrongValue('an integer from 0', `${name}[${ignored}]`, -1)
  return checked
}

/** The index of the first −1, or −1. */
export function indexOfIgnored(checked: Int32Array, count: number): number {
  for (let i = 0; i < count; i++) if (checked[i] === -1) return i
  return -1
}

/** Refuses an output that shares memory with an input: it would be overwritten while it is still read. */
export function rejectOverlap(
  output: Float32Array,
  name: string,
  others: Record<string, ArrayBufferView | undefined>
): void {
  const first = byteOffsetOf(output)
  for (const [otherName, other] of Object.entries(others)) {
    if (!other || bufferOf(other) !== bufferOf(output)) continue
    const otherFirst = byteOffsetOf(other)
    if (first < otherFirst + byteLengthOf(other) && otherFirst < first + byteLengthOf(output))
      throw wrongValue(`memory apart from ${otherName}`, name, output)
  }
}
