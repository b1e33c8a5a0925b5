// Heads at several stages of a training, for the measurement of what a trained head may leave out (negligible.ts).
// A small network and a head learn together, as in practice: identities are points of a low-dimensional space, grouped in
// families, and each view of one is 784 numbers made from its point, blurred by noise of heavy tails. The first
// time that the accuracy over the last steps reaches a stage, and at the end, the head and one batch of embeddings go to
// a folder (stage-files.ts).

import path from 'node:path'
import * as tf from '@tensorflow/tfjs'
import { createBackbone } from '../../lib/demo/backbone'
import { type Margin, MarginHead } from '../../lib/index'
import { adapter } from '../../lib/tfjs'
import { optimizer as headOptimizer, saveStage } from './stage-files'

export interface Setup {
  rows: number
  dim: number
  classes: number
  margin: Margin
  /** Accuracies, ascending. */
  stages: readonly number[]
  /** Steps of the training run. The learning rates fall to a tenth after 60 % of them, and to a hundredth after 85 %. */
  steps: number
  sampleRate: number
}

const pixels = 784
const latent = 48
const familySize = 8
const warmupSteps = 200

/** Normally distributed numbers (Box and Muller) from xorshift32. */
function normals(seed: number): () => number {
  let state = seed | 0 || 1
  const uniform = () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return ((state >>> 0) + 1) / (2 ** 32 + 1)
  }
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())
}

/** Views of identities: images [rows, pixels] for labels. */
function views(classes: number) {
  const next = normals(20240607)
  const point = () => Float32Array.from({ length: latent }, next)
  const families = Array.from({ length: Math.ceil(classes / familySize) }, point)
  const points = Array.from({ length: classes }, (_, c) => {
    const family = families[Math.floor(c / familySize)] as Float32Array
    return point().map((value, k) => 0.8 * value + 0.6 * (family[k] as number))
  })
  const mixing = Float32Array.from({ length: latent * pixels }, () => next() / Math.sqrt(latent))
  return {
    batch(rows: number) {
      const labels = Int32Array.from({ length: rows }, () => Math.floor(Math.random() * classes))
      const images = new Float32Array(rows * pixels)
      const blurred = new Float32Array(latent)
      labels.forEach((label, row) => {
        const noise = 0.3 * Math.exp(0.4 * next())
        const centre = points[label] as Float32Array
        for (let k = 0; k < latent; k++) blurred[k] = (centre[k] as number) + noise * next()
        const image = images.subarray(row * pixels, (row + 1) * pixels)
        for (let k = 0; k < latent; k++) {
          const value = blurred[k] as number
          for (let p = 0; p < pixels; p++)
            image[p] = (image[p] as number) + value * (mixing[k * pixels + p] as number)
        }
      })
      return { images, labels }
    },
  }
}

async function startTensorflow(): Promise<void> {
  const directory = path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json'))
  const wasm = await import('@tensorflow/tfjs-backend-wasm')
  wasm.setWasmPaths(path.join(directory, 'wasm-out', path.sep))
  if (!(await tf.setBackend('wasm'))) throw new Error('the wasm backend did not start')
}

/** Trains, and keeps the stages. */
export async function train(setup: Setup, folder: string, log: (text: string) => void): Promise<void> {
  await startTensorflow()
  const { headLoss } = adapter(tf)
  const { rows, dim, classes, margin, sampleRate } = setup
  const head = await MarginHead.create({
    classes,
    dim,
    margin,
    sampleRate,
    device: 'cpu',
    marginWarmupSteps: warmupSteps,
    optimizer: headOptimizer,
  })
  const backbone = createBackbone(dim, 1)
  const data = views(classes)
  const optimizer = tf.train.adam(1e-3)
  let accuracy = 0
  let loss = 0
  const keep = async (name: string) => {
    const { images, labels } = data.batch(rows)
    const embeddings = tf.tidy(() =>
      backbone.embed(tf.tensor2d(images, [rows, pixels])).dataSync<'float32'>()
    )
    await saveStage(folder, name, head, embeddings, labels)
  }
  let next = 0
  for (let step = 1; step <= setup.steps; step++) {
    const { images, labels } = data.batch(rows)
    const rate = step > 0.85 * setup.steps ? 0.01 : step > 0.6 * setup.steps ? 0.1 : 1
    Object.assign(optimizer, { learningRate: 1e-3 * rate })
    tf.tidy(() => {
      const tensor = tf.tensor2d(images, [rows, pixels])
      optimizer.minimize(() =>
        headLoss(head, backbone.embed(tensor), labels, {
          learningRate: 0.1 * rate,
          onStep: (result) => {
            loss = result.loss
            accuracy += (result.stats.accuracy - accuracy) / Math.min(step, 20)
          },
        })
      )
    })
    if (step % 50 === 0)
      log(`step ${step}: loss ${loss.toFixed(3)}, accuracy ${(100 * accuracy).toFixed(1)} %`)
    const wanted = setup.stages[next]
    if (wanted === undefined || accuracy < wanted || step < warmupSteps + 20) continue
    await keep(String(Math.round(100 * wanted)))
    while ((setup.stages[next] ?? 1) <= accuracy) next++
  }
  await keep('end')
  head.dispose()
  backbone.dispose()
}
