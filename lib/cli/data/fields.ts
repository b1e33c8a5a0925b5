/** Splits a line of a table into fields, and reads the numbers in them. */
import { shown } from '../../internal/file-error'

export interface Line {
  /** From 1, as an editor counts. */
  number: number
  text: string
}

/** NaN for what is no finite number. */
export function numberOf(field: string): number {
  const value = Number(field)
  return Number.isFinite(value) && (value !== 0 || field.trim() !== '') ? value : Number.NaN
}

export const isNumber = (field: string) => !Number.isNaN(numberOf(field))

/** A number as German or French spreadsheets write it. */
export const hasDecimalComma = (field: string) => /^\s*[-+]?[\d.]*\d,\d+\s*$/.test(field)

/**
 * Finds the separator from a table's first two lines: the first of tab, semicolon and comma that stands outside quotes; else
 * spaces, where half of the words are numbers, and two at least. Names have spaces, too.
 */
export function separatorOf(first: string, second: string): string {
  const [outside, below] = [first, second].map((line) => line.replace(/"([^"]|"")*("|$)/g, 'quoted')) as [
    string,
    string,
  ]
  const other = ['\t', ';', ','].find((sign) => outside.includes(sign))
  return other ?? (partedBySpaces(outside) || partedBySpaces(below) ? ' ' : ',')
}

function partedBySpaces(line: string): boolean {
  const words = line.trim().split(/ +/)
  const numbers = words.filter(isNumber).length
  return numbers > 1 && numbers >= words.length - numbers
}

/**
 * The fields of a line; undefined where a quote is open at its end: the next line belongs to it.
 * @throws Error where a field has more behind its closing quote
 */
export function fieldsOf(line: Line, separator: string): string[] | undefined {
  const text = separator === ' ' ? line.text.trim() : line.text
  if (!text.includes('"')) return text.split(separator === ' ' ? / +/ : separator)
  const fields: string[] = []
  const quoted = /"((?:[^"]|"")*)(")?/y
  for (let at = 0; at <= text.length; ) {
    let end = text.indexOf(separator, at)
    if (end < 0) end = text.length
    if (text[at] === '"') {
      quoted.lastIndex = at
      const [whole, content = '', close] = quoted.exec(text) as RegExpExecArray
      if (close === undefined) return undefined
      end = at + whole.length
      if (end < text.length && text[end] !== separator)
        throw new Error(`line ${line.number} has more behind the quote that ends ${shown(whole)}`)
      fields.push(content.replaceAll('""', '"'))
    } else fields.push(text.slice(at, end))
    at = end + 1
    while (separator === ' ' && text[at] === ' ') at++
  }
  return fields
}

export function wholeFieldsOf(line: Line, separator: string): string[] {
  const fields = fieldsOf(line, separator)
  if (!fields) throw openQuote(line)
  return fields
}

/** Whether a quote is open at the end of a line whose separator is not known yet. */
export function hasOpenQuote(line: string): boolean {
  return /(^|[\t;,])"/.test(line.replace(/(^|[\t;,])"([^"]|"")*"/g, '$1'))
}

export function openQuote({ number }: Line): Error {
  return new Error(`line ${number} has a quote that does not end`)
}

/** Guesses what a field that should be a number is, and says what to do about it. */
export function remedyFor(field: string): string {
  const text = field.trim()
  if (text === '') return 'an empty field, which is no number: leave the row out, or fill it'
  if (hasDecimalComma(text)) return 'no number: it has a decimal comma, write a point'
  if (/^\d+:\S/.test(text)) return 'no number: sparse files (LIBSVM) are not read, write every column'
  if (/[[\]]/.test(text)) return 'no number: text archives of Kaldi are not read, take the brackets away'
  if (/\.ark(:\d+)?$/.test(text))
    return 'no number: an index of Kaldi has file names, write the vectors themselves'
  if (text.includes('|')) return 'no number: part the fields with commas instead of |'
  return 'no number'
}
