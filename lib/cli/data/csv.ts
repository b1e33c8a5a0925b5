/** Tables as text: one row a line, commas, semicolons, tabs or spaces between the fields, quotes around a field if need be. */
import { shown } from '../../internal/file-error'
import { withFile } from '../../internal/read-file'
import { counted } from '../terminal'
import { fieldsOf, hasDecimalComma, hasOpenQuote, type Line, numberOf, openQuote, remedyFor } from './fields'
import { decisiveLines, type Layout, layoutOf, nameOf, roles, type TableRequest } from './layout'
import { ascii, longestLine, textOf } from './text'

// Constants of this module, because an import is looked up at each use, which would take longer than the bytes.
const { newline, carriageReturn, quote, minus, point, zero } = ascii
const { number: numberRole, label: labelRole } = roles

export interface CsvTable {
  /** [rows, columns], of the columns of numbers. */
  values: Float64Array
  rows: number
  columns: number
  /** The texts of the label's column, as written. */
  labels: string[]
  /** Name or number of the label's column, for messages. */
  labelColumn: string
  /** The line that a row is in, as an editor counts. */
  lineOf: (row: number) => number
  /** Remarks for the user: columns that were skipped. */
  notes: string[]
}

/** @throws Error that says in which line what is wrong */
export async function readCsv(path: string, request: TableRequest, encoding?: string): Promise<CsvTable> {
  const reader = new Reader(request)
  await withFile(path, async (file) => {
    for await (const lines of textOf(file, encoding, () => reader.lines)) reader.take(lines)
  })
  return reader.table()
}

const mostDigits = 15 // of an integer that a double holds exactly, as it does these powers
const powersOfTen = Array.from({ length: mostDigits + 1 }, (_, i) => 10 ** i)

const lateComment = ': comments are read above the first row only'

class Reader {
  /** Lines that were taken. */
  lines = 0
  /** Until what the columns are is known: lines with content. */
  #first: Line[] = []
  #comment: Line | undefined
  #layout: Layout | undefined
  #separatorCode = 0
  #firstLine = 0
  #width = 0
  #values = new Float64Array(1024)
  #used = 0
  #rows = 0
  #labels: string[] = []
  /** A line whose last quote is open. */
  #open: Line | undefined
  /** From which row on how many lines more than rows there are. */
  readonly #shifts: { row: number; shift: number }[] = []

  constructor(private readonly request: TableRequest) {}

  /** @param bytes whole lines */
  take(bytes: Buffer): void {
    for (let begin = 0, end = 0; begin < bytes.length; begin = end + 1) {
      end = begin
      while (end < bytes.length && bytes[end] !== newline && bytes[end] !== carriageReturn) end++
      this.lines++
      if (!this.#takePlain(bytes, begin, end)) this.#takeLine(bytes.toString('utf8', begin, end))
      if (bytes[end] === carriageReturn && bytes[end + 1] === newline) end++
    }
  }

  table(): CsvTable {
    if (!this.#layout) this.#begin()
    if (this.#open) throw openQuote(this.#open)
    const layout = this.#layout as unknown as Layout
    if (this.#rows === 0) throw new Error(this.#comment ? 'it has no rows, only comments' : 'it has no rows')
    if (layout.rows !== undefined && layout.rows !== this.#rows)
      throw new Error(`its first line announces ${layout.rows} rows, but it has ${this.#rows}`)
    const columns = this.#used / this.#rows
    const table = {
      values: this.#values.slice(0, this.#used),
      rows: this.#rows,
      columns,
      labels: this.#labels,
      labelColumn: nameOf(layout.header, layout.labelColumn),
      lineOf: (row: number) => this.#lineOf(row),
      notes: layout.notes,
    }
    if (this.request.what === 'embeddings' && !layout.numbersAreNamed) rejectCounter(table, layout)
    if (layout.labelIsGuessed) rejectFractions(table)
    return table
  }

  /**
   * A line of short decimal fractions without exponents, digit by digit, some ten times as fast: the quotient of two
   * integers that doubles hold exactly is the number that the text stands for, rounded once.
   * @returns whether that is what the line is; else nothing has happened
   */
  #takePlain(bytes: Buffer, begin: number, end: number): boolean {
    if (!this.#layout || this.#open) return false
    this.#makeRoom()
    const separator = this.#separatorCode
    const columnRoles = this.#layout.roles
    const width = this.#width
    let label = ''
    let used = this.#used
    let at = begin
    for (let column = 0; column < width; column++, at++) {
      const first = at
      if (columnRoles[column] !== numberRole) {
        while (at < end && bytes[at] !== separator) {
          if (bytes[at] === quote) return false
          at++
        }
        if (columnRoles[column] === labelRole) label = bytes.toString('utf8', first, at)
        if (width === 1 && label.trim() === '') return false
      } else {
        const negative = bytes[at] === minus
        if (negative) at++
        let [digits, value, pointAt] = [0, 0, -1]
        for (; at < end; at++) {
          const digit = (bytes[at] as number) - zero
          if (digit >= 0 && digit <= 9) {
            value = value * 10 + digit
            digits++
          } else if (bytes[at] === point && pointAt < 0) pointAt = at
          else break
        }
        if (digits === 0 || digits > mostDigits) return false
        if (pointAt >= 0) value /= powersOfTen[at - pointAt - 1] as number
        this.#values[used++] = negative ? -value : value
      }
      if (column === width - 1 ? at !== end : at >= end || bytes[at] !== separator) return false
    }
    if (this.#layout.labelColumn >= 0) this.#labels.push(label)
    this.#used = used
    this.#countRow(this.lines)
    return true
  }

  #takeLine(text: string): void {
    if (!this.#open && text.trim() === '') return
    const line = this.#open
      ? { number: this.#open.number, text: `${this.#open.text}\n${text}` }
      : { number: this.lines, text }
    if (line.text.length > longestLine) throw openQuote(line)
    // Until it closes: a long text is not searched again for each of its lines.
    if (this.#open && !text.includes('"')) {
      this.#open = line
      return
    }
    const isFirst = !this.#open && this.#first.length === 0
    this.#open = undefined
    if (this.#layout) this.#takeRow(line)
    else if (isFirst && text.startsWith('#'))
      this.#comment = { number: this.lines, text: text.slice(1).trim() }
    else if (hasOpenQuote(line.text)) this.#open = line
    else {
      this.#first.push(line)
      if (this.#first.length >= decisiveLines) this.#begin()
    }
  }

  /** Learns from the first lines what the columns are. */
  #begin(): void {
    const lines = this.#first
    this.#layout = layoutOf(lines, this.#comment, this.request)
    this.#first = []
    this.#separatorCode = this.#layout.separator.charCodeAt(0)
    this.#width = this.#layout.roles.length
    this.#firstLine = lines[0]?.number ?? 0
    for (const line of lines.slice(this.#layout.skipped)) this.#takeRow(line)
  }

  #takeRow(line: Line): void {
    const { separator, roles: columnRoles } = this.#layout as Layout
    const fields = fieldsOf(line, separator)
    if (!fields) {
      this.#open = line
      return
    }
    if (fields.length !== this.#width) throw this.#wrongWidth(line, fields)
    this.#makeRoom()
    let used = this.#used
    let label = ''
    for (const [column, field] of fields.entries()) {
      if (columnRoles[column] === labelRole) label = field
      if (columnRoles[column] !== numberRole) continue
      const value = numberOf(field)
      if (Number.isNaN(value)) throw this.#noNumber(line, column, field)
      this.#values[used++] = value
    }
    if ((this.#layout as Layout).labelColumn >= 0) this.#labels.push(label)
    this.#used = used
    this.#countRow(line.number)
  }

  #wrongWidth({ number, text }: Line, fields: string[]): Error {
    const late = text.startsWith('#') ? lateComment : ''
    return new Error(
      `line ${number} has ${counted(fields.length, 'field')}, not ${this.#width} as line ${this.#firstLine}${late}`
    )
  }

  #noNumber({ number, text }: Line, column: number, field: string): Error {
    const { header } = this.#layout as Layout
    // A column of texts shows in its first row: then the remedy is another.
    const remedy = text.startsWith('#')
      ? lateComment
      : this.#rows === 0 && field.trim() !== '' && !hasDecimalComma(field)
        ? '; name the columns of numbers with --columns, that of labels with --label-column'
        : ''
    return new Error(
      `line ${number}, ${nameOf(header, column)} is ${shown(field)}, ${remedyFor(field)}${remedy}`
    )
  }

  #countRow(line: number): void {
    const shift = line - this.#rows
    if (shift !== this.#shifts.at(-1)?.shift) this.#shifts.push({ row: this.#rows, shift })
    this.#rows++
  }

  #lineOf(row: number): number {
    return row + (this.#shifts.findLast((from) => from.row <= row)?.shift ?? 1)
  }

  #makeRoom(): void {
    if (this.#used + this.#width <= this.#values.length) return
    const larger = new Float64Array(this.#values.length * 2 + this.#width)
    larger.set(this.#values)
    this.#values = larger
  }
}

/** An index without a header: no embedding has a number that counts the rows. */
function rejectCounter({ values, rows, columns }: CsvTable, { header, roles: columnRoles }: Layout): void {
  const first = values[0]
  if (rows < 3 || columns < 2 || (first !== 0 && first !== 1)) return
  for (let row = 0; row < rows; row++) if (values[row * columns] !== first + row) return
  const column = columnRoles.indexOf(numberRole)
  throw new Error(
    `its ${nameOf(header, column)} counts the rows from ${first}: name the columns of numbers with --columns`
  )
}

/** A first column of fractions is a number of an embedding, and the labels are elsewhere. */
function rejectFractions({ labels, lineOf }: CsvTable): void {
  const row = labels.findIndex((label) => isFraction.test(label))
  if (row >= 0)
    throw new Error(
      `line ${lineOf(row)}, column 1 is ${shown(labels[row])}, which is hardly a label: say where the labels are with --label-column`
    )
}

const isFraction = /^\s*[-+]?(\d+\.\d*|\.\d+|\d+(?=e))(e[-+]?\d+)?\s*$/i
