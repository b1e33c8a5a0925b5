// The figures of identification, from each probe's nearest rows.
//
// Each figure is a mean over probes. `weights` says how often an identity counts, once or as often as the bootstrap drew it.
import { newArray } from './check'

/** Each probe's nearest rows and what follows from them. */
export interface Found {
  maxRank: number
  /** The nearest rows, best first, and their cosines [M,maxRank]. */
  indices: Int32Array
  scores: Float32Array
  /** The rank of the first row of the probe's class [M], from 1; 0: none within maxRank, or the class is unknown. */
  ranks: Int32Array
  /** Average precision at R, and R-precision [M]. */
  averagePrecisions: Float64Array
  rPrecisions: Float64Array
}

/** Scores of probes, from the highest down, each with its probe's identity. */
interface Ranked {
  scores: Float64Array
  identities: Int32Array
}

/** A threshold for unknown probes and its rates. A probe is accepted if its nearest row's score is at least the threshold. */
export interface OpenSetPoint {
  /** The false alarm rate that was asked for. */
  limit: number
  /** The share of unknown probes that it accepts (FPIR): at most `limit`. */
  falseAlarmRate: number
  /** The share of known probes that have a row of their class within `detectionRank`, with at least that score (DIR). */
  detectionRate: number
  /** The share of known probes whose nearest row is of another class, and accepted. */
  misidentificationRate: number
  /** The lowest such threshold that is a score; Infinity where it must accept none. */
  threshold: number
}

type ScoredIdentity = [score: number, identity: number]

/** The scores that the open-set rates are computed from. A mate is a row of the probe's class. */
export interface OpenSet {
  /** Unknown probes, by the score of their nearest row. */
  unknown: Ranked
  /** Known probes that have a mate within the detection rank, by the score of the first one. */
  detected: Ranked
  /** Known probes whose nearest row is no mate, by its score. */
  misidentified: Ranked
}

/** @param identityOf a probe's place among the known identities, or among the unknown ones */
export function openSetOf(
  { maxRank, indices, scores, ranks }: Found,
  probeClasses: Int32Array,
  galleryClasses: Int32Array,
  identityOf: Int32Array,
  detectionRank: number
): OpenSet {
  const unknown: ScoredIdentity[] = []
  const detected: ScoredIdentity[] = []
  const misidentified: ScoredIdentity[] = []
  for (const [probe, probeClass] of probeClasses.entries()) {
    const first = probe * maxRank
    const top = scores[first] as number
    const identity = identityOf[probe] as number
    if (probeClass < 0) {
      unknown.push([top, identity])
      continue
    }
    const rank = ranks[probe] as number
    if (rank > 0 && rank <= detectionRank) detected.push([scores[first + rank - 1] as number, identity])
    if (galleryClasses[indices[first] as number] !== probeClass) misidentified.push([top, identity])
  }
  return { unknown: ranked(unknown), detected: ranked(detected), misidentified: ranked(misidentified) }
}

function ranked(pairs: ScoredIdentity[]): Ranked {
  pairs.sort(([a], [b]) => b - a)
  return {
    scores: Float64Array.from(pairs, ([score]) => score),
    identities: Int32Array.from(pairs, ([, identity]) => identity),
  }
}

/** A place in a list of scores, and the weight of those before it. */
class Cursor {
  at = 0
  weight = 0

  constructor(
    readonly list: Ranked,
    readonly weights: Float64Array
  ) {}

  get score(): number {
    return this.at < this.list.scores.length ? (this.list.scores[this.at] as number) : -Infinity
  }

  /** The weight of the scores that equal the one here. */
  run(): { weight: number; end: number } {
    const { scores, identities } = this.list
    let [end, weight] = [this.at, 0]
    for (; end < scores.length && scores[end] === scores[this.at]; end++)
      weight += this.weights[identities[end] as number] as number
    return { weight, end }
  }

  /** Passes the scores for which `accepts` holds: it must for all above one for which it does. */
  passWhile(accepts: (score: number) => boolean): void {
    while (this.score > -Infinity && accepts(this.score)) this.pass()
  }

  pass(): void {
    const { weight, end } = this.run()
    this.at = end
    this.weight += weight
  }

  /** The score before this place; Infinity at the beginning. */
  get last(): number {
    return this.at > 0 ? (this.list.scores[this.at - 1] as number) : Infinity
  }
}

/**
 * The open-set rates at each limit.
 * @param limits ascending
 * @param totals the weights of all known probes, and of all unknown ones
 */
export function openSetPoints(
  { unknown, detected, misidentified }: OpenSet,
  limits: Float64Array,
  weights: { known: Float64Array; unknown: Float64Array },
  totals: { known: number; unknown: number }
): OpenSetPoint[] {
  const alarms = new Cursor(unknown, weights.unknown)
  const hits = new Cursor(detected, weights.known)
  const mistakes = new Cursor(misidentified, weights.known)
  return Array.from(limits, (limit) => {
    alarms.passWhile(() => (alarms.weight + alarms.run().weight) / totals.unknown <= limit)
    const refused = alarms.score
    hits.passWhile((score) => score > refused)
    const threshold = Math.min(alarms.last, hits.last)
    mistakes.passWhile((score) => score >= threshold)
    return {
      limit,
      falseAlarmRate: alarms.weight / totals.unknown,
      detectionRate: hits.weight / totals.known,
      misidentificationRate: mistakes.weight / totals.known,
      threshold,
    }
  })
}

/**
 * The rank of the first mate, average precision at R and R-precision of one probe.
 * @param mates R, above 0
 */
export function rankingOf(isMate: (at: number) => boolean, mates: number, maxRank: number) {
  let [rank, hits, precisions, within] = [0, 0, 0, 0]
  for (let at = 0; at < Math.max(mates, maxRank); at++) {
    if (!isMate(at)) continue
    if (rank === 0 && at < maxRank) rank = at + 1
    hits++
    if (at >= mates) continue
    within++
    precisions += hits / (at + 1)
  }
  return { rank, averagePrecision: precisions / mates, rPrecision: within / mates }
}

/** The number of sums that `closedSums` has of an identity. */
export const closedColumns = (maxRank: number) => 2 * maxRank + 3

/**
 * Sums of each identity's known probes: found by each rank, mates by each rank, average precision, R-precision, probes.
 * @param identities the number of them
 */
export function closedSums(
  found: Found,
  probeClasses: Int32Array,
  galleryClasses: Int32Array,
  identityOf: Int32Array,
  identities: number
): Float64Array {
  const { maxRank, indices, ranks, averagePrecisions, rPrecisions } = found
  const columns = closedColumns(maxRank)
  const sums = newArray(Float64Array, identities * columns, 'sums')
  const add = (place: number, value: number) => {
    sums[place] = (sums[place] as number) + value
  }
  for (const [probe, probeClass] of probeClasses.entries()) {
    if (probeClass < 0) continue
    const at = (identityOf[probe] as number) * columns
    const rank = ranks[probe] as number
    let hits = 0
    for (let j = 0; j < maxRank; j++) {
      if (rank > 0 && rank <= j + 1) add(at + j, 1)
      if (galleryClasses[indices[probe * maxRank + j] as number] === probeClass) hits++
      add(at + maxRank + j, hits)
    }
    add(at + 2 * maxRank, averagePrecisions[probe] as number)
    add(at + 2 * maxRank + 1, rPrecisions[probe] as number)
    add(at + 2 * maxRank + 2, 1)
  }
  return sums
}

/** The closed-set figures: the sums as means over probes, in the same order, and mates as shares of so many rows. */
export function closedFigures(sums: Float64Array, weights: Float64Array, maxRank: number): Float64Array {
  const columns = closedColumns(maxRank)
  const totals = new Float64Array(columns)
  for (const [identity, weight] of weights.entries()) {
    if (weight === 0) continue
    for (let i = 0; i < columns; i++)
      totals[i] = (totals[i] as number) + weight * (sums[identity * columns + i] as number)
  }
  const probes = totals[columns - 1] as number
  for (let j = 0; j < maxRank; j++) totals[maxRank + j] = (totals[maxRank + j] as number) / (j + 1)
  return totals.subarray(0, columns - 1).map((total) => total / probes)
}
