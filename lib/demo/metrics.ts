/**
 * The demo's angles, in degrees, exact. Its verification figures come from `verification` of the library.
 * Embeddings are [count, dim] row by row; only their directions matter.
 */

/** Unit rows of a [count, dim] matrix; a zero row stays zero. */
export function unitRows(rows: Float32Array, dim: number): Float32Array {
  const unit = new Float32Array(rows.length)
  for (let start = 0; start < rows.length; start += dim) {
    let square = 0
    for (let d = 0; d < dim; d++) square += rows[start + d] ** 2
    const factor = square > 0 ? 1 / Math.sqrt(square) : 0
    for (let d = 0; d < dim; d++) unit[start + d] = rows[start + d] * factor
  }
  return unit
}

/** The centre of each class: the direction of the mean of its unit embeddings, [classes, dim]. */
export function classCentres(
  embeddings: Float32Array,
  labels: ArrayLike<number>,
  classes: number,
  dim: number
): Float32Array {
  const unit = unitRows(embeddings, dim)
  const sums = new Float32Array(classes * dim)
  for (let row = 0; row < labels.length; row++) {
    for (let d = 0; d < dim; d++) sums[labels[row] * dim + d] += unit[row * dim + d]
  }
  return unitRows(sums, dim)
}

export interface Angles {
  /** share of rows that lie nearer to their own class's centre than to any other */
  accuracy: number
  /** mean of `own` and `other` */
  meanOwn: number
  meanOther: number
  /** [count], degrees from each row to its own class's centre, and to the nearest other one */
  own: Float32Array
  other: Float32Array
}

/** Angles of embeddings [count, dim] to centres [classes, dim]. An angle that ties with another class counts as wrong. */
export function anglesToCentres(
  embeddings: Float32Array,
  labels: ArrayLike<number>,
  centres: Float32Array,
  dim: number
): Angles {
  const unit = unitRows(embeddings, dim)
  const unitCentres = unitRows(centres, dim)
  const count = labels.length
  const classes = centres.length / dim
  const own = new Float32Array(count)
  const other = new Float32Array(count)
  let right = 0
  for (let row = 0; row < count; row++) {
    let largestOther = Number.NEGATIVE_INFINITY
    let ownCosine = 0
    for (let j = 0; j < classes; j++) {
      const cosine = dot(unit, row * dim, unitCentres, j * dim, dim)
      if (j === labels[row]) ownCosine = cosine
      else largestOther = Math.max(largestOther, cosine)
    }
    if (ownCosine > largestOther) right++
    own[row] = degrees(ownCosine)
    other[row] = degrees(largestOther)
  }
  return { accuracy: right / count, meanOwn: mean(own), meanOther: mean(other), own, other }
}

export function mean(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]
  return sum / values.length
}

/** The lower one of the two middle values where there are two. */
export function median(values: Float32Array): number {
  return values.slice().sort()[(values.length - 1) >> 1]
}

function dot(a: Float32Array, aStart: number, b: Float32Array, bStart: number, dim: number): number {
  let sum = 0
  for (let d = 0; d < dim; d++) sum += a[aStart + d] * b[bStart + d]
  return sum
}

function degrees(cosine: number): number {
  return (Math.acos(Math.min(1, Math.max(-1, cosine))) * 180) / Math.PI
}
