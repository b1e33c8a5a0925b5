// This package, in the ways that it can be called. Inputs are the caller's typed arrays; results are written into
// arrays that are used again at each step, as a training loop would.
//
// Included in the step: everything, also the checks of the arguments and, where awaited, the way to a thread
// and back.

import { arcface, type Batch, type MarginLossOptions, marginLoss, marginLossSync } from '../../lib/index'
import { margin, scale } from '../cases'
import type { Contender, Results } from '../contender'

const { version } = require('../../package.json')

export function marginSoftmax(settings: MarginLossOptions & { awaited?: boolean } = {}): Contender {
  const { awaited = false, ...options } = settings
  let threads = 1
  return {
    async load(wish) {
      threads = options.threads ?? wish
      return { version, threads }
    },
    async prepare({ dim }, inputs) {
      const batch: Batch = { ...inputs, dim }
      const losses = new Float32Array(inputs.labels.length)
      const gradInput = new Float32Array(inputs.input.length)
      const gradWeight = new Float32Array(inputs.weight.length)
      const given: MarginLossOptions = {
        ...options,
        margin: arcface({ scale, margin }),
        threads,
        losses,
        gradInput,
        gradWeight,
      }
      const results = (loss: number): Results => ({ loss, gradInput, gradWeight })
      if (awaited) return async () => results((await marginLoss(batch, given)).loss)
      return () => results(marginLossSync(batch, given).loss)
    },
  }
}
