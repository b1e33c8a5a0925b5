/**
 * A group of processes, started by `mpirun -n 4 node train.mjs`, that work on one training run.
 *
 * It runs over this machine's MPI (Open MPI or MPICH), in an addon of its own that is compiled when asked for:
 * `npx margin-softmax build --distributed`. Without it `processGroup` rejects and says so; the
 * rest of margin-softmax never needs it.
 * @module margin-softmax/distributed
 */
import { isMainThread } from 'node:worker_threads'
import { MarginSoftmaxError, wrongType, wrongValue } from './errors'
import { checkOptions, integerInRange, oneOf } from './internal/check'
import { type ProcessGroupOptions, say, Waiting } from './internal/group-wait'
import { isObject } from './internal/intrinsics'
import { groupTable, type NativeGroup, nativeGroup, succeeded } from './internal/native'

export type { ProcessGroupOptions } from './internal/group-wait'

/** The arrays that a group moves and adds: every typed array but Uint8ClampedArray. */
export type NumberArray =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array

const arrayTypes = {
  Int8Array,
  Uint8Array,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
}

/** The operation that combines the ranks' elements. Sums of integers wrap; a maximum or minimum with NaN is NaN. */
export type Combination = 'sum' | 'max' | 'min'

const combinations: readonly Combination[] = ['sum', 'max', 'min'] // in the order of native/core/collectives.h

/** Options of `reduceScatter`. */
export interface ReduceScatterOptions {
  /** The operation that combines the elements. Default `'sum'`. */
  operation?: Combination | undefined
  /**
   * Numbers of elements for the ranks [size], the same list on every rank; their sum is the array's length. Default: as even
   * as can be, the first ranks one more.
   */
  counts?: readonly number[] | undefined
}

/** Choices that native code reads of every request, for operations that take none. */
const usualChoices = { combination: 0, root: 0, counts: undefined }

/**
 * The processes that one `mpirun` started. Every rank makes the same calls in the same order; calls in flight together
 * are fine. Each call runs on a thread of the group's and copies its array when called; an array over a
 * SharedArrayBuffer is used in place and must not change until the call is done.
 *
 * Sums are added in rank order, those of Float32Array in double precision: the same bits on every rank and from run to
 * run. If the ranks' calls differ, if one of them has no memory or ends early, every rank's call rejects with a
 * `MarginSoftmaxError` of code `ERR_DISTRIBUTED` that names the ranks, and so does every later call. The same happens if a
 * rank does not answer for 10 minutes (`timeout`); after one minute a line on stderr names it. An idle group does not keep
 * the process alive. When the process ends, it waits for the others to end, too, unless it ends with an error: then it tells
 * them, and `mpirun` ends all of them.
 */
export class ProcessGroup {
  /** This process's number, 0 to size − 1. */
  readonly rank: number
  /** The number of processes. */
  readonly size: number
  /** The MPI in use: `'Open MPI v4.1.4'`. */
  readonly library: string
  /** @internal For sharded heads. */
  declare readonly [groupTable]: object
  readonly #native: NativeGroup

  /** @internal Use `processGroup()`. */
  constructor(native: NativeGroup, opened: { rank: number; size: number; library: string; table: object }) {
    if (!isObject(opened)) throw wrongType('processGroup()', 'new ProcessGroup', native)
    this.#native = native
    this.rank = opened.rank
    this.size = opened.size
    this.library = opened.library
    Object.defineProperty(this, groupTable, { value: opened.table })
  }

  /**
   * Bytes that this rank has sent to others so far, what each call tells them beforehand (256 B a rank) included, but not
   * what GPUs send each other over NCCL.
   */
  get bytesSent(): number {
    return this.#native.bytesSent()
  }

  /**
   * Combines the arrays of all ranks element by element, in place: `array` holds the result on every rank once the
   * promise resolves, which it does with `array`. Sends about 2·n elements from each rank, or (size − 1)·n of short ones.
   * @param array the same type and length on every rank
   */
  async allReduce<T extends NumberArray>(array: T, operation: Combination = 'sum'): Promise<T> {
    return this.#collective('allReduce', array, { combination: combinationIndex(operation) }, array)
  }

  /** Gathers the arrays of all ranks, of any lengths, in rank order. Resolves with a new array, the same on every rank. */
  async allGather<T extends NumberArray>(array: T): Promise<T> {
    return this.#collective('allGather', array)
  }

  /**
   * Combines the arrays of all ranks and gives each rank its part of the result, as a new array.
   * @param array the same type and length on every rank
   */
  async reduceScatter<T extends NumberArray>(array: T, options?: ReduceScatterOptions): Promise<T> {
    arrayType(array)
    const { operation = 'sum', counts } = checkOptions(options, 'options', ['operation', 'counts'])
    return this.#collective('reduceScatter', array, {
      combination: combinationIndex(operation),
      counts: counts === undefined ? undefined : this.#counts(counts, array.length),
    })
  }

  /**
   * Copies the array of rank `root` (default 0) into that of every other rank; resolves with `array`.
   * @param array the same type and length on every rank
   */
  async broadcast<T extends NumberArray>(array: T, root = 0): Promise<T> {
    integerInRange(root, 'root', 0, this.size - 1)
    return this.#collective('broadcast', array, { root }, array)
  }

  /** Resolves when every rank has called it. */
  async barrier(): Promise<void> {
    succeeded(await this.#native.collective({ __proto__: null, operation: 'barrier' }))
  }

  /** @param into the array for the result; undefined for a new one of the same type as `array` */
  async #collective<T extends NumberArray>(
    operation: string,
    array: T,
    request: { combination?: number; root?: number; counts?: Float64Array } = {},
    into?: T
  ): Promise<T> {
    const type = arrayType(array)
    const lengthBefore = array.length
    const { values, length = lengthBefore } = succeeded(
      await this.#native.collective({ ...usualChoices, ...request, operation, array, __proto__: null })
    )
    if (into && into.length !== lengthBefore)
      throw new MarginSoftmaxError(
        'ERR_DETACHED',
        `Expected the ${type} of ${operation} to stay in place but its buffer was transferred or resized meanwhile`
      )
    const result = into ?? (new arrayTypes[type](length) as T)
    if (values) this.#native.take(values, result)
    return result
  }

  #counts(counts: readonly number[], length: number): Float64Array {
    if (!Array.isArray(counts)) throw wrongType('an array of integers', 'counts', counts)
    if (counts.length !== this.size) throw wrongValue(`${this.size} counts`, 'counts', counts)
    counts.forEach((count, i) => {
      integerInRange(count, `counts[${i}]`, 0)
    })
    const sum = counts.reduce((total, count) => total + count, 0)
    if (sum !== length) throw wrongValue(`a sum of ${length}, the array's length,`, 'counts', sum)
    return Float64Array.from(counts)
  }
}

function arrayType(array: unknown): keyof typeof arrayTypes {
  const type = ArrayBuffer.isView(array) && (array as NumberArray)[Symbol.toStringTag]
  if (!type || !Object.hasOwn(arrayTypes, type))
    throw wrongType('a typed array other than Uint8ClampedArray', 'array', array)
  return type
}

const combinationIndex = (value: unknown) => combinations.indexOf(oneOf(value, 'operation', combinations))

/** The number of processes that the launcher of Open MPI or MPICH says it started together with this one. */
const launcherSize = process.env.OMPI_COMM_WORLD_SIZE ?? process.env.PMI_SIZE
const launched = Math.max(1, Number(launcherSize) || 1)
const me = `rank ${process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK ?? 0} of ${launched}`

// Processes that this one starts inherit what the launcher says, but they are no ranks.
const isRank =
  isMainThread && [undefined, String(process.pid)].includes(process.env.MARGIN_SOFTMAX_RANK_PROCESS)
if (isRank && launcherSize) process.env.MARGIN_SOFTMAX_RANK_PROCESS = String(process.pid)

let joined: Promise<ProcessGroup> | undefined
let opened = false
let waiting: Waiting | undefined

/**
 * Joins the processes that `mpirun` started together with this one; without `mpirun` it is a group of one. The same
 * group for every call; options of a later call replace those of an earlier one. On the main thread only.
 * @example
 * const group = await processGroup({ timeout: 3_600_000 }) // rank 0 evaluates for up to an hour while the others wait
 * @throws {MarginSoftmaxError} `ERR_NATIVE_MISSING` where the addon is not built or MPI is missing, `ERR_DISTRIBUTED`
 * where MPI does not start, or not all ranks join in time; TypeError, RangeError for options
 */
export async function processGroup(options?: ProcessGroupOptions): Promise<ProcessGroup> {
  const wrong = !isMainThread && 'the main thread for processGroup but received a Worker'
  const child = !isRank && 'a process that mpirun itself started for processGroup but received a child of one'
  if (wrong || child) throw new MarginSoftmaxError('ERR_DISTRIBUTED', `Expected ${wrong || child}`)
  const native = nativeGroup()
  waiting ??= new Waiting(native, me)
  waiting.set(options)
  joined ??= join(native, waiting)
  return joined
}

async function join(native: NativeGroup, wait: Waiting): Promise<ProcessGroup> {
  if (launched > 1) sayWhyEnded(wait.whoWaits)
  const group = new ProcessGroup(native, succeeded(await wait.join(native.open(launched), launched)))
  opened = true
  if (group.size > 1) wait.watch()
  return group
}

// A rank that is killed can't tell the others: mpirun notices, and ends them by a signal (MPICH's by one that can't be heard).
function sayWhyEnded(who: string): void {
  const onEnd = () => {
    if (process.listenerCount('SIGTERM') > 1) return // the program has an end of its own
    say(`${who} was told to end (SIGTERM), as mpirun does when another rank is gone`)
    process.off('SIGTERM', onEnd)
    process.kill(process.pid, 'SIGTERM')
  }
  process.on('SIGTERM', onEnd)
}

// Others may be waiting for this process, even if it never joined: they hear that it has ended. (Open MPI's mpirun ends
// them itself where one fails that never joined; MPICH's does not.) Ends that disagree are an error here, too.
if (isRank)
  process.on('exit', (code) => {
    const concerned = joined ?? (launched > 1 && (code === 0 || !process.env.OMPI_COMM_WORLD_SIZE))
    const native = concerned && nativeGroupIfBuilt()
    if (!native) return
    waiting ??= new Waiting(native, me)
    native.leave(code, launched)
    if (code !== 0) return
    try {
      waiting.leave(opened)
    } catch (error) {
      process.exitCode = 1
      throw error
    }
  })

function nativeGroupIfBuilt(): NativeGroup | undefined {
  try {
    return nativeGroup()
  } catch {
    return undefined // no process can have joined
  }
}
