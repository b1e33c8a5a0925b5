// The oracle's projection in float64, as PyTorch documents its modules, and a head above it.
import {
  MarginHead,
  type ProjectedHeadOptions,
  type Projection,
  type ProjectionOptions,
  sgd,
} from '../../lib/index'
import { elementsOf, SafetensorsFile } from '../../lib/internal/safetensors'
import type { MarginCase } from './margins'
import { integer, norm, normals, random } from './support'
import { OracleHead, type OracleOptimizer, Parameter } from './trainer'

type Tensors = Record<string, Float64Array>

/** All tensors of a head's file, widened. */
export async function tensorsOf(file: string): Promise<Tensors> {
  const opened = await SafetensorsFile.open(file, { types: ['F32', 'BF16', 'U8'], checksums: true })
  try {
    const tensors: Tensors = {}
    for (const [name, { shape }] of opened.entries) {
      const values = new Float32Array(elementsOf(shape))
      await opened.read(name, values)
      tensors[name] = Float64Array.from(values)
    }
    return tensors
  } finally {
    await opened.close()
  }
}

/** Σ a·b over the middle of [n,k]·[m,k]ᵀ, or with other strides. */
function product(
  [n, k, m]: [number, number, number],
  a: (i: number, l: number) => number,
  b: (l: number, j: number) => number
): Float64Array {
  const out = new Float64Array(n * m)
  for (let i = 0; i < n; i++)
    for (let j = 0; j < m; j++) {
      let sum = 0
      for (let l = 0; l < k; l++) sum += a(i, l) * b(l, j)
      out[i * m + j] = sum
    }
  return out
}

/** Abramowitz and Stegun 7.1.6, whose terms have one sign. */
function erf(x: number): number {
  let term = x
  let sum = x
  for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1)
    sum += term
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
}
const normal = (x: number) => 0.5 * (1 + erf(x / Math.SQRT2))
const density = (x: number) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)

const mask = (1n << 64n) - 1n
/** native/formulas/random_bits.h */
function randomBits(seed: bigint, i: bigint): bigint {
  let z = (seed * 0xd1342543de82ef95n + (i + 1n) * 0x9e3779b97f4a7c15n) & mask
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask
  return z ^ (z >> 31n)
}

/** The factor by which dropout multiplies element i. */
function dropoutOf({ dropout }: Projection, seed: number, iteration: number): (i: number) => number {
  if (dropout === 0) return () => 1
  const key = randomBits(BigInt(seed) ^ 0x64726f706f757400n, BigInt(iteration))
  return (i) =>
    (Number(randomBits(key, BigInt(i)) >> 11n) + 0.5) * 2 ** -53 < dropout ? 0 : 1 / (1 - dropout)
}

const epsilon = 1e-5

interface Forward {
  embeddings: Float64Array
  /** The gradients by the parameters' names, and that of the features, of an embeddings' gradient. */
  back(gradient: Float64Array): { parameters: Tensors; features: Float64Array }
  mean: Float64Array
  variance: Float64Array
}

/** @param drop the factor of an element of the last linear layer's input; undefined in evaluation */
export function project(
  projection: Projection,
  tensors: Tensors,
  features: ArrayLike<number>,
  drop?: (i: number) => number
): Forward {
  const { from, to, layers, hidden, batchNorm } = projection
  const rows = features.length / from
  const width = layers === 2 ? hidden : to
  const tensor = (name: string) => tensors[`projection.${name}`] as Float64Array
  const at = (values: ArrayLike<number>, columns: number) => (i: number, j: number) =>
    values[i * columns + j] as number
  const linear = (input: ArrayLike<number>, inputs: number, outputs: number, name: string) => {
    const weight = tensor(`${name}.weight`)
    const bias = tensors[`projection.${name}.bias`]
    const weightAt = at(weight, inputs)
    const inputAt = at(input, inputs)
    return {
      out: product([rows, inputs, outputs], inputAt, (l, j) => weightAt(j, l)).map(
        (z, i) => z + (bias?.[i % outputs] ?? 0)
      ),
      back(gradient: Float64Array): { parameters: Tensors; input: Float64Array } {
        const gradientAt = at(gradient, outputs)
        const parameters: Tensors = {
          [`projection.${name}.weight`]: product(
            [outputs, rows, inputs],
            (j, i) => gradientAt(i, j),
            inputAt
          ),
        }
        if (bias) parameters[`projection.${name}.bias`] = product([1, rows, outputs], () => 1, gradientAt)
        return { parameters, input: product([rows, outputs, inputs], gradientAt, weightAt) }
      },
    }
  }
  const dropped = (values: ArrayLike<number>) => Float64Array.from(values, (v, i) => v * (drop ? drop(i) : 1))
  const first = linear(layers === 1 ? dropped(features) : features, from, width, '0')
  let value = first.out
  const mean = new Float64Array(width)
  const variance = new Float64Array(width)
  let normalized = value
  const scale = batchNorm ? tensor('1.weight') : new Float64Array(width).fill(1)
  if (batchNorm) {
    for (let j = 0; j < width; j++) {
      const column = Array.from({ length: rows }, (_, i) => value[i * width + j] as number)
      mean[j] = column.reduce((a, b) => a + b, 0) / rows
      variance[j] = column.reduce((a, b) => a + (b - (mean[j] as number)) ** 2, 0) / rows
    }
    const [m, v] = drop ? [mean, variance] : [tensor('1.running_mean'), tensor('1.running_var')]
    normalized = value.map(
      (z, i) => (z - (m[i % width] as number)) / Math.sqrt((v[i % width] as number) + epsilon)
    )
    value = normalized.map(
      (n, i) => n * (scale[i % width] as number) + (tensor('1.bias')[i % width] as number)
    )
  }
  const before = value
  const last =
    layers === 2
      ? linear(dropped(before.map((x) => x * normal(x))), hidden, to, batchNorm ? '3' : '2')
      : undefined
  return {
    embeddings: last ? last.out : value,
    mean,
    variance,
    back(gradient) {
      const parameters: Tensors = {}
      let g = gradient
      if (last) {
        const behind = last.back(gradient)
        Object.assign(parameters, behind.parameters)
        g = dropped(behind.input).map((v, i) => {
          const x = before[i] as number
          return v * (normal(x) + x * density(x))
        })
      }
      if (batchNorm) {
        const column = (values: (i: number) => number, j: number) =>
          Array.from({ length: rows }, (_, i) => values(i * width + j)).reduce((a, b) => a + b, 0)
        const gOf = (i: number) => g[i] as number
        const shifts = Float64Array.from({ length: width }, (_, j) => column(gOf, j))
        const scales = Float64Array.from({ length: width }, (_, j) =>
          column((i) => gOf(i) * (normalized[i] as number), j)
        )
        parameters['projection.1.bias'] = shifts
        parameters['projection.1.weight'] = scales
        g = g.map((v, i) => {
          const j = i % width
          const centred =
            v - ((shifts[j] as number) + (normalized[i] as number) * (scales[j] as number)) / rows
          return (centred * (scale[j] as number)) / Math.sqrt((variance[j] as number) + epsilon)
        })
      }
      const { parameters: ofFirst, input } = first.back(g)
      return {
        parameters: { ...parameters, ...ofFirst },
        features: layers === 1 ? dropped(input) : input,
      }
    },
  }
}

/** A head with a projection that begins as a file says. */
export class OracleProjectedHead {
  readonly #head: OracleHead
  readonly #parameters: Record<string, Parameter> = {}
  readonly tensors: Tensors = {}

  constructor(
    private readonly options: {
      projection: Projection
      margin: MarginCase
      optimizer: OracleOptimizer
      seed: number
      maxGradientNorm?: number
    },
    tensors: Tensors
  ) {
    this.#head = new OracleHead({
      ...options,
      dim: options.projection.to,
      weights: tensors.weight as Float64Array,
    })
    for (const [name, values] of Object.entries(tensors)) {
      if (!name.startsWith('projection.')) continue
      this.tensors[name] = values
      if (!name.includes('running')) this.#parameters[name] = new Parameter(values)
    }
  }

  get weight(): Float64Array {
    return this.#head.weight.values
  }

  embed(features: ArrayLike<number>): Float64Array {
    return project(this.options.projection, this.tensors, features).embeddings
  }

  evaluate(features: ArrayLike<number>, labels: ArrayLike<number>) {
    return this.#head.evaluate(this.embed(features), labels)
  }

  step(features: ArrayLike<number>, labels: ArrayLike<number>) {
    const { projection, optimizer, seed, maxGradientNorm } = this.options
    const drop = dropoutOf(projection, seed, this.#head.iteration)
    const forward = project(projection, this.tensors, features, drop)
    const result = this.#head.evaluate(forward.embeddings, labels)
    const { parameters, features: gradInput } = forward.back(result.gradInput)
    const gradientNorm = norm([result.gradWeight, ...Object.values(parameters)].map(norm))
    const factor = maxGradientNorm ? Math.min(1, maxGradientNorm / (gradientNorm + 1e-6)) : 1
    const spend = (parameter: Parameter, gradient: Float64Array) =>
      parameter.update(
        gradient.map((g) => factor * g),
        optimizer,
        optimizer.learningRate
      )
    spend(this.#head.weight, result.gradWeight)
    for (const [name, parameter] of Object.entries(this.#parameters))
      spend(parameter, parameters[name] as Float64Array)
    this.#head.iteration++
    const rows = labels.length
    const move = (name: string, batch: Float64Array, factorOfBatch: number) => {
      const running = this.tensors[`projection.1.${name}`]
      running?.forEach((value, j) => {
        running[j] = 0.9 * value + 0.1 * factorOfBatch * (batch[j] as number)
      })
    }
    move('running_mean', forward.mean, 1)
    move('running_var', forward.variance, rows / (rows - 1))
    return {
      loss: result.loss,
      losses: result.losses,
      gradInput,
      gradientNorm,
      gradInputNorm: norm(gradInput),
    }
  }
}

interface Batch {
  features: Float32Array
  labels: Int32Array
}

/** Features and labels of a seed. */
export function batchOf(seed: number, rows: number, from: number, classes: number): Batch {
  const next = random(seed)
  const features = normals(next, rows * from)
  return { features, labels: Int32Array.from({ length: rows }, () => integer(next, 0, classes - 1)) }
}

/** A head that has made three steps, its embeddings, and what the last step gave. */
export async function trained(options: Partial<ProjectedHeadOptions> & { projection: ProjectionOptions }) {
  const head = await MarginHead.create({
    classes: 20,
    seed: 8,
    optimizer: sgd({ momentum: 0.9 }),
    ...options,
  })
  const { from } = options.projection
  let gradInput: Float32Array | undefined
  for (let step = 0; step < 3; step++) {
    const { features, labels } = batchOf(step, 150, from, 20)
    gradInput = (await head.step(features, labels)).gradInput
  }
  return {
    head,
    gradInput: gradInput as Float32Array,
    embeddings: await head.embed(batchOf(7, 40, from, 20).features),
  }
}
