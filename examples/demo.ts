/**
 * Trains a small tfjs network on MNIST with softmax, NormFace, SphereFace, CosFace and ArcFace in turn and compares them.
 *
 *     npm run demo                      everything, about three minutes on two cores
 *     npm run demo -- --quick           the same in small
 *     npm run demo -- --loss arcface cosface --epochs 6 --seed 2 --out arcface.html
 */
import {
  accessSync,
  constants,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { type Data, type Outcome, run, type Settings } from './experiment'
import { losses } from './losses'
import * as mnist from './mnist'
import { duration, ProgressBars } from './progress'
import { columns, renderReport } from './report'

interface Options {
  quick: boolean
  loss: string[]
  epochs?: number
  out: string
  seed: number
  heldOut: number[]
}

const names = losses.map(({ name }) => name)
const verificationDim = 32
const program = new Command('demo')
  .description('Trains a small network on MNIST with five losses and writes a report that compares them.')
  .option('--quick', 'fewer images and epochs: under 40 seconds', false)
  .addOption(new Option('--loss <names...>', 'only these losses').choices(names).default(names, 'all five'))
  .option(
    '--epochs <number>',
    'passes over the training images (default: 4 in 2 dimensions, 3 in 32)',
    integerFrom(1)
  )
  .option('--out <file>', 'where the report goes', path.join('out', 'mnist.html'))
  .option(
    '--seed <number>',
    'of the initial weights, the order of the images and their shifts',
    integerFrom(0),
    1
  )
  .option('--held-out <digits>', 'the two digits that are left out of training', twoDigits, [5, 9])
  .exitOverride()

const bars = new ProgressBars()

async function main(options: Options): Promise<void> {
  const start = performance.now()
  checkTarget(options.out)
  tf.enableProdMode()
  if (!(await tf.setBackend('wasm')))
    throw new Error('Expected tfjs to start its wasm backend but it did not')
  const data = loadData(options)
  const plan = makePlan(options)
  console.log(
    `${data.train.count.toLocaleString('en')} images of the digits ${data.digits.join(', ')}; ${options.heldOut.join(' and ')} left out; ${plan.length} trainings`
  )
  const outcomes = await runAll(plan, data)
  for (const dim of [verificationDim, 2]) printTable(outcomes, dim)

  const html = await renderReport({
    outcomes,
    data,
    seed: options.seed,
    quick: options.quick,
    command: ['npm run demo --', ...process.argv.slice(2)].join(' ').replace(/ --$/, ''),
    totalSeconds: (performance.now() - start) / 1000,
    machine: machine(),
  })
  writeWhole(options.out, html)
  console.log(
    `\nReport: ${options.out} (${Math.round(html.length / 1024)} KiB, ${duration((performance.now() - start) / 1000)} in all)`
  )
}

type Plan = { setting: (typeof losses)[number]; settings: Settings }[]

/** Two trainings a loss: two dimensions can be drawn, more dimensions are what one would use. */
function makePlan({ quick, loss, epochs, seed }: Options): Plan {
  const common = { batch: 128, shift: 1, seed }
  const flat = { ...common, dim: 2, epochs: epochs ?? 4, learningRate: 0.004 }
  const deep = { ...common, dim: verificationDim, epochs: epochs ?? (quick ? 2 : 3), learningRate: 0.002 }
  return losses
    .filter(({ name }) => loss.includes(name))
    .flatMap((setting) => [flat, deep].map((settings) => ({ setting, settings })))
}

function loadData({ quick, heldOut }: Options): Data {
  const digits = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].filter((digit) => !heldOut.includes(digit))
  const test = mnist.load('t10k')
  return {
    train: mnist.select(mnist.load('train'), digits, quick ? 8_000 : undefined),
    test: mnist.select(test, digits),
    unseen: mnist.select(test, heldOut),
    digits,
    heldOut,
  }
}

async function runAll(plan: Plan, data: Data): Promise<Outcome[]> {
  const outcomes: Outcome[] = []
  let epochsLeft = plan.reduce((sum, { settings }) => sum + settings.epochs, 0)
  for (const { setting, settings } of plan) {
    bars.start(`${setting.title}, ${settings.dim}-D`)
    epochsLeft -= settings.epochs
    const outcome = await run(setting, data, settings, (progress) => {
      const secondsPerEpoch = data.train.count / progress.imagesPerSecond
      bars.update(progress, progress.secondsLeft + secondsPerEpoch * epochsLeft)
    })
    bars.stop()
    outcomes.push(outcome)
  }
  return outcomes
}

function printTable(outcomes: Outcome[], dim: number): void {
  const rows = outcomes
    .filter(({ settings }) => settings.dim === dim)
    .map((outcome) => [outcome.setting.title, ...columns.map(({ value }) => value(outcome))])
  const table = [[`${dim} dimensions`, ...columns.map(({ title }) => title)], ...rows]
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)))
  console.log()
  for (const row of table) {
    console.log(
      row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('   ')
    )
  }
}

function machine(): [string, string][] {
  const { version } = JSON.parse(readFileSync(path.join(__dirname, '..', 'package.json'), 'utf8')) as {
    version: string
  }
  const cpus = os.cpus()
  return [
    ['Processor', `${cpus[0]?.model.trim() ?? 'unknown'}, ${cpus.length} threads`],
    ['Memory', `${Math.round(os.totalmem() / 2 ** 30)} GiB`],
    ['System', `${os.type()} ${os.release()}, ${os.arch()}`],
    [
      'Software',
      `margin-softmax ${version}, tfjs ${tf.version.tfjs} (wasm backend), Node ${process.versions.node}`,
    ],
    ['Date', new Date().toISOString().slice(0, 10)],
  ]
}

/** Better to hear now than after the training that the report cannot be written. */
function checkTarget(file: string): void {
  mkdirSync(path.dirname(file), { recursive: true })
  accessSync(path.dirname(file), constants.W_OK)
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory()) {
    throw new Error(`Expected a file name for --out but received the folder ${file}`)
  }
}

/** Writes beside the target and renames: whoever interrupts keeps the old report, never half of a new one. */
function writeWhole(file: string, content: string): void {
  const temporary = `${file}.${process.pid}.part`
  try {
    writeFileSync(temporary, content)
    renameSync(temporary, file)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw error
  }
}

function integerFrom(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < least || value >= 2 ** 31)
      throw new InvalidArgumentError(`Expected an integer of at least ${least}.`)
    return value
  }
}

function twoDigits(text: string): number[] {
  const digits = text.split(',').map(Number)
  if (!/^\d,\d$/.test(text) || digits[0] === digits[1])
    throw new InvalidArgumentError('Expected two different digits such as 5,9.')
  return digits
}

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  process.on(signal, () => {
    bars.stop()
    console.error('\nInterrupted; no report was written.')
    process.exit(code)
  })
}

try {
  program.parse()
} catch (error) {
  if (!(error instanceof CommanderError)) throw error
  process.exit(error.exitCode === 0 ? 0 : 2) // commander has said what is wrong, or shown the help
}
main(program.opts<Options>()).catch((error: Error) => {
  bars.stop()
  console.error(`demo: ${error.message}`)
  process.exitCode = 1
})
