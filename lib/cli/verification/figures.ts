/** Figures of verification in words: the table for people, and what they must be told before they believe it. */
import type { CalibrationCost, VerificationResult } from '../../index'
import { counted, percent, print, printList, printTable } from '../terminal'
import { zeroRowWarnings } from '../warnings'

/**
 * @param judged what was judged, in a few words, and how long it took
 * @param calibration of scores that were given
 */
export function show(
  result: VerificationResult,
  costs: string,
  judged: string,
  calibration?: CalibrationCost
): void {
  const { pairs, folds } = result
  print(
    `${judged.replace('…', `${counted(pairs.same, 'pair')} of one class, ${pairs.different.toLocaleString('en')} of different ones`)}\n`
  )
  const at = (threshold: number) => thresholdText(threshold, result)
  printList([
    ['ROC AUC', result.areaUnderCurve.toFixed(6)],
    ['EER', `${percent(result.equalErrorRate, 3)} at ${at(result.equalErrorThreshold)}`],
    [
      'minDCF',
      `${result.minimumDetectionCost.toFixed(4)} at ${at(result.minimumDetectionCostThreshold)} (${costs})`,
    ],
    ...(calibration
      ? [
          ['minCllr', `${calibration.minCllr.toFixed(4)} (Cllr ${calibration.cllr.toFixed(4)})`] as [
            string,
            string,
          ],
        ]
      : []),
    [
      'Balanced accuracy',
      `${percent(result.bestBalancedAccuracy, 3)} at ${at(result.bestBalancedThreshold)}`,
    ],
    ['Accuracy', accuracyText(result)],
    ...(folds
      ? [
          [
            `${folds.accuracies.length} folds`,
            `${percent(folds.meanAccuracy, 3)} ± ${percent(folds.standardDeviation, 3)}`,
          ] as [string, string],
        ]
      : []),
  ])
  print()
  printTable([
    ['FAR up to', 'TAR', 'threshold', 'false accepts'],
    ...result.operatingPoints.map(({ limit, trueAcceptRate, falseAcceptRate, threshold }) => [
      limit.toExponential(0),
      percent(trueAcceptRate, 3),
      at(threshold),
      Math.round(falseAcceptRate * pairs.different).toLocaleString('en'),
    ]),
  ])
}

/** A threshold to a ten-thousandth of the scores' range, or the word for one that accepts nothing. */
export function thresholdText(threshold: number, { histogram: { from, to } }: VerificationResult): string {
  if (!Number.isFinite(threshold)) return 'accepts none'
  const decimals = Math.ceil(4 - Math.log10(to - from || 1))
  return decimals >= 0 && decimals <= 20 ? threshold.toFixed(decimals) : threshold.toPrecision(6)
}

/** The best accuracy, and beside it what an answer without a look at the scores reaches. */
export function accuracyText(result: VerificationResult): string {
  const { pairs, bestAccuracy, bestThreshold } = result
  const larger = pairs.same > pairs.different ? 'same' : 'different'
  const blind = pairs[larger] / (pairs.same + pairs.different)
  const always = `always answering "${larger}"`
  if (bestAccuracy <= blind) return `${percent(bestAccuracy, 3)}, no better than ${always}`
  return `${percent(bestAccuracy, 3)} at ${thresholdText(bestThreshold, result)} (${percent(blind, 3)} by ${always})`
}

/** Ties are told above this share of the comparisons of a pair of one class with one of different classes. */
const manyTies = 0.01

/** Warnings: reasons why the figures mean less than they seem to. */
export function warningsOf({ zeroRows = 0, ties }: VerificationResult): string[] {
  const warnings = zeroRowWarnings(zeroRows)
  if (ties > manyTies)
    warnings.push(
      `${percent(ties)} of the comparisons of a pair of one class with a pair of different ones are ties: these scores tell little apart (equal embeddings, scores of few values, or one large direction that all embeddings share)`
    )
  return warnings
}
