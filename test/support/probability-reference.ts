// The probability functions twice over: in double precision, the oracle, and as a textbook computes them in single
// precision, every operation rounded, the yardstick. One row at a time.
import { at } from './probability-support'

/** The arithmetic of a row: `f` rounds after every operation. */
export type Rounding = (value: number) => number
export const double: Rounding = (value) => value
export const single: Rounding = Math.fround

type Row = ArrayLike<number>

export function informationContent(f: Rounding, p: Row): number[] {
  return Array.from(p, (value) => f(0 - Math.log(value)))
}

/** −Σ p log q with 0·log 0 = 0. */
export function crossEntropy(f: Rounding, p: Row, q: Row): number {
  let sum = 0
  for (let j = 0; j < p.length; j++) {
    if (at(p, j) === 0) continue
    sum = f(sum + f(at(p, j) * f(Math.log(at(q, j)))))
  }
  return 0 - sum
}

export function klDivergence(f: Rounding, p: Row, q: Row): number {
  let sum = 0
  for (let j = 0; j < p.length; j++) {
    if (at(p, j) === 0) continue
    const ratio =
      f === double ? Math.log(at(p, j) / at(q, j)) : f(f(Math.log(at(p, j))) - f(Math.log(at(q, j))))
    sum = f(sum + f(at(p, j) * ratio))
  }
  return sum
}

/** Maximum, Σ e^(z − maximum), and the same less the first largest element, which keeps what is small beside 1. */
function sums(f: Rounding, z: Row) {
  let largest = 0
  for (let j = 1; j < z.length; j++) if (!(at(z, j) <= at(z, largest))) largest = j
  const maximum = at(z, largest)
  let others = 0
  for (let j = 0; j < z.length; j++)
    if (j !== largest) others = f(others + f(Math.exp(f(at(z, j) - maximum))))
  const own = Math.exp(maximum - maximum) // NaN for a maximum of ±∞
  return {
    maximum,
    sum: f(own + others),
    logSum: f === double ? Math.log1p(own - 1 + others) : f(Math.log(f(own + others))),
  }
}

export function softmax(f: Rounding, z: Row): number[] {
  const { maximum, sum } = sums(f, z)
  return Array.from(z, (value) => f(f(Math.exp(f(value - maximum))) / sum))
}

export function logSoftmax(f: Rounding, z: Row): number[] {
  const { maximum, logSum } = sums(f, z)
  return Array.from(z, (value) => f(f(value - maximum) - logSum))
}

export interface LossProblem {
  logits: Float32Array // [B,C]
  labels?: ArrayLike<number> // [B]
  targets?: Float32Array // [B,C]
  classes: number
  reduction: 'mean' | 'sum' | 'none'
  ignoreIndex?: number
  labelSmoothing?: number
  classWeights?: Float32Array // [C]
  gradOutput?: number | Float32Array
}

export interface LossAnswer {
  loss: number
  losses: number[] // [B]
  gradLogits: number[] // [B,C]
}

/** loss_i = −Σ_j w_j t_ij log softmax(z_i)_j, as PyTorch documents it for labels, probabilities, weights and smoothing. */
export function crossEntropyLoss(f: Rounding, problem: LossProblem): LossAnswer {
  const {
    logits,
    labels,
    targets,
    classes,
    reduction,
    labelSmoothing = 0,
    classWeights,
    ignoreIndex = -1,
  } = problem
  const rows = logits.length / classes
  const ignored = (row: number) => labels !== undefined && at(labels, row) === ignoreIndex
  const weight = (j: number) => (classWeights ? at(classWeights, j) : 1)
  let divisor = 1
  if (reduction === 'mean') {
    divisor = targets ? rows : 0
    for (let i = 0; labels && i < rows; i++) if (!ignored(i)) divisor = f(divisor + weight(at(labels, i)))
  }
  const losses = new Array<number>(rows).fill(0)
  const gradLogits = new Array<number>(logits.length).fill(0)
  let loss = 0
  for (let i = 0; i < rows; i++) {
    if (ignored(i)) continue
    const z = logits.subarray(i * classes, (i + 1) * classes)
    const logP = logSoftmax(f, z)
    const share = Array.from(z, (_, j) => {
      const target = targets ? at(targets, i * classes + j) : Number(at(labels as Row, i) === j)
      return f(weight(j) * f(f(f(1 - labelSmoothing) * target) + f(labelSmoothing / classes)))
    })
    let total = 0
    let value = 0
    for (let j = 0; j < classes; j++) {
      total = f(total + at(share, j))
      if (at(share, j) !== 0) value = f(value - f(at(share, j) * at(logP, j)))
    }
    losses[i] = value
    const { gradOutput = 1 } = problem
    const upstream = typeof gradOutput === 'number' ? gradOutput : at(gradOutput, i)
    loss = f(loss + f(reduction === 'none' ? f(upstream * value) : value))
    const g = divisor === 0 ? 0 : f(upstream / divisor)
    for (let j = 0; j < classes; j++) {
      gradLogits[i * classes + j] = f(g * f(f(total * f(Math.exp(at(logP, j)))) - at(share, j)))
    }
    // P − 1 without cancellation, where one label has the whole share.
    if (f === double && labels && !labelSmoothing) {
      const label = at(labels, i)
      gradLogits[i * classes + label] = g * total * Math.expm1(at(logP, label))
    }
  }
  return { loss: divisor === 0 ? 0 : f(loss / divisor), losses, gradLogits }
}
