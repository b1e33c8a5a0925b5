/** The rows that a list of trials calls by names. */
import { shown } from '../../internal/file-error'
import { type FileArray, parseSource, readArray, type TextOptions } from '../data/files'
import { Failure } from '../terminal'

/** Names of the embeddings' rows, from a column of a text file: that of labels. */
export async function readNames(file: string, text: TextOptions): Promise<RowNames> {
  return new RowNames(await readArray(parseSource(file), 'names', 'labels', text))
}

/**
 * A list's name is that of the row whose name is equal; failing that, of the one row whose path ends with it; failing that,
 * the same without both names' endings (.wav, .jpg). Two rows that fit are an error, as is none.
 */
export class RowNames {
  readonly count: number
  readonly from: string
  readonly #names: string[]
  readonly #place: (row: number) => string
  /** Rows by what a rule makes of their names; −1 − row of the first one where there are several. */
  readonly #indices = new Map<string, Map<string, number>>()

  constructor({ from, values, place }: FileArray) {
    this.from = from
    this.#place = place
    if (!Array.isArray(values))
      throw new Failure(`Expected names of the embeddings' rows in ${from} but received numbers`)
    this.#names = values.map((name) => name.trim())
    this.count = values.length
  }

  /** @param place of the list, where the name stands */
  rowOf(name: string, place: () => string): number {
    const parts = name.split(separators).length
    const rules: [string, (name: string) => string][] = [
      ['equal', (name) => name],
      [`last ${parts}`, (name) => endOf(name, parts)],
      [`last ${parts} without ending`, (name) => endOf(name, parts).replace(ending, '')],
    ]
    for (const [which, rule] of rules) {
      const row = this.#index(which, rule).get(rule(name))
      if (row === undefined) continue
      if (row >= 0) return row
      throw new Failure(
        `Expected one row of ${this.from} for ${shown(name)} in ${place()} but received several, the first in ${this.#place(-1 - row)}`
      )
    }
    throw new Failure(`Expected one of the names in ${this.from} in ${place()} but received ${shown(name)}`)
  }

  #index(which: string, rule: (name: string) => string): Map<string, number> {
    const cached = this.#indices.get(which)
    if (cached) return cached
    const index = new Map<string, number>()
    this.#names.forEach((name, row) => {
      const key = rule(name)
      const other = index.get(key)
      index.set(key, other === undefined ? row : other >= 0 ? -1 - other : other)
    })
    this.#indices.set(which, index)
    return index
  }
}

const separators = /[/\\]/
const ending = /\.[A-Za-z][A-Za-z0-9]{0,4}$/

/** The last parts of a path. */
const endOf = (name: string, parts: number) => name.split(separators).slice(-parts).join('/')
