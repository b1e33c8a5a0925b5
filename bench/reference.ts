// The float64 reference: the textbook formula, with the angle itself, on threads that share the classes between
// them. Each computes its classes' cosines, the row sums are combined here, and each goes on to the gradients.

import { Worker } from 'node:worker_threads'
import { type Case, type Inputs, makeInputs, margin } from './cases'
import { inverseNorms } from './matrix'

export interface Reference {
  loss: number
  gradInput: Float64Array // [rows, dim]
  gradWeight: Float64Array // [classes, dim]
}

/** A thread's work; the arrays are shared. */
export interface Part {
  size: Case
  inputs: Inputs
  from: number // its classes: from ≤ class < to
  to: number
  largest: Float64Array // [rows], of its classes' logits
  sums: Float64Array // [rows], Σ exp(logit − largest)
  target: Float64Array // [rows], the target logits; a thread writes those of its classes
  targetSlope: Float64Array // [rows], ψ'
  logSumExp: Float64Array // [rows], read in the second half
  gradInput: Float64Array // [rows, dim], the sum over its classes of slope · ŵ
  gradWeight: Float64Array // [classes, dim], all classes
}

const shared = (elements: number) => new Float64Array(new SharedArrayBuffer(8 * elements))

// A worker knows TypeScript only once tsx is loaded in it.
const threadSource = ['tsx/cjs', './reference-thread.ts']
  .map((name) => `require(${JSON.stringify(require.resolve(name))})`)
  .join('\n')

function answer(worker: Worker): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.once('message', () => resolve())
    worker.once('error', reject)
  })
}

export async function referenceOf(size: Case, threads: number): Promise<Reference> {
  const { rows, dim, classes } = size
  const inputs = makeInputs(size, (elements) => new Float32Array(new SharedArrayBuffer(4 * elements)))
  const common = {
    size,
    inputs,
    target: shared(rows),
    targetSlope: shared(rows),
    logSumExp: shared(rows),
    gradWeight: shared(classes * dim),
  }
  const count = Math.min(threads, classes)
  const parts: Part[] = Array.from({ length: count }, (_, i) => ({
    ...common,
    from: Math.floor((i * classes) / count),
    to: Math.floor(((i + 1) * classes) / count),
    largest: shared(rows),
    sums: shared(rows),
    gradInput: shared(rows * dim),
  }))
  const workers = parts.map((workerData) => new Worker(threadSource, { eval: true, workerData }))
  try {
    await Promise.all(workers.map(answer))
    let loss = 0
    for (let i = 0; i < rows; i++) {
      const largest = Math.max(...parts.map((part) => part.largest[i] as number))
      let sum = 0
      for (const part of parts) {
        sum += (part.sums[i] as number) * Math.exp((part.largest[i] as number) - largest)
      }
      common.logSumExp[i] = largest + Math.log(sum)
      loss += ((common.logSumExp[i] as number) - (common.target[i] as number)) / rows
    }
    const done = workers.map(answer)
    for (const worker of workers) worker.postMessage('go on')
    await Promise.all(done)
    return { loss, gradInput: gradInputOf(size, inputs, parts), gradWeight: common.gradWeight }
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()))
  }
}

/** The parts' sums together, less what lies along the row itself. */
function gradInputOf({ rows, dim }: Case, { input }: Inputs, parts: Part[]): Float64Array {
  const inverse = inverseNorms(input, rows, dim)
  const total = new Float64Array(rows * dim)
  for (const part of parts) {
    for (let k = 0; k < total.length; k++) total[k] = (total[k] as number) + (part.gradInput[k] as number)
  }
  for (let i = 0; i < rows; i++) {
    const norm = inverse[i] as number
    let radial = 0
    for (let k = i * dim; k < (i + 1) * dim; k++) radial += (total[k] as number) * (input[k] as number) * norm
    for (let k = i * dim; k < (i + 1) * dim; k++) {
      total[k] = ((total[k] as number) - radial * (input[k] as number) * norm) * norm
    }
  }
  return total
}

/** ψ(c) = cos(θ + m) below the threshold of θ, c − m·sin m beyond, and its slope. */
export function textbookArcface(cosine: number): { value: number; slope: number } {
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)))
  if (angle + margin >= Math.PI) return { value: cosine - margin * Math.sin(margin), slope: 1 }
  return { value: Math.cos(angle + margin), slope: Math.sin(angle + margin) / Math.sin(angle) }
}
