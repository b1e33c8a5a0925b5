// A contender's process: forked by child.ts, one for each contender and case. It computes only when it is asked
// to and sleeps on its pipe otherwise.

import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { cases, makeInputs } from './cases'
import { NotInstalled, type Results } from './contender'
import { entry } from './contenders/index'

/** A request of the benchmark. */
export type Question =
  | { ask: 'start'; contender: string; case: string; threads: number }
  | { ask: 'first'; folder: string }
  | { ask: 'times'; milliseconds: number }
  | { ask: 'memory' }

export interface Started {
  version: string
  threads: number
}

export interface FirstStep {
  milliseconds: number
  loss: number
}

/** Bytes. */
export interface Memory {
  peak: number
  extra: number
}

export type Answer = { ok: true; value: unknown } | { ok: false; notInstalled: boolean; message: string }

let step: () => Results | Promise<Results>
let baseline = 0

async function start(name: string, caseName: string, threads: number): Promise<Started> {
  const contender = await entry(name).make()
  const started = await contender.load(threads)
  const size = cases.find((candidate) => candidate.name === caseName)
  if (!size) throw new RangeError(`Expected a case for case but received ${caseName}`)
  const inputs = makeInputs(size)
  baseline = process.memoryUsage.rss()
  step = await contender.prepare(size, inputs)
  return started
}

/** The first step, whose results go to files for the comparison (through a pipe they would take as long again). */
async function first(folder: string): Promise<FirstStep> {
  const begin = performance.now()
  const { loss, gradInput, gradWeight } = await step()
  const milliseconds = performance.now() - begin
  for (const [name, values] of Object.entries({ gradInput, gradWeight })) {
    writeFileSync(path.join(folder, name), values)
  }
  return { milliseconds, loss }
}

/** The times of steps, in milliseconds, until as much time has passed; at least one. */
async function times(milliseconds: number): Promise<number[]> {
  const measured: number[] = []
  const begin = performance.now()
  let now = begin
  do {
    const before = performance.now()
    await step()
    now = performance.now()
    measured.push(now - before)
  } while (now - begin < milliseconds)
  return measured
}

function memory(): Memory {
  const peak = process.resourceUsage().maxRSS * 1024
  return { peak, extra: peak - baseline }
}

function answer(question: Question): unknown {
  if (question.ask === 'start') return start(question.contender, question.case, question.threads)
  if (question.ask === 'first') return first(question.folder)
  if (question.ask === 'times') return times(question.milliseconds)
  return memory()
}

process.on('message', async (question: Question) => {
  let reply: Answer
  try {
    reply = { ok: true, value: await answer(question) }
  } catch (error) {
    // tfjs wasm throws objects that are not errors, too.
    const message = error instanceof Error ? `${error.name}: ${error.message}` : JSON.stringify(error)
    reply = { ok: false, notInstalled: error instanceof NotInstalled, message }
  }
  process.send?.(reply)
})
