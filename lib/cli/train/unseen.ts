/** Keeps whole classes back, to judge a projection's embeddings by classes that it never saw. */
import { newArray } from '../../internal/check'
import { seededRandom, shuffled } from '../../internal/random'
import { rowsPerClass } from '../data/labels'
import { Failure } from '../terminal'
import type { ReadData } from './data'

/**
 * Numbers the classes anew: those that are trained on first, in their order, then those that are kept back. Only the first are
 * the head's. They keep their names, or get their numbers of before as names.
 * @param count how many are kept back: drawn at random among those of at least two rows, of which a pair can be made
 * @throws Failure where fewer than two trained classes would have rows, or too few classes have two rows
 */
export function keepClassesBack(read: ReadData, count: number, seed: number): ReadData {
  if (count === 0) return read
  const { classes, data, names } = read
  const rows = rowsPerClass({ labels: data.labels, classes })
  const all = Array.from(rows.keys())
  const able = all.filter((label) => (rows[label] as number) > 1)
  const most = Math.min(able.length, all.filter((label) => rows[label]).length - 2)
  if (count > most)
    throw new Failure(
      `Expected at most ${Math.max(0, most)} for --validation-classes, of classes with two rows or more and leaving two to train on, but received ${count}`
    )
  const order = shuffled(able.length, seededRandom(seed))
  const back = new Set(Array.from(order.subarray(0, count), (i) => able[i] as number))
  const trained = all.filter((label) => !back.has(label))
  const numbers = newArray(Int32Array, classes, 'the class numbers')
  for (const [number, label] of [...trained, ...back].entries()) numbers[label] = number
  return {
    ...read,
    classes: trained.length,
    names: trained.flatMap((label) => (names ? (names[label] ?? []) : String(label))),
    data: { ...data, labels: data.labels.map((label) => numbers[label] as number) },
  }
}
