// TensorFlow.js on WebAssembly, with SIMD and threads. The step is tfjs-step.ts.
//
// Threads in Node: TensorFlow.js 4.22 switches its threaded binary off there (the flag
// WASM_HAS_MULTITHREAD_SUPPORT is false whenever IS_NODE), because the binary's workers are started from blob:
// URLs, which Node's workers do not know; and it uses at most half of the logical cores. Both are overcome here,
// so the row shows more than a user of the package gets: the flag is set, a blob worker is started from the same
// source in the package instead, and the cores are reported twice.

import os from 'node:os'
import path from 'node:path'
import workerThreads from 'node:worker_threads'
import type { Contender } from '../contender'
import { type Tensorflow, tensorflowStep } from './tfjs-step'

function startBlobWorkersFrom(directory: string): void {
  const name = 'tfjs-backend-wasm-threaded-simd'
  const main = path.join(directory, `${name}.js`)
  const { wasmWorkerContents } = require(path.join(directory, `${name}.worker.js`))
  const source = `globalThis.__dirname=${JSON.stringify(directory)};${wasmWorkerContents.replace(/\n/g, '\\n')}`
  class BlobWorker extends workerThreads.Worker {
    constructor() {
      super(source, { eval: true })
    }
    override postMessage(message: { cmd?: string }): void {
      super.postMessage(message.cmd === 'load' ? { ...message, urlOrBlob: main } : message)
    }
  }
  workerThreads.Worker = BlobWorker as unknown as typeof workerThreads.Worker
}

let tf: Tensorflow

export const contender: Contender = {
  async load(threads) {
    const directory = path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json'))
    if (threads > 1) {
      startBlobWorkersFrom(path.join(directory, 'wasm-out'))
      const cores = os.cpus()
      os.cpus = () => [...cores, ...cores]
    }
    tf = await import('@tensorflow/tfjs')
    const wasm = await import('@tensorflow/tfjs-backend-wasm')
    wasm.setWasmPaths(path.join(directory, 'wasm-out', path.sep))
    wasm.setThreadsCount(threads)
    tf.env().set('WASM_HAS_MULTITHREAD_SUPPORT', threads > 1)
    if (!(await tf.setBackend('wasm'))) throw new Error('the wasm backend did not start')
    return { version: tf.version_core, threads: wasm.getThreadsCount() }
  },
  async prepare(size, inputs) {
    return tensorflowStep(tf, size, inputs)
  },
}
