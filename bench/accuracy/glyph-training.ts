/** One training on glyphs: a tfjs network and a native MarginHead with so many of its classes in each step, then the tests. */
import { setImmediate } from 'node:timers/promises'
import * as tf from '@tensorflow/tfjs'
import { type Progress, setLearningRate } from '../../lib/demo/experiment'
import * as metrics from '../../lib/demo/metrics'
import {
  type Margin,
  MarginHead,
  type Optimizer,
  type PairList,
  type StepResult,
  type TopKResult,
  topK,
  type VerificationResult,
  verification,
  type WeightStorage,
} from '../../lib/index'
import { seededRandom, shuffled } from '../../lib/internal/random'
import { adapter } from '../../lib/tfjs'
import type { Glyphs } from './glyph-images'
import { createNetwork, type Network, patchesOf } from './glyph-network'
import { saveStage } from './stage-files'

export interface GlyphData {
  /** the characters trained on, in the typefaces for training and in those for the test */
  train: Glyphs
  test: Glyphs
  /** other characters, in the typefaces for the test */
  unseen: Glyphs
  classes: number
}

export interface GlyphSettings {
  sampleRate: number
  sampleCorrection: boolean
  margin: Margin
  /** of the head; its learning rate follows the network's, `headRate` times as large */
  optimizer: Optimizer
  headRate: number
  dim: number
  epochs: number
  batch: number
  /** of the network; falls to 0 along half a cosine wave */
  learningRate: number
  /** share of the training over which the margin grows to its full size */
  warmup: number
  /** pixels by which training glyphs are moved at random */
  shift: number
  seed: number
  /** of the head; default float32 */
  weightStorage?: WeightStorage
  /** folder for the head and a batch's embeddings at each of `snapshotAccuracies` in training, and at the end */
  snapshots?: string
}

export const snapshotAccuracies = [0.5, 0.9, 0.99]

export interface GlyphOutcome {
  settings: GlyphSettings
  /** mean over the last sixtieth of the training, with the classes of each step's sample */
  trainingAccuracy: number
  /** share of test glyphs that lie nearest to the weights of their own class among all classes */
  testAccuracy: number
  /** the same with the mean direction of each class's training glyphs in place of its weights */
  centreAccuracy: number
  /** of all pairs of glyphs of characters that were not trained on, with the true accept rate at `falseAcceptRate` */
  unseen: VerificationResult
  /** of those of one character and as many of two, by the protocol of Labeled Faces in the Wild: ten folds */
  unseenAccuracy: number
  seconds: number
  /** of them in the head's steps */
  headSeconds: number
  steps: number
}

/** False accept rate at which verification's true accept rate is told. */
export const falseAcceptRate = 0.001

export async function train(
  data: GlyphData,
  settings: GlyphSettings,
  report: (progress: Progress) => void
): Promise<GlyphOutcome> {
  const { dim, epochs, batch, seed, sampleRate, margin } = settings
  const stepsPerEpoch = Math.floor(data.train.count / batch)
  const steps = stepsPerEpoch * epochs
  const network = createNetwork(dim, seed)
  using head = await MarginHead.create({
    classes: data.classes,
    dim,
    margin,
    optimizer: settings.optimizer,
    marginWarmupSteps: Math.round(settings.warmup * steps),
    sampleRate,
    sampleCorrection: settings.sampleCorrection,
    seed,
    weightStorage: settings.weightStorage,
  })
  const begin = performance.now()
  const { accuracy, headSeconds } = await trainSteps(network, head, data.train, settings, steps, report)
  const seconds = (performance.now() - begin) / 1000

  const test = embedAll(network, data.test, dim)
  const weight = metrics.classCentres(
    embedAll(network, data.train, dim),
    data.train.labels,
    data.classes,
    dim
  )
  const embeddings = embedAll(network, data.unseen, dim)
  const unseen = await verification(embeddings, data.unseen.labels, { falseAcceptRates: [falseAcceptRate] })
  const { folds } = await verification(embeddings, balancedPairs(data.unseen.labels), { dim })
  network.dispose()
  return {
    settings,
    trainingAccuracy: accuracy,
    testAccuracy: accuracyOf(await head.topK(test, 1), data.test.labels),
    centreAccuracy: accuracyOf(await topK({ input: test, weight, dim }), data.test.labels),
    unseen,
    unseenAccuracy: folds?.meanAccuracy ?? Number.NaN,
    seconds,
    headSeconds,
    steps,
  }
}

async function trainSteps(
  network: Network,
  head: MarginHead,
  glyphs: Glyphs,
  settings: GlyphSettings,
  steps: number,
  report: (progress: Progress) => void
): Promise<{ accuracy: number; headSeconds: number }> {
  const { epochs, batch, learningRate, headRate, shift, seed, snapshots } = settings
  const { headLoss } = adapter(tf)
  const optimizer = tf.train.adam(learningRate)
  const random = seededRandom(seed)
  const stepsPerEpoch = steps / epochs
  const toSave = snapshots ? [...snapshotAccuracies] : []
  let order: Uint32Array = new Uint32Array(0)
  let [lossSum, accuracySum, summed] = [0, 0, 0]
  let [recent, accuracy, headSeconds] = [0, 0, 0]
  const snapshot = (name: string) => {
    const rows = order.subarray(0, 512)
    const patches = patchesOf(glyphs, rows, shift, seededRandom(seed))
    const labels = Int32Array.from(rows, (row) => glyphs.labels[row])
    return saveStage(snapshots as string, name, head, embed(network, patches), labels)
  }
  const start = performance.now()

  for (let step = 0; step < steps; step++) {
    const first = (step % stepsPerEpoch) * batch
    if (first === 0) order = shuffled(glyphs.count, random)
    const rows = order.subarray(first, first + batch)
    const labels = Int32Array.from(rows, (row) => glyphs.labels[row])
    const patches = patchTensor(patchesOf(glyphs, rows, shift, random))
    const rate = (learningRate * (1 + Math.cos((Math.PI * step) / steps))) / 2
    setLearningRate(optimizer, rate)
    let result: StepResult | undefined
    const onStep = (done: StepResult) => {
      result = done
    }
    optimizer.minimize(
      () => {
        const embeddings = network.embed(patches, true)
        embeddings.dataSync() // so that the head's time is its own
        const before = performance.now()
        const loss = headLoss(head, embeddings, labels, { learningRate: rate * headRate, onStep })
        headSeconds += (performance.now() - before) / 1000
        return loss
      },
      false,
      network.variables
    )
    patches.dispose()

    const { loss = 0, stats } = result ?? {}
    lossSum += loss
    accuracySum += stats?.accuracy ?? 0
    summed++
    recent += ((stats?.accuracy ?? 0) - recent) / Math.min(step + 1, 20)
    while (toSave.length && recent >= toSave[0])
      await snapshot(String(Math.round((toSave.shift() as number) * 100)))
    if (Math.floor(((step + 1) * 60) / steps) > Math.floor((step * 60) / steps)) {
      accuracy = accuracySum / summed
      const seconds = (performance.now() - start) / 1000
      report({
        loss: lossSum / summed,
        accuracy,
        epoch: (step + 1) / stepsPerEpoch,
        step: step + 1,
        steps,
        imagesPerSecond: ((step + 1) * batch) / seconds,
        secondsLeft: (seconds / (step + 1)) * (steps - step - 1),
      })
      ;[lossSum, accuracySum, summed] = [0, 0, 0]
    }
    await setImmediate() // lets Ctrl-C through
  }
  if (snapshots) await snapshot('end')
  optimizer.dispose()
  return { accuracy, headSeconds }
}

function patchTensor(patches: Float32Array): tf.Tensor2D {
  return tf.tensor2d(patches, [patches.length / 64, 64])
}

/** [B, dim] */
function embed(network: Network, patches: Float32Array): Float32Array {
  return tf.tidy(() => network.embed(patchTensor(patches)).dataSync<'float32'>())
}

/** Embeddings of all glyphs, [count, dim], five hundred at a time. */
function embedAll(network: Network, glyphs: Glyphs, dim: number): Float32Array {
  const embeddings = new Float32Array(glyphs.count * dim)
  for (let first = 0; first < glyphs.count; first += 500) {
    const rows = Array.from({ length: Math.min(500, glyphs.count - first) }, (_, i) => first + i)
    embeddings.set(embed(network, patchesOf(glyphs, rows)), first * dim)
  }
  return embeddings
}

function accuracyOf({ indices }: TopKResult, labels: Int32Array): number {
  return labels.reduce((right, label, row) => right + (indices[row] === label ? 1 : 0), 0) / labels.length
}

/** Every pair of one class and as many at random of two, in a random order that is the same each time. */
function balancedPairs(labels: Int32Array): PairList {
  const random = seededRandom(1)
  const same: [number, number][] = []
  for (let i = 0; i < labels.length; i++)
    for (let j = 0; j < i; j++) if (labels[i] === labels[j]) same.push([i, j])
  const draw = () => Math.floor(random() * labels.length)
  const different = same.map((): [number, number] => {
    let [i, j] = [draw(), draw()]
    while (labels[i] === labels[j]) [i, j] = [draw(), draw()]
    return [i, j]
  })
  const all = [...same, ...different]
  const order = [...shuffled(all.length, random)]
  return {
    pairs: Int32Array.from(order.flatMap((place) => all[place])),
    same: order.map((place) => place < same.length),
  }
}
