/** Lists of pairs: rows by number or by name with the answer first or last (VoxCeleb, Kaldi), and LFW's pairs.txt. */

import type { PairList } from '../../index'
import { shown } from '../../internal/file-error'
import { asIntegers, type FileArray, isText, parseSource, readArray, type TextOptions } from '../data/files'
import { counted, Failure } from '../terminal'
import { type AnswerSide, answersOf, type Column, chooseAnswers, isHeading } from './answers'
import { type Lines, readLines } from './lines'
import { type RowNames, readNames } from './names'

export interface ListOptions extends TextOptions {
  pairs?: string
  same?: string
  names?: string
  answer?: AnswerSide
}

export interface Trials extends PairList {
  pairs?: Int32Array
  same: Uint8Array
  /** As the list's own header says. */
  folds?: number
  /** The place of pair p in its file, as a reader counts. */
  place: (p: number) => string
  /** The number of rows that have names. */
  names?: RowNames
  /** A sentence for people about what was read. */
  summary: string
}

/** @throws Failure that names file and line */
export async function readTrials({ pairs, same, names, answer, ...text }: ListOptions): Promise<Trials> {
  const answers = same === undefined ? undefined : await readAnswers(same, text)
  if (pairs === undefined) {
    const { count, place } = answers as Column
    const list = { same: answersOf(answers as Column), place }
    return { ...list, summary: `${counted(count, 'answer')} from ${same}` }
  }
  const rowNames = names === undefined ? undefined : await readNames(names, text)
  const numbers = rowNames ? undefined : await readNumbers(pairs, 'pairs', text.encoding)
  if (numbers) return fromNumbers(numbers, answers, answer)
  const lines = await readLines(pairs, 'pairs', text.encoding)
  if (isLfw(lines)) return fromLfw(lines, rowNames)
  return fromLines(lines, rowNames, answers, answer)
}

/** A list of numbers alone; undefined for a text with other fields. */
export async function readNumbers(
  file: string,
  what: string,
  encoding: string | undefined
): Promise<FileArray | undefined> {
  const source = parseSource(file)
  const reading = readArray(source, what, 'numbers', { encoding })
  return isText(source.path) ? reading.catch(() => undefined) : reading
}

/** The answers of a file with nothing else. */
export async function readAnswers(file: string, { encoding }: TextOptions): Promise<Column> {
  const source = parseSource(file)
  const { shape, values, place, from } = await readArray(
    source,
    'same',
    isText(source.path) ? 'labels' : 'numbers',
    { encoding }
  )
  if (shape.length !== 1 && !(shape.length === 2 && shape[1] === 1))
    throw new Failure(`Expected one answer a row in ${from} but received an array of shape [${shape}]`)
  return { count: values.length, valueAt: (p) => values[p] as string | number, place }
}

export function checkCount(count: number, answers: Column | undefined, from: string): void {
  if (answers && answers.count !== count)
    throw new Failure(`Expected ${counted(count, 'answer')} for ${from} but received ${answers.count}`)
}

function fromNumbers(
  array: FileArray,
  answers: Column | undefined,
  requested: AnswerSide | undefined
): Trials {
  const { from, shape, values, place } = array
  const [count = 0, columns = 0] = shape
  const wanted = answers ? 2 : 3
  if (shape.length !== 2 || columns !== wanted)
    throw new Failure(
      `Expected ${wanted} columns in ${from}${answers ? '' : ' (two rows and an answer, which is first or last), or --same,'} but received an array of shape [${shape}]`
    )
  checkCount(count, answers, from)
  if (answers)
    return {
      pairs: asIntegers(array),
      same: answersOf(answers),
      place,
      summary: `${counted(count, 'pair')} of rows from ${from}`,
    }
  const column = (offset: number) => ({
    count,
    valueAt: (p: number) => values[3 * p + offset] as number,
    place,
  })
  const { side, same } = chooseAnswers({ first: column(0), last: column(2) }, from, requested)
  const begin = side === 'first' ? 1 : 0
  const rows = new Float64Array(2 * count)
  for (let p = 0; p < count; p++) {
    rows[2 * p] = values[3 * p + begin] as number
    rows[2 * p + 1] = values[3 * p + begin + 1] as number
  }
  return {
    pairs: wholeRows(rows, place),
    same,
    place,
    summary: `${counted(count, 'pair')} of rows from ${from}, answers ${side}`,
  }
}

function wholeRows(rows: Float64Array, place: (p: number) => string): Int32Array {
  const wrong = rows.findIndex((row) => !Number.isInteger(row) || row < 0 || row > 2 ** 31 - 2)
  if (wrong < 0) return Int32Array.from(rows)
  throw new Failure(`Expected row numbers from 0 in ${place(wrong >> 1)} but received ${rows[wrong]}`)
}

function fromLines(
  lines: Lines,
  names: RowNames | undefined,
  answers: Column | undefined,
  requested: AnswerSide | undefined
): Trials {
  const wanted = answers ? 2 : 3
  const { from } = lines
  const skipped = isHeader(lines.fields, answers) ? 1 : 0
  const fields = lines.fields.slice(skipped)
  const place = (p: number) => lines.place(p + skipped)
  const count = fields.length
  const odd = fields.findIndex(({ length }) => length !== wanted)
  if (odd >= 0)
    throw new Failure(
      `Expected ${wanted} fields in ${place(odd)} (${answers ? 'two rows or names' : "two rows or names and an answer, or LFW's pairs.txt with its header"}) but received ${fields[odd]?.length}`
    )
  checkCount(count, answers, from)
  const column = (offset: number) => ({ count, valueAt: (p: number) => fields[p]?.[offset] as string, place })
  const { side, same } = answers
    ? { side: 'last', same: answersOf(answers) }
    : chooseAnswers({ first: column(0), last: column(2) }, from, requested)
  const begin = side === 'first' ? 1 : 0
  const pairs = new Int32Array(2 * count)
  for (let p = 0; p < count; p++)
    for (const i of [0, 1]) pairs[2 * p + i] = rowOf(fields[p]?.[begin + i] as string, names, () => place(p))
  const called = names ? `, by the names in ${names.from}` : ''
  return {
    pairs,
    same,
    place,
    ...(names && { names }),
    summary: `${counted(count, 'pair')} of rows from ${from}${answers ? '' : `, answers ${side}`}${called}`,
  }
}

/** Whether the first line names the columns, where answers are at least. */
function isHeader([first = [], next = []]: string[][], answers: Column | undefined): boolean {
  return !answers && first.length === 3 && [0, 2].some((at) => isHeading(first[at], next[at]))
}

function rowOf(field: string, names: RowNames | undefined, place: () => string): number {
  if (names) return names.rowOf(field, place)
  const row = Number(field)
  if (field !== '' && Number.isInteger(row) && row >= 0 && row < 2 ** 31 - 1) return row
  throw new Failure(
    `Expected row numbers from 0 in ${place()}, or --names with the embeddings' names, but received ${shown(field)}`
  )
}

const whole = /^\d+$/

/** `10 300`, folds and pairs of either kind in each, or one number, then `name 1 4` or `name 2 other 3`. */
function isLfw({ fields }: Lines): boolean {
  const [header = [], next = []] = fields
  const isPair =
    (next.length === 3 || next.length === 4) && whole.test(next[1] ?? '') && whole.test(next.at(-1) ?? '')
  return (
    header.length <= 2 && header.every((field) => whole.test(field)) && isPair && !whole.test(next[0] ?? '')
  )
}

function fromLfw(lines: Lines, names: RowNames | undefined): Trials {
  const { from, fields } = lines
  if (!names)
    throw new Failure(
      `Expected --names, a file with the name of each embedding such as Aaron_Peirsol_0001.jpg, for LFW's list ${from} but received none`
    )
  const header = (fields[0] as string[]).map(Number)
  const [folds, each] = header.length === 2 ? (header as [number, number]) : [1, header[0] as number]
  const count = fields.length - 1
  if (count !== 2 * folds * each)
    throw new Failure(
      `Expected ${2 * folds * each} pairs in ${from}, as its header ${fields[0]?.join(' ')} says, but received ${count}`
    )
  const place = (p: number) => lines.place(p + 1)
  const same = new Uint8Array(count)
  const pairs = new Int32Array(2 * count)
  for (let p = 0; p < count; p++) {
    const pair = fields[p + 1] as string[]
    const belongs = Math.floor(p / each) % 2 === 0
    if (pair.length !== (belongs ? 3 : 4))
      throw new Failure(
        `Expected ${belongs ? 'a name and two numbers' : 'two names, each with a number'} in ${place(p)}, as its header says, but received ${pair.length} fields`
      )
    const [name = '', number = '', third = '', fourth = ''] = pair
    const images = belongs
      ? [
          [name, number],
          [name, third],
        ]
      : [
          [name, number],
          [third, fourth],
        ]
    same[p] = Number(belongs)
    for (const [i, [person = '', image = '']] of images.entries()) {
      if (!whole.test(image))
        throw new Failure(`Expected the number of an image in ${place(p)} but received ${shown(image)}`)
      pairs[2 * p + i] = names.rowOf(`${person}_${image.padStart(4, '0')}`, () => place(p))
    }
  }
  return {
    pairs,
    same,
    place,
    names,
    folds: folds > 1 ? folds : 0,
    summary: `${counted(count, 'pair')} of LFW's list ${from}, by the names in ${names.from}, ${counted(folds, 'fold')}`,
  }
}
