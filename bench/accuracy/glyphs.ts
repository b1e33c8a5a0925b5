/**
 * Measures what class sampling costs: trains a small tfjs network to tell thousands of characters apart, drawn in many typefaces, with
 * every class in each step and with samples of them, and tests it on typefaces that it has never seen.
 *
 *     npm run glyphs                    sample rates 1, 0.3 and 0.1 on 5,955 characters
 *     npm run glyphs -- --quick         the same in small
 *     npm run glyphs -- --rates 1 0.05 --seeds 1 2 3 --margin cosface
 */
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { Command, CommanderError, Option } from 'commander'
import { cleanUp, listen } from '../../lib/cli/interrupt'
import { parseInteger, parseNumberAbove } from '../../lib/cli/options'
import { counted, duration, exitCodes, percent, printTable } from '../../lib/cli/terminal'
import { mean } from '../../lib/demo/metrics'
import { ProgressBars } from '../../lib/demo/progress'
import { adamW, arcface, cosface, sgd, type WeightStorage } from '../../lib/index'
import { weightStorages } from '../../lib/internal/head-options'
import { draw, installed, kanji, typefaces } from './glyph-images'
import { falseAcceptRate, type GlyphData, type GlyphOutcome, train } from './glyph-training'

interface Options {
  quick: boolean
  rates: number[]
  correct: boolean
  seeds: number[]
  classes?: number
  epochs: number
  margin: keyof typeof margins
  optimizer: keyof typeof optimizers
  weightStorage: WeightStorage
  snapshots?: string
}

/** A smaller scale and margin than for a million faces: with the defaults a training this short has hardly begun to learn. */
const margins = {
  arcface: arcface({ scale: 32, margin: 0.3 }),
  cosface: cosface({ scale: 32, margin: 0.2 }),
}
/** The head's optimizer, with its learning rate as a multiple of the network's 0.002. */
const optimizers = {
  adamw: { optimizer: adamW({ weightDecay: 0 }), headRate: 1 },
  sgd: { optimizer: sgd({ momentum: 0.9, weightDecay: 5e-4 }), headRate: 5 },
}
/** Characters for the verification: the last of the standard, which --classes leaves alone. */
const unseenCharacters = 400
const characters = kanji()
const most = characters.length - unseenCharacters

const program = new Command('glyphs')
  .description('Measures what class sampling costs in accuracy, on characters drawn in many typefaces.')
  .option('--quick', '600 characters, fewer typefaces: under a minute', false)
  .addOption(
    new Option('--rates <numbers...>', 'sample rates to compare')
      .argParser(list(parseNumberAbove(0, 1)))
      .default([1, 0.3, 0.1], '1 0.3 0.1')
  )
  .option('--correct', 'samples with sampleCorrection', false)
  .addOption(
    new Option('--seeds <numbers...>', 'a training at each rate for every one of them')
      .argParser(list(parseInteger(0)))
      .default([1], '1')
  )
  .option('--classes <number>', `characters to train on (default: ${most}, all)`, parseInteger(2, most))
  .option('--epochs <number>', 'passes over the training glyphs', parseInteger(1), 3)
  .addOption(new Option('--margin <name>', 'the loss').choices(Object.keys(margins)).default('arcface'))
  .addOption(
    new Option('--optimizer <name>', 'of the head').choices(Object.keys(optimizers)).default('adamw')
  )
  .addOption(
    new Option('--weight-storage <type>', "of the head's class weights")
      .choices(weightStorages)
      .default('float32')
  )
  .option('--snapshots <folder>', 'keeps heads and embeddings at 50, 90 and 99 % training accuracy')
  .exitOverride()

const bars = new ProgressBars()

async function main(options: Options): Promise<void> {
  const start = performance.now()
  tf.enableProdMode()
  if (!(await tf.setBackend('wasm')))
    throw new Error('Expected tfjs to start its wasm backend but it did not')
  const data = loadData(options)
  const glyphs = ({ count }: { count: number }) => counted(count, 'glyph')
  console.log(
    `${counted(data.classes, 'character')}: ${glyphs(data.train)} to train on, ${glyphs(data.test)} in other typefaces to test, ${glyphs(data.unseen)} of other characters; drawn in ${duration((performance.now() - start) / 1000)}`
  )
  const outcomes = await trainAll(options, data)
  console.log()
  printTable(table(outcomes, options))
  console.log(`\n${duration((performance.now() - start) / 1000)} in all`)
}

function loadData({ quick, classes = quick ? 600 : most }: Options): GlyphData {
  const forTraining = installed(typefaces.train.slice(0, quick ? 12 : undefined))
  const forTest = installed(typefaces.test.slice(0, quick ? 4 : undefined))
  const known = characters.slice(0, classes)
  return {
    train: draw(forTraining, known),
    test: draw(forTest, known),
    unseen: draw(forTest, characters.slice(most)),
    classes,
  }
}

async function trainAll(options: Options, data: GlyphData): Promise<GlyphOutcome[]> {
  const { epochs } = options
  // Few glyphs make few steps: smaller batches make more of them.
  const batch = options.quick ? 32 : 128
  const plan = options.seeds.flatMap((seed) => options.rates.map((sampleRate) => ({ seed, sampleRate })))
  const outcomes: GlyphOutcome[] = []
  for (const [done, { seed, sampleRate }] of plan.entries()) {
    const title = `rate ${sampleRate}, seed ${seed}`
    bars.start(title)
    const settings = {
      ...{ sampleRate, sampleCorrection: options.correct, seed, epochs, batch, dim: 128, shift: 2 },
      ...{ margin: margins[options.margin], learningRate: 0.002, warmup: 0.3 },
      ...optimizers[options.optimizer],
      weightStorage: options.weightStorage,
      snapshots: done === 0 ? options.snapshots : undefined,
    }
    const outcome = await train(data, settings, (progress) => {
      const secondsEach = (data.train.count * epochs) / progress.imagesPerSecond
      bars.update(progress, progress.secondsLeft + secondsEach * (plan.length - 1 - done))
    })
    bars.stop()
    outcomes.push(outcome)
    console.log(
      `${title}: ${percent(outcome.testAccuracy)} of the test nearest to its class’s weights, ${percent(outcome.centreAccuracy)} to its centre`
    )
  }
  return outcomes
}

/** A row for each rate: means over the seeds, and the lowest and highest accuracy where there are several. */
function table(outcomes: GlyphOutcome[], { rates, seeds }: Options): string[][] {
  const titles = [
    'sampleRate',
    'nearest weights',
    ...(seeds.length > 1 ? ['lowest to highest'] : []),
    'nearest centre',
    'unseen: pairs right',
    'ROC AUC',
    `TAR at FAR ${percent(falseAcceptRate, 1)}`,
    'head’s step',
    'training',
  ]
  const rows = rates.map((rate) => {
    const of = outcomes.filter(({ settings }) => settings.sampleRate === rate)
    const meanOf = (value: (outcome: GlyphOutcome) => number) => mean(of.map(value))
    const accuracies = of.map(({ testAccuracy }) => testAccuracy)
    const spread = `${percent(Math.min(...accuracies))} to ${percent(Math.max(...accuracies))}`
    return [
      String(rate),
      percent(mean(accuracies)),
      ...(seeds.length > 1 ? [spread] : []),
      percent(meanOf(({ centreAccuracy }) => centreAccuracy)),
      percent(meanOf(({ unseenAccuracy }) => unseenAccuracy)),
      meanOf(({ unseen }) => unseen.areaUnderCurve).toFixed(4),
      percent(meanOf(({ unseen }) => unseen.operatingPoints[0].trueAcceptRate)),
      `${meanOf(({ headSeconds, steps }) => (headSeconds / steps) * 1e3).toFixed(1)} ms`,
      duration(meanOf(({ seconds }) => seconds)),
    ]
  })
  return [titles, ...rows]
}

/** commander hands over one value at a time, with the default before the first. */
function list(parse: (text: string) => number): (text: string) => number[] {
  const values: number[] = []
  return (text) => {
    values.push(parse(text))
    return [...values]
  }
}

listen()
cleanUp(() => {
  bars.stop()
  console.error('\nInterrupted.')
})
try {
  program.parse()
} catch (error) {
  if (!(error instanceof CommanderError)) throw error
  // commander has said what is wrong, or shown the help
  process.exit(error.exitCode === 0 ? exitCodes.success : exitCodes.misuse)
}
main(program.opts<Options>()).catch((error: Error) => {
  bars.stop()
  console.error(`glyphs: ${error.message}`)
  process.exitCode = exitCodes.failure
})
