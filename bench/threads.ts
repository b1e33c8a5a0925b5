// Time of a loss with both gradients on the CPU against the number of threads, in both precisions, and whether every number
// of threads gives the same bits: `node --import tsx bench/threads.ts`. bench/gpu.sh runs it where a GPU's machine has
// more cores than this package was written on. Exits with 1 where bits differ.

import { createHash } from 'node:crypto'
import { Command } from 'commander'
import { arcface, type MarginLossResult, marginLossSync, type Precision } from '../lib/index'
import { type Case, cases, type Inputs, makeInputs, margin, scale, title } from './cases'
import { machine } from './machine'

const precisions: readonly Precision[] = ['float32', 'bfloat16']
const everyCount = [1, 2, 4, 8, 16]

/** The first 8 digits of a hash of all that was computed. */
function hashOf({ losses, gradInput, gradWeight }: MarginLossResult): string {
  const hash = createHash('sha256')
  for (const values of [losses, gradInput, gradWeight])
    if (values) hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
  return hash.digest('hex').slice(0, 8)
}

function measure({ dim }: Case, inputs: Inputs, threads: number, precision: Precision, repeats: number) {
  const run = () =>
    marginLossSync(
      { ...inputs, dim },
      { margin: arcface({ scale, margin }), threads, precision, device: 'cpu' }
    )
  const hash = hashOf(run())
  const times = Array.from({ length: repeats }, () => {
    const begin = performance.now()
    run()
    return performance.now() - begin
  })
  return { hash, milliseconds: times.sort((a, b) => a - b)[repeats >> 1] as number }
}

function main({ case: names, repeats }: { case?: string[]; repeats: string }): void {
  const { cpu, cores, node, date } = machine()
  console.log(`${cpu}, ${cores} cores, Node.js ${node}, ${date}. Medians of ${repeats}.\n`)
  console.log('| rows×dim×classes | threads | float32 ms | bfloat16 ms | bits |\n|---|--:|--:|--:|---|')
  const chosen = cases.filter(({ name }) => (names ?? ['256x512x100000', '128x512x10000']).includes(name))
  const counts = everyCount.filter((count) => count <= cores)
  let other = false
  for (const size of chosen) {
    const inputs = makeInputs(size)
    const first = new Map<Precision, string>()
    for (const threads of counts) {
      const figures = precisions.map((precision) => {
        const figure = measure(size, inputs, threads, precision, Number(repeats))
        if (!first.has(precision)) first.set(precision, figure.hash)
        return { ...figure, same: figure.hash === first.get(precision) }
      })
      other ||= figures.some(({ same }) => !same)
      const times = figures.map(({ milliseconds }) => milliseconds.toFixed(2)).join(' | ')
      const bits = figures.map(({ hash, same }) => (same ? hash : `OTHER ${hash}`)).join(' ')
      console.log(`| ${title(size)} | ${threads} | ${times} | ${bits} |`)
    }
  }
  const left = everyCount.filter((count) => !counts.includes(count))
  if (left.length > 0) console.log(`\nNot run, for want of cores: ${left.join(', ')} threads.`)
  if (other) console.log('\nWRONG: the bits depend on the number of threads')
  process.exitCode = other ? 1 : 0
}

const program = new Command('threads')
  .description('Time and bits of a loss against the number of threads.')
  .option('--case <names...>', 'cases of bench/cases.ts')
  .option('--repeats <number>', 'of each measurement', '5')
main(program.parse().opts())
