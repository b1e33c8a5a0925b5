/** Arrays from the files that embeddings come in: .npy, .npz, .safetensors, .csv, .tsv, .txt. */
import { MarginSoftmaxError } from '../../errors'
import { brief, reasonOf } from '../../internal/file-error'
import { readAll, withFile } from '../../internal/read-file'
import { SafetensorsFile } from '../../internal/safetensors'
import { counted, Failure } from '../terminal'
import { readCsv } from './csv'
import type { TableRequest } from './layout'
import { bytesOfElements, npyHeaderBytes, parseNpyHeader } from './npy'
import { membersOf, readMember } from './npz'
import {
  type ArrayLayout,
  type BigIntegers,
  kinds,
  type Numbers,
  readNumbers,
  readTexts,
  safetensorsKinds,
  toFloat32,
} from './numbers'

/** For the help of commands that read such files. */
export const filesNote =
  'An array of an .npz or safetensors file is named as file:name (usually embeddings, labels, pairs, same). A text file with labels has them in the column that its header calls label, or that --label-column names; without a header in the first one.'

export interface FileArray {
  /** Path and name, for messages. */
  from: string
  shape: number[]
  /** Numbers, or texts as written. 64-bit integers are exact where labels are asked for, else doubles. */
  values: Numbers | BigIntegers | string[]
  /** Type of the file's numbers, by its name in `kinds`. */
  kind?: string
  /** The place of a row, as a reader counts, for messages. */
  place: (row: number) => string
  /** Remarks for the user: columns that were skipped, or the column of the labels. */
  notes?: string[]
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
export const isText = (path: string) => ['csv', 'tsv', 'txt'].includes(endingOf(path))

/** Whether a file of this kind can hold labels beside embeddings. */
export function holdsLabels(path: string): boolean {
  return isText(path) || ['npz', 'safetensors'].includes(endingOf(path))
}

/** Options for reading text files, where their own first lines do not say it. */
export interface TextOptions {
  /** The columns of numbers of the embeddings: see `TableRequest`. */
  columns?: string
  labelColumn?: string
  /** As TextDecoder names it, of files that are not UTF-8. */
  encoding?: string
}

/**
 * An array of a file.
 * @param what names it in messages, and is its usual name among others: `embeddings`, `labels`, `pairs`
 * @param column of a text file: its numbers, or its labels; where labels are asked for, any file may hold texts
 */
export async function readArray(
  source: Source,
  what: string,
  column: 'numbers' | 'numbers beside labels' | 'labels' = 'numbers',
  options: TextOptions = {}
): Promise<FileArray> {
  const { path } = source
  const labels = column === 'labels'
  return explained(path, what, async () => {
    if (isText(path)) {
      const table = await readText(path, { what, numbers: !labels, labels: column !== 'numbers' }, options)
      return labels ? table.labels : table.numbers
    }
    if (endingOf(path) === 'npy') return fromNpy(path, labels)
    if (endingOf(path) === 'npz') return fromNpz(source, what, labels)
    if (endingOf(path) === 'safetensors') return fromSafetensors(source, what, labels)
    throw new Error('its name ends neither in .npy, .npz, .safetensors, .csv, .tsv nor .txt')
  })
}

/** Embeddings and the labels in the same file. */
export async function readBoth(
  source: Source,
  options: TextOptions = {}
): Promise<{ embeddings: FileArray; labels: FileArray }> {
  if (isText(source.path))
    return explained(source.path, 'embeddings', async () => {
      const request = { what: 'embeddings', numbers: true, labels: true }
      const { numbers, labels } = await readText(source.path, request, options)
      return { embeddings: numbers, labels }
    })
  const embeddings = await readArray(source, 'embeddings', 'numbers', options)
  return { embeddings, labels: await readArray({ path: source.path }, 'labels', 'labels', options) }
}

/** Whether a command finds the labels in the file of the embeddings. */
export function labelsAreBeside(embeddings: string, labels: string | undefined): boolean {
  return labels === undefined || labels === embeddings
}

/** Embeddings and their labels: in a file of their own, or in that of the embeddings. */
export async function readLabelled(
  embeddings: string,
  labels: string | undefined,
  options: TextOptions
): Promise<{ embeddings: FileArray; labels: FileArray }> {
  const source = parseSource(embeddings)
  if (labels === undefined || labelsAreBeside(embeddings, labels)) return readBoth(source, options)
  return {
    embeddings: await readArray(source, 'embeddings', 'numbers', options),
    labels: await readArray(parseSource(labels), 'labels', 'labels', options),
  }
}

/** Words what is wrong with a file. */
async function explained<T>(path: string, what: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read()
  } catch (cause) {
    if (cause instanceof Failure || cause instanceof MarginSoftmaxError) throw cause
    // Node.js replaces what is no UTF-8 in its arguments, and so looks for another file.
    const reason = path.includes('\ufffd')
      ? 'its name is not UTF-8, which Node.js cannot be told: rename it'
      : reasonOf(cause)
    throw new Failure(`Expected ${what} in ${path} but: ${reason}`, { cause })
  }
}

async function readText(
  path: string,
  request: TableRequest,
  { columns, labelColumn, encoding }: TextOptions
): Promise<{ numbers: FileArray; labels: FileArray }> {
  const table = await readCsv(path, { ...request, columns, labelColumn }, encoding)
  const lineOf = (row: number) => `line ${table.lineOf(row)}`
  return {
    numbers: {
      from: path,
      shape: [table.rows, table.columns],
      values: table.values,
      place: (row) => `${lineOf(row)} of ${path}`,
      notes: table.notes,
    },
    labels: {
      from: path,
      shape: [table.labels.length],
      values: table.labels,
      place: (row) => `${lineOf(row)}, ${table.labelColumn} of ${path}`,
      notes: [table.labelColumn],
    },
  }
}

function fromNpy(path: string, labels: boolean): Promise<FileArray> {
  return withFile(path, async (file) => {
    const { size } = await file.stat()
    const head = new Uint8Array(Math.min(size, npyHeaderBytes))
    await readAll(file, head, 0)
    const header = parseNpyHeader(head)
    // Before memory is taken for what the file only claims to hold.
    if (!(header.start + bytesOfElements(header) <= size)) throw new Error('it ends too early')
    return arrayOf(path, header, labels, (part, offset) => readAll(file, part, header.start + offset))
  })
}

/** Texts only where labels are asked for. */
async function arrayOf(
  from: string,
  layout: ArrayLayout,
  labels: boolean,
  fill: (part: Uint8Array, offset: number) => Promise<void>
): Promise<FileArray> {
  const { kind, shape, isText } = layout
  if (isText && !labels) throw new Error(`its elements are texts, of the type ${kind}`)
  const values = isText ? await readTexts(layout, fill) : await readNumbers(layout, labels, fill)
  return { from, shape, values, kind, place: (row) => `row ${row} (from 0) of ${from}` }
}

function fromNpz({ path, name }: Source, what: string, labels: boolean): Promise<FileArray> {
  return withFile(path, async (file) => {
    const members = await membersOf(file)
    const chosen = choose([...members.keys()], name, what)
    const from = `${path}:${chosen}`
    return readMember(members, chosen, (header, fill) => arrayOf(from, header, labels, fill))
  })
}

async function fromSafetensors({ path, name }: Source, what: string, labels: boolean): Promise<FileArray> {
  const file = await SafetensorsFile.open(path)
  try {
    const { entries } = file
    const chosen = choose([...entries.keys()], name, what)
    const entry = entries.get(chosen)
    const kind = entry && safetensorsKinds[entry.dtype]
    if (!kind) throw new Error(`its tensor ${chosen} is ${entry?.dtype}`)
    const { shape } = entry
    const bytes = (kinds[kind] as { bytes: number }).bytes
    const layout = { kind, shape, bytes, isText: false, bigEndian: false, columnsFirst: false }
    return await arrayOf(`${path}:${chosen}`, layout, labels, (part, offset) =>
      file.readBytes(chosen, part, offset)
    )
  } finally {
    await file.close()
  }
}

function choose(names: string[], requested: string | undefined, usual: string): string {
  const limit = 20
  const more = names.length > limit ? ` and ${names.length - limit} more` : ''
  const has = `it has ${names.slice(0, limit).map(brief).join(', ') || 'none'}${more}`
  if (requested !== undefined && !names.includes(requested))
    throw new Error(`it has no array named ${requested}: ${has}`)
  const chosen = requested ?? (names.includes(usual) ? usual : names.length === 1 ? names[0] : undefined)
  if (chosen === undefined) throw new Error(`it has no array named ${usual}: ${has}; name one as file:name`)
  return chosen
}

/** Embeddings [N,D] in single precision. */
export interface Matrix {
  embeddings: Float32Array
  rows: number
  dim: number
}

export function asMatrix({ from, shape, values }: FileArray): Matrix {
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

/**
 * Checks that a file has one label, name or picture for each row.
 * @param what the singular of what it has
 */
export function checkCount(count: number, rows: number, what: string, file: string | undefined): void {
  if (count !== rows) throw new Failure(`Expected ${counted(rows, what)} in ${file} but received ${count}`)
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
