// Heads in files without native memory: what writeHead and numbersOf do, on any number of ranks in this process.

import * as assert from 'uvu/assert'
import { type ClassRun, MarginSoftmaxError, sgd } from '../../lib/index'
import { numbersOf, openHead, writeHead } from '../../lib/internal/head-file'
import { checkSettings, type Settings } from '../../lib/internal/head-options'
import { inProcessGroups } from './in-process-group'
import { rejectsLike } from './support'

export const [classes, dim] = [11, 3]
const settings: Settings = checkSettings({ classes, dim, optimizer: sgd({ momentum: 0.9 }) })
const width = (name: string) => (name.startsWith('bias') ? 1 : dim)

/** The contents of each array: numbers of its own at every place. */
export function valueAt(seed: number, name: string, index: number): number {
  return seed * 1000 + (name === 'weight' ? 0 : 500) + index
}

export const namesFor = (seed: number) => Array.from({ length: classes }, (_, i) => `class ${i} of ${seed}`)

/** Writes a head whose values are those of `seed`; sharded for a number of ranks. */
export async function saveHead(
  file: string,
  seed: number,
  ranks?: number,
  classNames?: readonly string[]
): Promise<void> {
  const write = (own: ClassRun, group?: Parameters<typeof writeHead>[4]) =>
    writeHead(
      file,
      { settings, iteration: seed, optimizerStart: 0, classNames },
      own,
      (name, offset, part) => {
        for (let i = 0; i < part.length; i++)
          part[i] = valueAt(seed, name, own.first * width(name) + offset + i)
      },
      group
    )
  if (ranks === undefined) return write({ first: 0, count: classes })
  const outcomes = await Promise.allSettled(
    inProcessGroups(ranks).map((group) => write(runOf(group.rank, ranks), group))
  )
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
}

/** The share of a rank. */
export function runOf(rank: number, ranks: number): ClassRun {
  const first = Math.floor((classes * rank) / ranks)
  return { first, count: Math.floor((classes * (rank + 1)) / ranks) - first }
}

/** The seed whose values a file holds, all of them, of all classes or of some. */
export async function loadHead(
  file: string,
  { own = { first: 0, count: classes }, checksums = true }: { own?: ClassRun; checksums?: boolean } = {}
): Promise<number> {
  const opened = await openHead(file)
  try {
    const seed = opened.iteration
    const seen = new Map<string, number>()
    let wrong: string | undefined
    for await (const { name, offset, values } of numbersOf(opened, own, { checksums })) {
      seen.set(name, (seen.get(name) ?? 0) + values.length)
      values.forEach((value, i) => {
        const expected = valueAt(seed, name, own.first * width(name) + offset + i)
        if (value !== expected) wrong ??= `${name}[${offset + i}] is ${value}, not ${expected}`
      })
    }
    for (const name of ['weight', 'weightState0'])
      if (seen.get(name) !== own.count * dim)
        throw new Error(`${seen.get(name)} numbers of ${name} were read`)
    if (wrong) throw new Error(wrong)
    return seed
  } finally {
    await opened.close()
  }
}

/** Holds that a file is refused, in these words. */
export async function refused(promise: Promise<unknown>, pattern: RegExp): Promise<void> {
  await rejectsLike(promise, MarginSoftmaxError, pattern)
  await promise.catch((error: MarginSoftmaxError) => assert.is(error.code, 'ERR_FILE'))
}
