// A head of a million classes on synthetic embeddings, with progress, throughput and memory:
//
//   node --import tsx bench/million-classes.ts --classes 1000000 --dim 512
//   node --import tsx bench/million-classes.ts --sample-rate 0.1
//   node --import tsx bench/million-classes.ts --weight-storage bfloat16 --precision bfloat16
//   mpirun -n 2 node --import tsx bench/million-classes.ts --sharded
//
// A row's embedding is its class's own direction with noise, so that there is something to learn.
import fs from 'node:fs'
import { Command, Option } from 'commander'
import { Progress } from '../lib/cli/terminal'
import { processGroup } from '../lib/distributed'
import { arcface, MarginHead, type Precision, sgd, type WeightStorage } from '../lib/index'
import { weightStorages } from '../lib/internal/head-options'
import { seededRandom } from '../lib/internal/random'

interface Given {
  classes: string
  dim: string
  batch: string
  steps: string
  sampleRate: string
  momentum: string
  weightStorage: WeightStorage
  precision: Precision
  sharded?: boolean
  threads?: string
  json?: boolean
}

/** A class's direction without storing it: the numbers of a generator that the class seeds. */
function embeddingOf(label: number, dim: number, noise: () => number, out: Float32Array): void {
  const direction = seededRandom(label * 2654435761)
  for (let d = 0; d < dim; d++) out[d] = direction() - 0.5 + 0.3 * (noise() - 0.5)
}

/** Mebibytes that the process had at most, on Linux. */
function peakMemory(): number {
  const status = fs.existsSync('/proc/self/status') ? fs.readFileSync('/proc/self/status', 'utf8') : ''
  return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? Number.NaN) / 1024
}

async function main(given: Given): Promise<void> {
  const [classes, dim, batch, steps, sampleRate] = [
    given.classes,
    given.dim,
    given.batch,
    given.steps,
    given.sampleRate,
  ].map(Number)
  const group = given.sharded ? await processGroup() : undefined
  const [rank, ranks] = [group?.rank ?? 0, group?.size ?? 1]
  const threads = given.threads === undefined ? undefined : Number(given.threads)
  const optimizer = sgd({ learningRate: 0.1, momentum: Number(given.momentum), weightDecay: 5e-4 })
  const head = await MarginHead.create({
    classes,
    dim,
    margin: arcface(),
    optimizer,
    sampleRate,
    weightStorage: given.weightStorage,
    precision: given.precision,
    group,
    threads,
  })
  const rows = Math.floor(batch / ranks)
  const noise = seededRandom(rank + 1)
  const embeddings = new Float32Array(rows * dim)
  const labels = new Int32Array(rows)
  const bar = new Progress()
  if (rank === 0) bar.start(`${classes} classes`, steps)
  const times: number[] = []
  const before = group?.bytesSent ?? 0
  for (let step = 0; step < steps; step++) {
    for (let i = 0; i < rows; i++) {
      labels[i] = Math.floor(noise() * Math.min(classes, 20 * batch)) // few enough to come again
      embeddingOf(labels[i] as number, dim, noise, embeddings.subarray(i * dim, (i + 1) * dim))
    }
    const start = performance.now()
    const { loss } = await head.step(embeddings, labels)
    times.push(performance.now() - start)
    const each = times.reduce((sum, time) => sum + time, 0) / times.length
    bar.update(
      step + 1,
      `loss ${loss.toFixed(2)}  ${each.toFixed(0)} ms a step  ${Math.round(peakMemory())} MiB`
    )
  }
  bar.stop()
  const sent = (group?.bytesSent ?? 0) - before
  times.sort((a, b) => a - b)
  const [peak] = group ? await group.allReduce(Float64Array.of(peakMemory()), 'max') : [peakMemory()]
  const figures = {
    median: times[times.length >> 1] as number,
    least: times[0],
    most: times[times.length - 1],
    peakMemory: Math.round(peak as number), // of the rank that has most
    sent: Math.round(sent / steps), // bytes of a step, by each rank
  }
  if (rank !== 0) return
  if (given.json) {
    console.log(JSON.stringify(figures))
    return
  }
  console.log(
    `${classes} × ${dim} in ${given.weightStorage}, batch ${batch}, sampleRate ${sampleRate}, ${ranks} ${ranks === 1 ? 'process' : 'ranks'}: ` +
      `${figures.median.toFixed(0)} ms a step (median; ${figures.least?.toFixed(0)}–${figures.most?.toFixed(0)}), ` +
      `${Math.round((batch / figures.median) * 1000)} rows/s, peak memory ${figures.peakMemory} MiB` +
      (group ? ` a rank, ${(figures.sent / 1024).toFixed(0)} KiB sent a step by each rank` : '')
  )
}

const program = new Command('million-classes')
  .description('Trains a head of very many classes on synthetic embeddings.')
  .option('--classes <count>', 'classes', '1000000')
  .option('--dim <length>', 'dimension of the embeddings', '512')
  .option('--batch <rows>', 'rows of a step, of all ranks together', '128')
  .option('--steps <count>', 'steps', '20')
  .option('--sample-rate <share>', 'share of the classes that take part in a step', '1')
  .option('--momentum <number>', 'of the optimizer; 0 keeps no state', '0.9')
  .addOption(
    new Option('--weight-storage <type>', 'of the class weights').choices(weightStorages).default('float32')
  )
  .addOption(
    new Option('--precision <type>', 'of the products').choices(['float32', 'bfloat16']).default('float32')
  )
  .option('--sharded', 'share the classes out over the ranks of mpirun')
  .option('--threads <count>', 'threads of each process')
  .option('--json', 'only the figures, as JSON')
main(program.parse().opts())
