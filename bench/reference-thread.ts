// A thread of the float64 reference; see reference.ts.

import { parentPort, workerData } from 'node:worker_threads'
import { scale } from './cases'
import { addProduct, inverseNorms } from './matrix'
import { type Part, textbookArcface } from './reference'

const part = workerData as Part
const { rows, dim } = part.size
const { input, weight, labels } = part.inputs
const { from, to } = part
const count = to - from
const ownWeight = weight.subarray(from * dim, to * dim)
const inverseInput = inverseNorms(input, rows, dim)
const inverseWeight = inverseNorms(ownWeight, count, dim)
const cosines = new Float64Array(rows * count)

/** Calls with the row, the class's place in this part, the cosine's index, and whether the class is the target. */
function each(visit: (row: number, j: number, at: number, isTarget: boolean) => void): void {
  for (let row = 0; row < rows; row++) {
    const target = (labels[row] as number) - from
    for (let j = 0; j < count; j++) visit(row, j, row * count + j, j === target)
  }
}

function forward(): void {
  const own = { values: ownWeight, row: 1, column: dim }
  addProduct(cosines, rows, count, dim, { values: input, row: dim, column: 1 }, own)
  part.largest.fill(Number.NEGATIVE_INFINITY)
  const logit = (at: number, row: number, isTarget: boolean) =>
    isTarget ? (part.target[row] as number) : scale * (cosines[at] as number)
  each((row, j, at, isTarget) => {
    const cosine = (cosines[at] as number) * (inverseInput[row] as number) * (inverseWeight[j] as number)
    cosines[at] = cosine
    if (isTarget) {
      const { value, slope } = textbookArcface(cosine)
      part.target[row] = scale * value
      part.targetSlope[row] = slope
    }
    part.largest[row] = Math.max(part.largest[row] as number, logit(at, row, isTarget))
  })
  each((row, _, at, isTarget) => {
    part.sums[row] =
      (part.sums[row] as number) + Math.exp(logit(at, row, isTarget) - (part.largest[row] as number))
  })
}

function backward(): void {
  const inner = new Float64Array(count)
  each((row, j, at, isTarget) => {
    const cosine = cosines[at] as number
    const logSumExp = part.logSumExp[row] as number
    const slope = isTarget
      ? (scale / rows) *
        Math.expm1((part.target[row] as number) - logSumExp) *
        (part.targetSlope[row] as number)
      : (scale / rows) * Math.exp(scale * cosine - logSumExp)
    inner[j] = (inner[j] as number) + slope * cosine
    cosines[at] = slope * (inverseWeight[j] as number)
  })
  const own = { values: ownWeight, row: dim, column: 1 }
  addProduct(part.gradInput, rows, dim, count, { values: cosines, row: count, column: 1 }, own)

  // cosines becomes slope / (‖w‖·‖x‖), so that it meets x and not x̂.
  each((row, _, at) => {
    cosines[at] = (cosines[at] as number) * (inverseInput[row] as number)
  })
  const gradWeight = part.gradWeight.subarray(from * dim, to * dim)
  const transposed = { values: cosines, row: 1, column: count }
  addProduct(gradWeight, count, dim, rows, transposed, { values: input, row: dim, column: 1 })
  for (let j = 0; j < count; j++) {
    const radial = (inner[j] as number) * (inverseWeight[j] as number) ** 2
    for (let k = j * dim; k < (j + 1) * dim; k++) {
      gradWeight[k] = (gradWeight[k] as number) - radial * (ownWeight[k] as number)
    }
  }
}

forward()
parentPort?.postMessage('forward')
parentPort?.once('message', () => {
  backward()
  parentPort?.postMessage('backward')
})
