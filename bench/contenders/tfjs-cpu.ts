// TensorFlow.js in JavaScript alone (its cpu backend, one thread). The step is tfjs-step.ts.

import type { Contender } from '../contender'
import { type Tensorflow, tensorflowStep } from './tfjs-step'

let tf: Tensorflow

export const contender: Contender = {
  async load() {
    tf = await import('@tensorflow/tfjs')
    if (!(await tf.setBackend('cpu'))) throw new Error('the cpu backend did not start')
    return { version: tf.version_core, threads: 1 }
  },
  async prepare(size, inputs) {
    return tensorflowStep(tf, size, inputs)
  },
}
