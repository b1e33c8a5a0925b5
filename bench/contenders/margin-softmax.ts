// This package, in the ways that it can be called. Inputs are the caller's typed arrays; results are written into
// arrays that are used again at each step, as a training loop would.
//
// Included in the step: everything, also the checks of the arguments and, where awaited, the way to a thread
// and back: with plain arrays the copies that asynchronous work takes, with shared ones none.

import { arcface, type Batch, type MarginLossOptions, marginLoss, marginLossSync } from '../../lib/index'
import { margin, scale } from '../cases'
import type { Contender, Results } from '../contender'

const { version } = require('../../package.json')

export function marginSoftmax(
  settings: MarginLossOptions & { awaited?: boolean; shared?: boolean } = {}
): Contender {
  const { awaited = false, shared = false, ...options } = settings
  const array = (length: number) =>
    shared ? new Float32Array(new SharedArrayBuffer(4 * length)) : new Float32Array(length)
  const copy = (from: Float32Array) => {
    const to = array(from.length)
    to.set(from)
    return to
  }
  let threads = 1
  return {
    async load(wish) {
      threads = options.threads ?? wish
      return { version, threads }
    },
    async prepare({ dim }, inputs) {
      const { input, weight, labels } = inputs
      const batch: Batch = shared
        ? { input: copy(input), weight: copy(weight), labels, dim }
        : { ...inputs, dim }
      const losses = array(labels.length)
      const gradInput = array(input.length)
      const gradWeight = array(weight.length)
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
