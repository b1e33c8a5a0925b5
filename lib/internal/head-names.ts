// The names of a head's classes: checked as an option, and as bytes of its file.
import { createHash } from 'node:crypto'
import { wrongType, wrongValue } from '../errors'
import { parseJson, shown } from './file-error'
import { isList } from './intrinsics'

/** The tensor of the names in a file: a JSON array in UTF-8. */
export const namesTensor = 'class_names'

/** Bytes that the names of a file may take: what fits into one string of JavaScript. */
export const largestNames = 2 ** 29 - 24

/** A frozen copy of the names of so many classes. */
export function checkClassNames(value: unknown, name: string, classes: number): readonly string[] {
  const names = checkStrings(value, name, classes)
  const again = indexOfAgain(names)
  if (again >= 0) throw wrongValue('a name that no other class has', `${name}[${again}]`, names[again])
  return Object.freeze(names)
}

/** A copy of a list of so many strings, each read once. */
export function checkStrings(value: unknown, name: string, count: number): string[] {
  if (!isList(value)) throw wrongType('an array of strings', name, value)
  const { length } = value
  if (length !== count) throw wrongValue(`${count} elements`, name, value)
  const strings: string[] = []
  for (let i = 0; i < length; i++) {
    const string = value[i]
    if (typeof string !== 'string') throw wrongType('a string', `${name}[${i}]`, string)
    strings.push(string)
  }
  return strings
}

/** The first name that is there before, or −1. */
export function indexOfAgain(names: readonly string[]): number {
  const seen = new Set<string>()
  for (const [i, name] of names.entries()) {
    if (seen.has(name)) return i
    seen.add(name)
  }
  return -1
}

/** As they lie in a file. */
export function encodeNames(names: readonly string[]): Uint8Array {
  const bytes = new TextEncoder().encode(JSON.stringify(names))
  if (bytes.length > largestNames)
    throw wrongValue(`names of at most ${largestNames} bytes`, 'classNames', bytes.length)
  return bytes
}

/** Reads the names of `classes` classes from a file's bytes. Throws a plain Error that says what is wrong. */
export function decodeNames(bytes: Uint8Array, classes: number): string[] {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new Error('its class_names are no UTF-8', { cause })
  }
  const names = parseJson(text, 'class_names')
  if (!Array.isArray(names)) throw new Error(`its class_names are ${shown(names)}, not an array`)
  if (names.length !== classes) throw new Error(`it names ${names.length} of ${classes} classes`)
  for (const name of names)
    if (typeof name !== 'string') throw new Error(`it names a class ${shown(name)}, not with a string`)
  return names
}

/** Tells whether ranks were given the same bytes. */
export function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Tells whether two heads' classes have the same names. */
export function digestOfNames(names: readonly string[]): string {
  return digestOf(encodeNames(names))
}
