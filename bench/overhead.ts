// Measures what a call costs beside its computation: steps of a head from JavaScript and back, synchronous and awaited.
//
//   node --import tsx bench/overhead.ts [rounds]
//   MARGIN_SOFTMAX_BINARY=build/simt/Release/margin_softmax.node node --import tsx bench/overhead.ts
//
// On the CPU the smaller head computes next to nothing. The shim's GPU (test/simt) does no work at all: SIMT_WORK=none,
// once each head has made a step. Kinds are timed in turns, so that a slow moment of the machine meets them all.

import { randomFill } from 'node:crypto'
import { promisify } from 'node:util'
import { type DeviceName, devices, MarginHead } from '../lib/index'

interface Kind {
  name: string
  /** Not timed. */
  before?: () => void
  call: () => unknown
}

const rounds = Number(process.argv[2] ?? 40)
const callsOfARound = 50
const sizes = [
  { rows: 4, dim: 8, classes: 16 },
  { rows: 128, dim: 512, classes: 256 },
]

/** Computes for 2 ms, as a training loop does between two steps. */
function pause(): void {
  const end = performance.now() + 2
  while (performance.now() < end);
}

async function stepsOf(device: DeviceName, { rows, dim, classes }: (typeof sizes)[number]): Promise<Kind[]> {
  const head = await MarginHead.create({ classes, dim, device, threads: 1 })
  const embeddings = Float32Array.from({ length: rows * dim }, (_, i) => Math.sin(i + 1))
  const labels = Int32Array.from({ length: rows }, (_, i) => i % classes)
  await head.step(embeddings, labels) // where no kernel runs, the next steps find its finite results
  const name = `${device}, ${rows}×${dim}×${classes}`
  const stepSync = () => head.stepSync(embeddings, labels)
  const step = () => head.step(embeddings, labels)
  return [
    { name: `${name}, stepSync`, call: stepSync },
    { name: `${name}, await step`, call: step },
    { name: `${name}, await step, 2 ms later`, before: pause, call: step },
  ]
}

const at = (sorted: number[], share: number) => sorted[Math.floor(share * (sorted.length - 1))] as number

async function main(): Promise<void> {
  const fill = promisify(randomFill)
  const byte = new Uint8Array(1)
  // JavaScript's wait for another thread that does next to nothing, by libuv's own means.
  const kinds: Kind[] = [
    { name: 'a byte from a thread of libuv', call: () => fill(byte) },
    { name: 'a byte from a thread of libuv, 2 ms later', before: pause, call: () => fill(byte) },
  ]
  for (const { device, usable } of devices())
    if (usable && ['cpu', 'cuda:0'].includes(device))
      for (const size of sizes) kinds.push(...(await stepsOf(device, size)))
  process.env.SIMT_WORK = 'none'
  const microseconds: number[][] = kinds.map(() => [])
  for (let round = -2; round < rounds; round++)
    for (const [i, { before, call }] of kinds.entries())
      for (let repetition = 0; repetition < callsOfARound; repetition++) {
        before?.()
        const begin = process.hrtime.bigint()
        await call()
        const end = process.hrtime.bigint()
        if (round >= 0) microseconds[i]?.push(Number(end - begin) / 1000)
      }
  console.log('| µs | 10 % | median | 90 % |\n|---|--:|--:|--:|')
  for (const [i, { name }] of kinds.entries()) {
    const sorted = (microseconds[i] as number[]).sort((a, b) => a - b)
    console.log(`| ${name} | ${[0.1, 0.5, 0.9].map((share) => at(sorted, share).toFixed(1)).join(' | ')} |`)
  }
}

void main()
