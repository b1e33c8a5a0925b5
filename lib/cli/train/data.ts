/** Reads the data of `train`, and reports what is odd about it before any memory is taken for a head. */
import { stat } from 'node:fs/promises'
import { reasonOf } from '../../internal/file-error'
import {
  asMatrix,
  checkCount,
  holdsLabels,
  labelsAreBeside,
  parseSource,
  readLabelled,
  type TextOptions,
} from '../data/files'
import { asLabels, type ClassLabels, type KnownClasses } from '../data/labels'
import { checkTextOptions, type Reading, readingOf, sentenceOf } from '../data/options'
import { complain, counted, Failure, Misuse } from '../terminal'
import { censusOf } from './split'

export interface TrainingData {
  embeddings: Float32Array
  labels: Int32Array
  dim: number
}

/** The files of a training, as they were named, and how to read them. */
export interface DataFiles extends TextOptions {
  embeddings: string
  labels?: string
}

export interface ReadData extends ClassLabels {
  data: TrainingData
  rows: number
  /** The place of a row in its file, for messages. */
  place(row: number): string
  /** The files and arrays that were read, for the report. */
  reading: Reading
}

/** A file that is not there is the first thing to be told. */
export async function checkPresent(files: Record<string, string | undefined>): Promise<void> {
  for (const [what, file] of Object.entries(files)) {
    if (file === undefined) continue
    const { path } = parseSource(file)
    await stat(path).catch((cause: NodeJS.ErrnoException) => {
      const reason = cause.code === 'ENOENT' ? 'there is no such file' : reasonOf(cause)
      throw new Failure(`Expected ${what} in ${path} but: ${reason}`, { cause })
    })
  }
}

/** @param known of the classes, where that was said or where a head has them */
export async function readData(files: DataFiles, known: KnownClasses): Promise<ReadData> {
  if (labelsAreBeside(files.embeddings, files.labels) && !holdsLabels(parseSource(files.embeddings).path))
    throw new Misuse(`Expected --labels beside ${files.embeddings}, which holds no labels`)
  checkTextOptions(files, files.embeddings, files.labels ?? files.embeddings)
  const arrays = await readLabelled(files.embeddings, files.labels, files)
  const { embeddings, rows, dim } = asMatrix(arrays.embeddings)
  const classLabels = asLabels(arrays.labels, known)
  const { labels } = classLabels
  checkCount(labels.length, rows, 'label', parseSource(files.labels ?? files.embeddings).path)
  const reading = readingOf(arrays.embeddings, arrays.labels, classLabels)
  return { ...classLabels, data: { embeddings, labels, dim }, rows, place: arrays.embeddings.place, reading }
}

/**
 * Refuses rows that nothing can be learnt from, and says what is odd about the others.
 * @param cosines whether the loss works on directions
 * @throws Failure for a number that is not finite, by its row in the file; for equal rows; for one class
 */
export function checkData(
  read: ReadData,
  { embeddings: from, labels = from }: DataFiles,
  cosines: boolean
): void {
  const { rows, classes, data, reading } = read
  const { present, single, fewest, most } = censusOf(data.labels, classes)
  const { zeros, differ } = checkRows(read)
  if (present < 2)
    throw new Failure(
      `Expected rows of at least 2 classes in ${labels} but received ${counted(rows, 'row')} of one: nothing tells it from others`
    )
  if (!differ)
    throw new Failure(
      `Expected rows that differ in ${from} but received the same numbers in all ${counted(rows, 'row')}: nothing can be learnt from them`
    )
  const ofClasses = counted(present, 'class', 'classes')
  const each = fewest === most ? `${counted(most, 'row')} each` : `${fewest} to ${counted(most, 'row')} each`
  complain(sentenceOf(reading, each))
  if (zeros.length > 0 && cosines)
    complain(
      `Rows of zeros have no direction to learn from: ${counted(zeros.length, 'row')}, the first is ${read.place(zeros[0] as number)}.`
    )
  if (single > 0)
    complain(
      `Classes of a single row: ${single.toLocaleString('en')} of ${ofClasses}. It is trained on, never kept back to judge by.`
    )
  if (present < classes)
    complain(
      `Classes without rows: ${(classes - present).toLocaleString('en')} of ${classes.toLocaleString('en')}. They learn only what the others are.`
    )
}

/** @returns the rows that are zero, and whether two rows differ */
function checkRows({ data: { embeddings, dim }, rows, place }: ReadData): {
  zeros: number[]
  differ: boolean
} {
  const zeros: number[] = []
  let differ = false
  for (let row = 0, at = 0; row < rows; row++, at += dim) {
    let square = 0 // in double precision it is finite and above zero wherever a number of single precision is
    for (let i = at; i < at + dim; i++) {
      const value = embeddings[i] as number
      square += value * value
    }
    for (let i = at; !differ && i < at + dim; i++) differ = embeddings[i] !== embeddings[i - at]
    if (square === 0) zeros.push(row)
    if (!Number.isFinite(square)) {
      const dimension = embeddings.subarray(at, at + dim).findIndex((value) => !Number.isFinite(value))
      throw new Failure(
        `Expected finite numbers for embeddings, in single precision, but received ${embeddings[at + dimension]} in ${place(row)}, dimension ${dimension} (from 0)`
      )
    }
  }
  return { zeros, differ }
}
