import fs from 'node:fs'
import path from 'node:path'
import timers from 'node:timers'
import load from 'node-gyp-build'
import { MarginSoftmaxError } from './errors'
import type { Exchange } from './head-settings'
import type { LeftOut } from './loss'
import type { NativeVerification } from './verification'

/** How a native call ended: either `failure` and `message`, or the figures of the work. */
export interface NativeResult {
  failure?: string
  message?: string
  row?: number
  loss: number
  leftOut: LeftOut
  accuracy: number
  targetCosine: number
  largestOtherCosine: number
  gradientNorm: number
  gradInputNorm: number
  iteration: number
  head: NativeHead
  /** The classes that a head's process holds. */
  firstClass: number
  ownClasses: number
}

/** How a copy to or from a head's array ended. `length`: of the whole array, 0 where the head has none of that name. */
export type NativePart = Partial<NativeResult> & { length?: number }

/** An opaque handle of native memory. */
export interface NativeHead {
  readonly native: unique symbol
}

/** A GPU as native/executor.h describes it, or why there is none (index −1). `usable`, `freeBytes`: of one asked for. */
export interface NativeDevice {
  index: number
  name: string
  usable: boolean
  reason: string
  computeCapability: number
  memoryBytes: number
  freeBytes: number
  driverVersion: number
  tensorCores: boolean
}

interface Native {
  /** Delivers what has finished. Whether to look again at the next turn of the event loop. */
  look(): boolean
  margins(): { name: string; normalized: boolean; parameters: string[] }[]
  instructionSets(): string[]
  cudaDevices(asked?: number): NativeDevice[]
  nccl(library: string): { version: string; reason: string }
  multiplyAdds(threads: number, rounds: number): number
  preferHugePages(array: Float32Array): void
  loss(request: object): NativeResult | Promise<NativeResult>
  topK(request: object): NativeResult | Promise<NativeResult>
  measure(request: object): NativeResult
  crossEntropyLoss(request: object): NativeResult
  verification(request: object): NativeVerification | Promise<NativeVerification>
  headCreate(request: object): Promise<NativeResult>
  headConnect(head: NativeHead, library: string): Promise<Ended & Exchange>
  headStep(head: NativeHead, request: object): NativeResult | Promise<NativeResult>
  headTopK(head: NativeHead, request: object): NativeResult | Promise<NativeResult>
  headRead(head: NativeHead, name: string, offset?: number, part?: Float32Array): NativePart
  headWrite(head: NativeHead, name: string, offset: number, part: Float32Array): NativePart
  headDispose(head: NativeHead): void
  headDisposed(head: NativeHead): boolean
  headIteration(head: NativeHead): number
}

/** The values of a collective operation in native memory. */
export interface NativeValues {
  readonly nativeValues: unique symbol
}

type Ended = Pick<Partial<NativeResult>, 'failure' | 'message'>

/**
 * Where a process group keeps the table of native/collectives.h, which the main addon takes. The same symbol in every copy of
 * this module: a test runner or a bundler may load one for the group and another for the head.
 */
export const groupTable: unique symbol = Symbol.for('margin-softmax: table of native functions')

/** The addon of native/mpi. */
export interface NativeGroup {
  open(launched: number): Promise<Ended & { rank: number; size: number; library: string; table: object }>
  collective(request: object): Promise<Ended & { values?: NativeValues; length?: number }>
  take(values: NativeValues, array: ArrayBufferView): void
  leave(code: number, launched: number): void
  /** Waits for the end of the leaving so many milliseconds; undefined: it goes on. */
  left(milliseconds: number): Ended | undefined
  setPatience(milliseconds: number): void
  waiting(): { milliseconds: number; ranks: string; place: string; call: number } | undefined
  bytesSent(): number
}

let addon: Native | undefined

/**
 * The addon: a binary built here (build/Release), a prebuilt one for this platform, or the file that
 * `MARGIN_SOFTMAX_BINARY` in the environment names.
 */
export function native(): Native {
  if (addon) return addon
  const root = path.join(__dirname, '..')
  const given = process.env.MARGIN_SOFTMAX_BINARY
  if (given && !fs.existsSync(given))
    throw new MarginSoftmaxError(
      'ERR_NATIVE_MISSING',
      `Expected the path of a native binary for MARGIN_SOFTMAX_BINARY but received ${JSON.stringify(given)}`
    )
  try {
    addon = (given ? require(path.resolve(given)) : load(root)) as Native
  } catch (cause) {
    refuseForMemory(cause)
    throw new MarginSoftmaxError(
      'ERR_NATIVE_MISSING',
      `No native binary of margin-softmax loads on ${process.platform}-${process.arch}, Node.js ${process.version}.\n` +
        `Looked ${given ? `at ${given}` : `in build/Release and prebuilds of ${root}`}: ${(cause as Error).message.split('\n')[0]}\n` +
        `Compile one with CMake and a C++17 compiler: npx margin-softmax build`,
      { cause }
    )
  }
  return addon
}

/** Hands on that there was no memory to load a binary: that one is not missing. */
function refuseForMemory(cause: unknown): void {
  const { code, message } = cause as NodeJS.ErrnoException
  if (code === 'ERR_OUT_OF_MEMORY') throw new MarginSoftmaxError(code, message, { cause })
}

/** The addon of the process group, compiled by scripts/build-distributed.cjs; `MARGIN_SOFTMAX_MPI_BINARY` names another. */
export function nativeGroup(): NativeGroup {
  const root = path.join(__dirname, '..')
  const file = path.resolve(
    process.env.MARGIN_SOFTMAX_MPI_BINARY || path.join(root, 'build/mpi/Release/margin_softmax_mpi.node')
  )
  try {
    return require(file)
  } catch (cause) {
    refuseForMemory(cause)
    throw new MarginSoftmaxError(
      'ERR_NATIVE_MISSING',
      `The addon of margin-softmax/distributed does not load: ${(cause as Error).message.split('\n')[0]}\n` +
        'It needs Open MPI or MPICH (Debian, Ubuntu: apt-get install openmpi-bin libopenmpi-dev, or mpich libmpich-dev) and is built by:\n' +
        'npx margin-softmax build --distributed',
      { cause }
    )
  }
}

/** The binary that `native()` loads, and why that one. */
export function binaryFile(): { file: string; chosen: string } {
  native()
  const given = process.env.MARGIN_SOFTMAX_BINARY
  if (given) return { file: path.resolve(given), chosen: 'named by MARGIN_SOFTMAX_BINARY' }
  const root = path.join(__dirname, '..')
  const file = load.resolve(root)
  const built = file.startsWith(path.join(root, 'build'))
  return {
    file,
    chosen: built
      ? 'compiled on this machine: goes before a prebuilt one'
      : `prebuilt for ${process.platform}-${process.arch}: nothing was compiled here`,
  }
}

/** Throws what a native call reports as failed; otherwise hands its result on. Every native call may run out of memory. */
export function succeeded<Result>(result: Result, name = 'the computation'): Result {
  const { failure, message, row } = result as Partial<Pick<NativeResult, 'failure' | 'message' | 'row'>>
  if (failure === undefined) return result
  if (failure === 'ERR_NOT_FINITE')
    throw new MarginSoftmaxError(
      failure,
      `Expected finite numbers for ${name} but received a loss that is not finite in row ${row}`
    )
  if (failure === 'ERR_TOO_MANY_ROWS' || failure === 'ERR_TOO_LARGE') throw new RangeError(message)
  throw new MarginSoftmaxError(failure, message ?? '')
}

const { setImmediate } = timers
let looking = false

function look(): void {
  looking = native().look()
  if (looking) setImmediate(look)
}

/**
 * What an asynchronous native call returned. Where the last one ended soon, the event loop turns without sleeping until
 * this one does (native/watch.h).
 */
export function watched<Result>(running: Result): Result {
  if (!looking) {
    looking = true
    setImmediate(look)
  }
  return running
}

/** The instruction sets that this machine can run, best first; the last one is always `portable`. */
export function instructionSets(): string[] {
  return succeeded(native().instructionSets())
}
