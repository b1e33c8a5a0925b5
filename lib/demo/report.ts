/** The report: one HTML page with everything in it, for a wide window, a phone and the dark. */

import { duration, percent } from '../cli/terminal'
import { escaped, key, page } from '../report/page'
import { type Data, type Outcome, trueAcceptRateAt } from './experiment'
import { median } from './metrics'

export interface ReportInput {
  outcomes: Outcome[]
  data: Data
  seed: number
  quick: boolean
  command: string
  totalSeconds: number
  /** rows of the table of machine and versions */
  machine: [string, string][]
}

/** One column of the tables of results. */
export interface Column {
  /** of the digits trained on, or of those left out */
  of: 'seen' | 'unseen'
  title: string
  value(outcome: Outcome): string
}

export const columns: Column[] = [
  { of: 'seen', title: 'test accuracy', value: ({ angles }) => percent(angles.accuracy, 2) },
  { of: 'seen', title: 'angle to own centre', value: ({ angles }) => `${angles.meanOwn.toFixed(1)}°` },
  { of: 'seen', title: 'angle to nearest other', value: ({ angles }) => `${angles.meanOther.toFixed(1)}°` },
  { of: 'unseen', title: 'ROC AUC', value: ({ verification }) => verification.areaUnderCurve.toFixed(4) },
  { of: 'unseen', title: 'EER', value: ({ verification }) => percent(verification.equalErrorRate, 1) },
  { of: 'unseen', title: 'TAR at FAR 1 %', value: (outcome) => percent(trueAcceptRateAt(outcome, 0.01), 1) },
]

/** The margin with its parameters as in code: arcface({ scale: 16, margin: 0.3 }). */
export function marginCode({ margin }: Outcome): string {
  const { name, ...parameters } = margin
  const shown = Object.entries(parameters).filter(([key, value]) => value !== false && key !== 'iteration')
  if (shown.length === 0) return `${name}Margin()`
  return `${name}({ ${shown.map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(', ')} })`
}

export async function renderReport(input: ReportInput): Promise<string> {
  const { outcomes, data } = input
  const figures = await import('./figures.mjs')
  const flat = outcomes.filter(({ settings }) => settings.dim === 2)
  const deep = outcomes.filter(({ settings }) => settings.dim > 2)
  const dim = deep[0].settings.dim
  const count = number(flat.length)
  const unseen = data.heldOut.join(' and ')
  const scattered = { test: data.test.digits, unseen: data.unseen.digits }
  const scatters = await Promise.all(
    flat.map(async (outcome) =>
      panel(
        outcome,
        await figures.embeddingScatter(outcome, data.digits, data.heldOut, scattered),
        `test accuracy ${percent(outcome.angles.accuracy, 1)}`,
        ` Half of the images lie within ${median(outcome.angles.own).toFixed(1)}° of their ray.`
      )
    )
  )
  const share = figures.largestShareOf(deep)
  const histograms = await Promise.all(
    deep.map(async (outcome) =>
      panel(
        outcome,
        await figures.angleHistogram(outcome, share),
        `mean ${outcome.angles.meanOwn.toFixed(0)}° and ${outcome.angles.meanOther.toFixed(0)}°`
      )
    )
  )
  const curve = async (of: Outcome[], field: 'loss' | 'accuracy') =>
    `<figure class="panel"><h3>${field === 'loss' ? 'Loss' : 'Accuracy in training'}, ${of[0].settings.dim} dimensions</h3>${await figures.trainingCurves(of, field)}</figure>`
  const curves = [
    await curve(flat, 'loss'),
    await curve(deep, 'loss'),
    await curve(flat, 'accuracy'),
    await curve(deep, 'accuracy'),
  ]
  const digitKeys = data.digits.map((digit) => key(figures.digitColours[digit], String(digit))).join('')
  const lossKeys = flat.map(({ setting }) => key(figures.lossColours[setting.name], setting.title)).join('')
  const { settings } = deep[0]
  const epochs = `${flat[0].settings.epochs} epochs in two dimensions, ${settings.epochs} in ${dim}`

  return page(
    'Margin losses on MNIST',
    `
<header>
  <p class="kicker">margin-softmax · training demo</p>
  <h1>${count} ${flat.length === 1 ? 'loss' : 'losses'}, one network, ten digits</h1>
  <p class="lead">A small network learnt to turn images of eight of the ten MNIST digits into
  directions${flat.length > 1 ? ', afresh with each loss' : ''}. The digits ${unseen} were kept back: no training saw them. Below: how each loss
  arranges the digits it knows, and how well its directions tell apart the two that it has never seen.</p>
  ${input.quick ? '<p class="note">This is a quick run on part of the images. It shows that everything works; the full run shows what the losses do.</p>' : ''}
</header>

<section>
  <h2>What each loss does to the plane</h2>
  <p>The network ends in two numbers here, so every image becomes a point.</p>
  <div class="grid three">
    ${scatters.join('\n')}
    <div class="panel legend">
      <h3>How to read it</h3>
      <p>Each dot is a test image, coloured by its digit.</p>
      <p class="keys">${digitKeys}</p>
      <p>Only the <b>direction</b> from the middle counts. A ray points at each digit's centre. The narrower the dots of
      a digit lie around their ray, and the emptier the space to the next, the better.</p>
      <p>Grey: digits never seen in training (× ${data.heldOut[0]}, ○ ${data.heldOut[1]}).
      Each picture has its own scale; the 1.5 % farthest out are not drawn.</p>
    </div>
  </div>
</section>

<section>
  <h2>Results</h2>
  ${resultTables(deep, `${dim} dimensions`)}
  ${resultTables(flat, '2 dimensions, as in the pictures')}
  <p class="caption"><b>Test accuracy</b>: share of the ${data.test.count.toLocaleString('en')} test images of the eight digits that lie nearest to the centre of
  their own digit. A centre is the mean direction of a digit's training images. <b>Angles</b>: from a test image to its own
  centre (small is tight) and to the nearest other one (large is well apart), on average.
  <b>Verification</b> asks of two images of ${unseen} whether they show the same digit, by the angle between them alone:
  ${deep[0].verification.pairs.same.toLocaleString('en')} pairs that do, ${deep[0].verification.pairs.different.toLocaleString('en')} that do not. <b>ROC AUC</b>: 1 is perfect, 0.5 is guessing.
  <b>EER</b>: the error where wrong yes and wrong no are equally frequent. <b>TAR at FAR 1 %</b>: how many true pairs are
  recognised when one in a hundred false ones may pass.</p>
  <p class="caption">One run with seed ${input.seed}. Another seed moves the accuracies by a few tenths of a percent and the
  verification by several percent, in two dimensions by far more, so small differences between losses mean nothing. Eight classes are few to learn from
  about digits never seen, and which two are kept back matters more than the loss: try <code>--held-out 3,8</code>.</p>
</section>

<section>
  <h2>Angles</h2>
  <p>${dim} dimensions. <span class="key"><i style="background:${figures.ownColour}"></i>angle to the own centre</span>
  <span class="key"><i style="background:${figures.otherColour}"></i>angle to the nearest other centre</span></p>
  <div class="grid three">${histograms.join('\n')}</div>
  <p class="caption">Test images of the eight digits. The two hills should be narrow and far apart; where they overlap,
  digits are confused. Means apart by
  ${deep.map(({ setting, angles }) => `${(angles.meanOther - angles.meanOwn).toFixed(0)}° (${setting.title})`).join(', ')}.</p>
</section>

<section>
  <h2>Digits never seen</h2>
  <p class="keys">${lossKeys}</p>
  <div class="beside">
    <figure class="panel">${await figures.rocCurves(deep)}</figure>
    <p class="caption">Verification of ${unseen} with ${dim} dimensions. Every point of a line is a threshold: how many pairs
    of the same digit it accepts (upward) and how many of different digits (to the right, on a logarithmic axis).
    Higher is better. The dotted line is guessing, the dashed one FAR 1 %.</p>
  </div>
</section>

<section>
  <h2>Training</h2>
  <p class="keys">${lossKeys}</p>
  <div class="grid two charts">${curves.join('\n')}</div>
  <p class="caption">Means over a sixtieth of the training. Compare the shapes of the losses, not their heights: scale and
  margin are part of what is measured, and the margins of CosFace, ArcFace and SphereFace grow during the training, which
  lifts their loss for a while. Accuracy: share of training images whose own class scores highest, without margin.</p>
</section>

<section>
  <h2>Settings</h2>
  <div class="scroll"><table class="settings">
    <thead><tr><th>loss</th><th>in two dimensions</th><th>in ${dim}</th><th>margin grows over</th></tr></thead>
    <tbody>${flat.map((outcome, i) => settingRow(outcome, deep[i])).join('')}</tbody>
  </table></div>
  <dl>
    <dt>Images</dt><dd>${data.train.count.toLocaleString('en')} for training, ${data.test.count.toLocaleString('en')} for the test, ${data.unseen.count.toLocaleString('en')} test images of ${unseen} for verification; training images moved at random by up to ${settings.shift} pixel${settings.shift === 1 ? '' : 's'}</dd>
    <dt>Network</dt><dd>fully connected ${flat[0].layers.join('–')} and ${deep[0].layers.join('–')} with ReLU, ${flat[0].parameters.toLocaleString('en')} and ${deep[0].parameters.toLocaleString('en')} parameters, trained by tfjs</dd>
    <dt>Class centres</dt><dd>a MarginHead of ${data.digits.length} classes, trained by margin-softmax; in two dimensions they start evenly spread on a circle</dd>
    <dt>Training</dt><dd>network and centres by Adam, learning rate ${flat[0].settings.learningRate} in two dimensions and ${settings.learningRate} in ${dim}, falling to 0 along half a cosine wave; batches of ${settings.batch}; ${epochs}; seed ${input.seed}</dd>
  </dl>
</section>

<section>
  <h2>Machine</h2>
  <dl>${input.machine.map(([name, value]) => `<dt>${escaped(name)}</dt><dd>${escaped(value)}</dd>`).join('')}
    <dt>Time</dt><dd>${duration(input.totalSeconds)} in all; training ${Math.round(deep[0].imagesPerSecond).toLocaleString('en')} images a second (${deep[0].setting.title}, ${dim} dimensions)</dd>
  </dl>
  <h3>Do it again</h3>
  <pre><code>${escaped(input.command)}</code></pre>
</section>`
  )
}

function panel({ setting }: Outcome, svg: string, detail: string, note = ''): string {
  return `<figure class="panel"><h3>${setting.title} <small>${detail}</small></h3>${svg}<figcaption>${setting.idea}${note}</figcaption></figure>`
}

/** Two tables rather than one with six columns: side by side on a desk, one below the other on a phone. */
function resultTables(outcomes: Outcome[], title: string): string {
  const table = (of: Column['of'], group: string) => {
    const shown = columns.filter((column) => column.of === of)
    const rows = outcomes.map(
      (outcome) =>
        `<tr><th scope="row">${outcome.setting.title}</th>${shown.map(({ value }) => `<td>${value(outcome)}</td>`).join('')}</tr>`
    )
    return `<div><h3>${title} <small>${group}</small></h3><table class="numbers">
      <thead><tr><td></td>${shown.map((column) => `<th>${column.title}</th>`).join('')}</tr></thead>
      <tbody>${rows.join('')}</tbody></table></div>`
  }
  return `<div class="grid two tables">${table('seen', 'digits trained on')}${table('unseen', 'verification of digits never seen')}</div>`
}

function settingRow(flat: Outcome, deep: Outcome): string {
  const grows = flat.warmupSteps
    ? `the first ${flat.warmupSteps} and ${deep.warmupSteps} steps`
    : flat.setting.name === 'sphereface'
      ? 'all steps, as its λ falls'
      : '–'
  return `<tr><th scope="row">${flat.setting.title}</th><td data-label="two dimensions"><code>${escaped(marginCode(flat))}</code></td><td data-label="${deep.settings.dim} dimensions"><code>${escaped(marginCode(deep))}</code></td><td data-label="margin grows over">${grows}</td></tr>`
}

function number(value: number): string {
  return ['No', 'One', 'Two', 'Three', 'Four', 'Five'][value] ?? String(value)
}
