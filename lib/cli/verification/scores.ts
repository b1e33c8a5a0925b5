/** Scores that exist already: a column of them beside answers, or alone. */
import { shown } from '../../internal/file-error'
import { counted, Failure } from '../terminal'
import { answersOf, type Column, chooseAnswers, isHeading } from './answers'
import { readLines } from './lines'
import { checkCount, type ListOptions, readAnswers, readNumbers } from './trials'

export interface Scores {
  scores: Float64Array
  same: Uint8Array
  place: (p: number) => string
  /** A sentence for people about what was read. */
  summary: string
}

/** Fields of a row are numbers or texts. */
interface Table {
  from: string
  count: number
  columns: number
  valueAt: (p: number, column: number) => string | number
  place: (p: number) => string
}

/** @throws Failure that names file and line */
export async function readScores(file: string, { same, answer, encoding }: ListOptions): Promise<Scores> {
  const { from, count, columns, valueAt, place } = await readTable(file, encoding)
  const answers = same === undefined ? undefined : await readAnswers(same, { encoding })
  if (columns !== (answers ? 1 : 2))
    throw new Failure(
      `Expected ${answers ? 'one column of scores' : 'a score and an answer a row, or --same,'} in ${from} but received ${counted(columns, 'column')}`
    )
  checkCount(count, answers, from)
  const column = (at: number): Column => ({ count, valueAt: (p) => valueAt(p, at), place })
  const judged = answers
    ? { side: 'last', same: answersOf(answers) }
    : chooseAnswers({ first: column(0), last: column(1) }, from, answer)
  const at = judged.side === 'first' ? 1 : 0
  const scores = new Float64Array(count)
  for (let p = 0; p < count; p++) {
    const value = valueAt(p, at)
    scores[p] = value === '' ? Number.NaN : Number(value)
    if (!Number.isFinite(scores[p]))
      throw new Failure(`Expected a finite score in ${place(p)} but received ${shown(value)}`)
  }
  return {
    scores,
    same: judged.same,
    place,
    summary: `${counted(count, 'score')} from ${from}${answers ? '' : `, answers ${judged.side}`}`,
  }
}

async function readTable(file: string, encoding: string | undefined): Promise<Table> {
  const array = await readNumbers(file, 'scores', encoding)
  if (array) {
    const { from, shape, values, place } = array
    const [count = 0, columns = 1] = shape
    if (shape.length > 2)
      throw new Failure(`Expected scores in ${from} but received an array of shape [${shape}]`)
    return { from, count, columns, valueAt: (p, column) => values[p * columns + column] as number, place }
  }
  const lines = await readLines(file, 'scores', encoding)
  const [first = [], next = []] = lines.fields
  const header = first.some((field, at) => isHeading(field, next[at])) ? 1 : 0
  const fields = lines.fields.slice(header)
  const columns = fields[0]?.length ?? 0
  const place = (p: number) => lines.place(p + header)
  const odd = fields.findIndex(({ length }) => length !== columns)
  if (odd >= 0)
    throw new Failure(
      `Expected ${counted(columns, 'field')} in ${place(odd)} but received ${fields[odd]?.length}`
    )
  return {
    from: file,
    count: fields.length,
    columns,
    valueAt: (p, column) => fields[p]?.[column] as string,
    place,
  }
}
