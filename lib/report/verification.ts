/** The report of `verify`: one HTML page with everything in it. */
import { counted, duration, manifest, percent } from '../cli/terminal'
import { accuracyText, thresholdText } from '../cli/verification/figures'
import type { OperatingPoint, VerificationResult } from '../index'
import { escaped, figures, fileEntries, key, page, warningNotes } from './page'

export interface VerificationReport {
  result: VerificationResult
  /** Points of the ROC curve, from the smallest false accept rate on. */
  curve: OperatingPoint[]
  files: Record<string, string | undefined>
  /** The embeddings' size; absent where scores were given. */
  rows?: number | undefined
  dim?: number | undefined
  seconds: number
  /** The detection cost's parameters, in words. */
  costs: string
  /** Warnings: reasons why the figures mean less than they seem to. */
  warnings: string[]
}

export async function renderVerificationReport(report: VerificationReport): Promise<string> {
  const { result, curve, files, rows, dim, costs, warnings } = report
  const plots = await import('./plots.mjs')
  const { pairs, folds } = result
  // Below one false accept in all there is nothing to see.
  const lowestRate = plots.lowestRate(pairs.different, 1e-6)
  const number = (value: number) => value.toLocaleString('en')
  const threshold = (value: number) => thresholdText(value, result)
  return page(
    'Verification',
    `
<header>
  <p class="kicker">margin-softmax · verification</p>
  <h1>${number(pairs.same + pairs.different)} pairs${rows === undefined ? '' : ' of embeddings'}</h1>
  <p class="lead">Does a pair belong together? ${rows === undefined ? 'Its score' : 'The cosine of its two embeddings'} is compared with a threshold.
  ${counted(pairs.same, 'pair')} of one class, ${number(pairs.different)} of different ones${result.scores || rows === undefined ? ', from a list' : `: all pairs of ${counted(rows, 'row')}`}.</p>
</header>

<section>
  ${figures([
    [
      percent(result.equalErrorRate, 3),
      'equal error rate',
      `at a score of ${threshold(result.equalErrorThreshold)}`,
    ],
    [result.areaUnderCurve.toFixed(6), 'area under the ROC curve', '1 is perfect, 0.5 is guessing'],
    [
      result.minimumDetectionCost.toFixed(4),
      'minDCF',
      `${costs}, at a score of ${threshold(result.minimumDetectionCostThreshold)}`,
    ],
    [
      percent(result.bestBalancedAccuracy, 3),
      'balanced accuracy',
      `at a score of ${threshold(result.bestBalancedThreshold)}`,
    ],
    ...(folds
      ? [
          [
            percent(folds.meanAccuracy, 3),
            `accuracy over ${folds.accuracies.length} folds`,
            `± ${percent(folds.standardDeviation, 3)}`,
          ] as [string, string, string],
        ]
      : []),
  ])}
  <p class="caption">Accuracy at the best threshold: ${escaped(accuracyText(result))}. The balanced one is the mean of the shares of
  either kind that are judged rightly.</p>
  ${warningNotes(warnings)}
</section>

<section>
  <h2>Scores</h2>
  <p class="keys">${key(plots.sameColour, 'pairs of one class')} ${key(plots.differentColour, 'pairs of different classes')}</p>
  <div class="beside">
    <figure class="panel">${await plots.scoreHistogram(result.histogram, result.equalErrorThreshold)}</figure>
    <p class="caption">Each kind of pairs adds up to 100 %. The two hills should be narrow and far apart; pairs where they
    overlap are confused. The dashed line is the threshold at which both errors are equally frequent.</p>
  </div>
</section>

<section>
  <h2>ROC curve</h2>
  <div class="beside">
    <figure class="panel">${await plots.rocCurve(curve, lowestRate, result.equalErrorRate)}</figure>
    <div>
    <table class="numbers">
      <thead><tr><th>FAR up to</th><th>TAR</th><th>threshold</th><th>false accepts</th></tr></thead>
      <tbody>${result.operatingPoints
        .map(
          (point) =>
            `<tr><th scope="row">${point.limit.toExponential(0)}</th><td>${percent(point.trueAcceptRate, 3)}</td><td>${threshold(point.threshold)}</td><td>${number(Math.round(point.falseAcceptRate * pairs.different))}</td></tr>`
        )
        .join('')}</tbody>
    </table>
    <p class="caption">Every threshold accepts a share of the pairs that belong together (TAR, upward) and a share of those that
    do not (FAR, to the right, on a logarithmic axis). Higher is better; the dotted line is guessing, the dot the equal error
    rate. With ${number(pairs.different)} pairs of different classes, no false accept rate below ${(1 / pairs.different).toExponential(0)} but 0 can be measured.</p>
    </div>
  </div>
</section>

<section>
  <h2>DET curve</h2>
  <div class="beside">
    <figure class="panel">${await plots.detCurve(curve, lowestRate)}</figure>
    <p class="caption">The same thresholds by their two errors: misses upward, false accepts to the right, both on axes of normal deviates. Lower is
    better. The nearer scores are to two normal distributions, the straighter the line.</p>
  </div>
</section>
${
  folds
    ? `
<section>
  <h2>Folds</h2>
  <div class="scroll narrow"><table class="numbers">
    <thead><tr><th>fold</th><th>accuracy</th><th>threshold</th></tr></thead>
    <tbody>${[...folds.accuracies]
      .map(
        (accuracy, i) =>
          `<tr><th scope="row">${i + 1}</th><td>${percent(accuracy, 3)}</td><td>${threshold(folds.thresholds[i] as number)}</td></tr>`
      )
      .join('')}</tbody>
  </table></div>
  <p class="caption">The protocol of Labeled Faces in the Wild: the list is cut into ${folds.accuracies.length} runs; each is judged with the
  threshold that is best on the others. Mean and standard deviation stand above.</p>
</section>`
    : ''
}
<section>
  <h2>What was measured</h2>
  <dl>
    ${fileEntries(files)}
    ${rows === undefined ? '' : `<dt>Size</dt><dd>${number(rows)} × ${dim}</dd>`}
    <dt>Method</dt><dd>${rows === undefined ? 'scores that were given' : 'cosines'}; all figures are exact for them, without sampling</dd>
    <dt>Software</dt><dd>margin-softmax ${manifest().version}, ${duration(report.seconds)}, ${new Date().toISOString().slice(0, 10)}</dd>
  </dl>
</section>`
  )
}
