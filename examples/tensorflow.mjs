// Trains a TensorFlow.js network together with a head. Needs `npm install @tensorflow/tfjs`.
//
//   node tensorflow.mjs
import * as tf from '@tensorflow/tfjs'
import { adamW, cosface, MarginHead } from 'margin-softmax'
import { adapter } from 'margin-softmax/tfjs'

const [classes, dim, features, batch, steps] = [10, 16, 40, 64, 150]
const { headLoss } = adapter(tf)

const network = tf.sequential({
  layers: [
    tf.layers.dense({ units: 64, activation: 'relu', inputShape: [features] }),
    tf.layers.dense({ units: dim }), // no ReLU at the end: an embedding may point anywhere
  ],
})
const optimizer = tf.train.adam(0.002)
const head = await MarginHead.create({
  classes,
  dim,
  margin: cosface({ scale: 16, margin: 0.2 }),
  optimizer: adamW({ learningRate: 0.002 }),
})

// Stands for your data: a pattern for each class, and noise.
function batchOf(rows) {
  const labels = Int32Array.from({ length: rows }, () => Math.floor(Math.random() * classes))
  const values = Float32Array.from({ length: rows * features }, (_, i) => {
    const label = labels[Math.floor(i / features)]
    return Math.sin(3 * (label + 1) * ((i % features) + 1)) + Math.random() - 0.5
  })
  return { inputs: tf.tensor2d(values, [rows, features]), labels }
}

for (let step = 1; step <= steps; step++) {
  const { inputs, labels } = batchOf(batch)
  // One step of both: the head updates its class weights, and the optimizer updates the network.
  const loss = optimizer.minimize(() => headLoss(head, network.apply(inputs), labels), true)
  if (step % 50 === 0) console.log(`step ${step}: loss ${loss.dataSync()[0].toFixed(3)}`)
  tf.dispose([inputs, loss])
}

const test = batchOf(500)
const embeddings = tf.tidy(() => network.predict(test.inputs).dataSync())
const { stats } = await head.evaluate(embeddings, test.labels)
console.log(`accuracy on new examples: ${stats.accuracy}`)
head.dispose()
