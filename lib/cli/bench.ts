/** `bench`: how long a step takes here, beside TensorFlow.js where it is installed. */
import os from 'node:os'
import type { Command } from 'commander'
import { execution, machinePeak } from '../execution'
import { arcface, instructionSets, marginLossSync, verificationSync } from '../index'
import { seededRandom } from '../internal/random'
import type { BenchCase, BenchInputs } from './bench-case'
import { explain, threadsOption } from './options'
import { type Rival, startRival } from './rival'
import { counted, findPackage, Progress, print, printJson, printTable } from './terminal'

const cases: BenchCase[] = [
  { rows: 256, dim: 64, classes: 10 },
  { rows: 64, dim: 128, classes: 1000 },
  { rows: 128, dim: 512, classes: 10_000 },
]

interface Row {
  case: string
  milliseconds: number
  gigaflops: number
  rivalMilliseconds?: number
}

export function addBench(all: Command): void {
  const command = all
    .command('bench')
    .description('time an ArcFace step on this machine, beside tfjs where it is installed')
    .addOption(threadsOption())
    .option('--json', 'as JSON')
    .action(async ({ threads: asked, json }: { threads?: number; json?: boolean }) => {
      const { threads } = execution({ device: 'cpu', threads: asked })
      const rival = await startRival()
      const rows = await measureAll(threads, rival)
      const verification = measureVerification(threads)
      const peak = machinePeak({ threads })
      const processor = `${os.cpus()[0]?.model.trim() ?? 'unknown'}, ${instructionSets()[0]}`
      if (json)
        printJson({
          processor,
          threads,
          peakGigaflops: peak,
          rival: rival?.name ?? null,
          steps: rows,
          verification,
        })
      else show(rows, verification, { processor, threads, peak, rival })
    })
  explain(command, ['bench'])
}

async function measureAll(threads: number, rival: Rival | undefined): Promise<Row[]> {
  const progress = new Progress()
  progress.start('Measuring', cases.length)
  const rows: Row[] = []
  try {
    for (const size of cases) {
      const inputs = makeInputs(size)
      const margin = arcface()
      const milliseconds = await median(() => marginLossSync(inputs, { margin, threads, device: 'cpu' }))
      const rivalMilliseconds = rival && (await median(rival.prepare(size, inputs)))
      const gigaflops = (6 * size.rows * size.dim * size.classes) / milliseconds / 1e6
      rows.push({
        case: `${size.rows}×${size.dim}×${size.classes}`,
        milliseconds,
        gigaflops,
        rivalMilliseconds,
      })
      progress.update(rows.length)
    }
  } finally {
    progress.stop()
  }
  return rows
}

function makeInputs({ rows, dim, classes }: BenchCase): BenchInputs {
  const random = seededRandom(1)
  const numbers = (length: number) => Float32Array.from({ length }, () => random() - 0.5)
  return {
    input: numbers(rows * dim),
    weight: numbers(classes * dim),
    labels: Int32Array.from({ length: rows }, () => Math.floor(random() * classes)),
    dim,
  }
}

/** The median time of as many runs as fit into a second, at least three, after one that is not counted. */
async function median(run: () => unknown): Promise<number> {
  await run()
  const times: number[] = []
  const start = performance.now()
  while (times.length < 3 || performance.now() - start < 1000) {
    const begin = performance.now()
    await run()
    times.push(performance.now() - begin)
  }
  return times.sort((a, b) => a - b)[times.length >> 1] as number
}

function measureVerification(threads: number): { pairs: number; seconds: number } {
  const rows = 5000
  const random = seededRandom(2)
  const embeddings = Float32Array.from({ length: rows * 128 }, () => random() - 0.5)
  const labels = Int32Array.from({ length: rows }, (_, i) => i % 500)
  const begin = performance.now()
  const { pairs } = verificationSync(embeddings, labels, { threads })
  return { pairs: pairs.same + pairs.different, seconds: (performance.now() - begin) / 1000 }
}

function show(
  rows: Row[],
  verification: { pairs: number; seconds: number },
  { processor, threads, peak, rival }: { processor: string; threads: number; peak: number; rival?: Rival }
): void {
  print(`${processor}, ${counted(threads, 'thread')}, peak ${peak.toFixed(0)} GFLOP/s\n`)
  print('One ArcFace step, rows × dimensions × classes: loss and both gradients, median')
  // Three figures, never 1.2e+3.
  const short = (value: number) =>
    value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(value < 10 ? 2 : 3)
  const digits = (milliseconds: number) => `${short(milliseconds)} ms`
  printTable([
    ['', 'margin-softmax', 'GFLOP/s', ...(rival ? [rival.name, 'times as long'] : [])],
    ...rows.map(({ case: name, milliseconds, gigaflops, rivalMilliseconds }) => [
      name,
      digits(milliseconds),
      gigaflops.toFixed(0),
      ...(rivalMilliseconds ? [digits(rivalMilliseconds), short(rivalMilliseconds / milliseconds)] : []),
    ]),
  ])
  print(
    `\nVerification of ${counted(verification.pairs, 'pair')} of 128 dimensions: ${verification.seconds.toFixed(2)} s`
  )
  if (rival) print(`${rival.name}: ${rival.note}`)
  else
    print(
      findPackage('@tensorflow/tfjs', [__dirname, process.cwd()])
        ? 'TensorFlow.js is installed but its wasm backend is not: npm install @tensorflow/tfjs-backend-wasm@4'
        : 'TensorFlow.js is not installed here, so there is no comparison: npm install @tensorflow/tfjs@4 @tensorflow/tfjs-backend-wasm@4'
    )
}
