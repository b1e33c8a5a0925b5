import { notFinite } from '../errors'
import {
  checkOptions,
  type FloatArray,
  floats,
  type LabelArray,
  labels,
  newArray,
  rowsOf,
  size,
} from './check'
import { ignoreIndexRow, namesIn, type OptionRow, seedRow, valuesOf } from './option-table'
import { seededRandom } from './random'

/** Options of `classMeans`. */
export interface ClassMeansOptions {
  /** C. */
  classes: number
  /** D. */
  dim: number
  /** The label of rows that take no part. Default −1. */
  ignoreIndex?: number | undefined
  /** Seeds the random directions that classes without rows get: an integer from 0. Default 0. */
  seed?: number | undefined
}

const meansOptions = {
  classes: { check: size },
  dim: { check: size },
  ignoreIndex: ignoreIndexRow,
  seed: seedRow,
} satisfies Record<keyof ClassMeansOptions, OptionRow<number>>

/**
 * Computes the mean direction of each class's embeddings, of length 1: first weights for a head, or for classes that are
 * added to one. Each embedding counts with length 1. A class without rows, or whose rows cancel each other, gets a random
 * direction.
 * @param embeddings [N,D]; a row of zeros adds nothing
 * @param labelsOf the class of each row [N], from 0 to C − 1, or `ignoreIndex`
 * @returns [C,D]
 * @example
 * const weights = classMeans(embeddings, labels, { classes, dim })
 * const head = await MarginHead.create({ classes, dim, weights })
 * @throws TypeError, RangeError for arguments; MarginSoftmaxError `ERR_NOT_FINITE`, `ERR_OUT_OF_MEMORY`
 */
export function classMeans(
  embeddings: FloatArray,
  labelsOf: LabelArray,
  options: ClassMeansOptions
): Float32Array {
  const checkedOptions = checkOptions(options ?? null, 'options', namesIn(meansOptions))
  const { classes, dim, ignoreIndex, seed } = valuesOf(meansOptions, checkedOptions)
  const random = seededRandom(seed)
  const taken = floats(embeddings, 'embeddings')
  const rows = rowsOf(taken, 'embeddings', dim, 'dim')
  const classOf = labels(labelsOf, 'labels', rows, classes, ignoreIndex)
  // As they are after the labels, which may be a list with getters.
  const input = floats(taken, 'embeddings', rows * dim)
  const means = newArray(Float32Array, classes * dim, 'the means')
  for (let row = 0; row < rows; row++) {
    const length = norm(input, row, dim)
    if (!Number.isFinite(length)) throw notFinite('embeddings', row)
    const mean = (classOf[row] as number) * dim
    if (mean < 0 || length === 0) continue
    for (let i = 0; i < dim; i++)
      means[mean + i] = (means[mean + i] as number) + (input[row * dim + i] as number) / length
  }
  for (let j = 0; j < classes; j++) {
    let length = norm(means, j, dim)
    if (length < leastLength) {
      for (let i = 0; i < dim; i++) means[j * dim + i] = normal(random)
      length = norm(means, j, dim)
    }
    for (let i = 0; i < dim; i++) means[j * dim + i] = (means[j * dim + i] as number) / length
  }
  return means
}

/** Below this length, a sum of directions is only the rounding of rows that cancel each other. */
const leastLength = 1e-6

/** In double precision: squares of single-precision numbers neither overflow nor vanish. */
function norm(matrix: Float32Array, row: number, dim: number): number {
  let sum = 0
  for (let i = row * dim; i < (row + 1) * dim; i++) sum += (matrix[i] as number) ** 2
  return Math.sqrt(sum)
}

/** A normally distributed number (Box and Muller 1958). */
function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
}
