// The scenarios of group-wait.test.ts: rank 1 stops, or is late, while the others wait for it.
import { type ProcessGroup, type ProcessGroupOptions, processGroup } from '../../lib/distributed'
import { MarginHead } from '../../lib/index'
import { makeBatch } from '../support/support'

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))
const folder = process.env.MARGIN_SOFTMAX_TEST_FOLDER as string
const rank = Number(process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK ?? 0)
const odd = rank === 1

/** All threads of this process hold still, as with Ctrl-Z, and answer nobody. */
function stop(): void {
  process.kill(process.pid, 'SIGSTOP')
}

// How long is waited is said as late as can be: a busy machine may start the ranks at very different times.
const given = JSON.parse(process.argv[3] ?? '{}') as ProcessGroupOptions
async function ready(group: ProcessGroup): Promise<void> {
  await group.barrier()
  await processGroup(given)
  await group.barrier()
}

const options = { classes: 3000, dim: 64, threads: 1 }
const batch = makeBatch(1, { rows: 16, dim: options.dim, classes: options.classes })

async function headOf(group: ProcessGroup): Promise<MarginHead> {
  const head = await MarginHead.create({ ...options, group })
  await head.step(batch.input, batch.labels)
  await ready(group)
  return head
}

const scenarios: Record<string, (group: ProcessGroup) => Promise<unknown>> = {
  async call(group) {
    await ready(group)
    if (odd) stop()
    await group.allReduce(new Float32Array(5))
  },
  // The stop comes while long arrays are under way, to and from the rank that stops.
  async transfer(group) {
    await ready(group)
    if (odd) setTimeout(stop, 100)
    const calls = () => Array.from({ length: 4 }, () => group.allReduce(new Float32Array(500_000)))
    for (;;) await Promise.all(calls())
  },
  async step(group) {
    const head = await headOf(group)
    for (let i = 0; ; i++) {
      if (odd && i === 3) stop()
      await head.step(batch.input, batch.labels)
    }
  },
  async save(group) {
    const head = await headOf(group)
    const file = `${folder}/stopped`
    await head.save(file)
    for (let i = 0; ; i++) {
      if (odd && i === 1) setTimeout(stop, 3)
      await head.save(file)
    }
  },
  async end(group) {
    await ready(group)
    if (odd) stop()
  },
  // Rank 2 asks a second before the time of rank 0 runs out, and hears it from rank 0.
  async late(group) {
    await ready(group)
    if (odd) stop()
    if (rank === 2) await sleep(2000)
    await group.allReduce(new Float32Array(5))
  },
  async caught(group) {
    await ready(group)
    if (odd) stop()
    await group.barrier().catch((error) => console.log(`caught: ${error.message}`))
    await group.barrier().catch((error) => console.log(`caught: ${error.message}`))
  },
  async slow(group) {
    await ready(group)
    if (odd) await sleep(2000)
    await group.allGather(Int8Array.of(1, 2))
    await group.barrier()
    console.log('went well')
  },
}

async function main(): Promise<void> {
  const scenario = process.argv[2] ?? ''
  if (odd) console.log(`begins at ${Date.now()}`)
  if (scenario === 'start' && odd) stop()
  const group = await processGroup(scenario === 'start' ? given : undefined)
  await scenarios[scenario]?.(group)
}

main()
