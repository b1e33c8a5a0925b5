import timers from 'node:timers'
import { MarginSoftmaxError } from '../errors'
import { loadAddon, loadGroupAddon } from './native-file'

/** The terms that the backward pass skipped under `negligible`: their share of the work, and the error bounds. */
export interface LeftOut {
  /** Share of the terms of its two matrix products that was not computed; 0 where everything was. */
  share: number
  /** Bound of the norm of what `gradInput` lacks, as a multiple of its norm. */
  gradInput: number
  /** The same of the weights' gradient. */
  gradWeight: number
}

/** The way by which the ranks of a sharded head exchange embeddings and gradients. It is the same on every rank. */
export interface Exchange {
  /** `'nccl'`: from GPU to GPU; `'mpi'`: through the memory of the processes. */
  exchange: 'nccl' | 'mpi'
  /** Why: `'every rank has a GPU of its own and NCCL 2.27.3'`, `'rank 0 computes on the CPU'`. */
  reason: string
}

/** The end of a native call: either `failure` and `message`, or the figures of the work. */
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

/** The addon's results beside the arrays that it fills. */
export interface NativeVerification extends Partial<NativeResult> {
  samePairs: number
  differentPairs: number
  zeroRows: number
  areaUnderCurve: number
  ties: number
  equalErrorRate: number
  equalErrorThreshold: number
  bestAccuracy: number
  bestThreshold: number
  bestBalancedAccuracy: number
  bestBalancedThreshold: number
  minimumDetectionCost: number
  minimumDetectionCostThreshold: number
  histogramFrom: number
  histogramTo: number
}

/** The end of a copy to or from a head's array. `length`: of the whole array, 0 where the head has none of that name. */
export type NativePart = Partial<NativeResult> & { length?: number }

/** An opaque handle of native memory. */
export interface NativeHead {
  readonly native: unique symbol
}

/** A GPU as native/core/executor.h describes it, or why there is none (index −1). `usable`, `freeBytes`: of one asked for. */
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

/** Which instruction set serves `precision: 'bfloat16'` on the CPU. */
export interface NativeBfloat16 {
  instructionSet: string
  /** Whether it is at least as fast as float32. */
  fast: boolean
  /** The measured rate of its products, relative to float32's; 0 of tiles, which need no measuring. */
  timesFloat32: number
}

interface Native {
  /** Delivers what has finished. Whether to look again at the next turn of the event loop. */
  look(): boolean
  /** Has the work of the request with this ticket end early: `ERR_CANCELLED`. */
  cancel(ticket: number): void
  margins(): { name: string; normalized: boolean; parameters: string[] }[]
  instructionSets(): string[]
  emulatedInstructionSets(): string[]
  bfloat16(): NativeBfloat16
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
  headChange(head: NativeHead, request: object): Promise<Ended>
  headAdopt(head: NativeHead, from: NativeHead, request: object): Promise<Ended>
  headStep(head: NativeHead, request: object): NativeResult | Promise<NativeResult>
  headTopK(head: NativeHead, request: object): NativeResult | Promise<NativeResult>
  headEmbed(head: NativeHead, request: object): Ended | Promise<Ended>
  headDecline(head: NativeHead, reason: string, topK: boolean): Promise<Ended>
  headRead(head: NativeHead, name: string, offset?: number, part?: Float32Array): NativePart
  headWrite(head: NativeHead, name: string, offset: number, part: Float32Array): NativePart
  headDispose(head: NativeHead): void
  headDisposed(head: NativeHead): boolean
  headIteration(head: NativeHead): number
  /** Bytes outside the heap that the garbage collector knows of: array buffers, the heads of this process, and all else. */
  externalMemory(): number
}

/** The values of a collective operation in native memory. */
export interface NativeValues {
  readonly nativeValues: unique symbol
}

/** The end of native work that fills arrays of the caller's. */
export type Ended = Pick<Partial<NativeResult>, 'failure' | 'message'>

/**
 * Where a process group keeps the table of native/core/collectives.h, which the main addon takes. The same symbol in every copy of
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

/** The addon, loaded once. */
export function native(): Native {
  addon ??= loadAddon() as Native
  return addon
}

/** The addon of the process group. */
export function nativeGroup(): NativeGroup {
  return loadGroupAddon() as NativeGroup
}

/** Throws what a native call reports as failed; otherwise hands its result on. Every native call may run out of memory. */
export function succeeded<Result>(result: Result, name = 'the computation'): Result {
  const { failure, message, row } = result as Partial<Pick<NativeResult, 'failure' | 'message' | 'row'>>
  if (failure === undefined) return result
  if (failure === 'ERR_NOT_FINITE' && row !== -1)
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
 * Returns the promise of an asynchronous native call. If the last call ended soon, the event loop turns without sleeping
 * until this one does (native/core/watch.h).
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

/** Instruction sets of other machines that this one can imitate, slowly: for tests. Nothing chooses them. */
export function emulatedInstructionSets(): string[] {
  return succeeded(native().emulatedInstructionSets())
}
