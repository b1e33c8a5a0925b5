// The scenarios of sharding.test.ts: a sharded head on each rank beside a whole one, which every rank can make for itself.
import assert from 'node:assert'
import fs from 'node:fs'
import { type ProcessGroup, processGroup } from '../../lib/distributed'
import { adamW, arcface, cosface, MarginHead, mvsoftmax, normface, sgd, softmaxMargin } from '../../lib/index'
import { marginCases, oneOfEach } from '../support/margins'
import {
  type Batch,
  batchOf,
  joined,
  type Options,
  precise,
  ranksOf,
  sameStep,
  training,
} from '../support/ranks'
import { normals, onCpu, random, relativeError, sameBits, within } from '../support/support'
import { failures } from './sharding-failures'
import { projected } from './sharding-projected'

const scenarios = process.argv.slice(2)
const folder = process.env.MARGIN_SOFTMAX_TEST_FOLDER as string

/**
 * Three steps of a sharded head and of a whole one, compared, each from the whole one's state: weights that differ by
 * rounding would differ by 64 times that in the next step's logits. The last sharded weights.
 */
async function compare(
  group: ProcessGroup,
  options: Options,
  what: string,
  weighted = false
): Promise<Float32Array> {
  const { classes, dim } = options
  let head = await MarginHead.create({ ...options, group })
  const whole = await MarginHead.create(options)
  const { first, count } = head.shard
  const own = (matrix: Float32Array) => matrix.subarray(first * dim, (first + count) * dim)
  sameBits(head.weights(), own(whole.weights()), `${what}: first weights`)
  for (let step = 0; step < 3; step++) {
    const batches = ranksOf(group).map((rank) => batchOf(step, rank, classes, dim))
    const mine = batches[group.rank] as Batch
    if (step > 0) {
      const file = `${folder}/compared-${group.rank}`
      await whole.save(file)
      head.dispose()
      head = await MarginHead.load(file, { group, threads: options.threads })
    }
    // One rank's rows all weigh nothing; the weights of all of them are in rank order.
    const weights = batches.map(({ labels }, rank) =>
      Float32Array.from(labels, (_, i) => (rank === 1 ? 0 : (i + rank + step) % 4))
    )
    const all = joined(batches)
    const allWeights = Float32Array.from(weights.flatMap((each) => Array.from(each)))
    const actual = await head.step(
      mine.input,
      mine.labels,
      weighted ? { sampleWeights: weights[group.rank] } : {}
    )
    const expected = whole.stepSync(all.input, all.labels, weighted ? { sampleWeights: allWeights } : {})
    const at = `${what}, step ${step}`
    sameStep(actual, expected, batches, group.rank, at)
    if (options.weightStorage === 'bfloat16') sameRounding(head.weights(), own(whole.weights()), at)
    else within(relativeError(head.weights(), own(whole.weights())), precise, `${at}: weights`)
    const { leftOut, ...stats } = expected.stats
    for (const name of Object.keys(stats) as (keyof typeof stats)[]) {
      const [figure, wanted] = [actual.stats[name], stats[name]]
      if (wanted === null) assert.strictEqual(figure, null)
      // Means of cosines may be near 0, norms of any size.
      else within(Math.abs((figure ?? Number.NaN) - wanted), precise * Math.max(1, wanted), `${at}: ${name}`)
    }
  }
  const weights = head.weights()
  head.dispose()
  whole.dispose()
  return weights
}

/**
 * Weights stored in bfloat16, rounded by the same random numbers: sums that differ in their last bits tip the scales for
 * one of some ten thousand. Other random numbers would change every second. Each is off by one step of bfloat16 at the
 * most or, near 0, by the rounding of what it is the difference of.
 */
function sameRounding(actual: Float32Array, expected: Float32Array, what: string): void {
  let others = 0
  const rounding = precise * expected.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0)
  for (const [i, weight] of expected.entries()) {
    others += Number(actual[i] !== weight)
    const bound = 2 ** -7 * Math.abs(weight) + rounding
    within(Math.abs((actual[i] as number) - weight), bound, `${what}: weight ${i}`)
  }
  within(others, 1 + actual.length / 1000, `${what}: weights that were rounded otherwise`)
}

const storages = ['float32', 'bfloat16'] as const

const works: Record<string, (group: ProcessGroup) => Promise<void>> = {
  async many(group) {
    await compare(group, { ...training, margin: arcface({ margin: 0.3, scale: 32 }) }, 'arcface')
    await compare(group, { ...training, margin: softmaxMargin(), bias: true, optimizer: adamW() }, 'bias')
  },
  projected,

  async equal(group) {
    // What a margin's parameters are changes no exchange.
    for (const { title, margin } of group.size === 2 ? marginCases : oneOfEach())
      await compare(group, { ...training, margin }, title)
    for (const optimizer of [sgd(), sgd({ momentum: 0.9, nesterov: true }), adamW({ learningRate: 0.01 })])
      await compare(group, { ...training, optimizer }, JSON.stringify(optimizer))
    await compare(group, { ...training, margin: softmaxMargin(), bias: true }, 'bias')
    await compare(group, { ...training, margin: normface(), labelSmoothing: 0.1 }, 'labelSmoothing')
    await compare(group, { ...training, marginWarmupSteps: 5 }, 'warm-up')
    await compare(group, { ...training, margin: cosface(), interclassFilter: 0.1 }, 'interclassFilter')
  },

  async sizes(group) {
    for (const [classes, dim] of [
      [group.size, 2],
      [group.size + 1, 3],
      [5 * group.size + 3, 31], // with an odd number of elements in each share
      [1000, 65],
      [4001, 33],
    ] as const)
      await compare(group, { ...training, classes, dim }, `${classes} classes of ${dim}`)
  },

  async sampled(group) {
    // A group of one exchanges nothing, and the shim's GPU is slow.
    for (const classes of group.size === 1 ? [20] : [group.size, 20, 500])
      for (const sampleRate of onCpu ? [0.01, 0.1, 0.5] : [0.1]) {
        const options = { ...training, classes, sampleRate, seed: 9 }
        const what = `${classes} classes, rate ${sampleRate}`
        await compare(group, options, what)
        const corrected = { ...options, sampleCorrection: true }
        await compare(group, { ...corrected, margin: normface(), labelSmoothing: 0.1 }, `${what}, smoothed`)
        await compare(group, { ...corrected, margin: mvsoftmax() }, `${what}, hard negatives`)
      }
  },

  async clipped(group) {
    for (const sampleRate of [1, 0.4]) {
      const options = { ...training, classes: 37, dim: 12, sampleRate, maxGradientNorm: 0.05, seed: 4 }
      await compare(group, options, `clipped, rate ${sampleRate}`)
    }
  },

  async weighted(group) {
    const shapes = [[137, 5] as const, ...(onCpu ? [[group.size, 12] as const] : [])]
    for (const [classes, dim] of shapes) {
      const next = random(classes)
      const classWeights = Float32Array.from({ length: classes }, () => 0.1 + 3 * next())
      for (const sampleRate of [1, 0.05])
        for (const labelSmoothing of [0, 0.1]) {
          const options = {
            ...training,
            classes,
            dim,
            margin: normface(),
            sampleRate,
            labelSmoothing,
            seed: 4,
          }
          const what = `${classes} classes of ${dim}, rate ${sampleRate}, smoothing ${labelSmoothing}`
          await compare(group, { ...options, classWeights }, what, true)
          await compare(group, options, `rows alone, ${what}`, true)
        }
    }
  },

  async stored(group) {
    const options = { ...training, weightStorage: 'bfloat16', seed: 3 } as const
    for (const [classes, dim] of [
      [group.size, 2],
      [37, 31],
      [1000, 65],
    ] as const)
      for (const sampleRate of [1, 0.3])
        await compare(group, { ...options, classes, dim, sampleRate }, `${classes} of ${dim}, ${sampleRate}`)
    // The comparison would see other random numbers: those of another seed, for one.
    const weights = normals(random(6), training.classes * training.dim)
    const { input, labels } = batchOf(0, group.rank, training.classes, training.dim)
    const [one, other] = await Promise.all(
      [3, 4].map(async (seed) => {
        const head = await MarginHead.create({ ...options, weights, seed })
        await head.step(input, labels)
        return head.weights()
      })
    )
    assert.throws(() => sameRounding(one as Float32Array, other as Float32Array, ''), /rounded otherwise/)
    const first = await compare(group, options, 'once')
    sameBits(await compare(group, { ...options, threads: 3 }, 'again'), first, 'two runs')
  },

  async again(group) {
    const options = { ...training, classes: 300, sampleRate: 0.5 }
    const once = await compare(group, options, 'once')
    sameBits(await compare(group, { ...options, threads: 3 }, 'again'), once, 'two runs')
  },

  async evaluation(group) {
    const { classes, dim } = { classes: 50, dim: 12 }
    for (const margin of [arcface(), softmaxMargin()]) {
      const options = { classes, dim, margin, weights: normals(random(4), classes * dim) }
      const head = await MarginHead.create({ ...options, group })
      const whole = await MarginHead.create(options)
      const batches = ranksOf(group).map((rank) => batchOf(1, rank, classes, dim))
      const { input, labels } = batches[group.rank] as Batch
      const all = joined(batches)
      const { loss, stats } = await head.evaluate(input, labels)
      within(relativeError([loss], [whole.evaluateSync(all.input, all.labels).loss]), precise, 'loss')
      assert.strictEqual(stats.gradientNorm, 0)
      for (const k of [1, 3, classes]) {
        const { indices, scores } = await head.topK(input, k)
        const expected = whole.topKSync(input, k)
        assert.deepStrictEqual(indices, expected.indices)
        sameBits(scores, expected.scores, 'scores')
      }
      for (const name of ['stepSync', 'evaluateSync'] as const)
        assert.throws(() => head[name](input, labels), /Expected \w+ in place of \w+Sync for a sharded head/)
    }
  },

  async resumed(group) {
    const file = `${folder}/resumed-${group.size}`
    const run = async (interrupted: boolean, weightStorage: (typeof storages)[number]) => {
      let head = await MarginHead.create({ ...training, group, sampleRate: 0.6, weightStorage })
      for (let step = 0; step < 6; step++) {
        const { input, labels } = batchOf(step, group.rank, training.classes, training.dim)
        const running = head.step(input, labels)
        if (interrupted && step % 2) {
          await head.save(file) // waits for the step
          head.dispose()
          head = await MarginHead.load(file, { group })
        }
        await running
      }
      return head.weights()
    }
    for (const storage of storages) sameBits(await run(true, storage), await run(false, storage), 'resumed')
    const shards = fs.readdirSync(folder).filter((name) => name.startsWith(`resumed-${group.size}.`))
    await group.barrier()
    assert.strictEqual(shards.length, group.size, `only the last save's shards stay: ${shards}`)
  },

  // `set` and `load` change the head on all ranks; some changes are refused.
  async changes(group) {
    const classNames = Array.from({ length: training.classes }, (_, j) => `class ${j}`)
    const head = await MarginHead.create({ ...training, group, classNames })
    const step = async (one: MarginHead, seed: number) => {
      const { input, labels } = batchOf(seed, group.rank, training.classes, training.dim)
      return (await one.step(input, labels)).loss
    }
    await step(head, 0)
    const file = `${folder}/changes-${group.size}`
    await head.save(file)
    const change = { margin: cosface(), labelSmoothing: 0.1 }
    const changing = head.set(change) // takes its turn
    const loss = await step(head, 1)
    await changing
    const loaded = await MarginHead.load(file, { group, ...change })
    assert.deepStrictEqual(loaded.classNames, classNames)
    assert.strictEqual(await step(loaded, 1), loss)
    sameBits(loaded.weights(), head.weights(), 'weights')
    const other = await MarginHead.load(file, { group, optimizer: adamW() })
    await step(other, 1)
    await assert.rejects(head.set({ optimizer: adamW() }), /ERR_UNAVAILABLE|sharded head: save it/)
    await assert.rejects(head.addClasses(1), /no addClasses for a sharded head: save it/)
    await assert.rejects(head.removeClasses([0]), /no removeClasses for a sharded head: save it/)
    assert.deepStrictEqual(head.optimizer, training.optimizer)
    await step(head, 2)
  },

  // For `load`, on another number of ranks.
  async save(group) {
    for (const weightStorage of storages) {
      const head = await MarginHead.create({ ...training, group, weightStorage })
      const { input, labels } = batchOf(0, group.rank, training.classes, training.dim)
      await head.step(input, labels)
      await head.save(`${folder}/shared-${weightStorage}`)
      fs.writeFileSync(`${folder}/weights-${weightStorage}-${group.rank}`, head.weights())
    }
  },

  async load(group) {
    for (const weightStorage of storages) {
      const file = `${folder}/shared-${weightStorage}`
      const saved = fs.readdirSync(folder).filter((name) => name.startsWith(`weights-${weightStorage}-`))
      const weights = new Float32Array(
        new Uint8Array(Buffer.concat(saved.sort().map((name) => fs.readFileSync(`${folder}/${name}`)))).buffer
      )
      const head = await MarginHead.load(file, { group })
      const { first, count } = head.shard
      const own = weights.subarray(first * head.dim, (first + count) * head.dim)
      assert.strictEqual(head.iteration, 1)
      assert.strictEqual(head.weightStorage, weightStorage)
      sameBits(head.weights(), own, 'weights')
      const whole = await MarginHead.load(file)
      sameBits(whole.weights(), weights, 'whole')
      // And from one file to shards.
      const one = `${folder}/whole-${weightStorage}-${group.size}.safetensors`
      if (group.rank === 0) await whole.save(one)
      await group.barrier()
      const again = await MarginHead.load(one, { group })
      sameBits(again.weights(), own, 'from one file')
      const plain = await MarginHead.load(file, { group, weightStorage: 'float32' })
      sameBits(plain.weights(), own, 'as float32')
    }
  },
}

async function main(): Promise<void> {
  const group = await processGroup()
  const odd = group.rank === 1
  for (const scenario of scenarios) {
    if (failures[scenario]) {
      if (odd) console.log(`begins at ${Date.now()}`)
      await failures[scenario](group, odd)
      console.log('went well')
    } else {
      if (!works[scenario]) throw new Error(`Expected a scenario but received ${scenario}`)
      await works[scenario](group)
      console.log(`done ${scenario} of ${group.size}`)
    }
  }
}

main()
