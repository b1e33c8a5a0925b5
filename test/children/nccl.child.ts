// The scenarios of nccl.test.ts: heads sharded over GPUs that exchange by NCCL, here its double between processes whose
// GPUs are the shim.
import assert from 'node:assert'
import { type ProcessGroup, processGroup } from '../../lib/distributed'
import {
  adamW,
  arcface,
  type DeviceName,
  MarginHead,
  normface,
  softmaxMargin,
  sphereface,
} from '../../lib/index'
import { batchOf, joined, type Options, precise, ranksOf, sameStep, training } from '../support/ranks'
import { makeBatch, relativeError, sameBits, within } from '../support/support'

const folder = process.env.LD_LIBRARY_PATH // of the library

const gpuOf = (group: ProcessGroup): DeviceName => `cuda:${group.rank}`

/** A head of the group's on a GPU for each rank, over NCCL or through the host. */
async function make(group: ProcessGroup, over: 'nccl' | 'mpi', options: Options = training) {
  if (over === 'mpi') process.env.MARGIN_SOFTMAX_NCCL = 'off'
  const head = await MarginHead.create({ device: gpuOf(group), ...options, group })
  delete process.env.MARGIN_SOFTMAX_NCCL
  assert.strictEqual(head.exchange?.exchange, over, head.exchange?.reason)
  return head
}

/** Steps of a head over NCCL, of one through the host, which must have the same bits, and of a whole head. */
async function compare(group: ProcessGroup, options: Options, what: string, label?: number): Promise<void> {
  const head = await make(group, 'nccl', options)
  const host = await make(group, 'mpi', options)
  const whole = await MarginHead.create({ ...options, device: gpuOf(group) })
  for (let step = 0; step < 3; step++) {
    const batches = ranksOf(group).map((rank) => batchOf(step, rank, options.classes, options.dim))
    if (label !== undefined) for (const { labels } of batches) labels.fill(label)
    const { input, labels } = batches[group.rank] as (typeof batches)[0]
    const at = `${what}, step ${step}`
    const [actual, byHost] = [await head.step(input, labels), await host.step(input, labels)]
    assert.deepStrictEqual(actual.stats, byHost.stats, at)
    assert.strictEqual(actual.loss, byHost.loss, at)
    sameBits(actual.losses, byHost.losses, `${at}: losses`)
    sameBits(actual.gradInput as Float32Array, byHost.gradInput as Float32Array, `${at}: gradInput`)
    sameBits(head.weights(), host.weights(), `${at}: weights`)
    const evaluated = await head.evaluate(input, labels)
    assert.strictEqual(evaluated.loss, (await host.evaluate(input, labels)).loss, at)
    if (step > 0) continue // later steps begin from weights that differ by rounding
    const all = joined(batches)
    sameStep(actual, whole.stepSync(all.input, all.labels), batches, group.rank, at)
    const { first, count } = head.shard
    const own = whole.weights().subarray(first * options.dim, (first + count) * options.dim)
    within(relativeError(head.weights(), own), precise, `${at}: weights`)
  }
  for (const each of [head, host, whole]) each.dispose()
}

const works: Record<string, (group: ProcessGroup) => Promise<void>> = {
  async equal(group) {
    for (const margin of [arcface(), normface(), sphereface()])
      await compare(group, { ...training, margin }, margin.name)
    // AdamW divides gradients by their size: epsilon keeps what rounding leaves of those that vanish as small.
    await compare(group, { ...training, optimizer: adamW({ learningRate: 0.01, epsilon: 1e-3 }) }, 'AdamW')
    await compare(group, { ...training, margin: softmaxMargin(), bias: true }, 'bias')
    await compare(group, { ...training, margin: normface(), labelSmoothing: 0.1 }, 'labelSmoothing')
    await compare(group, { ...training, classes: 5 * group.size + 3, dim: 31 }, 'odd sizes')
    await compare(group, { ...training, precision: 'bfloat16', dim: 64, classes: 200 }, 'bfloat16')
  },

  async sampled(group) {
    for (const [classes, sampleRate] of [
      [20, 0.1],
      [200, 0.5],
    ] as const)
      for (const labelSmoothing of [0, 0.1])
        await compare(
          group,
          { ...training, classes, sampleRate, seed: 9, labelSmoothing },
          `${classes} classes, rate ${sampleRate}`
        )
    // The sample is that class: all other ranks have none.
    for (const sampleCorrection of [false, true])
      await compare(group, { ...training, sampleRate: 0.01, sampleCorrection }, 'one class', 1)
  },

  // Nothing but words and labels goes over MPI.
  async bytes(group) {
    const head = await make(group, 'nccl', { ...training, dim: 256 })
    const { input, labels } = makeBatch(1, { rows: 64, dim: 256, classes: 37 })
    await head.step(input, labels)
    const before = group.bytesSent
    await head.step(input, labels)
    const sent = group.bytesSent - before
    console.log(`sent ${sent}`)
    const words = 256 * 7 + 6 * 8 + 2 * 8
    assert.strictEqual(sent, (group.size - 1) * (words + 64 * 4))
  },

  async topK(group) {
    const [head, host] = [await make(group, 'nccl'), await make(group, 'mpi')]
    const { input } = batchOf(0, group.rank, training.classes, training.dim)
    assert.deepStrictEqual(await head.topK(input, 3), await host.topK(input, 3))
  },

  // Not finite embeddings are a refused step on every rank, after which the head goes on.
  async notFinite(group) {
    const head = await make(group, 'nccl')
    const { input, labels } = batchOf(0, group.rank, training.classes, training.dim)
    const bad = group.rank === 1 ? input.map(() => Number.NaN) : input
    const before = head.weights()
    await assert.rejects(head.step(bad, labels), /not finite/)
    sameBits(head.weights(), before, 'weights after a refused step')
    await head.step(input, labels)
  },
}

/** Obstacles to NCCL: each makes a head, in its own environment, whose steps are as right as any. */
const obstacles: Record<string, { options?: (odd: boolean) => Partial<Options>; odd?: NodeJS.ProcessEnv }> = {
  withoutLibrary: { odd: { MARGIN_SOFTMAX_NCCL: 'nowhere.so' } },
  off: { odd: { MARGIN_SOFTMAX_NCCL: 'off' } },
  otherLibrary: { odd: { MARGIN_SOFTMAX_NCCL: 'libm.so.6' } },
  // By another path each, as a library is asked once for its version.
  oldVersion: { odd: { NCCL_DOUBLE_VERSION: '21304', MARGIN_SOFTMAX_NCCL: `${folder}/libnccl.so.2` } },
  otherVersion: { odd: { NCCL_DOUBLE_VERSION: '22805', MARGIN_SOFTMAX_NCCL: `${folder}/libnccl.so` } },
  oneGpu: { options: () => ({ device: 'cuda:0' }) },
  cpuOfOne: { options: () => ({ device: 'cpu' }) },
  cpu: { options: (odd) => (odd ? { device: 'cpu' } : {}) },
  wrong: { odd: { NCCL_DOUBLE_FAIL: 'wrong:1' } },
  wrongSums: { odd: { NCCL_DOUBLE_FAIL: 'wrong:4' } },
  init: { odd: { NCCL_DOUBLE_FAIL: 'init:1' } },
}

async function avoid(group: ProcessGroup, name: string): Promise<void> {
  const { options, odd = {} } = obstacles[name] as (typeof obstacles)[string]
  const isOdd = group.rank === 1
  if (isOdd) Object.assign(process.env, odd)
  const settings: Options = { device: gpuOf(group), ...training, ...options?.(isOdd), group }
  const head = await MarginHead.create(settings)
  console.log(`${name} by ${head.exchange?.exchange}: ${head.exchange?.reason}`)
  for (const variable of Object.keys(odd)) delete process.env[variable]
  process.env.MARGIN_SOFTMAX_NCCL = 'off'
  const host = await MarginHead.create(settings)
  delete process.env.MARGIN_SOFTMAX_NCCL
  const { input, labels } = batchOf(0, group.rank, training.classes, training.dim)
  const [actual, expected] = [await head.step(input, labels), await host.step(input, labels)]
  sameBits(actual.gradInput as Float32Array, expected.gradInput as Float32Array, 'gradInput')
  sameBits(head.weights(), host.weights(), 'weights')
}

/** A step in which something goes wrong on rank 1, after one that goes well. */
async function fail(group: ProcessGroup, environment: NodeJS.ProcessEnv): Promise<void> {
  const head = await make(group, 'nccl')
  const rows = (step: number) =>
    makeBatch(step + group.rank, { rows: 100 * (step + 1), dim: 24, classes: 37 })
  const first = rows(0)
  await head.step(first.input, first.labels)
  if (group.rank === 1) {
    console.log(`begins at ${Date.now()}`)
    Object.assign(process.env, environment)
  }
  const { input, labels } = rows(1)
  await head.step(input, labels)
  console.log('went well')
}

async function main(): Promise<void> {
  const group = await processGroup()
  for (const scenario of process.argv.slice(2)) {
    const [name, value] = scenario.split('=') as [string, string | undefined]
    if (value) await fail(group, { [name]: value })
    else if (obstacles[name]) await avoid(group, name)
    else await works[name]?.(group)
    console.log(`done ${scenario} of ${group.size}`)
  }
}

main()
