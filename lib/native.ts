import os from 'node:os'
import path from 'node:path'
import load from 'node-gyp-build'
import { integerFrom, oneOf } from './check'
import { MarginSoftmaxError } from './errors'

/** How a native call ended: either `failure` and `message`, or the figures of the work. */
export interface NativeResult {
  failure?: string
  message?: string
  row?: number
  loss: number
  accuracy: number
  targetCosine: number
  largestOtherCosine: number
  gradientNorm: number
  gradInputNorm: number
  iteration: number
  head: NativeHead
}

/** An opaque handle of native memory. */
export interface NativeHead {
  readonly native: unique symbol
}

interface Native {
  margins(): { name: string; normalized: boolean; parameters: string[] }[]
  instructionSets(): string[]
  multiplyAdds(threads: number, rounds: number): number
  loss(request: object): NativeResult | Promise<NativeResult>
  topK(request: object): NativeResult | Promise<NativeResult>
  measure(request: object): NativeResult
  crossEntropyLoss(request: object): NativeResult
  headCreate(request: object): Promise<NativeResult>
  headStep(head: NativeHead, request: object): NativeResult | Promise<NativeResult>
  headTopK(head: NativeHead, request: object): NativeResult | Promise<NativeResult>
  headRead(head: NativeHead, name: string, offset?: number, part?: Float32Array): number
  headWrite(head: NativeHead, name: string, offset: number, part: Float32Array): number
  headDispose(head: NativeHead): void
  headIteration(head: NativeHead): number
}

let addon: Native | undefined

/** The addon: a binary built here (build/Release) or a prebuilt one for this platform. */
export function native(): Native {
  if (addon) return addon
  const root = path.join(__dirname, '..')
  try {
    addon = load(root) as Native
  } catch (cause) {
    throw new MarginSoftmaxError(
      'ERR_NATIVE_MISSING',
      `No native binary of margin-softmax loads on ${process.platform}-${process.arch}.\n` +
        `Looked in build/Release and prebuilds of ${root}: ${(cause as Error).message.split('\n')[0]}\n` +
        'Build one with a C++17 compiler and CMake: npx cmake-js rebuild in that folder.',
      { cause }
    )
  }
  return addon
}

/** Throws what a native call reports as failed; otherwise hands its result on. */
export function succeeded(result: NativeResult, name = 'the computation'): NativeResult {
  if (result.failure === undefined) return result
  if (result.failure === 'ERR_NOT_FINITE')
    throw new MarginSoftmaxError(
      result.failure,
      `Expected finite numbers for ${name} but received a loss that is not finite in row ${result.row}`
    )
  if (result.failure === 'ERR_TOO_MANY_ROWS') throw new RangeError(result.message)
  throw new MarginSoftmaxError(result.failure, result.message ?? '')
}

/** The instruction sets that this machine can run, best first; the last one is always `portable`. */
export function instructionSets(): string[] {
  return native().instructionSets()
}

/** The names of the margins in native/margin.h, in their order there. */
export function marginNames(): string[] {
  return native()
    .margins()
    .map(({ name }) => name)
}

/** How a computation is to run. */
export interface ExecutionOptions {
  /** Threads, 1 to 1023. Default: `MARGIN_SOFTMAX_THREADS` of the environment, or as many as the process may use. */
  threads?: number
  /** `'auto'` takes the best device there is. This release computes on the CPU. */
  device?: 'auto' | 'cpu'
  /**
   * Bytes of scratch memory, at least 32 MiB (default 256 MiB), kept between calls. What the computation does not need
   * keeps logits between the forward and the backward pass, which saves up to a quarter of the time; no bit depends on it.
   */
  workspace?: number
  /** Forces an instruction set of `instructionSets()`, for tests. */
  instructionSet?: string
}

export const executionOptions = ['threads', 'device', 'workspace', 'instructionSet'] as const

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
      : integerFrom(Number(fromEnvironment), 'MARGIN_SOFTMAX_THREADS', 1, mostThreads)
  return usualThreads
}

export function execution(given: ExecutionOptions): {
  threads: number
  workspace: number
  instructionSet?: string
} {
  if (given.device !== undefined) oneOf(given.device, 'device', ['auto', 'cpu'])
  return {
    threads:
      given.threads === undefined ? defaultThreads() : integerFrom(given.threads, 'threads', 1, mostThreads),
    workspace:
      given.workspace === undefined
        ? usualWorkspace
        : integerFrom(given.workspace, 'workspace', leastWorkspace, 2 ** 46),
    instructionSet:
      given.instructionSet === undefined
        ? undefined
        : oneOf(given.instructionSet, 'instructionSet', instructionSets()),
  }
}

/** The fused multiply-adds a second, in GFLOP/s, that `threads` threads reach here: what benchmarks are measured against. */
export function machinePeak({ threads = defaultThreads() }: { threads?: number } = {}): number {
  let best = 0
  for (let i = 0; i < 9; i++) {
    const start = process.hrtime.bigint()
    const operations = native().multiplyAdds(threads, 2e6)
    best = Math.max(best, operations / Number(process.hrtime.bigint() - start))
  }
  return best
}
