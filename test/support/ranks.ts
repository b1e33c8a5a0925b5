// Makes the batches of all ranks on every rank, and holds a sharded head's step against a whole head's.
import type { ProcessGroup } from '../../lib/distributed'
import { type MarginHead, type StepResult, sgd } from '../../lib/index'
import { makeBatch, relativeError, within } from './support'

export type Options = Parameters<typeof MarginHead.create>[0]
export type Batch = { input: Float32Array; labels: Int32Array }

/** The relative error allowed to a sharded step, against a whole one. */
export const precise = 1e-6

export const training = {
  classes: 37,
  dim: 24,
  optimizer: sgd({ learningRate: 0.3, momentum: 0.9, weightDecay: 0.01 }),
}

export const ranksOf = (group: ProcessGroup) => Array.from({ length: group.size }, (_, rank) => rank)

/** The rows of rank `rank` in a step: another number on each, on one of them perhaps none of its own classes. */
export function batchOf(seed: number, rank: number, classes: number, dim: number): Batch {
  const rows = [5, 1, 9, 17][(rank + seed) % 4] as number
  const batch = makeBatch(100 * seed + rank, { rows, dim, classes })
  if (rows > 6) batch.labels[2] = -1
  return batch
}

export function joined(batches: Batch[]): Batch {
  return {
    input: Float32Array.from(batches.flatMap(({ input }) => [...input])),
    labels: Int32Array.from(batches.flatMap(({ labels }) => [...labels])),
  }
}

/** Loss, losses and gradInput of rank `rank`, beside a whole head's step with all ranks' batches. */
export function sameStep(actual: StepResult, whole: StepResult, batches: Batch[], rank: number, at: string) {
  const before = batches.slice(0, rank).reduce((rows, { labels }) => rows + labels.length, 0)
  const rows = actual.losses.length
  within(relativeError([actual.loss], [whole.loss]), precise, `${at}: loss`)
  within(relativeError(actual.losses, whole.losses.subarray(before, before + rows)), precise, `${at}: losses`)
  const all = whole.gradInput as Float32Array
  const dim = all.length / whole.losses.length
  const gradInput = all.subarray(before * dim, (before + rows) * dim)
  // A rank may hold a single row whose gradient nearly vanishes beside the batch's.
  const scale = Math.max(1, Math.hypot(...all) / (Math.hypot(...gradInput) || 1))
  within(relativeError(actual.gradInput as Float32Array, gradInput) / scale, precise, `${at}: gradInput`)
}
