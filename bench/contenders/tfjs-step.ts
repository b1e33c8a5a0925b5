// The ArcFace step in TensorFlow.js operations, shared by its backends.
//
// Gradients by hand (closed form): tf.grads of the textbook formula needs transposed matMuls, which the wasm
// backend runs about ten times slower. Measured and chosen here:
// * No matMul is transposed: the small operand or the B×C matrix is transposed explicitly, and W once for the
//   product P·W, which is faster with W on the left.
// * tf.softmax is one vectorised kernel on wasm, tf.exp is not (1.5 ms against 8.9 ms at 128×10,000). So
//   log-sum-exp comes from max(logits) − log(max(softmax)), which is accurate: the largest probability is ≥ 1/C.
// * The norms of W and the scale are multiplied into the B×C matrices; Ŵ is never made.
// * Values of which there is one per row go through JavaScript: less than the overhead of a dozen tiny kernels.
// * A scope is opened and closed by hand, because tf.tidy walks through every element of a returned typed array.
//
// Included in the step: all of it, the labels' upload and the download of the results. Inputs and weights are
// resident on the backend, the weights in one layout, [C,D].

import type { Tensor2D } from '@tensorflow/tfjs-core'
import { type Case, type Inputs, scale } from '../cases'
import type { Results } from '../contender'
import { meanLoss, targetLogits, targetSlopes } from './arcface'

export type Tensorflow = typeof import('@tensorflow/tfjs-core')

export function tensorflowStep(tf: Tensorflow, { rows, dim, classes }: Case, inputs: Inputs): () => Results {
  const input = tf.tensor2d(inputs.input, [rows, dim])
  const weight = tf.tensor2d(inputs.weight, [classes, dim])

  /** 1/‖row‖, as a column. */
  const inverseNorms = (matrix: Tensor2D): Tensor2D =>
    tf.tidy(() => tf.rsqrt(tf.sum(tf.square(matrix), 1, true)))

  /** Every column times its factor, which comes as a column itself. */
  const scaleColumns = (matrix: Tensor2D, factors: Tensor2D, factor: number): Tensor2D =>
    tf.tidy(() => tf.mul(matrix, tf.reshape(tf.mul(factors, factor), [1, classes])))

  // Each stage is tidied and each large matrix freed as soon as nothing needs it: memory is what wasm runs out of.
  function step(): Results {
    const inverseInput = inverseNorms(input) // [B,1]
    const inverseWeight = inverseNorms(weight) // [C,1]
    const direction: Tensor2D = tf.mul(input, inverseInput) // x̂ [B,D]
    const targets = tf.tensor2d(
      Int32Array.from({ length: 2 * rows }, (_, i) => (i % 2 ? (inputs.labels[i >> 1] as number) : i >> 1)),
      [rows, 2],
      'int32'
    )

    // The cosines times ‖w‖, [C,B]
    const products: Tensor2D = tf.tidy(() => tf.matMul(weight, tf.transpose(direction)))
    const plainLogits = tf.tidy(() => scaleColumns(tf.transpose(products), inverseWeight, scale)) // [B,C]
    const plain = tf.gatherND(plainLogits, targets).dataSync()
    const target = targetLogits(plain)
    const logits: Tensor2D = tf.tensorScatterUpdate(plainLogits, targets, tf.tensor1d(target))
    plainLogits.dispose()
    const largest = tf.max(logits, 1).dataSync()
    const probabilities: Tensor2D = tf.softmax(logits)
    logits.dispose()
    const largestProbability = tf.max(probabilities, 1).dataSync()
    const logSumExp = Float64Array.from(
      largest,
      (value, row) => value - Math.log(largestProbability[row] as number)
    )

    // ∂loss/∂cosine / ‖w‖, transposed: [C,B]
    const slopes: Tensor2D = tf.tidy(() => {
      const updates = tf.tensor1d(targetSlopes(plain, target, logSumExp))
      const raw: Tensor2D = tf.tensorScatterUpdate(probabilities, targets, updates)
      probabilities.dispose()
      return tf.transpose(scaleColumns(raw, inverseWeight, scale / rows))
    })

    const gradInput = tf
      .tidy(() => {
        const sum: Tensor2D = tf.transpose(tf.matMul(tf.transpose(weight), slopes))
        const radial = tf.sum(tf.mul(sum, direction), 1, true)
        return tf.mul(tf.sub(sum, tf.mul(direction, radial)), inverseInput)
      })
      .dataSync() as Float32Array
    const gradWeight = tf
      .tidy(() => {
        const radial: Tensor2D = tf.tidy(() =>
          tf.mul(tf.sum(tf.mul(slopes, products), 1, true), tf.square(inverseWeight))
        )
        products.dispose()
        return tf.sub(tf.matMul(slopes, direction), tf.mul(weight, radial))
      })
      .dataSync() as Float32Array
    return { loss: meanLoss(target, logSumExp), gradInput, gradWeight }
  }

  return () => {
    tf.engine().startScope()
    try {
      return step()
    } finally {
      tf.engine().endScope()
    }
  }
}
