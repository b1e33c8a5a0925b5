/** ArcFace in TensorFlow.js as its users would write it: operations on tensors, and its automatic gradients. */
import { createRequire } from 'node:module'
import type * as Tensorflow from '@tensorflow/tfjs-core'
import { arcface } from '../margins'
import type { BenchCase, BenchInputs } from './bench-case'
import { findPackage } from './terminal'

export interface Rival {
  name: string
  /** A sentence on what the comparison shows and what it does not. */
  note: string
  prepare(size: BenchCase, inputs: BenchInputs): () => void
}

/** Its wasm backend, where both packages are installed beside this one or in the folder that the program runs in. */
export async function startRival(): Promise<Rival | undefined> {
  const places = [__dirname, process.cwd()]
  const [main, backend] = ['@tensorflow/tfjs', '@tensorflow/tfjs-backend-wasm'].map((name) =>
    findPackage(name, places)
  )
  if (!main || !backend) return undefined
  const tf = createRequire(main)('@tensorflow/tfjs') as typeof Tensorflow
  tf.enableProdMode()
  createRequire(backend)('@tensorflow/tfjs-backend-wasm')
  if (!(await tf.setBackend('wasm'))) return undefined
  return {
    name: `tfjs ${tf.version_core} wasm`,
    note: 'one thread, as it starts in Node.js, with the automatic gradients of the textbook formula; npm run bench in the repository has it faster, written by hand',
    prepare: (size, inputs) => arcfaceStep(tf, size, inputs),
  }
}

function arcfaceStep(
  tf: typeof Tensorflow,
  { rows, dim, classes }: BenchCase,
  { input, weight, labels }: BenchInputs
): () => void {
  const { scale, margin } = arcface()
  const embeddings = tf.tensor2d(input, [rows, dim])
  const weights = tf.tensor2d(weight, [classes, dim])
  const target = tf.oneHot(tf.tensor1d(labels, 'int32'), classes)
  const unit = (matrix: Tensorflow.Tensor) =>
    tf.mul(matrix, tf.rsqrt(tf.sum(tf.square(matrix), 1, true))) as Tensorflow.Tensor2D
  const loss = (x: Tensorflow.Tensor, w: Tensorflow.Tensor) => {
    const cosines = tf.matMul(unit(x), unit(w), false, true)
    const sines = tf.sqrt(tf.maximum(tf.sub(1, tf.square(cosines)), 1e-12))
    const turned = tf.sub(tf.mul(cosines, Math.cos(margin)), tf.mul(sines, Math.sin(margin)))
    const beyond = tf.sub(cosines, margin * Math.sin(margin))
    const inside = tf.step(tf.sub(cosines, Math.cos(Math.PI - margin)))
    const kept = tf.add(tf.mul(inside, turned), tf.mul(tf.sub(1, inside), beyond))
    const logits = tf.mul(scale, tf.add(cosines, tf.mul(target, tf.sub(kept, cosines))))
    return tf.neg(tf.mean(tf.sum(tf.mul(target, tf.logSoftmax(logits)), 1))) as Tensorflow.Scalar
  }
  const gradients = tf.valueAndGrads(loss)
  return () =>
    tf.tidy(() => {
      const { value, grads } = gradients([embeddings, weights])
      value.dataSync()
      for (const gradient of grads) gradient.dataSync()
    })
}
