// npm run bench: this package against its rivals. `--help` lists the options; measure.ts says how it is measured.

import { writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Command, InvalidArgumentError } from 'commander'
import { cases, flops } from './cases'
import { entries } from './contenders/index'
import { machine, measuredPeak } from './machine'
import { type Measurement, measureCase } from './measure'
import { markdown, type Run, rewritePage, summary } from './report'

function positive(text: string): number {
  const value = Number(text)
  if (!(value > 0)) throw new InvalidArgumentError('Expected a positive number.')
  return value
}

function chosen<T extends { name: string }>(
  all: readonly T[],
  names: string[] | undefined,
  what: string
): T[] {
  for (const name of names ?? []) {
    if (!all.some((one) => one.name === name)) {
      const known = all.map((one) => `"${one.name}"`).join(', ')
      throw new RangeError(`Expected one of ${known} for ${what} but received "${name}"`)
    }
  }
  return all.filter((one) => !names || names.includes(one.name))
}

/** A step's time at this size by the contender's speed at the largest size so far. */
function estimate(measurements: readonly Measurement[], contender: string, work: number): number | undefined {
  const last = measurements.filter((m) => m.contender === contender && m.timing).pop()
  return last?.timing && work / last.timing.gigaflops / 1e6
}

interface Options {
  case?: string[]
  contender?: string[]
  threads: number
  rounds?: number
  seconds?: number
  limit: number
  quick?: boolean
  readme: boolean
  json?: string
}

async function main(options: Options): Promise<void> {
  const partial = options.case || options.contender || options.quick
  const sizes = chosen(cases, options.case, '--case').filter(
    (_, i) => !options.quick || options.case || i < 3
  )
  const contenders = chosen(entries, options.contender, '--contender')
  const settings = {
    threads: options.threads,
    rounds: options.rounds ?? (options.quick ? 2 : 5),
    seconds: options.seconds ?? (options.quick ? 6 : 30),
    firstStepLimit: 1000 * options.limit,
  }
  const log = (text: string) => console.error(text)
  const run: Run = { machine: machine(), threads: options.threads, peak: 0, measurements: [] }
  const measurePeak = () => {
    run.peak = Math.max(run.peak, measuredPeak(options.threads))
  }
  measurePeak()
  for (const size of sizes) {
    log(size.name)
    const known = (contender: string) => estimate(run.measurements, contender, flops(size))
    run.measurements.push(...(await measureCase(size, contenders, settings, known, log)))
    measurePeak()
  }
  const text = markdown(run)
  console.log(text)
  if (options.json) writeFileSync(options.json, `${JSON.stringify(run, null, 2)}\n`)
  if (!options.readme || partial) return
  rewritePage(path.join(__dirname, 'CPU.md'), text)
  rewritePage(path.join(__dirname, '..', 'README.md'), summary(run))
}

const program = new Command('bench')
  .description('Times one ArcFace step of this package and of its rivals, checked against float64.')
  .option('--case <names...>', `only these sizes, of ${cases.map(({ name }) => name).join(', ')}`)
  .option('--contender <names...>', `only these, of ${entries.map(({ name }) => `"${name}"`).join(', ')}`)
  .option('--threads <count>', 'threads for everyone who can use them', positive, os.availableParallelism())
  .option('--rounds <count>', 'rounds in each case (default: 5, quick: 2)', positive)
  .option('--seconds <count>', 'time for the rounds of each case (default: 30, quick: 6)', positive)
  .option('--limit <seconds>', 'the longest step that is waited for', positive, 60)
  .option('--quick', 'a short run over the smaller sizes')
  .option('--no-readme', 'leave README.md and bench/CPU.md as they are; a partial run always does')
  .option('--json <file>', 'write all figures to a file')

main(program.parse().opts<Options>()).catch((error: Error) => {
  console.error(error.message)
  process.exitCode = 1
})
