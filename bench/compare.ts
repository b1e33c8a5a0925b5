// A contender's first results against the float64 reference.

import { closeSync, openSync, readSync } from 'node:fs'
import path from 'node:path'
import type { Reference } from './reference'

/** ‖result − reference‖ / ‖reference‖ of each result. */
export interface Errors {
  loss: number
  gradInput: number
  gradWeight: number
}

/** Above this in any of its results, a contender is reported as wrong and not timed. */
export const tolerance = 1e-3

export function agrees({ loss, gradInput, gradWeight }: Errors): boolean {
  // Written so that NaN does not agree.
  return [loss, gradInput, gradWeight].every((error) => error <= tolerance)
}

/** Compares a file of float32 numbers, part after part: the whole of it may be large. */
function fileError(file: string, expected: Float64Array): number {
  const part = new Float32Array(2 ** 20)
  const descriptor = openSync(file, 'r')
  let difference = 0
  let norm = 0
  let at = 0
  try {
    while (at < expected.length) {
      const wanted = Math.min(part.length, expected.length - at)
      const bytes = readSync(descriptor, part, 0, 4 * wanted, 4 * at)
      if (bytes !== 4 * wanted) return Number.NaN
      for (let i = 0; i < wanted; i++) {
        const reference = expected[at + i] as number
        difference += ((part[i] as number) - reference) ** 2
        norm += reference ** 2
      }
      at += wanted
    }
  } finally {
    closeSync(descriptor)
  }
  return Math.sqrt(difference / norm)
}

export function compare(loss: number, folder: string, reference: Reference): Errors {
  return {
    loss: Math.abs(loss - reference.loss) / Math.abs(reference.loss),
    gradInput: fileError(path.join(folder, 'gradInput'), reference.gradInput),
    gradWeight: fileError(path.join(folder, 'gradWeight'), reference.gradWeight),
  }
}
