/** The report of `train`: one HTML page with everything in it. */
import { counted, duration, manifest, percent } from '../cli/terminal'
import type { Epoch } from '../cli/train/log'
import { escaped, figures, key, page } from './page'

export interface TrainingReport {
  epochs: readonly Epoch[]
  /** The one whose head was kept. */
  best: Epoch
  /** The number of epochs that were asked for. */
  asked: number
  rows: { training: number; validation: number }
  classes: number
  dim: number
  device: string
  files: Record<string, string | undefined>
  /** Options and what they were set to. */
  settings: [flag: string, value: string][]
  seconds: number
}

export async function renderTrainingReport(report: TrainingReport): Promise<string> {
  const { epochs, best, rows, files } = report
  const plots = await import('./training-plots.mjs')
  const kept = epochs.indexOf(best) + 1
  const { validation, verification } = best
  const panel = (title: string, svg: string) => `<figure class="panel"><h3>${title}</h3>${svg}</figure>`
  const hasRates = epochs.some(({ learningRate }) => learningRate !== undefined)
  const early = epochs.length < report.asked ? `, of ${report.asked}: the last ones were no better` : ''
  return page(
    'Training',
    `
<header>
  <p class="kicker">margin-softmax · training</p>
  <h1>${counted(report.classes, 'class', 'classes')} in ${counted(epochs.length, 'epoch')}</h1>
  <p class="lead">A head of ${report.classes.toLocaleString('en')} × ${report.dim} weights, trained on ${counted(rows.training, 'row')} of embeddings${
    rows.validation ? ` and judged by ${rows.validation.toLocaleString('en')} that were kept back` : ''
  }. The head of epoch ${kept} was kept.</p>
</header>

<section>
  ${figures([
    ...(validation
      ? ([
          [percent(validation.accuracy), 'validation accuracy', counted(rows.validation, 'row')],
          [validation.loss.toFixed(4), 'validation loss', 'in nats'],
        ] as [string, string, string][])
      : []),
    ...(verification
      ? ([
          [
            percent(verification.equalErrorRate),
            'equal error rate',
            `of other classes, ${counted(rows.validation, 'row')}`,
          ],
        ] as [string, string, string][])
      : []),
    [percent(best.accuracy), 'accuracy in training', 'mean of its steps'],
    [best.loss.toFixed(4), 'loss in training', 'in nats'],
    [
      `${kept} of ${epochs.length}`,
      'the epoch that was kept',
      validation || verification ? 'by its validation' : 'the last',
    ],
  ])}
</section>

<section>
  <h2>Curves</h2>
  <p class="keys">${key(plots.curveColours.training, 'rows trained on')} ${
    validation || verification ? key(plots.curveColours.validation, 'rows kept back') : ''
  }</p>
  <div class="grid two">
    ${panel('Loss', await plots.lossCurves(epochs, kept))}
    ${panel('Accuracy', await plots.accuracyCurves(epochs, kept))}
    ${verification ? panel('Equal error rate of other classes', await plots.errorRateCurve(epochs, kept)) : ''}
    ${hasRates ? panel('Learning rate', await plots.rateCurve(epochs, kept)) : ''}
  </div>
  <p class="caption">The dashed line is the epoch that was kept. Figures of the rows that are trained on are means of the epoch's
  steps, each before its update and with the margin, as far as it had grown; accuracy is the share of rows whose own class scores
  highest, without any margin. Where the two colours part, the head learns the rows by heart.</p>
</section>

<section>
  <h2>What was trained</h2>
  <dl>
    ${Object.entries(files)
      .filter((file): file is [string, string] => file[1] !== undefined)
      .map(([name, file]) => `<dt>${escaped(name)}</dt><dd><code>${escaped(file)}</code></dd>`)
      .join('')}
    <dt>Epochs</dt><dd>${epochs.length}${early}</dd>
    <dt>Settings</dt><dd>${report.settings.map((each) => `<code class="flag">${escaped(each.join(' ').trim())}</code>`).join(' ')}</dd>
    <dt>Software</dt><dd>margin-softmax ${manifest().version} on ${escaped(report.device)}, ${duration(report.seconds)}, ${new Date().toISOString().slice(0, 10)}</dd>
  </dl>
</section>`
  )
}
