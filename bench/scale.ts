// Time and memory of a training step of a head against the number of classes, the sampling rate and the number of ranks:
// `node --import tsx bench/scale.ts`. Every row is a process (or an mpirun) of its own, bench/million-classes.ts.

import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { Command } from 'commander'
import { machine } from './machine'

interface Setup {
  classes: number
  dim: number
  batch: number
  sampleRate: number
  ranks: number
  threads: number
  steps: number
}

interface Figures {
  median: number
  least: number
  most: number
  peakMemory: number
  sent: number
}

const trainer = path.join(__dirname, 'million-classes.ts')

function measure({ ranks, classes, dim, batch, sampleRate, threads, steps }: Setup): Figures {
  const node = [process.execPath, '--import', 'tsx', trainer, '--json']
  const options = { classes, dim, batch, 'sample-rate': sampleRate, steps, threads }
  for (const [name, value] of Object.entries(options)) node.push(`--${name}`, String(value))
  const command = ranks
    ? ['mpirun', '--oversubscribe', '--bind-to', 'none', '-n', String(ranks), ...node, '--sharded']
    : node
  const env = { ...process.env, OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' }
  const [program, ...parameters] = command as [string, ...string[]]
  return JSON.parse(execFileSync(program, parameters, { encoding: 'utf8', env }))
}

/**
 * Bytes that a rank sends in a step, as derived: rows and labels to every other rank, six numbers of each row (`RowTotals`) in
 * the middle, the others' rows of gradInput back, and 256 bytes of agreement a call (twice for an all-gather).
 */
function derived({ ranks, dim, batch }: Setup): number {
  const others = ranks - 1
  const own = batch / ranks
  const reduce = (bytes: number) => (bytes > 16 * 1024 ? (2 * bytes) / ranks : bytes) * others
  const gather = (bytes: number) => bytes * others
  const agreement = 256 * others * (3 * 2 + 4)
  return (
    gather(6 * 8) +
    gather(own * dim * 4) +
    gather(own * 4) +
    reduce(batch * 2 * 8) +
    reduce(batch * 4 * 8) +
    ((batch * dim * 4) / ranks) * others +
    reduce(2 * 8) +
    agreement
  )
}

const count = (value: number) => value.toLocaleString('en')
const time = ({ median, least, most }: Figures) =>
  `${count(Math.round(median))} ms (${count(Math.round(least))}–${count(Math.round(most))})`

function classesTable(quick: boolean, threads: number): string[] {
  const lines = [
    '| classes × dim | sampleRate | step, batch 128 | peak memory | of that weights and momentum |',
    '| --: | --: | --: | --: | --: |',
  ]
  const sizes = [
    [10_000, 512],
    [100_000, 512],
    [1_000_000, 512],
    [10_000_000, 64],
  ] as const
  for (const [classes, dim] of quick ? sizes.slice(0, 2) : sizes)
    for (const sampleRate of [1, 0.3, 0.1]) {
      const figures = measure({
        classes,
        dim,
        batch: 128,
        sampleRate,
        ranks: 0,
        threads,
        steps: classes > 500_000 ? 7 : 21,
      })
      const state = Math.round((classes * dim * 8) / 2 ** 20)
      lines.push(
        `| ${count(classes)} × ${dim} | ${sampleRate} | ${time(figures)} | ${count(figures.peakMemory)} MiB | ${count(state)} MiB |`
      )
    }
  return lines
}

function ranksTable(quick: boolean, threads: number): string[] {
  const lines = [
    '| ranks | threads of each | step, 100,000 × 512, batch 128 | peak memory a rank | sent by each rank a step | derived |',
    '| --: | --: | --: | --: | --: | --: |',
  ]
  for (const ranks of [1, 2, 4]) {
    const setup = {
      classes: 100_000,
      dim: 512,
      batch: 128,
      sampleRate: 1,
      ranks,
      threads: Math.max(1, Math.floor(threads / ranks)),
      steps: quick ? 5 : 21,
    }
    const figures = measure(setup)
    lines.push(
      `| ${ranks} | ${setup.threads} | ${time(figures)} | ${count(figures.peakMemory)} MiB | ${count(figures.sent)} B | ${count(derived(setup))} B |`
    )
  }
  return lines
}

function main({ quick = false, ranks = true }: { quick?: boolean; ranks?: boolean }): void {
  const { cpu, cores, memoryGiB, node, system, date } = machine()
  console.log(
    `${cpu}, ${cores} cores, ${memoryGiB} GiB, ${system}, Node.js ${node}, ${date}. SGD with momentum, ArcFace; medians of a process's steps (least–most).\n`
  )
  console.log(classesTable(quick, cores).join('\n'))
  if (ranks) console.log(`\n${ranksTable(quick, cores).join('\n')}`)
}

const program = new Command('scale')
  .description('Time and memory of a step against classes, sampling and ranks.')
  .option('--quick', 'the smaller sizes, fewer steps')
  .option('--no-ranks', 'without mpirun')
main(program.parse().opts())
