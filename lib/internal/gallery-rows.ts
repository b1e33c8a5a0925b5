// The rows of a gallery: embeddings in shared memory, which searches read in place, and each row's identity.
//
// What a reader took stays as it is while it reads: enrolling appends behind it or moves to larger memory, and removing
// moves to memory of its own unless nobody reads.
import { wrongType, wrongValue } from '../errors'
import { classLabels, countOf, isLabels, largestSize, newArray, newSharedArray } from './check'
import { checkStrings } from './head-names'
import { isGone, isList, typeOf } from './intrinsics'

/** The label of a row: a name, or an integer from 0. */
export type Label = string | number

/** The state of a gallery that a search or a save works with. */
export interface GalleryView {
  /** [N,D] */
  values: Float32Array
  /** The place in `labels` of each row's [N]. */
  identities: Int32Array
  labels: readonly Label[]
}

export class GalleryRows {
  #values = newSharedArray(0, 'the gallery')
  #identities = new Int32Array(0)
  #labels: Label[] = []
  #places = new Map<Label, number>()
  #rows = 0
  #readers = 0

  /**
   * @param values first rows, in shared memory that is the gallery's from now on
   * @param added their labels
   */
  constructor(
    readonly dim: number,
    values?: Float32Array,
    added: readonly Label[] | Int32Array = []
  ) {
    if (!values) return
    this.#values = values
    this.#identities = newArray(Int32Array, added.length, 'the gallery')
    this.#label(added)
  }

  get count(): number {
    return this.#rows
  }

  get labels(): readonly Label[] {
    return this.#labels
  }

  has(label: Label): boolean {
    return this.#places.has(label)
  }

  view(): GalleryView {
    return {
      values: this.#values.subarray(0, this.#rows * this.dim),
      identities: this.#identities.subarray(0, this.#rows),
      labels: this.#labels.slice(),
    }
  }

  /** Keeps a view's memory as it is until `work` has settled. */
  async read<Result>(work: (view: GalleryView) => Promise<Result>): Promise<Result> {
    this.#readers++
    try {
      return await work(this.view())
    } finally {
      this.#readers--
    }
  }

  /** @param added one label a row, of the kind that the gallery has */
  append(embeddings: Float32Array, added: readonly Label[] | Int32Array): void {
    const rows = this.#rows + added.length
    if (rows > largestSize) throw wrongValue(`at most ${largestSize} rows`, 'the gallery', rows)
    if (rows > this.#identities.length) this.#grow(Math.max(rows, Math.min(2 * this.#rows, largestSize)))
    this.#values.set(embeddings, this.#rows * this.dim)
    this.#label(added)
  }

  /** Removes all rows with one of the labels; returns how many there were. */
  remove(removed: ReadonlySet<Label>): number {
    const before = this.#rows
    const { values, identities } = this.view()
    const stays = this.#labels.map((label) => !removed.has(label))
    const kept = identities.reduce((count, identity) => count + Number(stays[identity]), 0)
    if (kept === before) return 0
    const target = this.#readers > 0 ? newSharedArray(kept * this.dim, 'the gallery') : this.#values
    const newPlaces = newArray(Int32Array, kept, 'the gallery')
    this.#labels = this.#labels.filter((_, identity) => stays[identity])
    this.#places = new Map(this.#labels.map((label, place) => [label, place]))
    let next = 0
    const places = stays.map((stay) => (stay ? next++ : -1))
    let to = 0
    for (let row = 0; row < before; row++) {
      const place = places[identities[row] as number] as number
      if (place < 0) continue
      if (target !== this.#values || to !== row)
        target.set(values.subarray(row * this.dim, (row + 1) * this.dim), to * this.dim)
      newPlaces[to++] = place
    }
    this.#values = target
    this.#identities = newPlaces
    this.#rows = kept
    return before - kept
  }

  /** Counts the rows behind the last one, whose embeddings are there, and notes their identities. */
  #label(added: readonly Label[] | Int32Array): void {
    for (let i = 0; i < added.length; i++) this.#identities[this.#rows + i] = this.#placeOf(added[i] as Label)
    this.#rows += added.length
  }

  #placeOf(label: Label): number {
    const place = this.#places.get(label)
    if (place !== undefined) return place
    this.#labels.push(label)
    this.#places.set(label, this.#labels.length - 1)
    return this.#labels.length - 1
  }

  #grow(rows: number): void {
    const values = newSharedArray(rows * this.dim, 'the gallery')
    const identities = newArray(Int32Array, rows, 'the gallery')
    const old = this.view()
    values.set(old.values)
    identities.set(old.identities)
    this.#values = values
    this.#identities = identities
  }
}

/**
 * The labels of so many rows: one for all of them, or one for each.
 * @param kind names or numbers, if the gallery has labels already
 */
export function checkLabels(
  value: unknown,
  rows: number,
  kind: string | undefined
): readonly Label[] | Int32Array {
  const one = typeof value === 'string' || typeof value === 'number'
  const named = one ? typeof value === 'string' : isList(value) && typeof value[0] === 'string'
  const found = named ? 'string' : 'number'
  const checked = named
    ? checkStrings(one ? [value] : value, 'labels', one ? 1 : rows)
    : classLabels(one ? [value] : value, 'labels', one ? 1 : rows)
  if (kind !== undefined && kind !== found)
    throw wrongType(`${kind === 'string' ? 'names' : 'numbers'}, as the gallery has,`, 'labels', checked[0])
  return one ? new Array<Label>(rows).fill(checked[0] as Label) : checked
}

/** The labels of rows to remove: one, or any number. */
export function checkRemoved(value: unknown): ReadonlySet<Label> {
  const several = typeof value !== 'string' && isLabels(value)
  if (several && typeOf(value) !== undefined && isGone(value as never))
    throw wrongValue('an array that has its memory', 'labels', value)
  if (several && countOf(value) === 0) return new Set()
  return new Set<Label>(checkLabels(value, several ? countOf(value) : 1, undefined))
}
