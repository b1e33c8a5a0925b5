/**
 * The figures of the demo's table. All exact: no histograms, no sampling, ties handled. Angles in degrees.
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

/**
 * What a verification system does at every threshold at which it changes its mind, from the strictest to the laxest: it
 * accepts a pair whose score is at least the threshold. One element a distinct score, after (0, 0); the last is (1, 1).
 */
export interface Roc {
  /** share of the pairs of different digits that are accepted, rising */
  falseAcceptRate: Float64Array
  /** share of the pairs of the same digit that are accepted, rising */
  trueAcceptRate: Float64Array
}

/** The exact ROC curve of the scores of same-class and of different-class pairs. Neither list may be empty. */
export function rocCurve(same: Float32Array, different: Float32Array): Roc {
  if (same.length === 0 || different.length === 0) {
    throw new RangeError(
      `Expected pairs of both kinds for the ROC curve but received ${same.length} and ${different.length}`
    )
  }
  // Ascending, then walked from the end: typed arrays sort fast and by number.
  const positive = same.slice().sort()
  const negative = different.slice().sort()
  const falseAcceptRate = new Float64Array(same.length + different.length + 1)
  const trueAcceptRate = new Float64Array(falseAcceptRate.length)
  let [p, n, points] = [positive.length, negative.length, 1]
  while (p > 0 || n > 0) {
    const threshold = Math.max(p > 0 ? positive[p - 1] : -Infinity, n > 0 ? negative[n - 1] : -Infinity)
    while (p > 0 && positive[p - 1] === threshold) p--
    while (n > 0 && negative[n - 1] === threshold) n--
    falseAcceptRate[points] = (negative.length - n) / negative.length
    trueAcceptRate[points++] = (positive.length - p) / positive.length
  }
  return {
    falseAcceptRate: falseAcceptRate.slice(0, points),
    trueAcceptRate: trueAcceptRate.slice(0, points),
  }
}

/** The chance that a pair of the same class scores above one of different classes, ties counting half. */
export function areaUnderCurve({ falseAcceptRate, trueAcceptRate }: Roc): number {
  let area = 0
  for (let i = 1; i < falseAcceptRate.length; i++) {
    area += ((falseAcceptRate[i] - falseAcceptRate[i - 1]) * (trueAcceptRate[i] + trueAcceptRate[i - 1])) / 2
  }
  return area
}

/** Where false accepts are as frequent as false rejects, the curve being straight between its points. */
export function equalErrorRate({ falseAcceptRate, trueAcceptRate }: Roc): number {
  for (let i = 1; i < falseAcceptRate.length; i++) {
    const after = falseAcceptRate[i] - (1 - trueAcceptRate[i])
    if (after < 0) continue
    const before = falseAcceptRate[i - 1] - (1 - trueAcceptRate[i - 1])
    const part = before / (before - after)
    return falseAcceptRate[i - 1] + part * (falseAcceptRate[i] - falseAcceptRate[i - 1])
  }
  return 1
}

/** The largest true accept rate of any threshold whose false accept rate is at most `limit`. */
export function trueAcceptRateAt({ falseAcceptRate, trueAcceptRate }: Roc, limit: number): number {
  let last = 0
  while (last + 1 < falseAcceptRate.length && falseAcceptRate[last + 1] <= limit) last++
  return trueAcceptRate[last]
}

/** Cosine of every pair of rows, split by whether their labels agree: what a verification system would be asked. */
export function pairScores(
  embeddings: Float32Array,
  labels: ArrayLike<number>,
  dim: number
): { same: Float32Array; different: Float32Array } {
  const unit = unitRows(embeddings, dim)
  const count = labels.length
  let sameCount = 0
  for (let i = 0; i < count; i++) for (let j = i + 1; j < count; j++) if (labels[i] === labels[j]) sameCount++
  const same = new Float32Array(sameCount)
  const different = new Float32Array((count * (count - 1)) / 2 - sameCount)
  let [s, d] = [0, 0]
  for (let i = 0; i < count; i++) {
    for (let j = i + 1; j < count; j++) {
      const cosine = dot(unit, i * dim, unit, j * dim, dim)
      if (labels[i] === labels[j]) same[s++] = cosine
      else different[d++] = cosine
    }
  }
  return { same, different }
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
