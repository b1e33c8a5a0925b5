/** The size of a step to be timed. */
export interface BenchCase {
  rows: number
  dim: number
  classes: number
}

/** Its batch and weights, random. */
export interface BenchInputs {
  input: Float32Array
  weight: Float32Array
  labels: Int32Array
  dim: number
}
