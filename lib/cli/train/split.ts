/** Chooses the rows that are trained on and those that are kept back for validation. */

import { seededRandom, shuffled } from '../../internal/random'
import { rowsPerClass } from '../data/labels'

export interface Split {
  training: Uint32Array
  validation: Uint32Array
}

/** Counts of the classes' rows. */
export interface Census {
  /** [classes] */
  counts: Uint32Array
  /** Classes that have rows. */
  present: number
  /** Classes that have exactly one. */
  single: number
  /** Rows of the smallest and the largest class, among those that have rows. */
  fewest: number
  most: number
}

/** @param labels from `classes` on are kept back, and do not count */
export function censusOf(labels: Int32Array, classes: number): Census {
  const counts = rowsPerClass({ labels: labels.filter((label) => label < classes), classes })
  let [present, single, fewest, most] = [0, 0, Number.POSITIVE_INFINITY, 0]
  for (const count of counts) {
    if (count === 0) continue
    present++
    if (count === 1) single++
    fewest = Math.min(fewest, count)
    most = Math.max(most, count)
  }
  return { counts, present, single, fewest, most }
}

/** The rows of the first `classes` classes, and those of classes that are kept back behind them. */
export function splitClasses(labels: Int32Array, classes: number): Split {
  const rows = Uint32Array.from(labels.keys())
  const isTrained = (row: number) => (labels[row] as number) < classes
  return { training: rows.filter(isTrained), validation: rows.filter((row) => !isTrained(row)) }
}

/**
 * Keeps a share of the rows back, at random, but never a class's last one: a class without a training row cannot be
 * learnt, and its rows can only be judged wrong. Fewer are kept back where the classes have too few.
 */
export function splitRows(labels: Int32Array, { counts }: Census, share: number, seed: number): Split {
  const rows = shuffled(labels.length, seededRandom(seed))
  const wanted = Math.round(rows.length * share)
  const left = counts.slice()
  const [training, validation] = [new Uint32Array(rows.length), new Uint32Array(wanted)]
  let [trained, kept] = [0, 0]
  for (const row of rows) {
    const label = labels[row] as number
    if (kept < wanted && (left[label] as number) > 1) {
      validation[kept++] = row
      ;(left[label] as number)--
    } else training[trained++] = row
  }
  return { training: training.subarray(0, trained), validation: validation.subarray(0, kept) }
}
