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
//
// Included in the step: all of it, the labels' upload and the download of the results. Inputs and weights are
// resident on the backend.

import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core'
import { type Case, type Inputs, scale } from '../cases'
import type { Results } from '../contender'
import { meanLoss, targetLogits, targetSlopes } from './arcface'

export type Tensorflow = typeof import('@tensorflow/tfjs-core')

export function tensorflowStep(tf: Tensorflow, { rows, dim, classes }: Case, inputs: Inputs): () => Results {
  const input = tf.tensor2d(inputs.input, [rows, dim])
  const weight = tf.tensor2d(inputs.weight, [classes, dim])

  /** 1/‖row‖, as a column. */
  const inverseNorms = (matrix: Tensor2D) => tf.tidy(() => tf.rsqrt(tf.sum(tf.square(matrix), 1, true)))

  // tf.tidy frees what a stage leaves behind; without the stages everything would live until the step's end.
  return () =>
    tf.tidy(() => {
      const inverseInput = inverseNorms(input) // [B,1]
      const inverseWeight = inverseNorms(weight) // [C,1]
      const direction: Tensor2D = tf.mul(input, inverseInput) // x̂ [B,D]
      const targets = tf.tidy(() => tf.stack([tf.range(0, rows, 1, 'int32'), tf.tensor1d(inputs.labels)], 1))

      // [C,B], the cosines times ‖w‖
      const products: Tensor2D = tf.tidy(() => tf.matMul(weight, tf.transpose(direction)))
      const plainLogits: Tensor2D = tf.tidy(() => {
        const factors = tf.mul(inverseWeight, scale).reshape([1, classes])
        return tf.mul(tf.transpose(products), factors)
      })
      const plain = tf.tidy(() => tf.gatherND(plainLogits, targets)).dataSync()
      const target = targetLogits(plain)
      const logits: Tensor2D = tf.tensorScatterUpdate(plainLogits, targets, tf.tensor1d(target))
      plainLogits.dispose()
      const largest = tf.tidy(() => tf.max(logits, 1)).dataSync()
      const probabilities: Tensor2D = tf.softmax(logits)
      logits.dispose()
      const largestProbability = tf.tidy(() => tf.max(probabilities, 1)).dataSync()
      const logSumExp = Float64Array.from(
        largest,
        (value, row) => value - Math.log(largestProbability[row] as number)
      )

      // ∂loss/∂cosine / ‖w‖, [B,C], and its transpose
      const slopes = tf.tidy(() => {
        const updates = tf.tensor1d(targetSlopes(plain, target, logSumExp))
        const factors = tf.mul(inverseWeight, scale / rows).reshape([1, classes])
        return tf.mul(tf.tensorScatterUpdate(probabilities, targets, updates), factors)
      })
      probabilities.dispose()
      const slopesTransposed: Tensor2D = tf.transpose(slopes)
      slopes.dispose()

      const gradInput = tf.tidy(() => {
        const sum: Tensor2D = tf.transpose(tf.matMul(tf.transpose(weight), slopesTransposed))
        const radial = tf.sum(tf.mul(sum, direction), 1, true)
        return tf.mul(tf.sub(sum, tf.mul(direction, radial)), inverseInput).dataSync() as Float32Array
      })
      const gradWeight = tf.tidy(() => {
        const radial: Tensor = tf.tidy(() =>
          tf.mul(tf.sum(tf.mul(slopesTransposed, products), 1, true), tf.square(inverseWeight))
        )
        const correction = tf.mul(weight, radial)
        return tf.sub(tf.matMul(slopesTransposed, direction), correction).dataSync() as Float32Array
      })
      return { loss: meanLoss(target, logSumExp), gradInput, gradWeight } as unknown as Tensor1D
    }) as unknown as Results
}
