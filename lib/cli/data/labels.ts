/** Labels of any file become class numbers here, by one rule: docs/data-files.md, "Labels". */
import { newArray } from '../../internal/check'
import { shown } from '../../internal/file-error'
import { Failure } from '../terminal'
import type { FileArray } from './files'
import { type BigIntegers, largestExactInteger } from './numbers'

export interface ClassLabels {
  /** Each row's class, from 0 to `classes` − 1. */
  labels: Int32Array
  classes: number
  /** Each class's label as the file has it. Undefined where labels are class numbers already. */
  names?: string[]
  /** `as given`: class numbers; `renumbered`: integers in the order of their size; `names`: texts in their order of sorting. */
  numbering: 'as given' | 'renumbered' | 'names'
}

/** The caller may know the classes before the file is read. */
export interface KnownClasses {
  /** The number of classes. If it is given, integers are class numbers already. */
  classes?: number
  /** Each class's label, as `ClassLabels` has them: of a head that exists. */
  names?: readonly string[]
}

const mostClasses = 2 ** 31 - 1

/**
 * Labels as class numbers: integers from 0 without a gap stay what they are, others are numbered by size, and texts by sorting.
 * @throws Failure that says in which row or line what is wrong
 */
export function asLabels(array: FileArray, { classes, names }: KnownClasses = {}): ClassLabels {
  const { from, shape } = array
  if (shape.length !== 1 && !(shape.length === 2 && shape[1] === 1))
    throw new Failure(`Expected one label a row in ${from} but received an array of shape [${shape}]`)
  const integers = integersOf(array)
  if (names) return byKnownNames(array, integers ?? textsOf(array), names)
  if (integers === undefined) return atLeast(numberTexts(textsOf(array)), classes)
  if (classes !== undefined) return asGiven(array, integers, classes)
  return numberIntegers(integers)
}

/** The number of rows of each class. */
export function rowsPerClass({ labels, classes }: Pick<ClassLabels, 'labels' | 'classes'>): Uint32Array {
  const rows = newArray(Uint32Array, classes, 'the rows of each class')
  for (const label of labels) rows[label] = (rows[label] as number) + 1
  return rows
}

type Integers = Int32Array | Float64Array | BigUint64Array

/** Labels as integers from 0 that are exact; undefined where one of them is no integer but text. */
function integersOf({ values, kind, place }: FileArray): Integers | undefined {
  const reject = (row: number, value: unknown) => {
    throw new Failure(
      `Expected an integer from 0 or a name as the label in ${place(row)} but received ${value}`
    )
  }
  if (Array.isArray(values)) return integersOfTexts(values, reject)
  if (values instanceof BigInt64Array || values instanceof BigUint64Array) {
    const negative = values.findIndex((value) => value < 0n)
    if (negative >= 0) reject(negative, values[negative])
    return smaller(values)
  }
  const largest = kind === undefined ? Number.MAX_SAFE_INTEGER : largestExactInteger(kind)
  for (let row = 0; row < values.length; row++) {
    const value = values[row] as number
    if (!Number.isInteger(value) || value < 0) reject(row, value)
    if (value > largest)
      throw new Failure(
        `Expected integers up to ${largest}, which ${kind} holds exactly, in ${place(row)} but received ${value}: save labels as integers`
      )
  }
  return values instanceof Float32Array ? Int32Array.from(values) : values
}

/** As numbers where those are exact. */
function smaller(values: BigIntegers): Float64Array | BigUint64Array {
  const unsigned = new BigUint64Array(values.buffer, values.byteOffset, values.length)
  if (unsigned.some((value) => value > BigInt(Number.MAX_SAFE_INTEGER))) return unsigned
  return Float64Array.from(unsigned, Number)
}

/** As a program writes it: "01" and "1.0" are names. At most 2⁶⁴ − 1, as in a file of numbers. */
const integerText = /^(0|-?[1-9]\d{0,19})$/
const safeDigits = 15

function integersOfTexts(
  texts: string[],
  reject: (row: number, value: unknown) => void
): Integers | undefined {
  let longest = 0
  for (const text of texts) {
    const trimmed = text.trim()
    if (!integerText.test(trimmed)) return undefined
    longest = Math.max(longest, trimmed.length)
  }
  const negative = texts.findIndex((text) => text.trim().startsWith('-'))
  if (negative >= 0) reject(negative, texts[negative])
  if (longest <= safeDigits) return Float64Array.from(texts, Number)
  if (texts.some((text) => BigInt(text) >= 2n ** 64n)) return undefined
  return smaller(BigUint64Array.from(texts, BigInt))
}

/**
 * Names without the spaces around them. Two names that only spaces or the Unicode form tell apart look the same: nobody means
 * two classes by them, and merging them would be a guess.
 */
function textsOf({ values, place }: FileArray): string[] {
  const texts = values as string[]
  const rowOf = new Map<string, number>()
  texts.forEach((text, row) => {
    if (!rowOf.has(text)) rowOf.set(text, row)
  })
  const byLook = new Map<string, string>()
  for (const [text, row] of rowOf) {
    const look = text.trim().normalize('NFC')
    if (look === '') throw new Failure(`Expected a label in ${place(row)} but received none`)
    if (look.includes('\ufffd'))
      throw new Failure(
        `Expected a label in ${place(row)} but received ${shown(text)}, of which another program has lost letters: two names may have become one`
      )
    const other = byLook.get(look)
    if (other !== undefined)
      throw new Failure(
        `Expected names that differ to the eye but received ${shown(text)} in ${place(row)} and ${shown(other)} in ${place(rowOf.get(other) as number)}: spaces around a name, or its Unicode form (NFC, NFD), do not make another class`
      )
    byLook.set(look, text)
  }
  return texts.map((text) => text.trim())
}

function numberTexts(texts: string[]): ClassLabels {
  const names = [...new Set(texts)].sort()
  const numbers = new Map(names.map((name, number) => [name, number]))
  const labels = Int32Array.from(texts, (text) => numbers.get(text) as number)
  return { labels, classes: names.length, names, numbering: 'names' }
}

/** Raises the number of classes to that of `--classes`. The classes added have no rows and no names. */
function atLeast(found: ClassLabels, classes = found.classes): ClassLabels {
  if (classes < found.classes)
    throw new Failure(`Expected at least ${found.classes} for --classes but received ${classes}`)
  return { ...found, classes }
}

function asGiven({ place }: FileArray, integers: Integers, classes: number): ClassLabels {
  const most = Math.min(classes, mostClasses)
  const beyond = integers.findIndex((label) => label >= most)
  if (beyond >= 0)
    throw new Failure(
      `Expected class numbers below ${most}, as --classes says, but received ${integers[beyond]} in ${place(beyond)}`
    )
  return { labels: toInt32(integers), classes, numbering: 'as given' }
}

function toInt32(integers: Integers): Int32Array {
  return integers instanceof Int32Array ? integers : Int32Array.from(integers as Float64Array, Number)
}

function numberIntegers(integers: Integers): ClassLabels {
  if (!(integers instanceof BigUint64Array)) {
    const classes = classesWithoutGap(integers)
    if (classes !== undefined) return { labels: toInt32(integers), classes, numbering: 'as given' }
  }
  const ids = integers.slice().sort()
  const classes = dropRepeated(ids)
  const labels = newArray(Int32Array, integers.length, 'the labels')
  for (let row = 0; row < labels.length; row++) labels[row] = indexIn(ids, classes, integers[row] as number)
  const names = Array.from(ids.subarray(0, classes) as Float64Array, String)
  return { labels, classes, names, numbering: 'renumbered' }
}

/** The largest integer + 1, if all below it are there. */
function classesWithoutGap(integers: Int32Array | Float64Array): number | undefined {
  let largest = -1
  for (const integer of integers) largest = Math.max(largest, integer)
  if (largest >= integers.length) return undefined // of so many classes some have no row
  const seen = new Uint8Array(largest + 1)
  for (const integer of integers) seen[integer] = 1
  return seen.includes(0) ? undefined : largest + 1
}

/** Moves each value of a sorted array to the front, once. Returns how many there are. */
function dropRepeated(sorted: Integers): number {
  let count = 0
  for (let i = 0; i < sorted.length; i++)
    if (i === 0 || sorted[i] !== sorted[count - 1]) sorted[count++] = sorted[i] as number
  return count
}

/** A map of tens of millions of identities would take gigabytes. */
function indexIn(ids: Integers, count: number, id: number): number {
  let [low, high] = [0, count - 1]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((ids[middle] as number) < id) low = middle + 1
    else high = middle
  }
  return low
}

function byKnownNames(
  { place }: FileArray,
  values: Integers | string[],
  names: readonly string[]
): ClassLabels {
  const numbers = new Map(names.map((name, number) => [name, number]))
  const labels = newArray(Int32Array, values.length, 'the labels')
  for (let row = 0; row < values.length; row++) {
    const name = String(values[row])
    const number = numbers.get(name)
    if (number === undefined)
      throw new Failure(
        `Expected one of the head's ${names.length} class names in ${place(row)} but received ${shown(name)}`
      )
    labels[row] = number
  }
  const numbering = Array.isArray(values) ? 'names' : 'renumbered'
  return { labels, classes: names.length, names: [...names], numbering }
}
