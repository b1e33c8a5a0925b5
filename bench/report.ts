// The figures as Markdown: all of them for bench/CPU.md, and the few that the README shows.

import { readFileSync, writeFileSync } from 'node:fs'
import { type Case, cases, title } from './cases'
import { entries } from './contenders/index'
import type { Machine } from './machine'
import type { Measurement } from './measure'

export interface Run {
  machine: Machine
  threads: number
  peak: number // GFLOP/s, of `threads` threads
  measurements: Measurement[]
}

const start = '<!-- bench:start -->'
const end = '<!-- bench:end -->'

function milliseconds(value: number): string {
  if (value >= 100) return `${Math.round(value).toLocaleString('en')} ms`
  return `${value.toPrecision(value >= 10 ? 3 : 2)} ms`
}

function bytes(value: number): string {
  const mebibytes = value / 2 ** 20
  return mebibytes < 1 ? '< 1 MiB' : `${Math.round(mebibytes).toLocaleString('en')} MiB`
}

function ratio(value: number): string {
  return `${value >= 9.95 ? Math.round(value).toLocaleString('en') : value.toFixed(1)}×`
}

function table(lines: string[][]): string {
  const [head = [], ...body] = lines
  const rule = head.map((_, column) => (column ? '--:' : ':--'))
  return [head, rule, ...body].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

function find({ measurements }: Run, size: Case, contender: string): Measurement | undefined {
  return measurements.find((m) => m.case === size.name && m.contender === contender)
}

function usedCases(run: Run): Case[] {
  return cases.filter(({ name }) => run.measurements.some((m) => m.case === name))
}

function usedContenders(run: Run): string[] {
  return entries.map(({ name }) => name).filter((name) => run.measurements.some((m) => m.contender === name))
}

/**
 * tfjs-node downloads a library when it is installed, so it is often missing. Its row then shows what was measured by
 * 2026-11-23 on another machine of this kind (AMD EPYC, Zen 4, 2 cores), where our own steps took what the footnote says.
 */
const measuredEarlier: Record<string, string> = {
  '256x64x10': '4.4 ms ¹',
  '64x128x1000': '5.8–9.8 ms ¹',
  '128x512x10000': '69–131 ms ¹',
  '256x512x100000': '922–1,400 ms ¹',
}

function footnote({ measurements }: Run): string {
  if (!measurements.some(({ absent }) => absent === 'not installed')) return ''
  return (
    ' ¹ tfjs-node could not be installed here. Its times are older (by 2026-11-23), of another machine of two Zen 4 cores, where ' +
    'our own steps of 128×512×10,000 and 256×512×100,000 took 20–26 and 368–382 ms.'
  )
}

function timeCell(run: Run, size: Case, contender: string): string {
  const measurement = find(run, size, contender)
  if (!measurement) return '–'
  const { timing, absent, detail } = measurement
  if (absent === 'not installed') return measuredEarlier[size.name] ?? '–'
  if (!timing) return absent === 'not run' ? `not run (${detail})` : (absent ?? '–')
  const time = milliseconds(timing.milliseconds)
  const first = entries[0]?.name ?? ''
  if (contender === first) return `**${time}**`
  const ours = find(run, size, first)?.timing
  return ours ? `${time} (${ratio(timing.milliseconds / ours.milliseconds)})` : time
}

function comparison(run: Run): string {
  const sizes = usedCases(run)
  const last = sizes[sizes.length - 1] as Case
  const lines = usedContenders(run).map((contender) => {
    const own = run.measurements.filter((m) => m.contender === contender)
    const started = own.find((m) => m.started)?.started
    const memory = find(run, last, contender)?.memory
    return [
      contender,
      started ? String(started.threads) : '–',
      ...sizes.map((size) => timeCell(run, size, contender)),
      memory ? bytes(memory.extra) : '–',
    ]
  })
  return table([['B×D×C', 'threads', ...sizes.map(title), `memory, ${title(last)}`], ...lines])
}

function ownFigures(run: Run): string {
  const first = entries[0]?.name ?? ''
  const lines = usedCases(run).flatMap((size) => {
    const { timing, memory, errors } = find(run, size, first) ?? {}
    if (!timing || !memory || !errors) return []
    const figures = [errors.loss, errors.gradInput, errors.gradWeight].map((error) => error.toExponential(0))
    return [
      [
        title(size),
        milliseconds(timing.least).replace(' ms', '–') + milliseconds(timing.most),
        String(Math.round(timing.gigaflops)),
        `${Math.round((100 * timing.gigaflops) / run.peak)} %`,
        bytes(memory.extra),
        figures.join(', '),
      ],
    ]
  })
  if (!lines.length) return ''
  const head = ['margin-softmax', 'rounds’ medians', 'GFLOP/s', 'of peak', 'memory', 'error']
  return table([head, ...lines])
}

function versions(run: Run): string {
  const parts = usedContenders(run).flatMap((contender) => {
    const started = run.measurements.find((m) => m.contender === contender && m.started)?.started
    const library = /^(tfjs|@jax)/.test(contender) && !contender.includes(',')
    return started && library ? [`${contender} ${started.version}`] : []
  })
  return parts.length ? `Versions: ${parts.join(', ')}.` : ''
}

/** The README's rows and sizes. */
const shown = ['margin-softmax', 'tfjs-node', 'tfjs wasm', 'plain JavaScript', 'tfjs cpu']
const shownSizes = ['128x512x10000', '256x512x100000']

/** The README's small table. */
export function summary(run: Run): string {
  const sizes = cases.filter(({ name }) => shownSizes.includes(name))
  const lines = shown.map((contender) => [contender, ...sizes.map((size) => timeCell(run, size, contender))])
  const { cpu, cores, node, date } = run.machine
  return [
    table([['B×D×C', ...sizes.map(title)], ...lines]),
    '',
    `${cpu}, ${cores} cores, Node.js ${node}, ${date}; ${run.threads} threads where a contender can use them.${footnote(run)}`,
  ].join('\n')
}

/** Both tables and what is to be known about them. */
export function markdown(run: Run): string {
  const { cpu, cores, memoryGiB, node, system, date } = run.machine
  return [
    'One ArcFace step in float32: loss, gradient of the embeddings [B,D] and gradient of the class weights [C,D], ' +
      'from typed arrays to typed arrays. In brackets: times as long as margin-softmax. ' +
      'Memory: what the process takes on top of its inputs at the most, results included.',
    '',
    comparison(run),
    '',
    ownFigures(run),
    '',
    `${cpu}, ${cores} cores, ${memoryGiB} GiB, ${system}, Node.js ${node}, ${date}; ${run.threads} threads unless the ` +
      `table says otherwise; measured peak of float32 multiply-adds ${Math.round(run.peak)} GFLOP/s. GFLOP/s count ` +
      'the useful work, 6·B·D·C. Error: ‖result − float64‖ / ‖float64‖ of loss, embedding and weight gradients. ' +
      'Every contender runs in its own process and is checked against float64 first; medians of rounds taken in turns. ' +
      'Rivals have hand-written gradients in the fastest form that we found (`bench/contenders`). In Node.js ' +
      'tfjs wasm and jax-js use one thread by themselves; for the other rows the benchmark supplies workers. ' +
      versions(run) +
      footnote(run),
  ]
    .join('\n')
    .trim()
}

/** Puts the text between the markers of a page. */
export function rewritePage(file: string, text: string): void {
  const page = readFileSync(file, 'utf8')
  const from = page.indexOf(start)
  const to = page.indexOf(end)
  if (from < 0 || to < from) throw new RangeError(`Expected ${start} and ${end} in ${file} but found none`)
  writeFileSync(file, `${page.slice(0, from + start.length)}\n\n${text}\n\n${page.slice(to)}`)
}
