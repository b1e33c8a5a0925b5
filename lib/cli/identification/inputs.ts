/** Reads the gallery and the probes of `identify`, and numbers their labels together. */
import path from 'node:path'
import { shown } from '../../internal/file-error'
import {
  asMatrix,
  checkCount,
  type FileArray,
  type Matrix,
  parseSource,
  readArray,
  readLabelled,
  type TextOptions,
} from '../data/files'
import { asLabels } from '../data/labels'
import { type Reading, readingOf } from '../data/options'
import { counted, Failure } from '../terminal'

/** Embeddings with their labels, and where each row's picture is. */
export interface LabelledRows {
  embeddings: Float32Array
  rows: number
  dim: number
  labels: Int32Array
  read: Reading
  /** A label as its file has it. */
  nameOf: (label: number) => string
  /** The file of each row's picture. */
  pictures?: string[]
}

/** The files of the gallery, or of the probes. */
export interface RowFiles {
  embeddings: string
  labels?: string | undefined
  pictures?: string | undefined
}

/** @param embedded what becomes of the rows: `throughHead` */
export async function readRows(
  files: RowFiles,
  options: TextOptions,
  embedded: (matrix: Matrix, array: FileArray) => Promise<Matrix>
): Promise<LabelledRows> {
  const arrays = await readLabelled(files.embeddings, files.labels, options)
  const { embeddings: array, labels: labelArray } = arrays
  const matrix = await embedded(asMatrix(array), array)
  const classes = asLabels(labelArray)
  checkCount(classes.labels.length, matrix.rows, 'label', labelArray.from)
  const pictures = files.pictures === undefined ? undefined : await readPictures(files.pictures, options)
  if (pictures) checkCount(pictures.length, matrix.rows, 'picture', files.pictures as string)
  return {
    ...matrix,
    labels: classes.labels,
    read: readingOf(array, labelArray, classes),
    nameOf: (label) => classes.names?.[label] ?? String(label),
    ...(pictures && { pictures }),
  }
}

/** Paths are relative to the file that lists them. */
async function readPictures(file: string, options: TextOptions): Promise<string[]> {
  const { values, from }: FileArray = await readArray(
    parseSource(file),
    'paths of pictures',
    'labels',
    options
  )
  if (!Array.isArray(values)) throw new Failure(`Expected paths of pictures in ${from} but received numbers`)
  return values.map((name) => path.resolve(path.dirname(file), name.trim()))
}

/**
 * Gives the probes' labels the numbers that equal texts have in the gallery; others get numbers that it has not.
 * @returns the probes' labels, and the text of each number
 */
export function numberTogether(
  gallery: Pick<LabelledRows, 'labels' | 'nameOf'>,
  probes: Pick<LabelledRows, 'labels' | 'nameOf'>
): { labels: Int32Array; nameOf: (label: number) => string } {
  const numbers = new Map<string, number>()
  let next = 0
  for (const label of new Set(gallery.labels)) {
    numbers.set(gallery.nameOf(label), label)
    next = Math.max(next, label + 1)
  }
  const names = new Map([...numbers].map(([name, number]) => [number, name]))
  const places = new Map<number, number>()
  for (const label of new Set(probes.labels)) {
    const name = probes.nameOf(label)
    const number = numbers.get(name) ?? next++
    names.set(number, name)
    places.set(label, number)
  }
  return {
    labels: probes.labels.map((label) => places.get(label) as number),
    nameOf: (label) => names.get(label) as string,
  }
}

export function checkSameDim(gallery: LabelledRows, probes: LabelledRows, files: [string, string]): void {
  if (gallery.dim !== probes.dim)
    throw new Failure(
      `Expected ${counted(gallery.dim, 'number')} a row in ${files[1]}, as in ${files[0]}, but received ${probes.dim}`
    )
}

/** The failure where the gallery has none of the probes' labels. It names a label of each. */
export function nobodyKnown(probes: LabelledRows, gallery: LabelledRows, files: [string, string]): Failure {
  const one = (rows: LabelledRows) => shown(rows.nameOf(rows.labels[0] as number))
  return new Failure(
    `Expected labels of ${files[0]}, such as ${one(gallery)}, among those of ${files[1]} but received none, such as ${one(probes)}`
  )
}
