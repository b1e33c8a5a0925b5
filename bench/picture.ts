// Draws the README's picture from two training runs of the demo: `node --import tsx bench/picture.ts`.
//
// Softmax and ArcFace train the same network on MNIST without the digits 5 and 9. Each panel shows how far the test images
// lie from their own class and from the nearest other one.
// The SVG has no background, and a grey that stands out on white and on black.
import path from 'node:path'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { Command } from 'commander'
import { parseInteger } from '../lib/cli/options'
import { Progress } from '../lib/cli/terminal'
import { type Data, type Outcome, run } from '../lib/demo/experiment'
import { type LossSetting, losses } from '../lib/demo/losses'
import * as mnist from '../lib/demo/mnist'
import { writeReport } from '../lib/internal/write-file'

const shownLosses = ['softmax', 'arcface']
const digits = [0, 1, 2, 3, 4, 6, 7, 8]
const heldOut = [5, 9]
const dim = 32

const targetColour = '#4585f4'
const otherColour = '#d98a1f'
const grey = '#7d8590'
const panel = { width: 360, height: 250, left: 24, right: 344, bottom: 170, top: 12 }
const range = { degrees: 120, width: 3 } // the angles drawn, and the width of a bar

/** The share of the angles in each bar. */
function binned(angles: Float32Array): number[] {
  const shares = new Array<number>(range.degrees / range.width).fill(0)
  for (const angle of angles) {
    const bar = Math.min(shares.length - 1, Math.floor(angle / range.width))
    shares[bar] = (shares[bar] as number) + 1 / angles.length
  }
  return shares
}

const x = (degrees: number) => panel.left + ((panel.right - panel.left) * degrees) / range.degrees

/** A histogram as one closed path; `highest` is the share that reaches the top. */
function outline(shares: number[], highest: number): string {
  const steps = shares.map((share, bar) => {
    const y = (panel.bottom - ((panel.bottom - panel.top) * share) / highest).toFixed(1)
    return `V${y}H${x((bar + 1) * range.width).toFixed(1)}`
  })
  return `M${panel.left} ${panel.bottom}${steps.join('')}V${panel.bottom}Z`
}

function text(at: number, y: number, colour: string, words: string, more = ''): string {
  return `<text x="${at.toFixed(1)}" y="${y}" fill="${colour}"${more}>${words}</text>`
}

function draw(outcome: Outcome, highest: number, offset: number): string {
  const { angles, setting } = outcome
  const middle = panel.width / 2
  const ticks = [0, 30, 60, 90, 120].map((degrees) =>
    text(x(degrees), panel.bottom + 17, grey, `${degrees}°`, ' font-size="12"')
  )
  return [
    `<g transform="translate(${offset})">`,
    `<path fill="${targetColour}" opacity=".75" d="${outline(binned(angles.own), highest)}"/>`,
    `<path fill="${otherColour}" opacity=".75" d="${outline(binned(angles.other), highest)}"/>`,
    `<path stroke="${grey}" d="M${panel.left} ${panel.bottom}H${panel.right}"/>`,
    ...ticks,
    text(x(angles.meanOwn), panel.bottom + 35, targetColour, 'own class'),
    text(x(angles.meanOther), panel.bottom + 35, otherColour, 'nearest other'),
    text(middle, panel.height - 24, grey, setting.title, ' font-weight="bold"'),
    text(middle, panel.height - 6, grey, `test accuracy ${(100 * angles.accuracy).toFixed(2)} %`),
    '</g>',
  ].join('\n')
}

function picture(outcomes: Outcome[]): string {
  const highest = Math.max(
    ...outcomes.flatMap(({ angles }) => [...binned(angles.own), ...binned(angles.other)])
  )
  const size = `viewBox="0 0 ${panel.width * outcomes.length} ${panel.height}"`
  const style = 'font-family="system-ui, sans-serif" font-size="14" text-anchor="middle" fill="none"'
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" ${size} ${style} role="img">`,
    '<title>Angles from the test images of MNIST to their own class and to the nearest other one</title>',
    ...outcomes.map((outcome, i) => draw(outcome, highest, i * panel.width)),
    '</svg>',
    '',
  ].join('\n')
}

async function main({ epochs, out }: { epochs: number; out: string }): Promise<void> {
  tf.enableProdMode()
  await tf.setBackend('wasm')
  const test = mnist.load('t10k')
  const data: Data = {
    train: mnist.select(mnist.load('train'), digits),
    test: mnist.select(test, digits),
    unseen: mnist.select(test, heldOut),
    digits,
    heldOut,
  }
  const settings = { batch: 128, shift: 1, seed: 0, dim, epochs, learningRate: 0.002 }
  const outcomes: Outcome[] = []
  for (const name of shownLosses) {
    const setting = losses.find((loss) => loss.name === name) as LossSetting
    const bar = new Progress()
    bar.start(setting.title, epochs)
    outcomes.push(
      await run(setting, data, settings, ({ epoch, loss }) => bar.update(epoch, `loss ${loss.toFixed(3)}`))
    )
    bar.stop()
  }
  await writeReport(out, picture(outcomes))
  for (const { setting, angles } of outcomes) {
    const mean = [angles.meanOwn, angles.meanOther].map((angle) => `${angle.toFixed(1)}°`).join(' and ')
    console.log(`${setting.title}: accuracy ${(100 * angles.accuracy).toFixed(2)} %, mean angles ${mean}`)
  }
}

const program = new Command('picture')
  .description("Trains softmax and ArcFace on MNIST and draws the README's picture.")
  .option('--epochs <count>', 'passes over the training images', parseInteger(1), 3)
  .option('--out <file>', 'where it goes', path.join(__dirname, '..', 'docs', 'angles.svg'))
main(program.parse().opts())
