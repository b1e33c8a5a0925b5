/** Figures of identification in words. */
import type { IdentificationResult } from '../../index'
import { percent, print, printList, printTable } from '../terminal'
import { zeroRowWarnings } from '../warnings'

/** Ranks that are shown of those there are. */
function shownRanks({ cumulativeMatch }: IdentificationResult): number[] {
  return [1, 5, 10, 20].filter((rank) => rank <= cumulativeMatch.length)
}

/** An interval in a few words; empty where there is none. */
export function between(lower: number | undefined, upper: number | undefined): string {
  return lower === undefined || upper === undefined ? '' : `${percent(lower)} to ${percent(upper)}`
}

/** Each closed-set figure: its name, its value and its interval. */
export function closedFigures(
  result: IdentificationResult
): [name: string, value: string, interval: string][] {
  const { cumulativeMatch, precision, intervals } = result
  const atRank = (name: 'cumulativeMatch' | 'precision', rank: number) =>
    between(intervals?.[name].lower[rank - 1], intervals?.[name].upper[rank - 1])
  const ranks = shownRanks(result)
  return [
    ...ranks.map((rank): [string, string, string] => [
      `Rank-${rank}`,
      percent(cumulativeMatch[rank - 1] as number),
      atRank('cumulativeMatch', rank),
    ]),
    ...ranks
      .slice(1)
      .map((rank): [string, string, string] => [
        `Precision@${rank}`,
        percent(precision[rank - 1] as number),
        atRank('precision', rank),
      ]),
    [
      'MAP@R',
      percent(result.meanAveragePrecisionAtR),
      between(intervals?.meanAveragePrecisionAtR.lower, intervals?.meanAveragePrecisionAtR.upper),
    ],
    [
      'R-precision',
      percent(result.rPrecision),
      between(intervals?.rPrecision.lower, intervals?.rPrecision.upper),
    ],
  ]
}

export const thresholdText = (threshold: number) =>
  Number.isFinite(threshold) ? threshold.toFixed(4) : 'accepts none'

/** @param judged what was judged, in a few words, and how long it took */
export function show(result: IdentificationResult, judged: string): void {
  print(`${judged}\n`)
  printList(
    closedFigures(result).map(([name, value, interval]) => [
      name,
      interval ? `${value} (${interval})` : value,
    ])
  )
  if (!result.openSet) return
  const { lower, upper } = result.intervals?.detectionRates ?? {}
  print()
  printTable([
    [
      'false alarms up to',
      'detected',
      ...(lower ? ['interval'] : []),
      'misidentified',
      'threshold',
      'false alarms',
    ],
    ...result.openSet.map((point, i) => [
      point.limit.toExponential(0),
      percent(point.detectionRate),
      ...(lower ? [between(lower[i], upper?.[i])] : []),
      percent(point.misidentificationRate),
      thresholdText(point.threshold),
      Math.round(point.falseAlarmRate * result.probes.unknown).toLocaleString('en'),
    ]),
  ])
}

export function warningsOf({ zeroRows }: IdentificationResult): string[] {
  return zeroRowWarnings(zeroRows)
}
