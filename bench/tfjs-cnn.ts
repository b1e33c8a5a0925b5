// Processor time of one training step of a small convolutional network with an ArcFace head on tfjs's backends, for
// docs/tensorflow-js.md: `node --import tsx bench/tfjs-cnn.ts`. All of it runs on one thread, so on an idle machine it is
// what a clock shows, and on a busy one nearly so. Medians; the cpu backend, which takes half a minute, makes one step.
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { arcface, MarginHead, sgd } from '../lib/index'
import { adapter, registerWasmGradients } from '../lib/tfjs'
import { machine } from './machine'

const [rows, classes, dim, rounds] = [64, 10, 64, 9]
const { layers } = tf
const { headLoss } = adapter(tf)

/** 28 × 28 pixels → 16 and 32 channels → an embedding. */
function createNetwork(): tf.Sequential {
  const block = (filters: number, input: object) => [
    layers.conv2d({ ...input, filters, kernelSize: 3, padding: 'same', useBias: false }),
    layers.batchNormalization(),
    layers.reLU(),
    layers.maxPooling2d({ poolSize: 2 }),
  ]
  return tf.sequential({
    layers: [
      ...block(16, { inputShape: [28, 28, 1] }),
      ...block(32, {}),
      layers.flatten(),
      layers.dense({ units: dim }),
    ],
  })
}

interface Contender {
  name: string
  backend: string
  replace: boolean
  step: () => void
  times: number[]
}

async function createContender(name: string, backend: string, replace = false): Promise<Contender> {
  await tf.setBackend(backend)
  const network = createNetwork()
  const head = await MarginHead.create({
    ...{ classes, dim, margin: arcface({ scale: 16, margin: 0.3 }) },
    optimizer: sgd({ learningRate: 0.05, momentum: 0.9 }),
    device: 'cpu',
  })
  const optimizer = tf.train.momentum(0.05, 0.9)
  const images = tf.randomUniform<tf.Rank.R4>([rows, 28, 28, 1], 0, 1, 'float32', 1)
  const labels = Int32Array.from({ length: rows }, (_, i) => i % classes)
  const step = () =>
    void optimizer.minimize(() =>
      headLoss(head, network.apply(images, { training: true }) as tf.Tensor2D, labels)
    )
  return { name, backend, replace, step, times: [] }
}

/** The kernels that `replace` replaces, to put either kind in place. */
function replaceable(): (replace: boolean) => void {
  const kernels = () => new Map(tf.getKernelsForBackend('wasm').map((each) => [each.kernelName, each]))
  registerWasmGradients(tf)
  const theirs = kernels()
  const names = registerWasmGradients(tf, { replace: true })
  const ours = kernels()
  return (replace) => {
    for (const name of names) {
      tf.unregisterKernel(name, 'wasm')
      tf.registerKernel((replace ? ours : theirs).get(name) as tf.KernelConfig)
    }
  }
}

async function main(): Promise<void> {
  tf.enableProdMode()
  await tf.setBackend('wasm') // sets its kernels up, which those that come back need
  const choose = replaceable()
  const contenders = [
    await createContender('cpu', 'cpu'),
    await createContender('wasm, `registerWasmGradients(tf)`', 'wasm'),
    await createContender('wasm, `registerWasmGradients(tf, { replace: true })`', 'wasm', true),
  ]
  for (const { backend, replace, step, times } of contenders) {
    await tf.setBackend(backend)
    if (backend === 'wasm') {
      choose(replace)
      step() // compiles
    }
    for (let i = 0; i < (backend === 'cpu' ? 1 : rounds); i++) {
      const before = process.cpuUsage()
      step()
      const { user, system } = process.cpuUsage(before)
      times.push((user + system) / 1000)
    }
  }
  const medians = contenders.map(({ times }) => times.sort((a, b) => a - b)[times.length >> 1] as number)
  const { cpu, cores, node, date } = machine()
  const threads = (await tf.env().getAsync('WASM_HAS_MULTITHREAD_SUPPORT')) ? 'several threads' : 'one thread'
  console.log(`${cpu}, ${cores} cores, Node.js ${node}, ${date}; wasm on ${threads}.\n`)
  console.log('| backend | ms a step | times as fast as cpu |\n|---|--:|--:|')
  for (const [i, { name }] of contenders.entries())
    console.log(`| ${name} | ${medians[i].toFixed(0)} | ${(medians[0] / medians[i]).toFixed(0)} |`)
}

main()
