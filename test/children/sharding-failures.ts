// Scenarios of sharding.child.ts that fail on every rank.
import assert from 'node:assert'
import type { ProcessGroup } from '../../lib/distributed'
import { arcface, MarginHead } from '../../lib/index'
import { limitMemory } from '../support/memory-limit'
import { batchOf, type Options, training } from '../support/ranks'
import { sameBits } from '../support/support'

const folder = process.env.MARGIN_SOFTMAX_TEST_FOLDER as string

/** Rank 1 does something else than the others. */
export const failures: Record<string, (group: ProcessGroup, odd: boolean) => Promise<unknown>> = {
  settings: (group, odd) =>
    MarginHead.create({ ...training, group, margin: odd ? arcface({ margin: 0.3 }) : arcface() }),
  classes: (group, odd) => MarginHead.create({ ...training, group, classes: odd ? 38 : 37 }),
  async otherChange(group, odd) {
    const head = await MarginHead.create({ ...training, group })
    await head.set({ labelSmoothing: odd ? 0.2 : 0.1 })
  },
  async learningRate(group, odd) {
    const head = await MarginHead.create({ ...training, group })
    const { input, labels } = batchOf(0, group.rank, training.classes, training.dim)
    await head.step(input, labels, { learningRate: odd ? 0.2 : 0.1 })
  },
  async calls(group, odd) {
    const head = await MarginHead.create({ ...training, group })
    const { input, labels } = batchOf(0, group.rank, training.classes, training.dim)
    await (odd ? head.evaluate(input, labels) : head.step(input, labels, { gradInput: false }))
  },
  // Mistakes of one rank: every rank hears of them in that rank's rows, nothing changes, and the head goes on.
  async label(group, odd) {
    const head = await MarginHead.create({ ...training, group })
    const { input, labels } = batchOf(1, group.rank, training.classes, training.dim)
    const gone = new Float32Array(input)
    structuredClone(gone, { transfer: [gone.buffer] })
    const wrong = labels.map((label, i) => (i === 1 ? training.classes : label))
    const out = /for labels\[1\] but received 37$/
    const before = head.weights()
    for (const call of [
      () => head.step(input, odd ? wrong : labels),
      () => head.evaluate(input, odd ? wrong : labels),
    ])
      await assert.rejects(
        call(),
        odd ? out : /^MarginSoftmaxError: .* rank 1 could not: .*labels\[1\] but received 37$/
      )
    await assert.rejects(
      head.step(odd ? gone : input, labels),
      odd ? /embeddings/ : /rank 1 could not: .*embeddings/
    )
    await assert.rejects(
      head.topK(odd ? gone : input, 2),
      odd ? /embeddings/ : /rank 1 could not: .*embeddings/
    )
    // One that waits for a save is copied when it is called: what cannot be copied is heard of, too.
    const saving = head.save(`${folder}/refused`)
    await assert.rejects(
      head.step(input, labels, (odd ? { rate: 1 } : {}) as object),
      odd ? /"rate"/ : /rank 1 could not: .*"rate"/
    )
    await saving
    sameBits(head.weights(), before, 'weights after refused calls')
    assert.strictEqual(head.iteration, 0)
    await head.step(input, labels)
    assert.strictEqual(head.iteration, 1)
    throw new Error('as expected')
  },
  async notFinite(group, odd) {
    const { input, labels } = batchOf(1, group.rank, training.classes, training.dim)
    // With labels of one class alone, all ranks but one have no class in the sample.
    const one = new Int32Array(labels.length).fill(3)
    for (const [options, labelsOf] of [
      [{}, labels],
      [{ maxGradientNorm: 0.1 }, labels],
      [{ maxGradientNorm: 0.1, sampleRate: 0.01 }, one],
    ] as [Partial<Options>, Int32Array][]) {
      const head = await MarginHead.create({ ...training, ...options, group })
      const before = head.weights()
      for (const row of [0, 8]) {
        const bad = odd ? input.map((x, i) => (Math.floor(i / training.dim) === row ? Number.NaN : x)) : input
        await assert.rejects(head.step(bad, labelsOf), (error: Error & { code: string }) => {
          assert.strictEqual(error.code, 'ERR_NOT_FINITE')
          assert.match(error.message, new RegExp(`in row ${row} of rank 1$`))
          return true
        })
      }
      sameBits(head.weights(), before, 'weights after a refused step')
      assert.strictEqual(head.iteration, 0)
      await head.step(input, labelsOf) // the head goes on
    }
    throw new Error('as expected')
  },
  async longWeights(group) {
    // The last rank's last class, by its number among all.
    const weights = new Float32Array(training.classes * training.dim).fill(0.1).fill(3e38, -training.dim)
    const head = await MarginHead.create({ ...training, weights, group })
    const { input, labels } = batchOf(1, group.rank, training.classes, training.dim)
    const named = new RegExp(`weights of class ${training.classes - 1} but received a larger one`)
    await assert.rejects(head.step(input, labels), named)
    await assert.rejects(head.topK(input, 1), named)
    throw new Error('as expected')
  },
  async memoryOfHead(group, odd) {
    if (odd) limitMemory(100e6)
    await MarginHead.create({ ...training, group, classes: 9e5, dim: 128 })
  },
  async memoryOfStep(group, odd) {
    const head = await MarginHead.create({ ...training, group })
    const rows = 1_600_000
    const input = new Float32Array(rows * training.dim).fill(1)
    const labels = new Int32Array(rows)
    if (odd) limitMemory(100e6)
    await head.evaluate(input, labels)
  },
  // In the middle of saves that follow one another; the last whole checkpoint stays.
  async killedWhileSaving(group, odd) {
    const head = await MarginHead.create({ ...training, group, classes: 3000, dim: 256 })
    await head.save(`${folder}/killed`)
    if (odd) setTimeout(() => process.kill(process.pid, 'SIGKILL'), 300)
    for (;;) {
      const { input, labels } = batchOf(head.iteration, group.rank, 3000, 256)
      await head.step(input, labels)
      await head.save(`${folder}/killed`)
    }
  },
}
