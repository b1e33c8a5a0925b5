// MNIST on several processes: each has a copy of the backbone and a batch of its own (data parallel), and holds a share of
// the head's classes (model parallel):
//
//   mpirun -n 2 node --import tsx bench/accuracy/distributed.ts
//
// A step sends embeddings and their gradients through the head's group, and all-reduces the backbone's gradients once.
// Without mpirun it is a group of one.
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { Command } from 'commander'
import { Progress } from '../../lib/cli/terminal'
import { createBackbone } from '../../lib/demo/backbone'
import * as mnist from '../../lib/demo/mnist'
import { type ProcessGroup, processGroup } from '../../lib/distributed'
import { adamW, cosface, MarginHead } from '../../lib/index'
import { seededRandom, shuffled } from '../../lib/internal/random'

const dim = 32
const classes = 10

/** Gradients of the variables at a given gradient of the embeddings: the backbone is run forward once more for it. */
function backboneGradients(embed: () => tf.Tensor2D, gradInput: Float32Array, variables: tf.Variable[]) {
  const { grads } = tf.variableGrads(
    () => tf.sum(tf.mul(embed(), tf.tensor2d(gradInput, [gradInput.length / dim, dim]))),
    variables
  )
  return grads
}

/** Adds the gradients of all ranks: the head's loss is the mean over all rows, so their sum is the gradient of it. */
async function addUp(group: ProcessGroup, gradients: tf.NamedTensorMap): Promise<void> {
  for (const [name, gradient] of Object.entries(gradients)) {
    const sum = await group.allReduce(gradient.dataSync<'float32'>().slice() as Float32Array)
    gradients[name] = tf.tensor(sum, gradient.shape)
    gradient.dispose()
  }
}

async function main(given: { batch: string; epochs: string; rate: string; seed: string }): Promise<void> {
  const [batch, epochs, learningRate, seed] = [given.batch, given.epochs, given.rate, given.seed].map(Number)
  const group = await processGroup()
  await tf.setBackend('wasm')
  const train = mnist.load('train')
  const backbone = createBackbone(dim, seed) // the same seed, hence the same backbone, on every rank
  const optimizer = tf.train.adam(learningRate)
  const head = await MarginHead.create({
    classes,
    dim,
    margin: cosface({ scale: 16, margin: 0.2 }),
    optimizer: adamW({ weightDecay: 0 }),
    seed,
    group,
  })

  const perRank = Math.floor(batch / group.size)
  const stepsPerEpoch = Math.floor(train.count / batch)
  const random = seededRandom(seed)
  const bar = new Progress()
  if (group.rank === 0) bar.start('training', stepsPerEpoch * epochs)
  const start = performance.now()
  for (let epoch = 0; epoch < epochs; epoch++) {
    const order = shuffled(train.count, random) // the same on every rank; each takes its own rows
    let [lossSum, right] = [0, 0]
    for (let step = 0; step < stepsPerEpoch; step++) {
      const first = step * batch + group.rank * perRank
      const rows = order.subarray(first, first + perRank)
      const images = tf.tensor2d(mnist.toFloats(train, rows), [perRank, mnist.pixels])
      const labels = Int32Array.from(rows, (row) => train.digits[row] as number)
      const embeddings = tf.tidy(() => backbone.embed(images).dataSync<'float32'>()) as Float32Array

      const { loss, gradInput, stats } = await head.step(embeddings, labels, { learningRate })

      const gradients = tf.tidy(() =>
        backboneGradients(() => backbone.embed(images), gradInput as Float32Array, backbone.variables)
      )
      await addUp(group, gradients)
      optimizer.applyGradients(gradients as Record<string, tf.Variable>) // tensors will do: its type asks for more
      tf.dispose([images, ...Object.values(gradients)])
      lossSum += loss
      right += stats.accuracy
      bar.update(epoch * stepsPerEpoch + step + 1, `loss ${loss.toFixed(3)}`)
    }
    if (group.rank === 0)
      console.log(
        `epoch ${epoch + 1}: loss ${(lossSum / stepsPerEpoch).toFixed(3)}, ${((100 * right) / stepsPerEpoch).toFixed(1)} % right, ` +
          `${Math.round(((epoch + 1) * stepsPerEpoch * batch) / ((performance.now() - start) / 1000))} images/s`
      )
  }
  bar.stop()

  // Each rank tests a part of the test images; the counts are added up.
  const test = mnist.load('t10k')
  const own = Array.from({ length: test.count }, (_, row) => row).filter(
    (row) => row % group.size === group.rank
  )
  const embeddings = tf.tidy(() =>
    backbone.embed(tf.tensor2d(mnist.toFloats(test, own), [own.length, mnist.pixels])).dataSync<'float32'>()
  )
  const { indices } = await head.topK(embeddings as Float32Array, 1)
  const correct = own.filter((row, i) => indices[i] === test.digits[row]).length
  const [all] = await group.allReduce(Int32Array.of(correct))
  if (group.rank === 0)
    console.log(
      `${group.size} ranks: ${((100 * (all as number)) / test.count).toFixed(2)} % of the test images right; ` +
        `rank 0 sent ${(group.bytesSent / 2 ** 20).toFixed(1)} MiB`
    )
}

const program = new Command('distributed')
  .description('Trains MNIST on the processes that mpirun started: backbone data parallel, head sharded.')
  .option('--batch <rows>', 'rows of a step, of all ranks together', '256')
  .option('--epochs <count>', 'passes over the 60,000 images', '2')
  .option('--rate <rate>', 'learning rate of backbone and head', '0.001')
  .option('--seed <seed>', 'of first weights and order', '1')
main(program.parse().opts())
