// The scenario `projected` of sharding.child.ts: a sharded head with a projection beside a whole one, which has all rows.
import assert from 'node:assert'
import type { ProcessGroup } from '../../lib/distributed'
import { adamW, MarginHead, type ProjectedHeadOptions, type ProjectionOptions } from '../../lib/index'
import { type Batch, batchOf, joined, ranksOf, sameStep, training } from '../support/ranks'
import { relativeError, sameBits, within } from '../support/support'

const from = 33
const { classes, dim } = training
const folder = process.env.MARGIN_SOFTMAX_TEST_FOLDER as string

export async function projected(group: ProcessGroup): Promise<void> {
  for (const [kind, options] of [
    [{}, {}],
    [{ layers: 2, hidden: 11 }, { optimizer: adamW({ learningRate: 0.01, epsilon: 1e-3 }) }],
    [{}, { maxGradientNorm: 0.5, sampleRate: 0.4 }],
  ] as [Partial<ProjectionOptions>, Partial<ProjectedHeadOptions>][])
    await compare(group, { ...training, projection: { from, to: dim, ...kind }, ...options })
  await alike(group)
  await oneRankIsWrong(group)
}

/** Rank `rank`'s features and labels: batch norm takes two rows at least. */
function featuresOf(step: number, rank: number): Batch {
  const { input, labels } = batchOf(step, rank, classes, from)
  return labels.length > 1
    ? { input, labels }
    : joined([{ input, labels }, batchOf(step + 50, rank, classes, from)])
}

async function compare(group: ProcessGroup, options: ProjectedHeadOptions): Promise<void> {
  const what = JSON.stringify(options)
  const head = await MarginHead.create({ ...options, group })
  const whole = await MarginHead.create(options)
  const { first, count } = head.shard
  for (let step = 0; step < 2; step++) {
    const batches = ranksOf(group).map((rank) => featuresOf(step, rank))
    const { input, labels } = batches[group.rank] as Batch
    const all = joined(batches)
    const actual = await head.step(input, labels)
    const expected = whole.stepSync(all.input, all.labels)
    if (step === 0) sameStep(actual, expected, batches, group.rank, what)
    for (const name of ['gradientNorm', 'gradInputNorm'] as const)
      within(relativeError([actual.stats[name]], [expected.stats[name]]), 1e-5, `${what}: ${name}`)
    // Both have updates of their own rounding behind them.
    within(relativeError(await head.embed(input), whole.embedSync(input)), 1e-5, `${what}: embeddings`)
    const own = whole.weights().subarray(first * dim, (first + count) * dim)
    within(relativeError(head.weights(), own), 1e-5, `${what}: weights`)
  }
  const { input } = featuresOf(9, group.rank)
  assert.deepStrictEqual((await head.topK(input, 2)).indices, whole.topKSync(input, 2).indices)
  head.dispose()
  whole.dispose()
}

/** Every rank keeps the same projection, with batch norm and dropout, and finds it in the file. */
async function alike(group: ProcessGroup): Promise<void> {
  const projection = { from, to: dim, layers: 2, batchNorm: true, dropout: 0.2 } as const
  const head = await MarginHead.create({ ...training, projection, group })
  const step = async (one: MarginHead, number: number) => {
    const { input, labels } = featuresOf(number, group.rank)
    return one.step(input, labels)
  }
  await step(head, 0)
  await step(head, 1)
  const { input } = featuresOf(2, 0) // the same rows on every rank
  const embeddings = await head.embed(input)
  const all = await group.allGather(embeddings)
  for (const rank of ranksOf(group))
    sameBits(
      all.subarray(rank * embeddings.length, (rank + 1) * embeddings.length),
      embeddings,
      `rank ${rank}`
    )
  const file = `${folder}/projected-${group.size}`
  await head.save(file)
  const loaded = await MarginHead.load(file, { group })
  const [expected, actual] = [await step(head, 2), await step(loaded, 2)]
  sameBits(actual.gradInput as Float32Array, expected.gradInput as Float32Array, 'resumed')
  sameBits(await loaded.embed(input), await head.embed(input), 'resumed embeddings')
  const whole = await MarginHead.load(file)
  sameBits(whole.embedSync(input), embeddings, 'whole')
  // One rank embeds by itself, and may fail by itself.
  if (group.rank === 0) {
    await assert.rejects(head.embed(input.subarray(1)), /projection.from 33/)
    await head.embed(input)
  }
  await step(head, 3)
}

async function oneRankIsWrong(group: ProcessGroup): Promise<void> {
  const projection = { from, to: dim, batchNorm: true }
  const head = await MarginHead.create({ ...training, projection, group })
  const last = group.size - 1
  const { input, labels } = featuresOf(0, group.rank)
  const before = await head.embed(input)
  const odd = group.rank === last
  const wrong = odd ? input.map((x, i) => (i === from + 2 ? Number.NaN : x)) : input
  const long = odd ? input.map((x) => 1e20 * x) : input
  for (const [rows, own] of [
    [wrong, /not finite in row 1/],
    [long, /at most 1e15 for the features of row 0/],
  ] as const)
    await assert.rejects(head.step(rows, labels), (error: Error) => {
      assert.match(error.message, own)
      if (!odd) assert.match(error.message, new RegExp(`rank ${last} could not`))
      return true
    })
  sameBits(await head.embed(input), before, 'after refused steps')
  assert.strictEqual(head.iteration, 0)
  await head.step(input, labels)
  within(Math.abs((await head.evaluate(input, labels)).loss), 100, 'it goes on')
}
