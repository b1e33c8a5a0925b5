/** The report of `identify`: one HTML page with everything in it. */
import { between, closedFigures, thresholdText } from '../cli/identification/figures'
import type { Shown, ShownProbe, ShownRow } from '../cli/identification/neighbours'
import { counted, duration, manifest, percent } from '../cli/terminal'
import type { IdentificationResult, OpenSetPoint } from '../index'
import { escaped, figures, fileEntries, page, warningNotes } from './page'

export interface IdentificationReport {
  result: IdentificationResult
  /** Points of the open-set curve, from the smallest false alarm rate on. */
  curve: OpenSetPoint[]
  shown: Shown
  files: Record<string, string | undefined>
  rows: number
  classes: number
  dim: number
  confidence: number
  replicates: number
  leaveOneOut: boolean
  seconds: number
  /** Warnings: reasons why the figures mean less than they seem to. */
  warnings: string[]
}

export async function renderIdentificationReport(report: IdentificationReport): Promise<string> {
  const { result, curve, shown, files, rows, classes, dim, leaveOneOut, warnings } = report
  const plots = await import('./identification-plots.mjs')
  const { known, unknown } = result.probes
  const closed = closedFigures(result)
  const sure = result.intervals
    ? ` The ranges hold ${percent(report.confidence, 0)} of ${counted(report.replicates, 'draw')} of identities with replacement.`
    : ''
  return page(
    'Identification',
    `
<header>
  <p class="kicker">margin-softmax · identification</p>
  <h1>${counted(known + unknown, 'probe')} in a gallery of ${counted(rows, 'row')}</h1>
  <p class="lead">Who is it? ${leaveOneOut ? 'Each row is looked up among all the others' : 'Each probe is looked up in the gallery'}, by cosine.
  ${counted(known, 'probe')} of ${counted(classes, 'class', 'classes')} that the ${leaveOneOut ? 'other rows have' : 'gallery has'}, ${unknown.toLocaleString('en')} of others.</p>
</header>

<section>
  ${figures(closed.map(([name, value, interval]) => [value, name, interval]))}
  <p class="caption">Rank-k: the share of known probes with a row of their class among the k nearest. Precision@k: the share of such rows
  among them. MAP@R looks at the R nearest, R being the size of the class.${sure} Equal scores count against the probe.</p>
  ${warningNotes(warnings)}
</section>

<section>
  <h2>Rank by rank</h2>
  <div class="beside">
    <figure class="panel">${await plots.matchCurve(result)}</figure>
    <p class="caption">The CMC curve: how many known probes are found if a person looks at the k nearest rows.</p>
  </div>
</section>
${result.openSet ? openSetSection(result, await plots.detectionCurve(curve, unknown)) : ''}
${probesSection('Taken for someone else', 'Known probes whose nearest row is of another class, the highest scores first: a threshold lets these through last.', shown.misidentified)}
${probesSection('Strangers that look most like someone', 'Unknown probes, the highest scores first: these decide how high the threshold must be.', shown.unknown)}
<section>
  <h2>What was measured</h2>
  <dl>
    ${fileEntries(files)}
    <dt>Size</dt><dd>${rows.toLocaleString('en')} × ${dim}</dd>
    <dt>Method</dt><dd>cosines of every probe with every row; nothing is sampled or indexed</dd>
    <dt>Software</dt><dd>margin-softmax ${manifest().version}, ${duration(report.seconds)}, ${new Date().toISOString().slice(0, 10)}</dd>
  </dl>
</section>`
  )
}

function openSetSection({ openSet = [], intervals, probes }: IdentificationResult, curve: string): string {
  const { lower, upper } = intervals?.detectionRates ?? {}
  const rows = openSet.map(
    (point, i) =>
      `<tr><th scope="row">${point.limit.toExponential(0)}</th><td>${percent(point.detectionRate)}</td>${lower ? `<td>${between(lower[i], upper?.[i])}</td>` : ''}<td>${percent(point.misidentificationRate)}</td><td>${thresholdText(point.threshold)}</td></tr>`
  )
  return `
<section>
  <h2>Strangers</h2>
  <div class="beside">
    <figure class="panel">${curve}</figure>
    <div>
    <div class="scroll"><table class="numbers">
      <thead><tr><th>false alarms up to</th><th>detected</th>${lower ? '<th>range</th>' : ''}<th>mistaken</th><th>threshold</th></tr></thead>
      <tbody>${rows.join('')}</tbody>
    </table></div>
    <p class="caption">A probe is accepted if its nearest row scores at least the threshold. False alarms are the unknown probes that are accepted,
    detected the known ones that are, with the right class; mistaken, with another. With ${probes.unknown.toLocaleString('en')} unknown probes, no rate below
    ${(1 / probes.unknown).toExponential(0)} but 0 can be measured.</p>
    </div>
  </div>
</section>`
}

function probesSection(title: string, caption: string, probes: ShownProbe[]): string {
  if (probes.length === 0) return ''
  const card = (row: ShownRow, text: string, right = false) =>
    `<figure${right ? ' class="right"' : ''}>${row.picture ? `<img src="${row.picture}" alt="">` : ''}<b>${escaped(row.name)}</b><br>${text}</figure>`
  const line = ({ neighbours, ...probe }: ShownProbe) =>
    `<div class="panel"><div class="scroll probe">${card(probe, `probe ${probe.row}`)}${neighbours
      .map((one) => card(one, `${one.score.toFixed(3)}, row ${one.row}`, one.right))
      .join('')}</div></div>`
  return `
<section>
  <h2>${title}</h2>
  <p class="caption">${caption} To the right of each are its nearest rows; those of its class are coloured.</p>
  <div class="probes">${probes.map(line).join('')}</div>
</section>`
}
