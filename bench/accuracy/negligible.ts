// Measures how much of its backward pass a trained head skips, and what that saves, at several stages of a training run.
//   node --import tsx bench/accuracy/negligible.ts --classes 10000
//   node --import tsx bench/accuracy/glyphs.ts --rates 1 --snapshots FOLDER; node --import tsx bench/accuracy/negligible.ts --from FOLDER
// Prints a table: a step with SGD momentum, as it is and with everything computed; the share of the terms that was
// computed; and errors of both gradients against those of everything, beside the bounds that were proven.

import { mkdtempSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Command } from 'commander'
import { arcface, cosface, type Margin, marginLossSync, normface } from '../../lib/index'
import { machine } from '../machine'
import { median } from '../measure'
import { readStage, stagesOf } from './stage-files'
import { train } from './stages'

const margins: Record<string, () => Margin> = { arcface, cosface, normface: () => normface({ scale: 64 }) }
const usual = 1e-7

function relativeError(actual: Float32Array, expected: Float32Array): number {
  let error = 0
  let norm = 0
  for (let i = 0; i < expected.length; i++) {
    error += ((actual[i] as number) - (expected[i] as number)) ** 2
    norm += (expected[i] as number) ** 2
  }
  return Math.sqrt(error / norm)
}

async function measure(folder: string, name: string, options: Options): Promise<string> {
  const settings = [Number(options.negligible), 0]
  const cases = []
  for (const setting of settings) cases.push(await readStage(folder, name, setting, Number(options.rows)))
  const [first] = cases
  if (!first) throw new Error('no stage')
  const { batch } = first
  const times: number[][] = settings.map(() => [])
  const processor: number[][] = settings.map(() => [])
  let accuracy = 0
  for (let round = 0; round < Number(options.rounds); round++)
    cases.forEach(({ head }, i) => {
      const used = process.cpuUsage()
      const start = performance.now()
      // A step that leaves the weights where they are: every round is the same work.
      accuracy = head.stepSync(batch.input, batch.labels, { learningRate: 0 }).stats.accuracy
      times[i]?.push(performance.now() - start)
      const { user, system } = process.cpuUsage(used)
      processor[i]?.push((user + system) / 1000)
    })
  const { margin, classes, dim } = first.head
  for (const { head } of cases) head.dispose()
  const [some, all] = settings.map((setting) =>
    marginLossSync(batch, { margin, negligible: setting, device: 'cpu' })
  )
  if (!some || !all) throw new Error('no results')
  const [fast, slow] = times.map(median) as [number, number]
  const [less, more] = processor.map(median) as [number, number]
  const errors = (['gradInput', 'gradWeight'] as const).map((name) => {
    const error = relativeError(some[name] as Float32Array, all[name] as Float32Array)
    return `${error.toExponential(1)} (${some.leftOut[name].toExponential(1)})`
  })
  return `| ${[
    `${margin.name} ${batch.labels.length}×${dim}×${classes}`,
    `${(100 * accuracy).toFixed(1)} %`,
    all.loss.toFixed(3),
    slow.toFixed(1),
    fast.toFixed(1),
    `${(slow / fast).toFixed(2)}×`,
    `${(more / less).toFixed(2)}×`,
    `${(100 * (1 - some.leftOut.share)).toFixed(1)} %`,
    ...errors,
  ].join(' | ')} |`
}

interface Options {
  rows: string
  dim: string
  classes: string
  margin: string
  stages: string[]
  steps: string
  sampleRate: string
  negligible: string
  rounds: string
  folder?: string
  from?: string
}

async function main(options: Options): Promise<void> {
  const margin = margins[options.margin]
  if (!margin) throw new RangeError(`Expected one of ${Object.keys(margins)} for --margin`)
  const log = (text: string) => console.error(text)
  const folder =
    options.from ?? options.folder ?? mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-stages-'))
  const [rows, dim, classes] = [options.rows, options.dim, options.classes].map(Number) as [
    number,
    number,
    number,
  ]
  if (!options.from)
    await train(
      {
        rows,
        dim,
        classes,
        margin: margin(),
        stages: options.stages.map(Number),
        steps: Number(options.steps),
        sampleRate: Number(options.sampleRate),
      },
      folder,
      log
    )
  const { cpu, cores, date } = machine()
  console.log(`${cpu}, ${cores} cores, ${date}\n`)
  console.log(
    '| head | accuracy | loss | everything, ms | negligible left out, ms | faster | less processor time | terms computed | error of gradInput (bound) | of gradWeight (bound) |'
  )
  console.log('|---|---|---|---|---|---|---|---|---|---|')
  for (const stage of stagesOf(folder)) console.log(await measure(folder, stage, options))
}

const program = new Command('negligible')
  .option('--rows <count>', 'B', '256')
  .option('--dim <count>', 'D', '512')
  .option('--classes <count>', 'C', '10000')
  .option('--margin <name>', Object.keys(margins).join(', '), 'arcface')
  .option('--stages <accuracies...>', 'accuracies at which to measure', ['0.5', '0.9', '0.99', '0.999'])
  .option('--steps <count>', 'training steps', '1200')
  .option('--sample-rate <share>', 'of the classes, in training', '1')
  .option('--negligible <size>', 'what may be left out', String(usual))
  .option('--rounds <count>', 'timed steps of each kind', '9')
  .option('--folder <path>', 'where the stages go (default: a temporary folder)')
  .option('--from <path>', 'the folder of an earlier run, to be measured again')

main(program.parse().opts<Options>()).catch((error: Error) => {
  console.error(error.message)
  process.exitCode = 1
})
