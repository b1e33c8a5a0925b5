/**
 * The network that turns 32×32 glyphs into embeddings: two layers over patches, two fully connected ones, in tfjs. Its layers
 * are matrix products, since the wasm backend has no gradient of a convolution's filter.
 */
import * as tf from '@tensorflow/tfjs'
import { constantTimes, type Backbone as Trainable, times, variable } from '../../lib/demo/backbone'
import { type Glyphs, pixels, side } from './glyph-images'

/** Patches of 8×8 pixels, 4 apart, reaching 2 beyond each edge: 8×8 of them. */
const patch = 8
const stride = 4
const border = 2
const grid = (side + 2 * border - patch) / stride + 1

export interface Network extends Pick<Trainable, 'variables' | 'parameters' | 'dispose'> {
  /** patches [B·64, 64] → embeddings [B, dim]; in training they are normalised by their own mean and variance */
  embed(patches: tf.Tensor2D, training?: boolean): tf.Tensor2D
}

const channels = [32, 64, 192]

/**
 * 8×8 patches → 32 → 2×2 of these → 64 → all 4×4 → 192 → dim, with ReLU between; He initialisation from `seed`. The last
 * layer is followed by batch normalisation: without it all embeddings begin in one direction, and a margin keeps them there
 * for long.
 */
export function createNetwork(dim: number, seed: number): Network {
  const inputs = [patch * patch, 4 * channels[0], (grid / 2) ** 2 * channels[1], channels[2]]
  const outputs = [...channels, dim]
  const weights = outputs.map((units, i) => {
    const deviation = Math.sqrt(2 / inputs[i])
    return variable(() =>
      tf.randomNormal<tf.Rank.R2>([inputs[i], units], 0, deviation, 'float32', seed * 10 + i + 1)
    )
  })
  const biases = channels.map((units) => variable(() => tf.zeros<tf.Rank.R1>([units])))
  const variables = [...weights, ...biases]
  const mean = variable(() => tf.zeros<tf.Rank.R1>([dim]))
  const variance = variable(() => tf.ones<tf.Rank.R1>([dim]))

  function embed(patches: tf.Tensor2D, training = false): tf.Tensor2D {
    let x: tf.Tensor = tf.relu(tf.add(constantTimes(patches, weights[0]), biases[0]))
    // [B·8·8, 32] → [B·4·4, 4·32]: 2×2 neighbours side by side
    x = tf.transpose(tf.reshape(x, [-1, grid / 2, 2, grid / 2, 2 * channels[0]]), [0, 1, 3, 2, 4])
    x = tf.relu(tf.add(times(tf.reshape(x, [-1, inputs[1]]), weights[1]), biases[1]))
    x = tf.relu(tf.add(times(tf.reshape(x, [-1, inputs[2]]), weights[2]), biases[2]))
    const embeddings = times(x as tf.Tensor2D, weights[3])
    if (!training) return normalised(embeddings, mean, variance)
    const moments = tf.moments(embeddings, 0)
    follow(mean, moments.mean as tf.Tensor1D)
    follow(variance, moments.variance as tf.Tensor1D)
    return normalised(embeddings, moments.mean, moments.variance)
  }

  return {
    embed,
    variables,
    parameters: variables.reduce((sum, { size }) => sum + size, 0),
    dispose: () => tf.dispose([...variables, mean, variance]),
  }
}

function normalised(x: tf.Tensor2D, mean: tf.Tensor, variance: tf.Tensor): tf.Tensor2D {
  return tf.div(tf.sub(x, mean), tf.sqrt(tf.add(variance, 1e-5)))
}

/** A running mean over the last fifty steps or so. */
function follow(average: tf.Variable<tf.Rank.R1>, value: tf.Tensor1D): void {
  average.assign(tf.add(tf.mul(average, 0.98), tf.mul(value, 0.02)))
}

/**
 * The patches of `rows` of the glyphs, from 0 to 1, [rows.length·64, 64]. Each glyph is moved by up to `reach` pixels either
 * way where `random` is given.
 */
export function patchesOf(
  { bytes }: Glyphs,
  rows: ArrayLike<number>,
  reach = 0,
  random: () => number = () => 0.5
): Float32Array {
  const patches = new Float32Array(rows.length * grid * grid * patch * patch)
  const shift = () => Math.floor(random() * (2 * reach + 1)) - reach
  const [width, size] = [side, pixels] // another module's constants are slow in an inner loop once tsx has compiled it
  let at = 0
  for (let i = 0; i < rows.length; i++) {
    const start = rows[i] * size
    const [down, right] = [shift(), shift()]
    for (let cell = 0; cell < grid * grid; cell++) {
      const top = Math.floor(cell / grid) * stride - border - down
      const left = (cell % grid) * stride - border - right
      for (let y = top; y < top + patch; y++) {
        for (let x = left; x < left + patch; x++, at++) {
          if (y >= 0 && y < width && x >= 0 && x < width) patches[at] = bytes[start + y * width + x] / 255
        }
      }
    }
  }
  return patches
}
