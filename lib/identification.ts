import { wrongValue } from './errors'
import { intervals } from './internal/bootstrap'
import { newArray } from './internal/check'
import {
  closedFigures,
  closedSums,
  type Found,
  type OpenSetPoint,
  openSetOf,
  openSetPoints,
  rankingOf,
} from './internal/identification-figures'
import {
  type IdentificationBatch,
  type IdentificationOptions,
  type IdentificationRequest,
  identificationRequest,
} from './internal/identification-request'
import { nearestRows, type Searching, searchAside, searchNow } from './internal/nearest-rows'
import { inGivenOrder } from './internal/verification-request'

/** Bounds of a figure. */
export interface Interval<Value = number> {
  /** The lower bound, or one for each. */
  lower: Value
  /** The upper bound, or one for each. */
  upper: Value
}

/** Confidence intervals of the figures of the same names. */
export interface IdentificationIntervals {
  /** The intervals of `cumulativeMatch`. */
  cumulativeMatch: Interval<Float64Array>
  /** The intervals of `precision`. */
  precision: Interval<Float64Array>
  /** The interval of `meanAveragePrecisionAtR`. */
  meanAveragePrecisionAtR: Interval
  /** The interval of `rPrecision`. */
  rPrecision: Interval
  /** The intervals of the detection rates of `openSet`, in its order. Each draw has a threshold of its own for the limit. */
  detectionRates?: Interval<Float64Array>
}

/** Figures of how well nearest rows say who a probe is. */
export interface IdentificationResult {
  /** The numbers of probes of either kind. */
  probes: {
    /** Probes whose class has rows in the gallery: the closed-set figures are theirs. */
    known: number
    /** Probes whose class has none. */
    unknown: number
  }
  /**
   * CMC [maxRank]: element k − 1 is the share of known probes that have a row of their class among their k nearest. Rank-1
   * accuracy comes first; metric learning calls them Recall@k.
   */
  cumulativeMatch: Float64Array
  /** Precision@k [maxRank]: element k − 1 is the mean share of rows of the known probe's class among its k nearest. */
  precision: Float64Array
  /**
   * MAP@R: the mean over known probes of 1/R·Σ P(i), over those of the R nearest rows i that are of the probe's class. R is the
   * number of rows of its class, P(i) their share among the i nearest (Musgrave, Belongie, Lim: A Metric Learning Reality Check, 2020).
   */
  meanAveragePrecisionAtR: number
  /** The mean share of rows of the known probe's class among its R nearest. */
  rPrecision: number
  /** Rates of telling unknown probes from known ones, one for each of `falseAlarmRates`; where there are unknown probes. */
  openSet?: OpenSetPoint[]
  /** Confidence intervals, where `replicates` is above 0. */
  intervals?: IdentificationIntervals
  /** The rank of each probe's first row of its class [M], from 1; 0 where none is within maxRank or its class is unknown. */
  ranks: Int32Array
  /** The nearest rows of each probe, best first [M,maxRank]. */
  indices: Int32Array
  /** Their cosines [M,maxRank]. */
  scores: Float32Array
  /** The number of embeddings that are zeros: they have no direction and score 0 with every other. */
  zeroRows: number
}

/**
 * Measures how well the nearest rows of a gallery say who a probe is, by cosine: rank-k accuracy (CMC, Recall@k), precision@k,
 * MAP@R and R-precision; and for probes whose class is not in the gallery, the detection rate at given false alarm rates
 * (DIR@FAR), with the threshold for "unknown".
 *
 * Every probe is compared with every row, blocked, in single precision: nothing is sampled or indexed. A tie never helps:
 * among equal scores the rows of other classes count as nearer. A probe's rank counts rows. For one that counts identities,
 * give each identity one row of the gallery, such as those of `classMeans`.
 *
 * DIR@FAR is as in Phillips, Grother and Micheals (Handbook of Face Recognition, 2011); NIST calls 1 − DIR the FNIR and the
 * false alarm rate the FPIR. Intervals are percentiles of a bootstrap that draws identities of the probes with replacement,
 * known and unknown ones apart; the gallery stays. Each probe of label −1 is an identity of its own.
 *
 * Runs on the CPU. Memory beyond the inputs: maxRank·8 bytes a probe, blocks of 32 MB and the workspace; the asynchronous
 * form also copies its inputs. A class of R rows takes lists of R rows for its probes: classes of tens of thousands are slow.
 *
 * @throws TypeError, RangeError for arguments, also where no probe is of a class of the gallery; MarginSoftmaxError
 *   `ERR_NOT_FINITE` where an embedding is not finite, `ERR_OUT_OF_MEMORY`; the reason of an aborted `signal`
 * @example
 * const { cumulativeMatch } = await identify({ gallery, galleryLabels, probes, probeLabels, dim })
 * const rank1 = cumulativeMatch[0]
 */
export async function identify(
  batch: IdentificationBatch,
  options?: IdentificationOptions
): Promise<IdentificationResult> {
  const request = identificationRequest(batch, options, true)
  return searchAside(identification(request), request.signal)
}

/** As `identify`, computed before it returns, on the caller's arrays in place. */
export function identifySync(
  batch: IdentificationBatch,
  options?: Omit<IdentificationOptions, 'signal'>
): IdentificationResult {
  return searchNow(identification(identificationRequest(batch, options, false)))
}

function* identification(request: IdentificationRequest): Searching<IdentificationResult> {
  const { search, maxRank } = request
  const { galleryClasses, probeClasses, leaveOneOut, lengths } = search
  const mates = matesOf(request)
  const known = mates.reduce((count, of) => count + Number(of > 0), 0)
  if (known === 0)
    throw wrongValue(
      leaveOneOut ? 'at least two rows of one class' : 'at least one probe of a class of the gallery',
      leaveOneOut ? 'galleryLabels' : 'probeLabels',
      request.probeIds
    )
  // Rows that have no other of their class are unknown to the rest.
  if (leaveOneOut) search.probeClasses = probeClasses.map((of, probe) => (mates[probe] ? of : -1))
  for (const [probe, of] of mates.entries()) lengths[probe] = Math.max(maxRank, of)
  const found = emptyFound(mates.length, maxRank)
  yield* nearestRows(search, (probe, rows, scores) => {
    found.indices.set(rows.subarray(0, maxRank), probe * maxRank)
    found.scores.set(scores.subarray(0, maxRank), probe * maxRank)
    const R = mates[probe] as number
    if (R === 0) return
    const isMate = (at: number) => galleryClasses[rows[at] as number] === search.probeClasses[probe]
    const { rank, averagePrecision, rPrecision } = rankingOf(isMate, R, maxRank)
    found.ranks[probe] = rank
    found.averagePrecisions[probe] = averagePrecision
    found.rPrecisions[probe] = rPrecision
  })
  const figures = yield* figuresOf(request, found)
  return {
    probes: { known, unknown: mates.length - known },
    ...figures,
    ranks: found.ranks,
    indices: found.indices,
    scores: found.scores,
    zeroRows: request.zeroRows,
  }
}

/** The number of rows of each probe's class that it is compared with [M]. */
function matesOf({ search, ids }: IdentificationRequest): Int32Array {
  const { galleryClasses, probeClasses, leaveOneOut } = search
  const sizes = new Int32Array(ids.size)
  for (const of of galleryClasses) sizes[of] = (sizes[of] as number) + 1
  return probeClasses.map((of) => (of < 0 ? 0 : (sizes[of] as number) - Number(leaveOneOut)))
}

function emptyFound(probes: number, maxRank: number): Found {
  return {
    maxRank,
    indices: newArray(Int32Array, probes * maxRank, 'indices'),
    scores: newArray(Float32Array, probes * maxRank, 'scores'),
    ranks: newArray(Int32Array, probes, 'ranks'),
    averagePrecisions: newArray(Float64Array, probes, 'average precisions'),
    rPrecisions: newArray(Float64Array, probes, 'R-precisions'),
  }
}

function* figuresOf(request: IdentificationRequest, found: Found) {
  const { search, maxRank, limits, order, bootstrap, detectionRank, probeIds } = request
  const { probeClasses, galleryClasses } = search
  const { places, known, unknown } = identitiesOf(probeIds, probeClasses)
  const sums = closedSums(found, probeClasses, galleryClasses, places, known)
  const openSet =
    unknown > 0 ? openSetOf(found, probeClasses, galleryClasses, places, detectionRank) : undefined
  const sizes = sizesOf(places, probeClasses, known, unknown)
  const pointsOf = ([drawn, drawnUnknown]: readonly [Float64Array, Float64Array]) => {
    if (!openSet) return []
    const weights = { known: drawn, unknown: drawnUnknown }
    const totals = { known: weighted(sizes.known, drawn), unknown: weighted(sizes.unknown, drawnUnknown) }
    const points = openSetPoints(openSet, limits, weights, totals)
    return inGivenOrder(order, (i) => points[i] as OpenSetPoint)
  }
  const all = [new Float64Array(known).fill(1), new Float64Array(unknown).fill(1)] as const
  const columns = closedFigures(sums, all[0], maxRank)
  const points = pointsOf(all)
  const closed = {
    ...closedOf(columns, maxRank),
    ...(openSet && { openSet: points }),
  }
  if (bootstrap.replicates === 0) return closed
  const { lower, upper } = yield* intervals(bootstrap, [known, unknown], (drawn) => {
    const counts = drawn as unknown as readonly [Float64Array, Float64Array]
    const rates = pointsOf(counts).map(({ detectionRate }) => detectionRate)
    return Float64Array.of(...closedFigures(sums, counts[0], maxRank), ...rates)
  })
  return { ...closed, intervals: intervalsOf(lower, upper, maxRank, openSet !== undefined) }
}

function closedOf(columns: Float64Array, maxRank: number) {
  return {
    cumulativeMatch: columns.slice(0, maxRank),
    precision: columns.slice(maxRank, 2 * maxRank),
    meanAveragePrecisionAtR: columns[2 * maxRank] as number,
    rPrecision: columns[2 * maxRank + 1] as number,
  }
}

function intervalsOf(
  lower: Float64Array,
  upper: Float64Array,
  maxRank: number,
  open: boolean
): IdentificationIntervals {
  const [below, above] = [closedOf(lower, maxRank), closedOf(upper, maxRank)]
  const pair = <Name extends keyof typeof below>(name: Name): Interval<(typeof below)[Name]> => ({
    lower: below[name],
    upper: above[name],
  })
  const rates = 2 * maxRank + 2
  return {
    cumulativeMatch: pair('cumulativeMatch'),
    precision: pair('precision'),
    meanAveragePrecisionAtR: pair('meanAveragePrecisionAtR'),
    rPrecision: pair('rPrecision'),
    ...(open && { detectionRates: { lower: lower.slice(rates), upper: upper.slice(rates) } }),
  }
}

/** Numbers each probe's identity, the known ones from 0 and the unknown ones from 0. */
function identitiesOf(probeIds: Int32Array, probeClasses: Int32Array) {
  const places = new Int32Array(probeIds.length)
  const seen = [new Map<number, number>(), new Map<number, number>()] as const
  for (const [probe, id] of probeIds.entries()) {
    const map = (probeClasses[probe] as number) < 0 ? seen[1] : seen[0]
    const key = id === -1 ? -1 - probe : id
    const place = map.get(key) ?? map.size
    map.set(key, place)
    places[probe] = place
  }
  return { places, known: seen[0].size, unknown: seen[1].size }
}

/** The number of probes of each identity. */
function sizesOf(places: Int32Array, probeClasses: Int32Array, known: number, unknown: number) {
  const sizes = { known: new Float64Array(known), unknown: new Float64Array(unknown) }
  for (const [probe, place] of places.entries()) {
    const of = (probeClasses[probe] as number) < 0 ? sizes.unknown : sizes.known
    of[place] = (of[place] as number) + 1
  }
  return sizes
}

const weighted = (sizes: Float64Array, weights: Float64Array) =>
  sizes.reduce((sum, size, i) => sum + size * (weights[i] as number), 0)
