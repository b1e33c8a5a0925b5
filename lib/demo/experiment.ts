/** One training of the demo: a tfjs backbone, a native MarginHead, and what the table and the figures need of the result. */
import { setImmediate } from 'node:timers/promises'
import * as tf from '@tensorflow/tfjs'
import {
  adamW,
  type Margin,
  MarginHead,
  type StepResult,
  type VerificationResult,
  verification,
} from '../index'
import { seededRandom, shuffled } from '../internal/random'
import { adapter } from '../tfjs'
import { type Backbone, createBackbone } from './backbone'
import type { LossSetting } from './losses'
import * as metrics from './metrics'
import * as mnist from './mnist'

export interface Data {
  /** training and test images of the classes trained on */
  train: mnist.Images
  test: mnist.Images
  /** test images of the digits left out of training */
  unseen: mnist.Images
  /** class j is the digit digits[j] */
  digits: number[]
  heldOut: number[]
}

export interface Settings {
  dim: number
  epochs: number
  batch: number
  /** of the backbone and of the head; falls to 0 along half a cosine wave */
  learningRate: number
  /** pixels by which training images are moved at random */
  shift: number
  seed: number
}

/** 1e-3 to 1, 40 a decade: the ROC curve as it is drawn. The table has the one of 1 %. */
export const falseAcceptRates = Array.from({ length: 121 }, (_, i) => 10 ** (-3 + i / 40))

export function trueAcceptRateAt({ verification }: Outcome, limit: number): number {
  const found = verification.operatingPoints.find((point) => Math.abs(point.limit - limit) < limit * 1e-9)
  if (!found) throw new Error(`Expected one of falseAcceptRates for limit but received ${limit}`)
  return found.trueAcceptRate
}

export interface CurvePoint {
  epoch: number
  loss: number
  accuracy: number
}

export interface Progress extends CurvePoint {
  step: number
  steps: number
  imagesPerSecond: number
  secondsLeft: number
}

export interface Outcome {
  setting: LossSetting
  settings: Settings
  margin: Margin
  warmupSteps: number
  parameters: number
  layers: readonly number[]
  seconds: number
  imagesPerSecond: number
  curve: CurvePoint[]
  angles: metrics.Angles
  /** of test images of the digits left out: all pairs, at each of `falseAcceptRates` */
  verification: VerificationResult
  /** [classes, dim] unit rows */
  centres: Float32Array
  testEmbeddings: Float32Array
  unseenEmbeddings: Float32Array
}

export async function run(
  setting: LossSetting,
  data: Data,
  settings: Settings,
  report: (progress: Progress) => void
): Promise<Outcome> {
  const { dim, epochs, batch, seed } = settings
  const stepsPerEpoch = Math.floor(data.train.count / batch)
  const steps = stepsPerEpoch * epochs
  const margin = setting.margin(dim)
  const warmupSteps = Math.round(setting.warmup * steps)
  const backbone = createBackbone(dim, seed)
  const classes = data.digits.length
  const optimizer = adamW({ weightDecay: 0 })
  const first = dim === 2 ? { weights: evenlyOnCircle(classes) } : { seed }
  using head = await MarginHead.create({
    classes,
    dim,
    margin,
    optimizer,
    marginWarmupSteps: warmupSteps,
    ...first,
  })

  const begin = performance.now()
  const curve = await train(backbone, head, data, settings, steps, report)
  const seconds = (performance.now() - begin) / 1000

  const centres = metrics.classCentres(
    embedAll(backbone, data.train, dim),
    labelsOf(data, data.train),
    classes,
    dim
  )
  const testEmbeddings = embedAll(backbone, data.test, dim)
  const unseenEmbeddings = embedAll(backbone, data.unseen, dim)
  backbone.dispose()
  return {
    setting,
    settings,
    margin,
    warmupSteps,
    parameters: backbone.parameters,
    layers: backbone.layers,
    seconds,
    imagesPerSecond: (steps * batch) / seconds,
    curve,
    angles: metrics.anglesToCentres(testEmbeddings, labelsOf(data, data.test), centres, dim),
    verification: await verification(unseenEmbeddings, data.unseen.digits, { falseAcceptRates }),
    centres,
    testEmbeddings,
    unseenEmbeddings,
  }
}

async function train(
  backbone: Backbone,
  head: MarginHead,
  data: Data,
  { epochs, batch, learningRate, shift, seed }: Settings,
  steps: number,
  report: (progress: Progress) => void
): Promise<CurvePoint[]> {
  const { headLoss } = adapter(tf)
  const optimizer = tf.train.adam(learningRate)
  const random = seededRandom(seed)
  const labels = labelsOf(data, data.train)
  const stepsPerEpoch = steps / epochs
  const curve: CurvePoint[] = []
  let [lossSum, accuracySum, summed] = [0, 0, 0]
  let order: Uint32Array = new Uint32Array(0)
  const start = performance.now()

  for (let step = 0; step < steps; step++) {
    const first = (step % stepsPerEpoch) * batch
    if (first === 0) order = shuffled(data.train.count, random)
    const rows = order.subarray(first, first + batch)
    const images = tf.tensor2d(mnist.toShiftedFloats(data.train, rows, shift, random), [batch, mnist.pixels])
    const rate = (learningRate * (1 + Math.cos((Math.PI * step) / steps))) / 2
    setLearningRate(optimizer, rate)

    // The whole of the training: the head makes its step, the backbone's optimizer gets the embeddings' gradient.
    let result: StepResult | undefined
    const onStep = (done: StepResult) => {
      result = done
    }
    optimizer.minimize(
      () =>
        headLoss(
          head,
          backbone.embed(images),
          Int32Array.from(rows, (row) => labels[row]),
          { learningRate: rate, onStep }
        ),
      false,
      backbone.variables
    )
    images.dispose()

    lossSum += result?.loss ?? 0
    accuracySum += result?.stats.accuracy ?? 0
    summed++
    if (Math.floor(((step + 1) * 60) / steps) > Math.floor((step * 60) / steps)) {
      const point = {
        epoch: (step + 1) / stepsPerEpoch,
        loss: lossSum / summed,
        accuracy: accuracySum / summed,
      }
      curve.push(point)
      ;[lossSum, accuracySum, summed] = [0, 0, 0]
      const seconds = (performance.now() - start) / 1000
      const secondsLeft = (seconds / (step + 1)) * (steps - step - 1)
      report({
        ...point,
        step: step + 1,
        steps,
        imagesPerSecond: ((step + 1) * batch) / seconds,
        secondsLeft,
      })
    }
    await setImmediate() // lets Ctrl-C through
  }
  optimizer.dispose()
  return curve
}

/**
 * First class centres in two dimensions, [classes, 2]. On a circle a centre cannot get past another without confusing the
 * two, so random ones, which start in a heap, take long to sort themselves out.
 */
function evenlyOnCircle(classes: number): Float32Array {
  return Float32Array.from({ length: classes * 2 }, (_, i) => {
    const angle = (2 * Math.PI * Math.floor(i / 2)) / classes
    return i % 2 ? Math.sin(angle) : Math.cos(angle)
  })
}

/** tfjs has no public way to change the learning rate of Adam between two steps. */
export function setLearningRate(optimizer: tf.Optimizer, rate: number): void {
  ;(optimizer as unknown as { learningRate: number }).learningRate = rate
}

/** Embeddings of all images, [count, dim], a thousand images at a time. */
function embedAll(backbone: Backbone, images: mnist.Images, dim: number): Float32Array {
  const embeddings = new Float32Array(images.count * dim)
  for (let first = 0; first < images.count; first += 1000) {
    const rows = Array.from({ length: Math.min(1000, images.count - first) }, (_, i) => first + i)
    const floats = mnist.toFloats(images, rows)
    const part = tf.tidy(() =>
      backbone.embed(tf.tensor2d(floats, [rows.length, mnist.pixels])).dataSync<'float32'>()
    )
    embeddings.set(part, first * dim)
  }
  return embeddings
}

/** Digits as class numbers: class j is digits[j]. */
function labelsOf(data: Data, images: mnist.Images): Int32Array {
  return Int32Array.from(images.digits, (digit) => data.digits.indexOf(digit))
}
