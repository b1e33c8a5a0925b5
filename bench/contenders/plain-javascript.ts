// A plain JavaScript loop: no library, one thread, but written for speed – the products are blocked for the caches
// and for registers (matrix.ts), which is about three times faster than three nested loops.
//
// Included in the step: everything, from the typed arrays to the typed arrays.

import { type Case, type Inputs, scale } from '../cases'
import type { Contender, Results } from '../contender'
import { addProduct, inverseNorms } from '../matrix'
import { arcfaceSlope, arcfaceValue } from './arcface'

function makeStep({ rows, dim, classes }: Case, { input, weight, labels }: Inputs): () => Results {
  const slopes = new Float32Array(rows * classes) // cosines first, then ∂loss/∂cosine / ‖w‖
  const inner = new Float64Array(classes) // Σ_i ∂loss/∂cosine · cosine
  const direction = new Float32Array(rows * dim)
  const gradInput = new Float32Array(rows * dim)
  const gradWeight = new Float32Array(classes * dim)

  /** Turns the row's cosines into slopes; answers its loss. */
  function row(i: number, inverseWeight: Float64Array): number {
    const start = i * classes
    const label = labels[i] as number
    let largest = Number.NEGATIVE_INFINITY
    for (let j = 0; j < classes; j++) {
      const cosine = (slopes[start + j] as number) * (inverseWeight[j] as number)
      slopes[start + j] = cosine
      if (cosine > largest && j !== label) largest = cosine
    }
    const targetCosine = slopes[start + label] as number
    const target = arcfaceValue(targetCosine)
    largest = Math.max(largest, target)
    let sum = 0
    for (let j = 0; j < classes; j++) {
      if (j !== label) sum += Math.exp(scale * ((slopes[start + j] as number) - largest))
    }
    sum += Math.exp(scale * (target - largest))
    const logSumExp = scale * largest + Math.log(sum)
    const factor = scale / rows
    for (let j = 0; j < classes; j++) {
      const cosine = slopes[start + j] as number
      const slope =
        j === label
          ? factor * Math.expm1(scale * target - logSumExp) * arcfaceSlope(targetCosine)
          : factor * Math.exp(scale * cosine - logSumExp)
      inner[j] = (inner[j] as number) + slope * cosine
      slopes[start + j] = slope * (inverseWeight[j] as number)
    }
    return logSumExp - scale * target
  }

  return () => {
    const inverseInput = inverseNorms(input, rows, dim)
    const inverseWeight = inverseNorms(weight, classes, dim)
    for (let i = 0; i < rows; i++) {
      const inverse = inverseInput[i] as number
      for (let k = i * dim; k < (i + 1) * dim; k++) direction[k] = (input[k] as number) * inverse
    }
    slopes.fill(0)
    inner.fill(0)
    gradInput.fill(0)
    gradWeight.fill(0)

    const rowMajor = { values: slopes, row: classes, column: 1 }
    const directions = { values: direction, row: dim, column: 1 }
    addProduct(slopes, rows, classes, dim, directions, { values: weight, row: 1, column: dim })
    let loss = 0
    for (let i = 0; i < rows; i++) loss += row(i, inverseWeight) / rows

    addProduct(gradInput, rows, dim, classes, rowMajor, { values: weight, row: dim, column: 1 })
    for (let i = 0; i < rows; i++) {
      let radial = 0
      for (let k = i * dim; k < (i + 1) * dim; k++)
        radial += (gradInput[k] as number) * (direction[k] as number)
      for (let k = i * dim; k < (i + 1) * dim; k++) {
        gradInput[k] =
          ((gradInput[k] as number) - radial * (direction[k] as number)) * (inverseInput[i] as number)
      }
    }

    const transposed = { values: slopes, row: 1, column: classes }
    addProduct(gradWeight, classes, dim, rows, transposed, directions)
    for (let j = 0; j < classes; j++) {
      const radial = (inner[j] as number) * (inverseWeight[j] as number) ** 2
      for (let k = j * dim; k < (j + 1) * dim; k++) {
        gradWeight[k] = (gradWeight[k] as number) - radial * (weight[k] as number)
      }
    }
    return { loss, gradInput, gradWeight }
  }
}

export const contender: Contender = {
  async load() {
    return { version: process.version, threads: 1 }
  },
  async prepare(size, inputs) {
    return makeStep(size, inputs)
  },
}
