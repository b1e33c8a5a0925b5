/** Arrays from the files that embeddings come in: .npy, .npz, .safetensors, .csv, .tsv, .txt. */
import type { FileHandle } from 'node:fs/promises'
import { MarginSoftmaxError } from '../../errors'
import { brief, reasonOf } from '../../file-error'
import { readAll, withFile } from '../../read-file'
import { elementsOf, readHeader } from '../../safetensors'
import { Failure } from '../terminal'
import { readCsv } from './csv'
import { npyHeaderBytes, parseNpyHeader } from './npy'
import { membersOf, readMember } from './npz'
import {
  type BigIntegers,
  bytesOfNumbers,
  type Numbers,
  readNumbers,
  safetensorsKinds,
  toFloat32,
} from './numbers'

/** For the help of commands that read such files. */
export const filesNote =
  'An array of an .npz or safetensors file is named as file:name (usually embeddings, labels, pairs, same). A CSV file with labels has a header with a column named label, or the labels come first.'

export interface FileArray {
  /** Path and name, for messages. */
  from: string
  shape: number[]
  /** Numbers, or texts as written. 64-bit integers are exact where labels are asked for, else doubles. */
  values: Numbers | BigIntegers | string[]
  /** Type of the file's numbers, by its name in `kinds`. */
  kind?: string
  /** Where a row is, as its reader counts, for messages. */
  place: (row: number) => string
}

/** `file`, or `file:name` for an array of an .npz or safetensors file. */
export interface Source {
  path: string
  name?: string
}

export function parseSource(text: string): Source {
  const named = /^(.*\.(?:npz|safetensors)):(.+)$/i.exec(text)
  return named ? { path: named[1] as string, name: named[2] } : { path: text }
}

const endingOf = (path: string) => /\.([^./\\]+)$/.exec(path)?.[1]?.toLowerCase() ?? ''
const isText = (path: string) => ['csv', 'tsv', 'txt'].includes(endingOf(path))

/** Whether a file of this kind can hold labels beside embeddings. */
export function holdsLabels(path: string): boolean {
  return isText(path) || ['npz', 'safetensors'].includes(endingOf(path))
}

/**
 * An array of a file.
 * @param what names it in messages, and is its usual name among others: `embeddings`, `labels`, `pairs`
 * @param column of a CSV file: its numbers, or its labels
 */
export async function readArray(
  source: Source,
  what: string,
  column: 'numbers' | 'numbers beside labels' | 'labels' = 'numbers'
): Promise<FileArray> {
  const { path } = source
  try {
    if (isText(path)) return await fromText(path, column)
    if (endingOf(path) === 'npy') return await fromNpy(path)
    if (endingOf(path) === 'npz') return await fromNpz(source, what)
    if (endingOf(path) === 'safetensors') return await fromSafetensors(source, what)
    throw new Error('its name ends neither in .npy, .npz, .safetensors, .csv, .tsv nor .txt')
  } catch (cause) {
    if (cause instanceof Failure || cause instanceof MarginSoftmaxError) throw cause
    // Node.js replaces what is no UTF-8 in its arguments, and so looks for another file.
    const reason = path.includes('\ufffd')
      ? 'its name is not UTF-8, which Node.js cannot be told: rename it'
      : reasonOf(cause)
    throw new Failure(`Expected ${what} in ${path} but: ${reason}`, { cause })
  }
}

async function fromText(path: string, column: string): Promise<FileArray> {
  const table = await readCsv(path, column !== 'numbers')
  const place = placeIn(path)
  if (column === 'labels') return { from: path, shape: [table.rows], values: table.labels, place }
  return { from: path, shape: [table.rows, table.columns], values: table.values, place }
}

function fromNpy(path: string): Promise<FileArray> {
  return withFile(path, async (file) => {
    const { size } = await file.stat()
    const head = new Uint8Array(Math.min(size, npyHeaderBytes))
    await readAll(file, head, 0)
    const { kind, shape, start } = parseNpyHeader(head)
    // Before memory is taken for what the file only claims to hold.
    if (!(start + bytesOfNumbers(kind, shape) <= size)) throw new Error('it ends too early')
    return {
      from: path,
      shape,
      values: await numbersAt(file, kind, shape, start),
      kind,
      place: placeIn(path),
    }
  })
}

const placeIn = (from: string) => (row: number) => `row ${row} (from 0) of ${from}`

function numbersAt(file: FileHandle, kind: string, shape: number[], start: number): Promise<Numbers> {
  return readNumbers(kind, elementsOf(shape), (part, offset) => readAll(file, part, start + offset))
}

function fromNpz({ path, name }: Source, what: string): Promise<FileArray> {
  return withFile(path, async (file) => {
    const members = await membersOf(file)
    const chosen = choose([...members.keys()], name, what)
    const from = `${path}:${chosen}`
    return { from, ...(await readMember(members, chosen)), place: placeIn(from) }
  })
}

function fromSafetensors({ path, name }: Source, what: string): Promise<FileArray> {
  return withFile(path, async (file) => {
    const { entries, start } = await readHeader(file)
    const chosen = choose([...entries.keys()], name, what)
    const entry = entries.get(chosen)
    const kind = entry && safetensorsKinds[entry.dtype]
    if (!kind) throw new Error(`its tensor ${chosen} is ${entry?.dtype}`)
    const values = await numbersAt(file, kind, entry.shape, start + entry.data_offsets[0])
    const from = `${path}:${chosen}`
    return { from, shape: entry.shape, values, kind, place: placeIn(from) }
  })
}

function choose(names: string[], asked: string | undefined, usual: string): string {
  const most = 20
  const more = names.length > most ? ` and ${names.length - most} more` : ''
  const has = `it has ${names.slice(0, most).map(brief).join(', ') || 'none'}${more}`
  if (asked !== undefined && !names.includes(asked)) throw new Error(`it has no array named ${asked}: ${has}`)
  const chosen = asked ?? (names.includes(usual) ? usual : names.length === 1 ? names[0] : undefined)
  if (chosen === undefined) throw new Error(`it has no array named ${usual}: ${has}; name one as file:name`)
  return chosen
}

/** Embeddings [N,D] in single precision. */
export function asMatrix({ from, shape, values }: FileArray): {
  embeddings: Float32Array
  rows: number
  dim: number
} {
  const [rows, dim] = shape
  if (shape.length !== 2 || !rows || !dim)
    throw new Failure(`Expected rows of numbers in ${from} but received an array of shape [${shape}]`)
  return { embeddings: inSinglePrecision(values as Numbers), rows, dim }
}

function inSinglePrecision(values: Numbers): Float32Array {
  if (values instanceof Float32Array) return values
  const embeddings = toFloat32(values.length)
  embeddings.set(values)
  return embeddings
}

/** Integers from 0 to 2^31 − 2. */
export function asIntegers({ from, values }: FileArray): Int32Array {
  const numbers = values as Numbers
  for (let i = 0; i < numbers.length; i++) {
    const value = numbers[i] as number
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** 31 - 1)
      throw new Failure(`Expected integers from 0 in ${from} but received ${value} at position ${i}`)
  }
  return numbers instanceof Int32Array ? numbers : Int32Array.from(numbers)
}
