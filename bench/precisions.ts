// Each precision on each instruction set that this machine has: time of a loss with both gradients on one thread, and its
// error. `node --import tsx bench/precisions.ts` prints the table of PRECISION.md. Times are of the processor, so that what
// else runs on the machine counts little.

import { Command } from 'commander'
import { arcface, instructionSets, marginLossSync, type Precision } from '../lib/index'
import { type Case, cases, makeInputs, margin, scale, title } from './cases'
import { machine } from './machine'
import { referenceOf } from './reference'

const precisions: readonly Precision[] = ['float32', 'bfloat16']

type Gradients = Record<'gradInput' | 'gradWeight', ArrayLike<number>>

function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0
  let norm = 0
  for (let i = 0; i < expected.length; i++) {
    difference += ((actual[i] as number) - (expected[i] as number)) ** 2
    norm += (expected[i] as number) ** 2
  }
  return Math.sqrt(difference / norm)
}

async function measure(size: Case, repeats: number): Promise<void> {
  const { dim, rows, classes } = size
  const inputs = makeInputs(size)
  const gradInput = new Float32Array(rows * dim)
  const gradWeight = new Float32Array(classes * dim)
  const run = (precision: Precision, instructionSet?: string) =>
    marginLossSync(
      { ...inputs, dim },
      {
        margin: arcface({ scale, margin }),
        threads: 1,
        device: 'cpu',
        precision,
        instructionSet,
        gradInput,
        gradWeight,
      }
    )
  // The float64 reference of the largest case would take minutes: float32 stands in for it, marked by a ~.
  const large = rows * dim * classes > 1e9
  let exact: Gradients
  if (large) {
    run('float32')
    exact = { gradInput: gradInput.slice(), gradWeight: gradWeight.slice() }
  } else {
    exact = await referenceOf(size, 2)
  }
  const variants = instructionSets().flatMap((set) => precisions.map((precision) => ({ set, precision })))
  const times = variants.map((): number[] => [])
  for (let round = 0; round < repeats; round++)
    for (const [k, { set, precision }] of variants.entries()) {
      const before = process.cpuUsage()
      run(precision, set)
      const { user, system } = process.cpuUsage(before)
      times[k]?.push((user + system) / 1000)
    }
  for (const [k, { set, precision }] of variants.entries()) {
    run(precision, set)
    const errors = [relativeError(gradInput, exact.gradInput), relativeError(gradWeight, exact.gradWeight)]
    const error =
      large && precision === 'float32' ? '–' : `${large ? '~' : ''}${Math.max(...errors).toExponential(1)}`
    const median = times[k]?.sort((a, b) => a - b)[repeats >> 1] as number
    console.log(`| ${title(size)} | ${precision} | ${set} | ${median.toFixed(2)} | ${error} |`)
  }
}

async function main({ repeats, case: names }: { repeats: string; case?: string[] }): Promise<void> {
  const { cpu, cores, node, date } = machine()
  console.log(
    `${cpu}, ${cores} cores, Node.js ${node}, ${date}. One thread; medians of ${repeats} in turns, of processor time.\n`
  )
  console.log(
    '| rows×dim×classes | precision | instruction set | ms | larger error of both gradients |\n|---|---|---|--:|--:|'
  )
  for (const size of cases.filter(({ name, dim }) => (names ? names.includes(name) : dim >= 128)))
    await measure(size, Number(repeats))
}

const program = new Command('precisions')
  .description('Time and error of each precision on each instruction set of this machine.')
  .option('--case <names...>', 'cases of bench/cases.ts')
  .option('--repeats <number>', 'of each measurement', '5')
main(program.parse().opts())
