// Helpers of the suites of the probability functions.
import { instructionSets } from '../../lib/internal/native'
import { onCpu, random } from './support'

export const at = (values: ArrayLike<number>, index: number) => values[index] as number

/** Around the vector widths, the block of 1,024 and the chunk of 32,768 elements. */
export const sizes = [
  1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 100, 1023, 1024, 1025, 2049, 4099, 32768, 32769, 70001,
]

/** On the shim's GPU none: a call that names one computes on the CPU. */
export const sets = onCpu ? instructionSets() : [undefined]
/** Instruction sets that give the same bits, because they have a fused multiply-add. */
export const fused = sets.filter((set) => set !== 'portable')

/** Rows of positive numbers that add up to 1 within rounding; `spread` is how many e-folds apart they are. */
export function distributions(seed: number, rows: number, classes: number, spread = 8): Float32Array {
  const next = random(seed)
  const values = Float64Array.from({ length: rows * classes }, () => Math.exp(spread * next()))
  for (let i = 0; i < rows; i++) {
    const row = values.subarray(i * classes, (i + 1) * classes)
    const sum = row.reduce((a, b) => a + b)
    for (let j = 0; j < classes; j++) row[j] = at(row, j) / sum
  }
  return Float32Array.from(values)
}

/** One answer for every row of [rows, classes] arrays, joined. */
export function byRow(
  classes: number,
  arrays: Float32Array[],
  answer: (...rows: Float32Array[]) => number | number[]
) {
  const rows = (arrays[0] as Float32Array).length / classes
  return Array.from({ length: rows }, (_, i) =>
    answer(...arrays.map((array) => array.subarray(i * classes, (i + 1) * classes)))
  ).flat()
}

/** Largest error of an element relative to its own size; elements below `smallest` count as that large. NaN if any is. */
export function worstElement(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  smallest = 1e-30
): number {
  if (actual.length !== expected.length) return Number.NaN
  let worst = 0
  for (let i = 0; i < actual.length; i++) {
    if (at(actual, i) === at(expected, i)) continue
    const error = Math.abs(at(actual, i) - at(expected, i)) / Math.max(Math.abs(at(expected, i)), smallest)
    if (!(error <= worst)) worst = error
  }
  return worst
}
