// The interface of a contender. Each is one file in contenders/ and runs in a process of its own (process.ts).

import type { Case, Inputs } from './cases'

export interface Results {
  loss: number
  gradInput: Float32Array // [rows, dim]
  gradWeight: Float32Array // [classes, dim]
}

/** Thrown by load() where an optional rival is absent: the table says so instead of a time. */
export class NotInstalled extends Error {}

export interface Contender {
  /** Loads the library and starts its backend; `threads` is a wish. Answers what it really got, for the report. */
  load(threads: number): Promise<{ version: string; threads: number }>
  /**
   * Takes the inputs in (uploads them where there is somewhere to upload them to) and answers the step that is
   * timed. A step ends when loss and both gradients lie in typed arrays, which may be the same at each step.
   */
  prepare(size: Case, inputs: Inputs): Promise<() => Results | Promise<Results>>
}
