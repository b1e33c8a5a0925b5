// The oracle: the formulas of the losses in float64, with the logits held and the loops plain. It shares no code with
// lib/ or native/. Its gradients are the closed formulas; reference.test.ts holds them against differences of its own loss.

export interface MarginValue {
  value: number // ψ(c)
  slope: number // ψ'(c)
}

/** A margin as the oracle sees it: raw dot products (softmax), or s·cos with ψ on the target. */
export interface OracleMargin {
  raw: boolean
  scale: number | 'norm' // 'norm': s_i = ‖x_i‖
  psi: (cosine: number) => MarginValue
  /** φ and φ' of a negative in a row with this cosine of the target; absent: φ(c) = c. */
  negative?: ((cosine: number, targetCosine: number) => MarginValue) | undefined
}

const asItIs = (cosine: number): MarginValue => ({ value: cosine, slope: 1 })

/** The functions that take the place of a row's cosines, with their slopes: the target's and the negatives'. */
export function marginOfRow(margin: OracleMargin, label: number, targetCosine: number) {
  const { psi, negative = asItIs } = margin
  if (margin.raw) return asItIs
  return (cosine: number, j: number) => (j === label ? psi(cosine) : negative(cosine, targetCosine))
}

export interface OracleProblem {
  input: ArrayLike<number> // [B, D]
  weight: ArrayLike<number> // [C, D]
  labels: ArrayLike<number> // [B]
  dim: number
  bias?: ArrayLike<number> // [C]
}

export interface OracleOptions {
  reduction?: 'mean' | 'sum' | 'none'
  ignoreIndex?: number
  labelSmoothing?: number
  gradOutput?: number | ArrayLike<number>
  /** PyTorch's `weight` [C]. */
  classWeights?: ArrayLike<number>
  /** Weights of the rows' losses [B]; a mean divides by the sum of sample weight · class weight. */
  sampleWeights?: ArrayLike<number>
  /** Other classes whose cosine exceeds it are left out of a row. */
  interclassFilter?: number
  /** The number of other classes that each stands for in the softmax. */
  othersWeight?: number
}

export interface OracleResult {
  loss: number
  losses: Float64Array // [B]
  scores: Float64Array // [B, C], cosines or raw dot products with bias: what topK ranks
  logits: Float64Array // [B, C], with scale and margin
  gradInput: Float64Array // [B, D]
  gradWeight: Float64Array // [C, D]
  gradBias: Float64Array // [C]
  /** Norms of the gradients had nothing in their sums cancelled: what float32 rounding errors are relative to. */
  magnitudeInput: number
  magnitudeWeight: number
  magnitudeBias: number
}

const at = (values: ArrayLike<number>, index: number) => values[index] as number

/** Row norms and unit rows; a zero row has the unit row 0. */
export function normalise(values: ArrayLike<number>, rows: number, dim: number) {
  const units = new Float64Array(rows * dim)
  const norms = new Float64Array(rows)
  for (let i = 0; i < rows; i++) {
    let sum = 0
    for (let d = 0; d < dim; d++) sum += at(values, i * dim + d) ** 2
    norms[i] = Math.sqrt(sum)
    if (sum === 0) continue
    for (let d = 0; d < dim; d++) units[i * dim + d] = at(values, i * dim + d) / at(norms, i)
  }
  return { units, norms }
}

/**
 * One row's loss −Σ_j a_j·log P_j and its gradient (Σ a)·P − a, from differences to the target's logit so that a tiny loss
 * keeps its digits: a_j = (1 − ε)·[j = y]·w_y + (ε/C)·w_j. Each other class stands for `othersWeight` of them.
 */
function crossEntropy(
  logits: Float64Array,
  label: number,
  { labelSmoothing: smoothing = 0, othersWeight = 1, classWeights }: OracleOptions
) {
  const classes = logits.length
  const weight = (j: number) => (classWeights ? at(classWeights, j) : 1)
  const target = at(logits, label)
  let largest = Number.NEGATIVE_INFINITY
  for (let j = 0; j < classes; j++) if (j !== label) largest = Math.max(largest, at(logits, j) - target)
  // exp(shift) is taken out of every term; 0 unless another class is far above the target.
  const shift = Math.max(0, largest)
  let others = 0
  let meanDifference = 0
  let othersShare = 0 // Σ_{j≠y} a_j
  for (let j = 0; j < classes; j++) {
    if (j === label) continue
    others += othersWeight * Math.exp(at(logits, j) - target - shift)
    if (smoothing) meanDifference += (weight(j) * (target - at(logits, j))) / classes
    othersShare += (smoothing / classes) * weight(j)
  }
  const share = (1 - smoothing + smoothing / classes) * weight(label) + othersShare
  const base = Math.exp(-shift)
  const logRatio = shift === 0 ? Math.log1p(others) : shift + Math.log(base + others) // lse − z_y
  const difference = new Float64Array(classes) // P − t
  for (let j = 0; j < classes; j++) {
    if (j === label) difference[j] = (-share * others) / (base + others) + othersShare
    else
      difference[j] =
        (share * othersWeight * Math.exp(at(logits, j) - target - shift)) / (base + others) -
        (smoothing / classes) * weight(j)
  }
  return { loss: share * logRatio + smoothing * meanDifference, difference }
}

export function reference(
  problem: OracleProblem,
  margin: OracleMargin,
  options: OracleOptions = {}
): OracleResult {
  const { input, weight, labels, dim, bias } = problem
  const { reduction = 'mean', ignoreIndex = -1, gradOutput = 1, classWeights, sampleWeights } = options
  const { interclassFilter = Number.POSITIVE_INFINITY } = options
  const rows = labels.length
  const classes = weight.length / dim
  const x = normalise(input, rows, dim)
  const w = normalise(weight, classes, dim)
  const left = margin.raw ? input : x.units
  const right = margin.raw ? weight : w.units

  const sample = (i: number) => (sampleWeights ? at(sampleWeights, i) : 1)
  let counted = 0
  for (let i = 0; i < rows; i++)
    if (at(labels, i) !== ignoreIndex)
      counted += sample(i) * (classWeights ? at(classWeights, at(labels, i)) : 1)

  const losses = new Float64Array(rows)
  const scores = new Float64Array(rows * classes)
  const logits = new Float64Array(rows * classes)
  const gradInput = new Float64Array(rows * dim)
  const gradWeight = new Float64Array(classes * dim)
  const gradBias = new Float64Array(classes)
  const columnDots = new Float64Array(classes) // Σ_i A_ij cos_ij
  const columnMagnitudes = new Float64Array(classes)
  const biasMagnitudes = new Float64Array(classes)
  let loss = 0
  let magnitudeInput = 0

  for (let i = 0; i < rows; i++) {
    const scale = margin.raw ? 1 : margin.scale === 'norm' ? at(x.norms, i) : margin.scale
    const label = at(labels, i)
    const ignored = label === ignoreIndex
    for (let j = 0; j < classes; j++) {
      let score = bias ? at(bias, j) : 0
      for (let d = 0; d < dim; d++) score += at(left, i * dim + d) * at(right, j * dim + d)
      if (!margin.raw) score = Math.min(1, Math.max(-1, score))
      scores[i * classes + j] = score
    }
    const cosines = scores.subarray(i * classes, (i + 1) * classes)
    const ofRow = ignored ? asItIs : marginOfRow(margin, label, at(cosines, label))
    const entries = Array.from(cosines, ofRow)
    for (let j = 0; j < classes; j++) {
      const leftOut = j !== label && at(cosines, j) > interclassFilter
      logits[i * classes + j] = leftOut ? Number.NEGATIVE_INFINITY : scale * (entries[j] as MarginValue).value
    }
    if (ignored) continue

    const row = logits.subarray(i * classes, (i + 1) * classes)
    const entropy = crossEntropy(row, label, options)
    const rowLoss = sample(i) * entropy.loss
    losses[i] = rowLoss
    const upstream = typeof gradOutput === 'number' ? gradOutput : at(gradOutput, i)
    const divisor = reduction === 'mean' ? counted : 1
    const g = divisor === 0 ? 0 : (sample(i) * upstream) / divisor
    if (reduction === 'none') loss += upstream * rowLoss
    else loss += divisor === 0 ? 0 : rowLoss / divisor

    const inputNorm = margin.raw ? 1 : at(x.norms, i)
    let rowDot = 0 // Σ_j A_ij cos_ij
    let scaleGradient = 0 // ∂L/∂s_i
    let magnitude = 0
    for (let j = 0; j < classes; j++) {
      const difference = g * at(entropy.difference, j)
      const { value, slope } = entries[j] as MarginValue
      const a = difference * scale * slope
      const score = at(cosines, j)
      rowDot += a * score
      columnDots[j] = at(columnDots, j) + a * score
      scaleGradient += difference * value
      magnitude += Math.abs(a) * (margin.raw ? norm(right, j, dim) : 1)
      columnMagnitudes[j] = at(columnMagnitudes, j) + Math.abs(a) * (margin.raw ? norm(left, i, dim) : 1)
      gradBias[j] = at(gradBias, j) + a
      biasMagnitudes[j] = at(biasMagnitudes, j) + Math.abs(a)
      for (let d = 0; d < dim; d++) {
        gradInput[i * dim + d] = at(gradInput, i * dim + d) + a * at(right, j * dim + d)
        gradWeight[j * dim + d] = at(gradWeight, j * dim + d) + a * at(left, i * dim + d)
      }
    }
    if (inputNorm > 0) magnitudeInput += (magnitude / inputNorm) ** 2
    if (margin.raw) continue
    for (let d = 0; d < dim; d++) {
      const unit = at(x.units, i * dim + d)
      const projected = inputNorm > 0 ? (at(gradInput, i * dim + d) - rowDot * unit) / inputNorm : 0
      gradInput[i * dim + d] = projected + (margin.scale === 'norm' ? scaleGradient * unit : 0)
    }
  }

  let magnitudeWeight = 0
  for (let j = 0; j < classes; j++) {
    const weightNorm = margin.raw ? 1 : at(w.norms, j)
    if (weightNorm > 0) magnitudeWeight += (at(columnMagnitudes, j) / weightNorm) ** 2
    if (margin.raw) continue
    for (let d = 0; d < dim; d++) {
      const unprojected = at(gradWeight, j * dim + d) - at(columnDots, j) * at(w.units, j * dim + d)
      gradWeight[j * dim + d] = weightNorm > 0 ? unprojected / weightNorm : 0
    }
  }
  return {
    loss,
    losses,
    scores,
    logits,
    gradInput,
    gradWeight,
    gradBias,
    magnitudeInput: Math.sqrt(magnitudeInput),
    magnitudeWeight: Math.sqrt(magnitudeWeight),
    magnitudeBias: norm(biasMagnitudes, 0, classes),
  }
}

function norm(values: ArrayLike<number>, row: number, dim: number): number {
  let sum = 0
  for (let d = 0; d < dim; d++) sum += at(values, row * dim + d) ** 2
  return Math.sqrt(sum)
}

/** The k largest scores of every row, the smaller class first among equals. */
export function referenceTopK(scores: ArrayLike<number>, classes: number, k: number) {
  const rows = scores.length / classes
  const indices = new Int32Array(rows * k)
  const values = new Float64Array(rows * k)
  for (let i = 0; i < rows; i++) {
    const order = Array.from({ length: classes }, (_, j) => j)
    order.sort((a, b) => at(scores, i * classes + b) - at(scores, i * classes + a) || a - b)
    for (let r = 0; r < k; r++) {
      const j = order[r] as number
      indices[i * k + r] = j
      values[i * k + r] = at(scores, i * classes + j)
    }
  }
  return { indices, scores: values }
}

/** The sum of each class's unit rows, of length 1 again [C,D]: NaN where it is 0. `sums`: how long each was before. */
export function referenceClassMeans(
  input: ArrayLike<number>,
  labels: ArrayLike<number>,
  { classes, dim }: { classes: number; dim: number }
) {
  const { units } = normalise(input, labels.length, dim)
  const means = new Float64Array(classes * dim)
  for (let i = 0; i < labels.length; i++)
    for (let d = 0; d < dim && at(labels, i) >= 0; d++)
      means[at(labels, i) * dim + d] = at(means, at(labels, i) * dim + d) + at(units, i * dim + d)
  const sums = Array.from({ length: classes }, (_, j) => norm(means, j, dim))
  return { means: means.map((sum, i) => sum / at(sums, Math.floor(i / dim))), sums }
}
