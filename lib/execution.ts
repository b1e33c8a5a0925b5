import os from 'node:os'
import { cpu, type DeviceName, deviceIndex, type Precision, precisionIndex } from './devices'
import { wrongValue } from './errors'
import { integerInRange, oneOf } from './internal/check'
import { emulatedInstructionSets, instructionSets, native, succeeded } from './internal/native'
import { namesOf } from './internal/option-table'

/** Options that say how a computation runs. */
export interface ExecutionOptions {
  /** Threads of the CPU, 1 to 1023. Default: `MARGIN_SOFTMAX_THREADS` in the environment, or as many as the process may use. */
  threads?: number | undefined
  /**
   * Where to compute. `'auto'` (default) is the first usable GPU, or the CPU if there is none; `MARGIN_SOFTMAX_DEVICE` in the
   * environment replaces it. `'cuda'` is the first usable GPU, `'cuda:1'` the GPU of that index. See `devices()`.
   */
  device?: DeviceName | undefined
  /**
   * The precision of the matrix products. Weights, norms, targets, losses and updates are float32 or better in all of them.
   *
   * - `'float32'` (default): exact to single precision, on every device.
   * - `'bfloat16'` (7 bits of fraction): gradients within about 5e-3 where embeddings are dense. `devices()` says in
   *   `fastPrecisions` where it saves time; another CPU gives the same bits, but slower than float32. GPUs need compute
   *   capability 8.0.
   * - `'tf32'` (10 bits of fraction): gradients within about 1e-3, on GPUs of compute capability 8.0 alone.
   *
   * Where `dim` is below 128, the last two take three products for one and are within 1e-4, or 1e-3 in a few dimensions.
   * `topK` always computes in float32. docs/half-precision.md says when bfloat16 is safe.
   */
  precision?: Precision | undefined
  /**
   * Bytes of scratch memory on the CPU, at least 32 MiB. Default 256 MiB. It is kept between calls. What the computation does
   * not need holds logits between the forward and the backward pass, which saves up to a quarter of the time. No bit of a
   * result depends on it.
   */
  workspace?: number | undefined
  /** Forces an instruction set of `instructionSets()`, and with it the CPU: for tests. */
  instructionSet?: string | undefined
}

export const executionOptions = namesOf<ExecutionOptions>({
  threads: true,
  device: true,
  precision: true,
  workspace: true,
  instructionSet: true,
})

const leastWorkspace = 32 * 2 ** 20
const usualWorkspace = 256 * 2 ** 20
const mostThreads = 1023

let usualThreads: number | undefined

function defaultThreads(): number {
  if (usualThreads !== undefined) return usualThreads
  const fromEnvironment = process.env.MARGIN_SOFTMAX_THREADS
  usualThreads =
    fromEnvironment === undefined || fromEnvironment === ''
      ? Math.min(os.availableParallelism(), mostThreads)
      : threadsOf(fromEnvironment)
  return usualThreads
}

function threadsOf(text: string): number {
  if (!/^\d+$/.test(text))
    throw wrongValue(`an integer from 1 to ${mostThreads}`, 'MARGIN_SOFTMAX_THREADS', text)
  return integerInRange(Number(text), 'MARGIN_SOFTMAX_THREADS', 1, mostThreads)
}

/** `ExecutionOptions` in the form that the addon takes. */
export interface Execution {
  /** −1: the CPU; else the GPU's index. */
  device: number
  precision: number
  threads: number
  workspace: number
  instructionSet?: string
}

/** @param auto what `'auto'` means to this work: the best device, or always the CPU */
export function execution(options: ExecutionOptions, auto: 'best' | 'cpu' = 'best'): Execution {
  const instructionSet =
    options.instructionSet === undefined
      ? undefined
      : (emulatedInstructionSets().find((name) => name === options.instructionSet) ??
        oneOf(options.instructionSet, 'instructionSet', instructionSets()))
  const device =
    instructionSet !== undefined && (options.device === undefined || options.device === 'auto')
      ? cpu
      : deviceIndex(options.device, auto)
  if (instructionSet !== undefined && device !== cpu)
    throw wrongValue("'cpu' with an instructionSet", 'device', options.device)
  return {
    device,
    precision: precisionIndex(options.precision, device),
    threads:
      options.threads === undefined
        ? defaultThreads()
        : integerInRange(options.threads, 'threads', 1, mostThreads),
    workspace:
      options.workspace === undefined
        ? usualWorkspace
        : integerInRange(options.workspace, 'workspace', leastWorkspace, 2 ** 46),
    instructionSet,
  }
}

/** The fused multiply-adds a second, in GFLOP/s, that `threads` threads reach here: what benchmarks are measured against. */
export function machinePeak({ threads = defaultThreads() }: { threads?: number } = {}): number {
  let best = 0
  for (let i = 0; i < 9; i++) {
    const start = process.hrtime.bigint()
    const operations = succeeded(native().multiplyAdds(threads, 2e6))
    best = Math.max(best, operations / Number(process.hrtime.bigint() - start))
  }
  return best
}
