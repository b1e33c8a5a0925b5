// TensorFlow.js on the TensorFlow C library. It is no dependency of this repository, because its install script
// downloads the library; `npm install --no-save @tensorflow/tfjs-node` brings it into the table.
// The step is tfjs-step.ts. TensorFlow uses as many threads as there are cores and has no setting for it here.

import os from 'node:os'
import { type Contender, NotInstalled } from '../contender'
import { type Tensorflow, tensorflowStep } from './tfjs-step'

let tf: Tensorflow

export const contender: Contender = {
  async load() {
    const name = '@tensorflow/tfjs-node'
    try {
      require.resolve(name)
    } catch {
      throw new NotInstalled('not installed')
    }
    tf = (await import(name)) as Tensorflow
    if (!(await tf.setBackend('tensorflow'))) throw new Error('the tensorflow backend did not start')
    return { version: tf.version_core, threads: os.availableParallelism() }
  },
  async prepare(size, inputs) {
    return tensorflowStep(tf, size, inputs)
  },
}
