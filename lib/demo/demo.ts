/**
 * Trains a small tfjs network on MNIST with softmax, NormFace, SphereFace, CosFace and ArcFace in turn and compares them.
 *
 * `margin-softmax demo` runs it: everything takes about three minutes on two cores.
 */
import os from 'node:os'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { cleanUp } from '../cli/interrupt'
import { checkTarget, duration, manifest } from '../cli/terminal'
import { writeReport } from '../internal/write-file'
import { type Data, type Outcome, run, type Settings } from './experiment'
import { losses } from './losses'
import * as mnist from './mnist'
import { ProgressBars } from './progress'
import { columns, renderReport } from './report'

export interface DemoOptions {
  quick?: boolean
  loss: string[]
  epochs?: number
  out: string
  seed: number
  heldOut: number[]
}

const verificationDim = 32
const bars = new ProgressBars()

export async function demo(options: DemoOptions): Promise<void> {
  cleanUp(() => {
    bars.stop()
    console.error('\nInterrupted; no report was written.')
  })
  try {
    await trainAndReport(options)
  } finally {
    bars.stop()
  }
}

async function trainAndReport(options: DemoOptions): Promise<void> {
  const start = performance.now()
  await checkTarget(options.out, '--out', true)
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
    quick: options.quick ?? false,
    command: ['npx margin-softmax demo', ...process.argv.slice(3)].join(' '),
    totalSeconds: (performance.now() - start) / 1000,
    machine: machine(),
  })
  await writeReport(options.out, html)
  console.log(
    `\nReport: ${options.out} (${Math.round(html.length / 1024)} KiB, ${duration((performance.now() - start) / 1000)} in all)`
  )
}

type Plan = { setting: (typeof losses)[number]; settings: Settings }[]

/** Two trainings a loss: two dimensions can be drawn, more dimensions are what one would use. */
function makePlan({ quick, loss, epochs, seed }: DemoOptions): Plan {
  const common = { batch: 128, shift: 1, seed }
  const flat = { ...common, dim: 2, epochs: epochs ?? 4, learningRate: 0.004 }
  const deep = { ...common, dim: verificationDim, epochs: epochs ?? (quick ? 2 : 3), learningRate: 0.002 }
  return losses
    .filter(({ name }) => loss.includes(name))
    .flatMap((setting) => [flat, deep].map((settings) => ({ setting, settings })))
}

function loadData({ quick, heldOut }: DemoOptions): Data {
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
  const { version } = manifest()
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
