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

/** One threshold of a verification system: accept a pair whose score is at least `threshold`. */
export interface RocPoint {
  threshold: number
  /** share of pairs of different digits that are accepted */
  falseAcceptRate: number
  /** share of pairs of the same digit that are accepted */
  trueAcceptRate: number
}

export interface Verification {
  positives: number
  negatives: number
  /** area under the ROC curve: the chance that a pair of the same digit scores above one of different digits, ties half */
  areaUnderCurve: number
  /** where false accepts are as frequent as false rejects, between two thresholds by straight line */
  equalErrorRate: number
  /** from (0, 0) to (1, 1), one point a distinct score */
  roc: RocPoint[]
}

/** Every metric of scores of same-class and different-class pairs. Neither list may be empty. */
export function verification(same: Float32Array, different: Float32Array): Verification {
  if (same.length === 0 || different.length === 0) {
    throw new RangeError('Expected at least one pair of each kind for verification but received none')
  }
  // Ascending, then walked from the end: typed arrays sort numerically and fast.
  const positive = same.slice().sort()
  const negative = different.slice().sort()
  const roc: RocPoint[] = [{ threshold: Number.POSITIVE_INFINITY, falseAcceptRate: 0, trueAcceptRate: 0 }]
  let [p, n] = [positive.length, negative.length]
  let area = 0
  while (p > 0 || n > 0) {
    const threshold = Math.max(p > 0 ? positive[p - 1] : Number.NEGATIVE_INFINITY, n > 0 ? negative[n - 1] : Number.NEGATIVE_INFINITY)
    while (p > 0 && positive[p - 1] === threshold) p--
    while (n > 0 && negative[n - 1] === threshold) n--
    const point = { threshold, falseAcceptRate: 1 - n / negative.length, trueAcceptRate: 1 - p / positive.length }
    const last = roc[roc.length - 1]
    area += ((point.falseAcceptRate - last.falseAcceptRate) * (point.trueAcceptRate + last.trueAcceptRate)) / 2
    roc.push(point)
  }
  return {
    positives: positive.length,
    negatives: negative.length,
    areaUnderCurve: area,
    equalErrorRate: equalErrorRate(roc),
    roc,
  }
}

/** Where the ROC curve, straight between its points, meets false accepts = false rejects. */
function equalErrorRate(roc: RocPoint[]): number {
  for (let i = 1; i < roc.length; i++) {
    const before = roc[i - 1].falseAcceptRate - (1 - roc[i - 1].trueAcceptRate)
    const after = roc[i].falseAcceptRate - (1 - roc[i].trueAcceptRate)
    if (after < 0) continue
    const part = before / (before - after)
    return roc[i - 1].falseAcceptRate + part * (roc[i].falseAcceptRate - roc[i - 1].falseAcceptRate)
  }
  return 1
}

/** The largest true accept rate of any threshold whose false accept rate is at most `falseAcceptRate`. */
export function trueAcceptRateAt(roc: RocPoint[], falseAcceptRate: number): number {
  let best = 0
  for (const point of roc) {
    if (point.falseAcceptRate <= falseAcceptRate) best = Math.max(best, point.trueAcceptRate)
  }
  return best
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

function dot(a: Float32Array, aStart: number, b: Float32Array, bStart: number, dim: number): number {
  let sum = 0
  for (let d = 0; d < dim; d++) sum += a[aStart + d] * b[bStart + d]
  return sum
}

function degrees(cosine: number): number {
  return (Math.acos(Math.min(1, Math.max(-1, cosine))) * 180) / Math.PI
}
