/** Tables of numbers as text: comma, semicolon, tab or spaces between the fields, one row a line, quotes around a field if need be. */
import { withFile } from '../../read-file'

export interface CsvTable {
  /** [rows, columns] without the label's column. */
  values: Float64Array
  rows: number
  columns: number
  /** Of the label's column, as written. */
  labels: string[]
}

/**
 * @param labelled whether one column holds labels: the one named `label` in a header, else the first
 * @throws Error that says in which line what is wrong
 */
export async function readCsv(path: string, labelled: boolean): Promise<CsvTable> {
  const reader = new Reader(labelled)
  await withFile(path, async (file) => {
    for await (const lines of wholeLines(file.createReadStream({ highWaterMark: 2 ** 20, autoClose: false })))
      reader.take(lines)
  })
  return reader.table()
}

/** A line of a million numbers is shorter. Its fields become strings, so a limit of the memory is a limit of the line. */
const longestLine = 2 ** 24

const ascii = { newline: 0x0a, carriageReturn: 0x0d, quote: 0x22, minus: 0x2d, point: 0x2e, zero: 0x30 }

/** A file's bytes in parts that end where lines end. */
async function* wholeLines(parts: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let rest: Buffer[] = []
  let restBytes = 0
  let read = 0
  for await (const part of parts) {
    // Shorter lines than a part need no limit.
    const lineEnd = part.findIndex((byte) => byte === ascii.newline || byte === ascii.carriageReturn)
    if (restBytes + (lineEnd < 0 ? part.length : lineEnd) > longestLine)
      throw new Error(
        `the line that begins at byte ${read - restBytes} is longer than the limit of ${longestLine} bytes`
      )
    read += part.length
    // A carriage return at a part's end may be half of a line's end.
    const end =
      part.lastIndexOf(ascii.newline) + 1 || part.subarray(0, -1).lastIndexOf(ascii.carriageReturn) + 1
    if (end > 0) {
      yield Buffer.concat([...rest, part.subarray(0, end)])
      rest = []
      restBytes = 0
    }
    rest.push(part.subarray(end))
    restBytes += part.length - end
  }
  yield Buffer.concat(rest)
}

const mostDigits = 15 // of an integer that a double holds exactly, as it does these powers
const powersOfTen = Array.from({ length: mostDigits + 1 }, (_, i) => 10 ** i)

class Reader {
  #values = new Float64Array(1024)
  #used = 0
  #rows = 0
  #width = -1
  #labels: string[] = []
  #labelColumn: number
  #separator = ','
  #number = 0

  constructor(private readonly labelled: boolean) {
    this.#labelColumn = labelled ? 0 : -1
  }

  /** @param bytes whole lines */
  take(bytes: Buffer): void {
    for (let begin = 0, end = 0; begin < bytes.length; begin = end + 1) {
      end = begin
      while (end < bytes.length && bytes[end] !== ascii.newline && bytes[end] !== ascii.carriageReturn) end++
      this.#number++
      if (!this.#takePlain(bytes, begin, end)) this.#takeLine(bytes.toString('utf8', begin, end))
      if (bytes[end] === ascii.carriageReturn && bytes[end + 1] === ascii.newline) end++
    }
  }

  table(): CsvTable {
    if (this.#rows === 0) throw new Error('it has no rows')
    return {
      values: this.#values.slice(0, this.#used),
      rows: this.#rows,
      columns: this.#width - (this.#labelColumn < 0 ? 0 : 1),
      labels: this.#labels,
    }
  }

  /**
   * A line of short decimal fractions without exponents, digit by digit, some ten times as fast: the quotient of two
   * integers that doubles hold exactly is the number that the text stands for, rounded once.
   * @returns whether that is what the line is; else nothing has happened
   */
  #takePlain(bytes: Buffer, begin: number, end: number): boolean {
    if (this.#width < 0) return false
    this.#makeRoom()
    const separator = this.#separator.charCodeAt(0)
    let label = ''
    let used = this.#used
    let at = begin
    for (let column = 0; column < this.#width; column++, at++) {
      const first = at
      if (column === this.#labelColumn) {
        while (at < end && bytes[at] !== separator) at++
        if (bytes.subarray(first, at).includes(ascii.quote)) return false
        label = bytes.toString('utf8', first, at).trim()
        if (label === '') return false
      } else {
        const negative = bytes[at] === ascii.minus
        if (negative) at++
        let [digits, value, pointAt] = [0, 0, -1]
        for (; at < end; at++) {
          const digit = (bytes[at] as number) - ascii.zero
          if (digit >= 0 && digit <= 9) {
            value = value * 10 + digit
            digits++
          } else if (bytes[at] === ascii.point && pointAt < 0) pointAt = at
          else break
        }
        if (digits === 0 || digits > mostDigits) return false
        if (pointAt >= 0) value /= powersOfTen[at - pointAt - 1] as number
        this.#values[used++] = negative ? -value : value
      }
      if (column === this.#width - 1 ? at !== end : at >= end || bytes[at] !== separator) return false
    }
    if (this.#labelColumn >= 0) this.#labels.push(label)
    this.#used = used
    this.#rows++
    return true
  }

  #takeLine(text: string): void {
    if (text.trim() === '') return
    const line = this.#number === 1 ? text.replace(/^\ufeff/, '') : text
    if (this.#width < 0) this.#separator = separatorOf(line)
    const fields = split(line, this.#separator, this.#number)
    if (this.#width < 0) {
      this.#width = fields.length
      if (this.#isHeader(fields)) return
    }
    if (fields.length !== this.#width)
      throw new Error(`line ${this.#number} has ${fields.length} fields, not ${this.#width} as the first`)
    this.#makeRoom()
    fields.forEach((field, column) => {
      const value = numberOf(field)
      if (column === this.#labelColumn) this.#labels.push(field.trim())
      else if (!Number.isNaN(value)) this.#values[this.#used++] = value
      else
        throw new Error(
          `line ${this.#number}, field ${column + 1} is ${JSON.stringify(field.slice(0, 30))}, no number`
        )
    })
    this.#rows++
  }

  /** Whether the first line is one; if so it says where the labels are. */
  #isHeader(fields: string[]): boolean {
    if (fields.some((field) => !Number.isNaN(numberOf(field)))) return false
    const named = fields.findIndex((field) => field.trim().toLowerCase() === 'label')
    if (this.labelled && named < 0 && fields.length > 1)
      throw new Error(`no column of its header is named label: ${fields.slice(0, 8).join(', ')}`)
    // One column of names: its first line may be a name like the others.
    if (this.labelled && named < 0) return false
    this.#labelColumn = this.labelled ? named : -1
    return true
  }

  #makeRoom(): void {
    if (this.#used + this.#width <= this.#values.length) return
    const larger = new Float64Array(this.#values.length * 2 + this.#width)
    larger.set(this.#values)
    this.#values = larger
  }
}

/** NaN for what is no finite number. */
function numberOf(field: string): number {
  const value = Number(field)
  return Number.isFinite(value) && (value !== 0 || field.trim() !== '') ? value : Number.NaN
}

/** Spaces only where they part numbers, as numpy.savetxt writes them: names have spaces, too. */
function separatorOf(line: string): string {
  const other = ['\t', ';', ','].find((sign) => line.includes(sign))
  if (other) return other
  const words = line.trim().split(/ +/)
  return words.length > 1 && !words.some((word) => Number.isNaN(numberOf(word))) ? ' ' : ','
}

function split(line: string, separator: string, number: number): string[] {
  if (separator === ' ') return line.trim().split(/ +/)
  if (!line.includes('"')) return line.split(separator)
  const fields: string[] = []
  const pattern = /"((?:[^"]|"")*)"|[^"]*/y
  for (let at = 0; at <= line.length; ) {
    const next = line.indexOf(separator, at)
    if (line[at] === '"') {
      pattern.lastIndex = at
      const quoted = pattern.exec(line) as RegExpExecArray
      const end = pattern.lastIndex
      if (quoted[1] === undefined || (end < line.length && line[end] !== separator))
        throw new Error(`line ${number} has a quote that does not end`)
      fields.push(quoted[1].replaceAll('""', '"'))
      at = end + 1
    } else {
      fields.push(line.slice(at, next < 0 ? line.length : next))
      at = next < 0 ? line.length + 1 : next + 1
    }
  }
  return fields
}
