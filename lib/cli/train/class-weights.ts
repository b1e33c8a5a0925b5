/** `--class-weights`: the weight of each class in the loss. */
import { type FloatArray, isLossWeight } from '../../internal/check'
import { parseSource, readArray } from '../data/files'
import { rowsPerClass } from '../data/labels'
import type { Numbers } from '../data/numbers'
import { Failure } from '../terminal'

export const balanced = 'balanced'

/**
 * n/(k·n_c) for a class of n_c of the n rows, k being the classes that have rows: each class then counts as much as any
 * other, and the mean over the rows is 1 (King and Zeng 2001; scikit-learn's `balanced`). 1 for a class without rows.
 * @param rows those that are trained on
 * @returns [classes]
 */
export function balancedWeights(labels: Int32Array, rows: Uint32Array, classes: number): Float32Array {
  const counts = rowsPerClass({ labels: Int32Array.from(rows, (row) => labels[row] as number), classes })
  const present = counts.reduce((sum, count) => sum + Number(count > 0), 0)
  return Float32Array.from(counts, (count) => (count > 0 ? rows.length / (present * count) : 1))
}

/** A weight for each class, in the order of the class numbers. */
export async function readWeights(file: string, classes: number): Promise<FloatArray> {
  const { from, shape, values, place } = await readArray(parseSource(file), 'weights')
  const isList = shape.length === 1 || (shape.length === 2 && shape.includes(1))
  const numbers = values as Numbers
  if (!isList || numbers.length !== classes)
    throw new Failure(
      `Expected a weight for each of ${classes} classes in ${from} but received an array of shape [${shape}]`
    )
  const wrong = numbers.findIndex((weight) => !isLossWeight(weight))
  if (wrong >= 0)
    throw new Failure(`Expected weights from 0 but received ${numbers[wrong]} in ${place(wrong)}`)
  return numbers instanceof Int32Array ? Float64Array.from(numbers) : numbers
}
