// Valid arguments: odd sizes, values that are hard, and every form that an array may have.
import { instructionSets, type MarginLossOptions } from '../../lib/index'
import { type MarginCase, marginCases } from '../support/margins'
import { normals } from '../support/support'
import type { Dice } from './campaign'
import { detach, tracking } from './hostile-values'

type Floats = Float32Array | Float64Array

/** The same values over shared memory. */
export function shared<T extends Floats | Int32Array>(values: T): T {
  const copy = new (values.constructor as new (buffer: SharedArrayBuffer) => T)(
    new SharedArrayBuffer(values.byteLength)
  )
  copy.set(values)
  return copy
}

function inside(values: Float32Array): Float32Array {
  const large = new Float32Array(values.length + 5).fill(Number.NaN)
  large.set(values, 3)
  return large.subarray(3, 3 + values.length)
}

const same = (values: Float32Array) => values
const forms: ((values: Float32Array) => Floats)[] = [
  same,
  same,
  same,
  shared,
  tracking,
  inside,
  (x) => Float64Array.from(x),
]

/** The values in any form that an array of them may have. */
export const inAnyForm = (dice: Dice, values: Float32Array): Floats => dice.pick(forms)(values)

export function anyValues(dice: Dice, length: number): Float32Array {
  const values = normals(dice, length, dice.pick([1, 1, 1, 1, 1e-3, 20]))
  const kind = dice.integer(0, 11)
  if (kind === 0) values[dice.integer(0, length - 1)] = 0
  if (kind === 1) for (let i = 0; i < length; i++) if (dice.chance(0.3)) values[i] = dice.pick([0, -0, 1, -1])
  return values
}

/** Weights of classes or rows: some nothing, all of them of a size that is far from 1 now and then. */
export function anyLossWeights(dice: Dice, length: number): Float32Array {
  const size = dice.pick([1, 1, 1, 1e-3, 2 ** 40, 2 ** -40])
  const zeros = dice.pick([0, 0.2, 0.2, 1])
  return Float32Array.from({ length }, () => (dice.chance(zeros) ? 0 : size * 10 ** (4 * dice() - 2)))
}

export function anyShape(dice: Dice) {
  const large = dice.chance(0.02)
  return {
    rows: dice.integer(1, large ? 70 : 8),
    dim: dice.integer(1, large ? 140 : 18),
    classes: dice.integer(1, large ? 400 : 18),
  }
}

export interface Problem {
  input: Float32Array
  weight: Float32Array
  labels: number[]
  dim: number
  bias?: Float32Array
}

/** A problem with its options as the oracle takes them, and a call's arguments that say the same. */
export function anyCall(dice: Dice) {
  const { rows, dim, classes } = anyShape(dice)
  const margin: MarginCase = dice.pick(marginCases)
  const ignoreIndex = dice.pick([-1, -1, -1, -100, classes + 3])
  const problem: Problem = {
    input: anyValues(dice, rows * dim),
    weight: anyValues(dice, classes * dim),
    labels: Array.from({ length: rows }, () =>
      dice.chance(0.1) ? ignoreIndex : dice.integer(0, classes - 1)
    ),
    dim,
  }
  if (margin.row.raw && dice.chance(0.5)) problem.bias = anyValues(dice, classes)
  const reduction = dice.pick(['mean', 'sum', 'none'] as const)
  const options: MarginLossOptions = { reduction, ignoreIndex, threads: dice.integer(1, 3) }
  if (dice.chance(0.3)) options.labelSmoothing = dice.pick([0, 0.1, 1])
  if (dice.chance(0.3))
    options.gradOutput = reduction === 'none' ? normals(dice, rows) : dice.pick([1, -0.5, 3, 0])
  const weights: { classWeights?: Float32Array; sampleWeights?: Float32Array } = {}
  if (dice.chance(0.25)) weights.classWeights = anyLossWeights(dice, classes)
  if (dice.chance(0.25)) weights.sampleWeights = anyLossWeights(dice, rows)
  const expected = { ...options, ...weights, gradOutput: structuredClone(options.gradOutput) }
  for (const [name, values] of Object.entries(weights))
    options[name as keyof typeof weights] = inAnyForm(dice, values.slice())
  if (dice.chance(0.2)) options.negligible = dice.pick([0, 1e-7, 1e-3])
  if (dice.chance(0.15)) options.precision = dice.pick(['float32', 'bfloat16'])
  if (dice.chance(0.15)) options.workspace = dice.pick([2 ** 25, 2 ** 25 + 4096, 2 ** 28])
  if (dice.chance(0.15)) options.instructionSet = dice.pick(instructionSets())
  if (dice.chance(0.3)) options.gradInput = anyOutput(dice, rows * dim)
  if (dice.chance(0.3)) options.gradWeight = anyOutput(dice, classes * dim)
  if (problem.bias && dice.chance(0.3)) options.gradBias = anyOutput(dice, classes)
  if (dice.chance(0.2)) options.losses = dice.pick([same, shared])(new Float32Array(rows))
  const batch = {
    input: inAnyForm(dice, problem.input.slice()),
    weight: inAnyForm(dice, problem.weight.slice()),
    labels: anyLabels(dice, problem.labels),
    dim,
    ...(problem.bias && { bias: inAnyForm(dice, problem.bias.slice()) }),
  }
  return { problem, margin, expected, batch, options: { ...options, margin: margin.margin }, rows, classes }
}

export function anyLabels(dice: Dice, labels: number[]): number[] | Int32Array {
  return dice.pick([() => labels, () => Int32Array.from(labels), () => shared(Int32Array.from(labels))])()
}

function anyOutput(dice: Dice, length: number): boolean | Float32Array {
  const array = new Float32Array(length).fill(9)
  return dice.pick([true, false, array, shared(array), tracking(array)])
}

/** The arrays that a call reads: the caller's again once an asynchronous one has returned its promise. */
export function readBy({ batch, options }: ReturnType<typeof anyCall>): object {
  const { classWeights, sampleWeights } = options
  return { ...batch, classWeights, sampleWeights }
}

/** Changes to a caller's arrays that are allowed once an asynchronous call has returned its promise. */
export function tamper(arrays: object): void {
  for (const array of Object.values(arrays)) {
    if (!ArrayBuffer.isView(array) || !(array.buffer instanceof ArrayBuffer)) continue
    const buffer = array.buffer as ArrayBuffer & { resizable?: boolean; resize(length: number): void }
    if (buffer.resizable) buffer.resize(0)
    else if (buffer.byteLength > 0) detach(array)
  }
}
