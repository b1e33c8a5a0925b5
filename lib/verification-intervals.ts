import { wrongValue } from './errors'
import type { Interval } from './identification'
import { checkSignal } from './internal/abort'
import { bootstrapOptions, intervals } from './internal/bootstrap'
import { checkOptions, classLabels, type FloatArray, type LabelArray, newArray } from './internal/check'
import { numbered } from './internal/identification-request'
import { lengthOf } from './internal/intrinsics'
import { type Searching, searchAside, searchNow } from './internal/nearest-rows'
import { integerRow, namesIn, namesOf, valuesOf } from './internal/option-table'
import { rejectNotFinite, type ScoreOptions, scoresOf } from './internal/verification-request'
import { type VerificationResult, verificationFromScoresSync } from './verification'

/** Options of `verificationIntervals`. */
export interface VerificationIntervalOptions extends Omit<ScoreOptions, 'folds'> {
  /** The number of draws that the bootstrap makes, from 1. Default 1000. */
  replicates?: number | undefined
  /** The confidence of the intervals, above 0 and below 1. Default 0.95. */
  confidence?: number | undefined
  /** Seeds the draws: an integer from 0. Default 0. */
  seed?: number | undefined
}

/** Confidence intervals of the figures of the same names. */
export interface VerificationIntervals {
  /** The interval of `areaUnderCurve`. */
  areaUnderCurve: Interval
  /** The interval of `equalErrorRate`. */
  equalErrorRate: Interval
  /** The interval of `bestBalancedAccuracy`. */
  bestBalancedAccuracy: Interval
  /** The interval of `minimumDetectionCost`. */
  minimumDetectionCost: Interval
  /** The intervals of the true accept rates of `operatingPoints`, in their order. */
  trueAcceptRates: Interval<Float64Array>
}

type Scoring = Omit<ScoreOptions, 'folds' | 'signal'>

const drawing = { ...bootstrapOptions, replicates: integerRow(1000, 1, 1e6) }
const scoringNames = namesOf<Scoring>({
  falseAcceptRates: true,
  pTarget: true,
  cMiss: true,
  cFalseAlarm: true,
  threads: true,
  instructionSet: true,
})

/**
 * Says how sure the figures of `verificationFromScores` are: intervals by a bootstrap over identities. Pairs that share a
 * person are not independent, and an interval that takes them for it is too narrow. So each draw takes as many identities as
 * there are, with replacement: a pair counts as often as both of its identities were drawn, multiplied; a pair of one identity
 * as often as that one was (the subsets bootstrap of Bolle, Ratha and Pankanti, 2004). Every draw is judged exactly.
 *
 * A draw without pairs of both kinds does not count. It takes `replicates` times as long as `verificationFromScores`, on the
 * JavaScript thread, which has its turn after each draw.
 *
 * @param scores [P]; a higher one must mean that a pair rather belongs together
 * @param identities the two identities of each pair [P,2], integers from 0; equal ones belong together
 * @throws TypeError, RangeError for arguments, also where all pairs are of one kind, or in every draw; MarginSoftmaxError
 *   `ERR_NOT_FINITE`, `ERR_OUT_OF_MEMORY`; the reason of an aborted `signal`
 * @example
 * const { equalErrorRate } = await verificationIntervals(scores, identities)
 * const [low, high] = [equalErrorRate.lower, equalErrorRate.upper]
 */
export async function verificationIntervals(
  scores: FloatArray | readonly number[],
  identities: LabelArray,
  options?: VerificationIntervalOptions
): Promise<VerificationIntervals> {
  const { searching, signal } = prepare(scores, identities, options, true)
  return searchAside(searching, signal)
}

/** As `verificationIntervals`, computed before it returns. */
export function verificationIntervalsSync(
  scores: FloatArray | readonly number[],
  identities: LabelArray,
  options?: Omit<VerificationIntervalOptions, 'signal'>
): VerificationIntervals {
  return searchNow(prepare(scores, identities, options, false).searching)
}

function prepare(
  values: FloatArray | readonly number[],
  identitiesOf: LabelArray,
  options: VerificationIntervalOptions | undefined,
  asynchronous: boolean
) {
  const names = [...scoringNames, ...namesIn(drawing), ...(asynchronous ? ['signal'] : [])]
  const checkedOptions = checkOptions(options, 'options', names)
  const signal = checkSignal(checkedOptions.signal)
  const bootstrap = valuesOf(drawing, checkedOptions)
  const scoring = Object.fromEntries(
    scoringNames.map((name) => [name, checkedOptions[name as keyof Scoring]])
  ) as Scoring
  const scores = scoresOf(values).slice()
  const identities = classLabels(identitiesOf, 'identities', 2 * lengthOf(scores))
  rejectNotFinite(scores)
  const { classes, ids } = numbered(identities)
  const once = new Float64Array(ids.size).fill(1)
  const all = drawn(scores, classes, once)
  verificationFromScoresSync(all.scores, all.same, { ...scoring, folds: 0 }) // for its checks
  return { searching: judging(scores, classes, ids.size, scoring, bootstrap), signal }
}

function* judging(
  scores: Float64Array,
  identities: Int32Array,
  count: number,
  scoring: Scoring,
  bootstrap: Parameters<typeof intervals>[0]
): Searching<VerificationIntervals> {
  const { lower, upper } = yield* intervals(bootstrap, [count], ([counts]) => {
    const draw = drawn(scores, identities, counts as Float64Array)
    const targets = draw.same.reduce((sum, one) => sum + one, 0)
    if (targets === 0 || targets === draw.same.length) return undefined
    return figuresOf(verificationFromScoresSync(draw.scores, draw.same, { ...scoring, folds: 0 }))
  })
  if (lower.length === 0)
    throw wrongValue('identities with pairs of both kinds in some draw', 'identities', identities)
  const pair = (figure: number): Interval => ({
    lower: lower[figure] as number,
    upper: upper[figure] as number,
  })
  return {
    areaUnderCurve: pair(0),
    equalErrorRate: pair(1),
    bestBalancedAccuracy: pair(2),
    minimumDetectionCost: pair(3),
    trueAcceptRates: { lower: lower.slice(4), upper: upper.slice(4) },
  }
}

function figuresOf(result: VerificationResult): Float64Array {
  return Float64Array.of(
    result.areaUnderCurve,
    result.equalErrorRate,
    result.bestBalancedAccuracy,
    result.minimumDetectionCost,
    ...result.operatingPoints.map(({ trueAcceptRate }) => trueAcceptRate)
  )
}

/** The pairs of a draw, each as often as it counts. */
function drawn(scores: Float64Array, identities: Int32Array, counts: Float64Array) {
  const timesOf = (p: number) => {
    const [a, b] = [identities[2 * p] as number, identities[2 * p + 1] as number]
    return (counts[a] as number) * (a === b ? 1 : (counts[b] as number))
  }
  let total = 0
  for (let p = 0; p < scores.length; p++) total += timesOf(p)
  const draw = {
    scores: newArray(Float64Array, total, 'a draw'),
    same: newArray(Uint8Array, total, 'a draw'),
  }
  let at = 0
  for (let p = 0; p < scores.length; p++) {
    const end = at + timesOf(p)
    draw.scores.fill(scores[p] as number, at, end)
    draw.same.fill(Number(identities[2 * p] === identities[2 * p + 1]), at, end)
    at = end
  }
  return draw
}
