// Finds each probe's nearest rows of a gallery, best first, with topK over blocks of probes. Memory is bounded by a block's
// lists; no matrix of all scores exists.
//
// Among equal scores the rows of other classes than the probe's come first, so that a tie never helps: embeddings that have
// collapsed into one point identify nobody. topK breaks ties by row. So it is asked for one row more than wanted, and where
// equal scores go beyond its list and the list can't say which rows are first among them, for a longer list.
//
// The search is a generator that yields calls of topK and takes their results: one algorithm, synchronous or not.
import { notFinite, wrongValue } from '../errors'
import { type ExecutionOptions, execution } from '../execution'
import { type TopKBatch, type TopKOptions, type TopKResult, topK, topKSync } from '../topk'
import { throwIfAborted } from './abort'
import { floats, newArray, newSharedCopy } from './check'

/** A call of topK; undefined lets the event loop of asynchronous work turn. */
type Call = { batch: TopKBatch; options: TopKOptions } | undefined
export type Searching<Result> = Generator<Call, Result, TopKResult | undefined>

interface Compared {
  /** [N,D], in shared memory for asynchronous work, else it would be copied for each block */
  gallery: Float32Array
  /** [M,D] */
  probes: Float32Array
  dim: number
  execution: Pick<ExecutionOptions, 'threads' | 'instructionSet'>
}

export interface Search extends Compared {
  /** The class of each row of the gallery [N]. */
  galleryClasses: Int32Array
  /** The class of each probe [M], −1 for one that the gallery doesn't have. */
  probeClasses: Int32Array
  /** Whether the probes are the gallery's rows, each of which is compared with all the others. */
  leaveOneOut: boolean
  /** The number of rows wanted for each probe [M], at most those that it is compared with. */
  lengths: Int32Array
}

/** Takes a probe's nearest rows, as many as were wanted. The arrays hold them until it returns. */
export type Visit = (probe: number, rows: Int32Array, scores: Float32Array) => void

/** The largest block of probes: its multiply-adds, after which a signal is heeded, and the bytes of its lists. */
const blockProducts = 2 ** 36
const blockBytes = 2 ** 25
const leastBlock = 64

/** Calls `visit` for every probe, in an order that depends on the sizes alone. */
export function* nearestRows(search: Search, visit: Visit): Searching<void> {
  const { leaveOneOut, galleryClasses } = search
  const rows = galleryClasses.length
  for (const [length, group] of byLength(search.lengths)) {
    let asked = length
    let waiting = group
    while (waiting.length > 0) {
      const k = Math.min(rows, asked + (leaveOneOut ? 2 : 1))
      const open: number[] = []
      const list = new CandidateList(search, k)
      yield* topKOfBlocks(search, waiting, k, (found, i, probe) => {
        if (list.take(found, i, probe)) visit(probe, list.rows, list.scores)
        else open.push(probe)
      })
      waiting = open
      asked *= 4
    }
  }
}

/** Groups of probes whose lists are of similar length, and the longest of each: powers of two, the shortest lists exactly. */
function byLength(lengths: Int32Array): [number, number[]][] {
  const shortest = lengths.reduce((least, length) => Math.min(least, length), lengths[0] as number)
  const groups = new Map<number, number[]>()
  for (const [probe, length] of lengths.entries()) {
    const asked = length === shortest ? length : 2 ** Math.ceil(Math.log2(length))
    const group = groups.get(asked)
    if (group) group.push(probe)
    else groups.set(asked, [probe])
  }
  return [...groups].sort(([a], [b]) => a - b)
}

/**
 * The k best rows of some of the probes, by topK for one block of them after the other.
 * @param places of those probes
 * @param take is given a result, the row of it, and the probe whose row that is
 */
export function* topKOfBlocks(
  compared: Compared,
  places: readonly number[],
  k: number,
  take: (found: TopKResult, i: number, probe: number) => void
): Searching<void> {
  const { gallery, dim, execution } = compared
  const most = Math.min(blockProducts / gallery.length, blockBytes / (k * 8))
  const block = Math.max(leastBlock, Math.floor(most))
  for (let first = 0; first < places.length; first += block) {
    const probes = places.slice(first, first + block)
    const batch = { input: rowsAt(compared, probes), weight: gallery, dim }
    const found = yield { batch, options: { k, ...execution, device: 'cpu' } }
    for (const [i, probe] of probes.entries()) take(found as TopKResult, i, probe)
  }
}

/**
 * Finds each probe's k best identities, best first: an identity has the score of its best row. Equal scores come in the
 * order of the rows.
 * @param identities of the gallery's rows [N], each from 0 to count − 1
 * @returns identities and scores [M,k]; −1 and −Infinity where there are fewer than k
 */
export function* nearestIdentities(
  compared: Compared,
  { identities, count }: { identities: Int32Array; count: number },
  k: number
): Searching<{ found: Int32Array; scores: Float32Array }> {
  const rows = identities.length
  const probes = compared.probes.length / compared.dim
  const found = newArray(Int32Array, probes * k, 'the identities').fill(-1)
  const scores = newArray(Float32Array, probes * k, 'scores').fill(-Infinity)
  const wanted = Math.min(k, count)
  let waiting = wanted > 0 ? Array.from({ length: probes }, (_, i) => i) : []
  let asked = wanted === 1 ? 1 : wanted * Math.ceil(rows / count)
  while (waiting.length > 0) {
    const length = Math.min(rows, asked)
    const open: number[] = []
    yield* topKOfBlocks(compared, waiting, length, (list, i, probe) => {
      const seen = new Set<number>()
      for (let j = i * length; j < (i + 1) * length && seen.size < wanted; j++) {
        const identity = identities[list.indices[j] as number] as number
        if (seen.has(identity)) continue
        found[probe * k + seen.size] = identity
        scores[probe * k + seen.size] = list.scores[j] as number
        seen.add(identity)
      }
      if (seen.size < wanted) open.push(probe)
    })
    waiting = open
    asked *= 4
  }
  return { found, scores }
}

function rowsAt({ probes, dim }: Compared, places: readonly number[]): Float32Array {
  const rows = newArray(Float32Array, places.length * dim, 'a block of probes')
  for (const [i, place] of places.entries())
    rows.set(probes.subarray(place * dim, (place + 1) * dim), i * dim)
  return rows
}

/** A probe's list of topK, without the probe itself, and with the ties in our order. */
class CandidateList {
  rows: Int32Array = new Int32Array(0)
  scores: Float32Array = new Float32Array(0)
  readonly #rows: Int32Array
  readonly #scores: Float32Array
  readonly #mates: Int32Array

  constructor(
    readonly search: Search,
    readonly k: number
  ) {
    this.#rows = new Int32Array(k)
    this.#scores = new Float32Array(k)
    this.#mates = new Int32Array(k)
  }

  /** Reads row i of topK's result. Whether it says which rows are the probe's nearest. */
  take(found: TopKResult, i: number, probe: number): boolean {
    const { galleryClasses, probeClasses, leaveOneOut, lengths } = this.search
    const [wanted, probeClass] = [lengths[probe] as number, probeClasses[probe] as number]
    let count = 0
    for (let j = i * this.k; j < (i + 1) * this.k; j++) {
      const row = found.indices[j] as number
      if (leaveOneOut && row === probe) continue
      this.#rows[count] = row
      this.#scores[count++] = found.scores[j] as number
    }
    const isMate = (j: number) => galleryClasses[this.#rows[j] as number] === probeClass
    for (let first = 0; first < wanted; ) {
      let end = first + 1
      while (end < count && this.#scores[end] === this.#scores[first]) end++
      if (end - first > 1 && probeClass >= 0) {
        const others = this.#othersFirst(first, end, isMate)
        // Rows behind the list may have the same score: others than mates, which would come first.
        if (end === count && count < galleryClasses.length - Number(leaveOneOut) && others < wanted - first)
          return false
      }
      first = end
    }
    this.rows = this.#rows.subarray(0, wanted)
    this.scores = this.#scores.subarray(0, wanted)
    return true
  }

  /** Moves the mates of a run of equal scores behind its other rows; returns how many those are. */
  #othersFirst(first: number, end: number, isMate: (j: number) => boolean): number {
    let [others, mates] = [0, 0]
    for (let j = first; j < end; j++) {
      const row = this.#rows[j] as number
      if (isMate(j)) this.#mates[mates++] = row
      else this.#rows[first + others++] = row
    }
    this.#rows.set(this.#mates.subarray(0, mates), first + others)
    return others
  }
}

/** Carries a search out before it returns. */
export function searchNow<Result>(searching: Searching<Result>): Result {
  let step = searching.next()
  while (!step.done) step = searching.next(step.value && topKSync(step.value.batch, step.value.options))
  return step.value
}

/** Carries a search out on other threads. A signal ends it after the block that runs. */
export async function searchAside<Result>(
  searching: Searching<Result>,
  signal: AbortSignal | undefined
): Promise<Result> {
  throwIfAborted(signal)
  let step = searching.next()
  while (!step.done) {
    const call = step.value
    const found = await (call ? topK(call.batch, call.options) : new Promise<undefined>(turn))
    throwIfAborted(signal)
    step = searching.next(found)
  }
  return step.value
}

const turn = (resolve: (nothing: undefined) => void) => setImmediate(resolve, undefined)

/** Checks how a search runs on the CPU. */
export function searchExecution({ threads, instructionSet }: Compared['execution']): Compared['execution'] {
  execution({ threads, instructionSet, device: 'cpu' }) // for its checks: topK makes its own
  return { threads, instructionSet }
}

/**
 * An input as it is once the call's labels and pairs are checked, which may be lists with getters; for asynchronous work a
 * copy in shared memory.
 */
export function inputNow(
  array: Float32Array,
  name: string,
  length: number,
  asynchronous: boolean
): Float32Array {
  const now = floats(array, name, length)
  return asynchronous ? newSharedCopy(now, `a copy of ${name}`) : now
}

const [smallestNorm, largestNorm] = [1e-30, 1e37] // of native code's cosines: formulas/row.h, core/status.h

/**
 * Refuses embeddings of which no cosine can be had, and counts the rows that are zeros: those have the score 0.
 * @param zeros whether there may be any
 * @throws MarginSoftmaxError `ERR_NOT_FINITE`; RangeError for a row that is too long, or zeros
 */
export function checkedZeroRows(
  embeddings: Float32Array,
  dim: number,
  name: string,
  zeros: 'allowed' | 'refused' = 'allowed'
): number {
  const rows = embeddings.length / dim
  let zeroRows = 0
  for (let row = 0; row < rows; row++) {
    let squares = 0
    for (let i = row * dim; i < (row + 1) * dim; i++) {
      const x = embeddings[i] as number
      squares += x * x
    }
    if (!Number.isFinite(squares)) throw notFinite(name, row)
    const norm = Math.sqrt(squares)
    if (norm > largestNorm)
      throw wrongValue(`a norm of at most ${largestNorm}`, `row ${row} of ${name}`, norm)
    if (norm >= smallestNorm) continue
    if (zeros === 'refused')
      throw wrongValue(`a norm of at least ${smallestNorm}`, `row ${row} of ${name}`, norm)
    zeroRows++
  }
  return zeroRows
}
