// One case: every contender is checked, then they are timed in turns.

import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { type Case, flops } from './cases'
import { Child, NoTime } from './child'
import { agrees, compare, type Errors } from './compare'
import type { Entry } from './contenders/index'
import type { Memory, Started } from './process'
import { type Reference, referenceOf } from './reference'

export interface Timing {
  milliseconds: number // the median of the rounds' medians
  least: number // of the rounds' medians
  most: number
  steps: number
  gigaflops: number // useful work, the same for everybody
}

/** One cell of the table: a timing, or the reason why there is none. */
export interface Measurement {
  case: string
  contender: string
  started?: Started
  errors?: Errors
  timing?: Timing
  memory?: Memory
  absent?: string
  detail?: string
}

export interface Settings {
  threads: number
  rounds: number
  seconds: number // for the timing of a case, all contenders together
  firstStepLimit: number // milliseconds
}

export type Log = (text: string) => void

interface Runner {
  child: Child
  measurement: Measurement
  firstStep: number // milliseconds
  medians: number[]
  steps: number
  spent: number // milliseconds
}

const warmUp = 300 // milliseconds, and at least one step
const verySlow = 8_000 // milliseconds

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] as number
  return sorted.length % 2 ? upper : ((sorted[middle - 1] as number) + upper) / 2
}

/** Starts the contender and compares its first results. Throws NoTime where it cannot be timed. */
async function check(
  runner: Runner,
  size: Case,
  settings: Settings,
  folder: string,
  reference: Reference
): Promise<void> {
  const { child, measurement } = runner
  measurement.started = await child.start(measurement.contender, size.name, settings.threads)
  const { milliseconds, loss } = await child.first(folder, settings.firstStepLimit)
  runner.firstStep = milliseconds
  measurement.errors = compare(loss, folder, reference)
  if (!agrees(measurement.errors)) throw new NoTime('wrong result', JSON.stringify(measurement.errors))
}

async function round(runner: Runner, slice: number): Promise<void> {
  const times = await runner.child.times(slice)
  runner.medians.push(median(times))
  runner.steps += times.length
  runner.spent += times.reduce((sum, time) => sum + time, 0)
}

/** Rounds of all contenders, one after the other, so that a slow minute of the machine meets them all. */
async function race(runners: readonly Runner[], { rounds, seconds }: Settings): Promise<void> {
  const share = (1000 * seconds) / runners.length
  const isSlow = ({ firstStep }: Runner) => firstStep > Math.max(share, verySlow)
  const slice = share / rounds
  for (const runner of runners) {
    if (isSlow(runner)) {
      // So slow that the checked step is its measurement: nothing warms up in it that would matter.
      runner.medians.push(runner.firstStep)
      runner.steps = 1
    } else {
      await runner.child.times(warmUp).catch((error) => giveUp(runner, error))
    }
  }
  for (let i = 0; i < rounds; i++) {
    for (const runner of runners) {
      const affordable = runner.spent + (runner.medians[0] ?? 0) <= share
      if (!runner.measurement.absent && !isSlow(runner) && (i === 0 || affordable)) {
        await round(runner, slice).catch((error) => giveUp(runner, error))
      }
    }
  }
}

function giveUp({ measurement }: Runner, error: unknown): void {
  if (!(error instanceof NoTime)) throw error
  measurement.absent = error.cell
  measurement.detail = error.message
}

function timing(size: Case, { medians, steps }: Runner): Timing {
  const milliseconds = median(medians)
  return {
    milliseconds,
    least: Math.min(...medians),
    most: Math.max(...medians),
    steps,
    gigaflops: flops(size) / milliseconds / 1e6,
  }
}

function describe({ contender, errors, timing, memory, absent, detail }: Measurement): string {
  if (absent || !timing)
    return `  ${contender}: ${absent}${detail && detail !== absent ? ` (${detail})` : ''}`
  const { milliseconds, least, most, steps, gigaflops } = timing
  const worst = Math.max(...Object.values(errors ?? {}))
  return (
    `  ${contender}: ${milliseconds.toPrecision(3)} ms (${least.toPrecision(3)}–${most.toPrecision(3)}, ${steps} steps), ` +
    `${gigaflops.toPrecision(3)} GFLOP/s, +${Math.round((memory?.extra ?? 0) / 2 ** 20)} MiB, error ${worst.toExponential(0)}`
  )
}

/**
 * @param estimate milliseconds of a step in this case, judged from a smaller one, or undefined
 */
export async function measureCase(
  size: Case,
  entries: readonly Entry[],
  settings: Settings,
  estimate: (contender: string) => number | undefined,
  log: Log
): Promise<Measurement[]> {
  log(`  float64 reference …`)
  const reference = await referenceOf(size, os.availableParallelism())
  const folder = mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-bench-'))
  const measurements: Measurement[] = []
  const runners: Runner[] = []
  const children: Child[] = []
  try {
    for (const { name } of entries) {
      const measurement: Measurement = { case: size.name, contender: name }
      measurements.push(measurement)
      const expected = estimate(name)
      if (expected !== undefined && expected > settings.firstStepLimit) {
        measurement.absent = 'not run'
        measurement.detail = `about ${Math.round(expected / 1000)} s`
        continue
      }
      log(`  checking ${name} …`)
      const child = new Child()
      children.push(child)
      const runner: Runner = { child, measurement, firstStep: 0, medians: [], steps: 0, spent: 0 }
      try {
        await check(runner, size, settings, folder, reference)
        runners.push(runner)
      } catch (error) {
        giveUp(runner, error)
        await child.stop()
      }
    }
    log('  timing …')
    await race(runners, settings)
    for (const runner of runners) {
      if (runner.measurement.absent) continue
      runner.measurement.timing = timing(size, runner)
      runner.measurement.memory = await runner.child.memory()
    }
  } finally {
    await Promise.all(children.map((child) => child.stop()))
    rmSync(folder, { recursive: true, force: true })
  }
  for (const measurement of measurements) log(describe(measurement))
  return measurements
}
