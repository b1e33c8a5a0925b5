// The same step as an eager float32 framework computes it: normalise, one product, margin on the logits, log-softmax with
// the maximum taken out, P − t, two products, back through the normalisations; every operation rounded to float32.
// The yardstick of the rule that the library's error is never more than twice the textbook's own. What a margin makes of a
// row's cosines comes from the same description as the oracle's: a yardstick of another loss would let everything pass.
import { marginOfRow, type OracleMargin, type OracleProblem } from './reference'

const f = Math.fround

export interface TextbookResult {
  loss: number
  losses: Float32Array // [B]
  gradInput: Float32Array // [B, D]
  gradWeight: Float32Array // [C, D]
}

function normalise(values: Float32Array, rows: number, dim: number) {
  const units = new Float32Array(rows * dim)
  const norms = new Float32Array(rows)
  for (let i = 0; i < rows; i++) {
    let sum = 0
    for (let d = 0; d < dim; d++) {
      const value = values[i * dim + d] as number
      sum = f(sum + f(value * value))
    }
    norms[i] = Math.max(f(Math.sqrt(sum)), f(1e-12))
    for (let d = 0; d < dim; d++) units[i * dim + d] = (values[i * dim + d] as number) / (norms[i] as number)
  }
  return { units, norms }
}

/** The mean loss with its gradients; every row counts. */
export function textbook(problem: OracleProblem, margin: OracleMargin): TextbookResult {
  const { labels, dim } = problem
  const input = Float32Array.from(problem.input)
  const weight = Float32Array.from(problem.weight)
  const rows = labels.length
  const classes = weight.length / dim
  const x = margin.raw ? { units: input, norms: new Float32Array(rows).fill(1) } : normalise(input, rows, dim)
  const w = margin.raw
    ? { units: weight, norms: new Float32Array(classes).fill(1) }
    : normalise(weight, classes, dim)
  const g = f(1 / rows)

  const losses = new Float32Array(rows)
  const unitGradInput = new Float32Array(rows * dim) // ∂L/∂x̂
  const unitGradWeight = new Float32Array(classes * dim)
  const scaleGradient = new Float32Array(rows)
  const cosines = new Float32Array(classes)
  const values = new Float32Array(classes) // ψ of the target, φ of the negatives
  const slopes = new Float32Array(classes)
  const logits = new Float32Array(classes)
  let loss = 0
  for (let i = 0; i < rows; i++) {
    const label = labels[i] as number
    const scale = margin.raw ? 1 : margin.scale === 'norm' ? (x.norms[i] as number) : f(margin.scale)
    let largest = Number.NEGATIVE_INFINITY
    for (let j = 0; j < classes; j++) {
      let sum = 0
      for (let d = 0; d < dim; d++) {
        sum = f(sum + f((x.units[i * dim + d] as number) * (w.units[j * dim + d] as number)))
      }
      if (problem.bias) sum = f(sum + f(problem.bias[j] as number))
      if (!margin.raw) sum = Math.min(1, Math.max(-1, sum))
      cosines[j] = sum
    }
    const ofRow = marginOfRow(margin, label, cosines[label] as number)
    for (let j = 0; j < classes; j++) {
      const entry = ofRow(cosines[j] as number, j)
      values[j] = entry.value
      slopes[j] = entry.slope
      logits[j] = f(scale * (values[j] as number))
      largest = Math.max(largest, logits[j] as number)
    }
    let total = 0
    for (let j = 0; j < classes; j++) total = f(total + f(Math.exp(f((logits[j] as number) - largest))))
    const logTotal = f(Math.log(total))
    losses[i] = -f(f((logits[label] as number) - largest) - logTotal)
    loss = f(loss + (losses[i] as number))
    for (let j = 0; j < classes; j++) {
      const probability = f(Math.exp(f(f((logits[j] as number) - largest) - logTotal)))
      const difference = f(g * f(probability - (j === label ? 1 : 0)))
      scaleGradient[i] = f((scaleGradient[i] as number) + f(difference * (values[j] as number)))
      const a = f(f(difference * scale) * (slopes[j] as number))
      for (let d = 0; d < dim; d++) {
        const from = i * dim + d
        const to = j * dim + d
        unitGradInput[from] = (unitGradInput[from] as number) + f(a * (w.units[to] as number))
        unitGradWeight[to] = (unitGradWeight[to] as number) + f(a * (x.units[from] as number))
      }
    }
  }
  const gradInput = margin.raw ? unitGradInput : throughNorm(unitGradInput, x.units, x.norms, dim)
  if (margin.scale === 'norm' && !margin.raw) {
    for (let i = 0; i < gradInput.length; i++) {
      const along = f((scaleGradient[Math.floor(i / dim)] as number) * (x.units[i] as number))
      gradInput[i] = (gradInput[i] as number) + along
    }
  }
  const gradWeight = margin.raw ? unitGradWeight : throughNorm(unitGradWeight, w.units, w.norms, dim)
  return { loss: f(loss * g), losses, gradInput, gradWeight }
}

function throughNorm(unitGradient: Float32Array, units: Float32Array, norms: Float32Array, dim: number) {
  const gradient = new Float32Array(unitGradient.length)
  for (let i = 0; i < norms.length; i++) {
    let dot = 0
    for (let d = 0; d < dim; d++) {
      dot = f(dot + f((unitGradient[i * dim + d] as number) * (units[i * dim + d] as number)))
    }
    for (let d = 0; d < dim; d++) {
      const projected = f((unitGradient[i * dim + d] as number) - f(dot * (units[i * dim + d] as number)))
      gradient[i * dim + d] = projected / (norms[i] as number)
    }
  }
  return gradient
}
