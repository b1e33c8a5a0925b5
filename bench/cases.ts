// The cases: sizes, and the seeded inputs that every process makes for itself, the same in each.

export interface Case {
  name: string
  rows: number
  dim: number
  classes: number
}

export interface Inputs {
  input: Float32Array // [rows, dim]
  weight: Float32Array // [classes, dim]
  labels: Int32Array // [rows]
}

export const scale = 64
export const margin = 0.5

function size(rows: number, dim: number, classes: number): Case {
  return { name: `${rows}x${dim}x${classes}`, rows, dim, classes }
}

export const cases: readonly Case[] = [
  size(256, 64, 10),
  size(64, 128, 1_000),
  size(128, 512, 10_000),
  size(256, 512, 100_000),
]

/** "128×512×10,000": rows × dim × classes. */
export function title({ rows, dim, classes }: Case): string {
  return `${rows}×${dim}×${classes.toLocaleString('en')}`
}

/** The useful work of a step: three products of 2·rows·dim·classes, however a contender arranges it. */
export function flops({ rows, dim, classes }: Case): number {
  return 3 * 2 * rows * dim * classes
}

/** Fills values with uniform numbers in [-1, 1): xorshift32, which makes 50 million of them in a fraction of a second. */
function fill(values: Float32Array, seed: number): void {
  let state = seed | 0
  for (let i = 0; i < values.length; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    values[i] = state / 2 ** 31
  }
}

/**
 * Rows lie between "nowhere near their class" and "close to it", so that both the losses near 0 and the
 * large ones are timed and compared, as in the middle of a training.
 */
export function makeInputs(
  { rows, dim, classes }: Case,
  allocate: (elements: number) => Float32Array = (elements) => new Float32Array(elements)
): Inputs {
  const input = allocate(rows * dim)
  const weight = allocate(classes * dim)
  const labels = new Int32Array(rows)
  fill(input, 0x2545f491)
  fill(weight, 0x9e3779b9)
  for (let row = 0; row < rows; row++) {
    const label = Math.floor(((row * 0.6180339887498949) % 1) * classes)
    const pull = (1.5 * row) / rows
    labels[row] = label
    for (let k = 0; k < dim; k++) {
      input[row * dim + k] = (input[row * dim + k] as number) + pull * (weight[label * dim + k] as number)
    }
  }
  return { input, weight, labels }
}
