// A head's projection: its options, and the tensors that it adds to a head's file.
import { wrongValue } from '../errors'
import { checkOptions, integerInRange, numberInRange, size } from './check'
import { flag, namesIn, type OptionRow, valuesOf } from './option-table'

/**
 * A small network that a head trains below it: features [B,from] go in, and embeddings [B,to] meet the class weights. With
 * one layer it is `Sequential(Dropout, Linear, BatchNorm1d)`, with two `Sequential(Linear, BatchNorm1d, GELU, Dropout,
 * Linear)`, with the arithmetic of PyTorch's modules of these names; batch norm and dropout are there if they are asked for.
 */
export interface ProjectionOptions {
  /** The length of a row of features. */
  from: number
  /** D, the length of an embedding: the head's `dim`. */
  to: number
  /** The number of linear layers, 1 or 2. Default 1. */
  layers?: 1 | 2 | undefined
  /** The length of the layer between the two. Only with `layers: 2`. Default `from`. */
  hidden?: number | undefined
  /**
   * Whether batch norm follows the first linear layer, which then has no bias. A step normalizes with the moments of its batch
   * (at least 2 rows, ignored ones too); evaluation with running moments, to which each step adds a tenth of its own.
   * Default false.
   */
  batchNorm?: boolean | undefined
  /**
   * The share of the last linear layer's inputs that a step sets to 0, from 0 to below 1; the others grow to make up for it.
   * Seed and iteration decide which elements are dropped. Default 0.
   */
  dropout?: number | undefined
}

/** A projection with its defaults filled in. */
export type Projection = Readonly<{
  [Name in keyof ProjectionOptions]-?: Exclude<ProjectionOptions[Name], undefined>
}>

const table = {
  from: { check: size },
  to: { check: size },
  layers: { check: (value: unknown, name: string) => integerInRange(value, name, 1, 2) as 1 | 2, default: 1 },
  hidden: { check: size },
  batchNorm: flag(false),
  dropout: { check: checkDropout, default: 0 },
} satisfies Record<keyof ProjectionOptions, OptionRow<unknown>>

function checkDropout(value: unknown, name: string): number {
  if (numberInRange(value, name, 0, 1) === 1) throw wrongValue('a number below 1', name, value)
  return value as number
}

/** Checks the option `projection`, perhaps from a file. */
export function checkProjection(value: unknown, name: string): Projection | undefined {
  if (value === undefined) return undefined
  const options = checkOptions(value as object, name, namesIn(table)) as Partial<ProjectionOptions>
  const projection = valuesOf(table, { ...options, hidden: options.hidden ?? options.from }, `${name}.`)
  if (projection.layers === 1 && projection.hidden !== projection.from)
    throw wrongValue('2 with a hidden length', `${name}.layers`, 1)
  return Object.freeze(projection)
}

/** An array of a projection. */
interface ProjectionTensor {
  /** In native memory. */
  name: string
  /** In a file, as a PyTorch `Sequential` named `projection`, without its dropout, names it. */
  fileName: string
  shape: number[]
  /** Whether the optimizer updates it: running moments it does not. */
  trained: boolean
}

/** The arrays of a projection, in the order of its layers. */
export function projectionTensors(projection: Projection | undefined): ProjectionTensor[] {
  if (!projection) return []
  const { from, to, layers, hidden, batchNorm } = projection
  const width = layers === 2 ? hidden : to
  const tensors: ProjectionTensor[] = []
  const add = (fileName: string, name: string, shape: number[], trained = true) =>
    tensors.push({ name: `projection${name}`, fileName: `projection.${fileName}`, shape, trained })
  add('0.weight', 'Weight0', [width, from])
  if (batchNorm) {
    add('1.weight', 'Scale', [width])
    add('1.bias', 'Shift', [width])
    add('1.running_mean', 'Mean', [width], false)
    add('1.running_var', 'Variance', [width], false)
  } else add('0.bias', 'Bias0', [width])
  if (layers === 2) {
    const last = batchNorm ? 3 : 2
    add(`${last}.weight`, 'Weight1', [to, hidden])
    add(`${last}.bias`, 'Bias1', [to])
  }
  return tensors
}
