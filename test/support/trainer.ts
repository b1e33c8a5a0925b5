// The oracle's training head in float64: SGD and AdamW as PyTorch's documentation defines them, the margin's warm-up, and
// the statistics of a step.
import type { MarginCase } from './margins'
import { oracleAt } from './margins'
import type { OracleResult } from './reference'
import { reference } from './reference'
import { norm } from './support'

export interface OracleSgd {
  kind: 'sgd'
  learningRate: number
  momentum?: number
  nesterov?: boolean
  weightDecay?: number
}

export interface OracleAdamW {
  kind: 'adamW'
  learningRate: number
  beta1?: number
  beta2?: number
  epsilon?: number
  weightDecay?: number
}

export type OracleOptimizer = OracleSgd | OracleAdamW

/** One parameter array with its optimizer state. */
export class Parameter {
  private first: Float64Array | undefined // momentum buffer, or first moments
  private second: Float64Array | undefined // second moments
  private steps = 0

  constructor(readonly values: Float64Array) {}

  update(gradient: Float64Array, optimizer: OracleOptimizer, learningRate: number): void {
    this.steps++
    if (optimizer.kind === 'sgd') this.sgd(gradient, optimizer, learningRate)
    else this.adamW(gradient, optimizer, learningRate)
  }

  // torch.optim.SGD, dampening 0
  private sgd(gradient: Float64Array, optimizer: OracleSgd, learningRate: number): void {
    const { momentum = 0, nesterov = false, weightDecay = 0 } = optimizer
    const decayed = gradient.map((g, i) => g + weightDecay * (this.values[i] as number))
    let direction = decayed
    if (momentum !== 0) {
      const previous = this.first
      // The first step's buffer is the gradient itself.
      const buffer = previous
        ? decayed.map((g, i) => momentum * (previous[i] as number) + g)
        : decayed.slice()
      this.first = buffer
      direction = nesterov ? decayed.map((g, i) => g + momentum * (buffer[i] as number)) : buffer
    }
    for (let i = 0; i < this.values.length; i++) {
      this.values[i] = (this.values[i] as number) - learningRate * (direction[i] as number)
    }
  }

  // torch.optim.AdamW, amsgrad false
  private adamW(gradient: Float64Array, optimizer: OracleAdamW, learningRate: number): void {
    const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0.01 } = optimizer
    const first = this.first ?? new Float64Array(gradient.length)
    const second = this.second ?? new Float64Array(gradient.length)
    const correction1 = 1 - beta1 ** this.steps
    const correction2 = 1 - beta2 ** this.steps
    for (let i = 0; i < gradient.length; i++) {
      const g = gradient[i] as number
      first[i] = beta1 * (first[i] as number) + (1 - beta1) * g
      second[i] = beta2 * (second[i] as number) + (1 - beta2) * g * g
      const decayed = (this.values[i] as number) * (1 - learningRate * weightDecay)
      const denominator = Math.sqrt((second[i] as number) / correction2) + epsilon
      this.values[i] = decayed - (learningRate * ((first[i] as number) / correction1)) / denominator
    }
    this.first = first
    this.second = second
  }
}

export interface OracleStats {
  accuracy: number // share of the counted rows whose target scores above every other class, without margin
  meanTargetCosine: number
  meanLargestOtherCosine: number
  gradientNorm: number
  gradInputNorm: number
}

export interface OracleHeadOptions {
  margin: MarginCase
  optimizer: OracleOptimizer
  dim: number
  weights: ArrayLike<number> // [C, D]
  bias?: boolean
  marginWarmupSteps?: number
  labelSmoothing?: number
  ignoreIndex?: number
  classWeights?: ArrayLike<number> // [C]
  maxGradientNorm?: number // 0: the gradient is not clipped
}

export class OracleHead {
  readonly weight: Parameter
  readonly bias: Parameter | undefined
  iteration = 0

  constructor(private readonly options: OracleHeadOptions) {
    this.weight = new Parameter(Float64Array.from(options.weights))
    const classes = options.weights.length / options.dim
    this.bias = options.bias ? new Parameter(new Float64Array(classes)) : undefined
  }

  evaluate(
    input: ArrayLike<number>,
    labels: ArrayLike<number>,
    sampleWeights?: ArrayLike<number>
  ): OracleResult & { stats: OracleStats } {
    const { margin, dim, marginWarmupSteps = 0, labelSmoothing = 0, ignoreIndex = -1 } = this.options
    const { classWeights } = this.options
    const problem = { input, weight: this.weight.values, labels, dim, bias: this.bias?.values }
    const oracle = oracleAt(margin, this.iteration, marginWarmupSteps)
    const options = { labelSmoothing, ignoreIndex, classWeights, sampleWeights }
    const result = reference(problem, oracle, options)
    return { ...result, stats: this.statsOf(result, labels, ignoreIndex) }
  }

  step(
    input: ArrayLike<number>,
    labels: ArrayLike<number>,
    learningRate = this.options.optimizer.learningRate,
    sampleWeights?: ArrayLike<number>
  ) {
    const result = this.evaluate(input, labels, sampleWeights)
    const { optimizer, maxGradientNorm } = this.options
    // torch.nn.utils.clip_grad_norm_
    const factor = maxGradientNorm ? Math.min(1, maxGradientNorm / (result.stats.gradientNorm + 1e-6)) : 1
    const clipped = (gradient: Float64Array) => gradient.map((g) => factor * g)
    this.weight.update(clipped(result.gradWeight), optimizer, learningRate)
    this.bias?.update(clipped(result.gradBias), optimizer, learningRate)
    this.iteration++
    return result
  }

  private statsOf(result: OracleResult, labels: ArrayLike<number>, ignoreIndex: number): OracleStats {
    const classes = this.weight.values.length / this.options.dim
    let counted = 0
    const sums = { accuracy: 0, target: 0, other: 0 }
    for (let i = 0; i < labels.length; i++) {
      const label = labels[i] as number
      if (label === ignoreIndex) continue
      counted++
      const row = result.scores.subarray(i * classes, (i + 1) * classes)
      const target = row[label] as number
      const other = row.reduce((most, score, j) => (j === label ? most : Math.max(most, score)), -Infinity)
      sums.accuracy += target > other ? 1 : 0
      sums.target += target
      sums.other += other
    }
    const gradient = this.bias ? [...result.gradWeight, ...result.gradBias] : result.gradWeight
    return {
      accuracy: sums.accuracy / (counted || 1),
      meanTargetCosine: sums.target / (counted || 1),
      meanLargestOtherCosine: sums.other / (counted || 1),
      gradientNorm: norm(gradient),
      gradInputNorm: norm(result.gradInput),
    }
  }
}
