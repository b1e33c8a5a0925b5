/**
 * Tells from a table's first lines what its columns are. What is odd is recognised by a rule that docs/data-files.md states, or
 * refused by name: an index or an id that became a number of an embedding would spoil every figure and be noticed by nobody.
 */
import { brief } from '../../internal/file-error'
import { hasDecimalComma, isNumber, type Line, separatorOf, wholeFieldsOf } from './fields'

/** A caller asks a table for numbers, for labels, or for both. */
export interface TableRequest {
  /** The meaning of its numbers. Rules about columns that do not belong to an embedding apply to embeddings alone. */
  what: string
  numbers: boolean
  labels: boolean
  /** The columns of numbers: names of the header, or positions from 1 where it has none; `a:b` from a to b. */
  columns?: string
  labelColumn?: string
}

export const roles = { ignored: 0, number: 1, label: 2 } as const

export interface Layout {
  separator: string
  /** A role for each column. */
  roles: Uint8Array
  header?: string[]
  /** −1: none. */
  labelColumn: number
  /** Whether its place alone says that the labels are there. */
  labelIsGuessed: boolean
  /** Whether the columns of numbers were named by whoever asked. */
  numbersAreNamed: boolean
  /** The number of first lines that are no rows. */
  skipped: number
  /** Rows that the first line announces. */
  rows?: number
  notes: string[]
}

/** The number of first lines that decide: `sep=;`, a header, a row. */
export const decisiveLines = 3

/**
 * @param lines the first ones that are neither blank nor comments
 * @param comment the one above them, without its sign
 * @throws Error that says what is odd
 */
export function layoutOf(lines: Line[], comment: Line | undefined, request: TableRequest): Layout {
  const declared = /^sep=(.)\s*$/i.exec(lines[0]?.text ?? '')?.[1]
  const rest = declared ? lines.slice(1) : lines
  const skipped = declared ? 1 : 0
  const [first, second = first] = rest
  if (!first || !second) return emptyLayout
  const announced = declared ? undefined : announcementOf(first, second)
  if (announced) return { ...withoutHeader(wholeFieldsOf(second, ' '), ' ', request), ...announced }
  const separator = declared ?? separatorOf(first.text, second.text)
  const [top, next] = [wholeFieldsOf(first, separator), wholeFieldsOf(second, separator)]
  const commented = comment && headerInComment(comment, top, separator, request)
  if (commented) return { ...withHeader(commented, separator, request), skipped }
  if (first !== second && top.length === next.length && isAbove(top, next, request))
    return { ...withHeader(top, separator, request), skipped: skipped + 1 }
  // R's write.table has no name above the names of the rows.
  if (top.length === next.length - 1 && isAbove(top, next.slice(1), request))
    return { ...withHeader(['', ...top], separator, request), skipped: skipped + 1 }
  if (isNamed(top, request)) return { ...withHeader(top, separator, request), skipped: skipped + 1 }
  return { ...withoutHeader(top, separator, request), skipped }
}

const emptyLayout: Layout = {
  separator: ',',
  roles: new Uint8Array(0),
  labelColumn: -1,
  labelIsGuessed: false,
  numbersAreNamed: false,
  skipped: 0,
  notes: [],
}

/** word2vec's text begins with how many rows and numbers follow. */
function announcementOf(first: Line, second: Line): { rows: number; skipped: number } | undefined {
  const counts = /^(\d+) (\d+) *$/.exec(first.text)
  if (!counts || first === second) return undefined
  const words = wholeFieldsOf(second, ' ')
  if (words.length !== Number(counts[2]) + 1 || words.length < 3) return undefined
  return { rows: Number(counts[1]), skipped: 1 }
}

/** A comment right above the rows that has as many fields as they: the header, as numpy.savetxt(header=…) writes it. */
function headerInComment(
  comment: Line,
  row: string[],
  separator: string,
  request: TableRequest
): string[] | undefined {
  const fields = wholeFieldsOf(comment, separator)
  if (fields.length !== row.length || row.length < 2) return undefined
  if (isAbove(fields, row, request)) return fields
  throw new Error(
    `line ${comment.number} begins with #, as comments do, but has as many fields as a row: put its first field into quotes, or take the line away`
  )
}

/**
 * Whether fields are names above columns: one is a text where the row below has a number, and numbers among them are those that
 * pandas gives to columns without names, 0, 1, 2, …
 */
function isAbove(header: string[], row: string[], request: TableRequest): boolean {
  if (isNamed(header, request)) return true
  if (header.length === 1 && request.labels) return false // a name like the others
  const numbers = header.filter(looksLikeNumber)
  if (!numbers.every((name, i) => name === String(i))) return false
  if (header.some((name, i) => isName(name) && looksLikeNumber(row[i] as string))) return true
  // Rows of integers may begin so, too: pairs do.
  const isIndexed = header[0] === '' && numbers.length === header.length - 1
  return (
    (isIndexed || numbers.length > 2) && row.some((field) => isNumber(field) && !/^-?\d+$/.test(field.trim()))
  )
}

const looksLikeNumber = (field: string) => isNumber(field) || hasDecimalComma(field)
/** Not what programs write for a number that is missing. */
const isName = (field: string) =>
  !looksLikeNumber(field) && !/^([-+]?(nan|inf|infinity)|na|n\/a|null|none|\\n|)$/i.test(field.trim())

/** Whether a header has the column that is asked for, by a name that is no position. */
function isNamed(header: string[], { labels, labelColumn = 'label' }: TableRequest): boolean {
  return labels && !isNumber(labelColumn) && header.some((name) => sameName(name, labelColumn))
}

const sameName = (name: string, requested: string) =>
  name.trim() === requested.trim() || (requested === 'label' && name.trim().toLowerCase() === requested)

function withHeader(names: string[], separator: string, request: TableRequest): Layout {
  const header = names.map((name) => name.trim())
  const { labels, labelColumn: requested } = request
  let labelColumn = -1
  if (labels && requested === undefined && header.length === 1 && !request.numbers) labelColumn = 0
  else if (labels) labelColumn = columnNamed(header, requested ?? 'label', '--label-column')
  return complete({ separator, header, labelColumn, labelIsGuessed: false }, header.length, request)
}

function withoutHeader(row: string[], separator: string, request: TableRequest): Layout {
  const { labels, numbers, labelColumn: requested } = request
  let labelColumn = -1
  if (labels && requested !== undefined) labelColumn = positionOf(requested, row.length, '--label-column')
  else if (labels && (numbers || row.length === 1)) labelColumn = 0
  else if (labels)
    throw new Error(
      `it has ${row.length} columns and none is named label: say which one with --label-column (its first line: ${listed(row)})`
    )
  return complete(
    { separator, labelColumn, labelIsGuessed: labels && numbers && requested === undefined },
    row.length,
    request
  )
}

type Beginning = Pick<Layout, 'separator' | 'header' | 'labelColumn' | 'labelIsGuessed'>

function complete(beginning: Beginning, width: number, request: TableRequest): Layout {
  const { header, labelColumn } = beginning
  const columnRoles = new Uint8Array(width)
  const notes: string[] = []
  if (labelColumn >= 0) columnRoles[labelColumn] = roles.label
  if (request.numbers) {
    const columns =
      request.columns === undefined
        ? usualColumns(header, width, labelColumn, request.what, notes)
        : namedColumns(request.columns, header, width)
    for (const column of columns) {
      if (column === labelColumn)
        throw new Error(`--columns has the column of labels, ${nameOf(header, column)}`)
      columnRoles[column] = roles.number
    }
    if (columns.length === 0) throw new Error(`it has no column of numbers: ${listed(header ?? [])}`)
  }
  return {
    ...beginning,
    roles: columnRoles,
    numbersAreNamed: request.columns !== undefined,
    skipped: 0,
    notes,
  }
}

/** A column for messages. */
export function nameOf(header: string[] | undefined, column: number): string {
  const name = header?.[column]
  return name ? `column ${brief(name)}` : `column ${column + 1}`
}

/** All columns but that of the labels, and an index without a name. */
function usualColumns(
  header: string[] | undefined,
  width: number,
  labelColumn: number,
  what: string,
  notes: string[]
): number[] {
  const columns = Array.from({ length: width }, (_, column) => column).filter(
    (column) => column !== labelColumn
  )
  if (!header || what !== 'embeddings') return columns
  const index = /^(unnamed: ?\d+)?$/i
  const kept = columns.filter((column) => {
    const name = header[column] as string
    const leaveOut = (column === 0 && index.test(name)) || name.toLowerCase() === 'label'
    if (leaveOut) notes.push(name ? `without column ${name}` : 'without column 1, which has no name')
    return !leaveOut
  })
  const odd = oddColumn(kept.map((column) => header[column] as string))
  if (odd !== undefined)
    throw new Error(
      `its column ${brief(odd)} does not look like a number of an embedding: name the columns of numbers with --columns, such as --columns ${exampleOf(header, kept, odd)}`
    )
  return kept
}

const idName = /^(.*[ ._-])?(id|ids|idx|index|row|nr|key|label|labels|class|target)$/i
const numbered = /^(.*?)\d+$/

/** A name that stands alone among numbered ones (`age` beside f0, f1, …), or without such that of an id. */
function oddColumn(names: string[]): string | undefined {
  const counts = new Map<string, number>()
  const stemOf = (name: string) => numbered.exec(name)?.[1]
  for (const name of names) {
    const stem = stemOf(name)
    if (stem !== undefined) counts.set(stem, (counts.get(stem) ?? 0) + 1)
  }
  const isOneOfMany = (name: string) => (counts.get(stemOf(name) ?? '\n') ?? 0) > 1
  const ofMany = names.filter(isOneOfMany).length
  if (ofMany >= names.length / 2 && ofMany > 0) return names.find((name) => !isOneOfMany(name))
  return names.find((name) => idName.test(name) || name === '')
}

function exampleOf(header: string[], kept: number[], odd: string): string {
  const wanted = kept.map((column) => header[column] as string).filter((name) => name !== odd && name !== '')
  return wanted.length ? `${brief(wanted[0] as string)}:${brief(wanted.at(-1) as string)}` : 'first:last'
}

/** The columns of a list such as `f0:f127` or `2:129,131`. */
function namedColumns(list: string, header: string[] | undefined, width: number): number[] {
  const find = (name: string) =>
    header ? columnNamed(header, name, '--columns') : positionOf(name, width, '--columns')
  const columns = list.split(',').flatMap((entry) => {
    // A name may have a colon of its own.
    if (header?.includes(entry.trim())) return [find(entry)]
    const [first = '', last = first, ...more] = entry.split(':')
    const [from, to] = [find(first), find(last)]
    if (more.length || to < from) throw new Error(`--columns has ${entry}, which is no range of its columns`)
    return Array.from({ length: to - from + 1 }, (_, i) => from + i)
  })
  const twice = columns.find((column, i) => columns.indexOf(column) !== i)
  if (twice !== undefined) throw new Error(`--columns has ${nameOf(header, twice)} twice`)
  return columns
}

function columnNamed(header: string[], requested: string, option: string): number {
  const found = header.flatMap((name, column) => (sameName(name, requested) ? [column] : []))
  if (found.length > 1) throw new Error(`it has ${found.length} columns named ${brief(requested)}`)
  if (found.length === 0)
    throw new Error(
      `no column of its header is named ${brief(requested)}: it has ${listed(header)}; name one with ${option}`
    )
  return found[0] as number
}

function positionOf(requested: string, width: number, option: string): number {
  const position = /^ *[1-9]\d*$/.test(requested) ? Number(requested) : Number.NaN
  if (!(position <= width))
    throw new Error(
      `it has no header, so that ${option} takes numbers from 1 to ${width}, not ${brief(requested)}`
    )
  return position - 1
}

function listed(names: string[]): string {
  const limit = 8
  const more = names.length > limit ? `, … (${names.length} in all)` : ''
  return `${names.slice(0, limit).map(brief).join(', ')}${more}`
}
