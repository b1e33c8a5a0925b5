/** Tables of numbers as text: comma, semicolon or tab between the fields, one row a line, quotes around a field if need be. */
import { open } from 'node:fs/promises'

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
  const file = await open(path)
  const labels: string[] = []
  let values = new Float64Array(1024)
  let used = 0
  let rows = 0
  let width = -1
  let labelColumn = labelled ? 0 : -1
  let separator = ','
  let number = 0
  try {
    for await (const line of file.readLines({ encoding: 'utf8' })) {
      number++
      if (line.trim() === '') continue
      if (width < 0) separator = line.includes('\t') ? '\t' : line.includes(';') ? ';' : ','
      const fields = split(number === 1 ? line.replace(/^\ufeff/, '') : line, separator, number)
      if (width < 0) {
        width = fields.length
        if (fields.every((field) => !isNumber(field))) {
          const named = fields.findIndex((field) => field.trim().toLowerCase() === 'label')
          if (labelled && named < 0 && width > 1)
            throw new Error(`no column of its header is named label: ${fields.slice(0, 8).join(', ')}`)
          if (!isLabelOnly(width, labelled) || named >= 0) {
            labelColumn = labelled ? Math.max(named, 0) : -1
            continue
          }
        }
      }
      if (fields.length !== width)
        throw new Error(`line ${number} has ${fields.length} fields, not ${width} as the first`)
      if (used + width > values.length) {
        const larger = new Float64Array(values.length * 2 + width)
        larger.set(values)
        values = larger
      }
      fields.forEach((field, column) => {
        if (column === labelColumn) labels.push(field.trim())
        else if (isNumber(field)) values[used++] = Number(field)
        else
          throw new Error(
            `line ${number}, field ${column + 1} is ${JSON.stringify(field.slice(0, 30))}, no number`
          )
      })
      rows++
    }
  } finally {
    await file.close()
  }
  if (rows === 0) throw new Error('it has no rows')
  return { values: values.slice(0, used), rows, columns: width - (labelColumn < 0 ? 0 : 1), labels }
}

/** One column of names: its first line may be a name like the others. */
function isLabelOnly(width: number, labelled: boolean): boolean {
  return labelled && width === 1
}

function isNumber(field: string): boolean {
  return field.trim() !== '' && Number.isFinite(Number(field))
}

function split(line: string, separator: string, number: number): string[] {
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
