// Heads that change after they were made, for the suites head-changes and head-classes: one shape, some steps of training,
// and what a head holds.
import fs from 'node:fs'
import type { MarginHeadOptions } from '../../lib/index'
import { MarginHead, sgd } from '../../lib/index'
import { readSafetensors } from './golden'
import { makeBatch } from './support'

export const [rows, dim, classes] = [13, 24, 37]
export const batchOf = (seed: number, of = classes) => makeBatch(seed, { rows, dim, classes: of })
export const momentum = sgd({ learningRate: 0.05, momentum: 0.9, weightDecay: 0.01 })

export async function train(head: MarginHead, from: number, to: number): Promise<number[]> {
  const losses = []
  for (let seed = from; seed < to; seed++) {
    const { input, labels } = batchOf(seed, head.classes)
    losses.push((await head.step(input, labels)).loss)
  }
  return losses
}

export async function trained(options: Partial<MarginHeadOptions> = {}): Promise<MarginHead> {
  const head = await MarginHead.create({ classes, dim, optimizer: momentum, seed: 1, ...options })
  await train(head, 0, 3)
  return head
}

/** Everything that a head holds, by the file that it is saved to. */
export async function contentsOf(head: MarginHead, file: string) {
  await head.save(file)
  const { tensors, metadata } = readSafetensors(file)
  return { tensors, head: JSON.parse(metadata.head as string), bytes: fs.readFileSync(file) }
}
