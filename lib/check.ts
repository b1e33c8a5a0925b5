import { wrongType, wrongValue } from './errors'

/** Numbers that come in as arrays; every one is computed with in single precision. */
export type FloatArray = Float32Array | Float64Array
/** Class labels, one per row. */
export type LabelArray = Int32Array | Uint32Array | Uint16Array | Uint8Array | readonly number[]

/** Largest size of a dimension: class labels are 32-bit integers. */
const largestSize = 2 ** 31 - 1

/** What an ignoreIndex may be: anything that a label array can hold. */
export const ignoreIndexRange = [-(2 ** 31), 2 ** 32] as const

/** The properties of an options object; a name that is not in `known` is a mistake, most often a typing mistake. */
export function options<T extends object>(
  value: T | undefined,
  name: string,
  known: readonly string[]
): Partial<T> {
  if (value === undefined) return {}
  if (typeof value !== 'object' || value === null) throw wrongType('an object', name, value)
  for (const key of Object.keys(value))
    if (!known.includes(key))
      throw wrongType(known.length ? `only ${known.join(', ')}` : 'no parameters', name, key)
  return value
}

export function number(value: unknown, name: string): number {
  if (typeof value !== 'number') throw wrongType('a number', name, value)
  if (!Number.isFinite(value)) throw wrongValue('a finite number', name, value)
  return value
}

export function numberFrom(value: unknown, name: string, least: number, most = Infinity): number {
  const checked = number(value, name)
  if (checked < least || checked > most)
    throw wrongValue(
      most === Infinity ? `a number of at least ${least}` : `a number from ${least} to ${most}`,
      name,
      value
    )
  return checked
}

export function positiveNumber(value: unknown, name: string): number {
  const checked = number(value, name)
  if (checked <= 0) throw wrongValue('a positive number', name, value)
  return checked
}

export function integerFrom(
  value: unknown,
  name: string,
  least: number,
  most = Number.MAX_SAFE_INTEGER
): number {
  if (typeof value !== 'number') throw wrongType('an integer', name, value)
  if (!Number.isInteger(value) || value < least || value > most)
    throw wrongValue(
      most === Number.MAX_SAFE_INTEGER
        ? `an integer of at least ${least}`
        : `an integer from ${least} to ${most}`,
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

/** A Float32Array, or a Float64Array rounded to one; with `length` elements, where a length is given. */
export function floats(value: unknown, name: string, length?: number): Float32Array {
  if (!(value instanceof Float32Array || value instanceof Float64Array))
    throw wrongType('a Float32Array or Float64Array', name, value)
  if (length !== undefined && value.length !== length) throw wrongValue(`${length} elements`, name, value)
  return value instanceof Float32Array ? value : new Float32Array(value)
}

/** A Float32Array of the caller's, to be filled. */
export function floatsToFill(value: unknown, name: string, length: number): Float32Array {
  if (!(value instanceof Float32Array)) throw wrongType('a Float32Array', name, value)
  if (value.length !== length) throw wrongValue(`${length} elements`, name, value)
  return value
}

/** Rows of a matrix given as one array: its length divided by `columns`, which must come out even and positive. */
export function rowsOf(array: Float32Array, name: string, columns: number, columnsName: string): number {
  const rows = array.length / columns
  if (!Number.isInteger(rows) || rows < 1)
    throw wrongValue(`a positive multiple of ${columnsName} ${columns} elements`, name, array)
  return rows
}

/** Labels as 32-bit integers, with −1 for the ignored rows. */
export function labels(
  value: unknown,
  name: string,
  rows: number,
  classes: number,
  ignoreIndex: number
): Int32Array {
  if (
    !(
      value instanceof Int32Array ||
      value instanceof Uint32Array ||
      value instanceof Uint16Array ||
      value instanceof Uint8Array ||
      Array.isArray(value)
    )
  )
    throw wrongType('an Int32Array, Uint32Array, Uint16Array, Uint8Array or number[]', name, value)
  if (value.length !== rows) throw wrongValue(`${rows} elements`, name, value)
  const checked = value instanceof Int32Array && ignoreIndex === -1 ? value : new Int32Array(rows)
  for (let i = 0; i < rows; i++) {
    const label: unknown = value[i]
    if (label === ignoreIndex) {
      if (checked !== value) checked[i] = -1
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
    if (checked !== value) checked[i] = label
  }
  return checked
}

/** Refuses an output that shares memory with an input: it would be overwritten while it is still read. */
export function apart(
  output: Float32Array,
  name: string,
  others: Record<string, ArrayBufferView | undefined>
): void {
  for (const [otherName, other] of Object.entries(others)) {
    if (!other || other.buffer !== output.buffer) continue
    if (
      output.byteOffset < other.byteOffset + other.byteLength &&
      other.byteOffset < output.byteOffset + output.byteLength
    )
      throw wrongValue(`memory apart from ${otherName}`, name, output)
  }
}
