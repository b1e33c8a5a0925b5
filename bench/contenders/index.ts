// The rows of the table, in its order; the first is what the others are compared with.

import type { Contender } from '../contender'
import { marginSoftmax } from './margin-softmax'

export interface Entry {
  name: string
  ours: boolean
  make(): Promise<Contender>
}

const load = (file: string) => async (): Promise<Contender> => (await import(`./${file}`)).contender

/** The same on one thread: what Node gives these rivals by itself, and faster on the smallest sizes. */
const loadOnOneThread = (file: string) => async (): Promise<Contender> => {
  const contender = await load(file)()
  return { ...contender, load: () => contender.load(1) }
}

const leastWorkspace = 32 * 2 ** 20

export const entries: readonly Entry[] = [
  { name: 'margin-softmax', ours: true, make: async () => marginSoftmax() },
  {
    name: 'margin-softmax, awaited, shared arrays',
    ours: true,
    make: async () => marginSoftmax({ awaited: true, shared: true }),
  },
  {
    name: 'margin-softmax, awaited, plain arrays',
    ours: true,
    make: async () => marginSoftmax({ awaited: true }),
  },
  {
    name: 'margin-softmax, workspace 32 MiB',
    ours: true,
    make: async () => marginSoftmax({ workspace: leastWorkspace }),
  },
  { name: 'margin-softmax, 1 thread', ours: true, make: async () => marginSoftmax({ threads: 1 }) },
  { name: 'tfjs-node', ours: false, make: load('tfjs-node') },
  { name: 'tfjs wasm', ours: false, make: load('tfjs-wasm') },
  { name: 'tfjs wasm, 1 thread', ours: false, make: loadOnOneThread('tfjs-wasm') },
  { name: '@jax-js/jax wasm', ours: false, make: load('jax-js') },
  { name: '@jax-js/jax wasm, 1 thread', ours: false, make: loadOnOneThread('jax-js') },
  { name: 'plain JavaScript', ours: false, make: load('plain-javascript') },
  { name: 'tfjs cpu', ours: false, make: load('tfjs-cpu') },
]

export function entry(name: string): Entry {
  const found = entries.find((candidate) => candidate.name === name)
  if (!found)
    throw new RangeError(`Expected one of ${entries.map((e) => `"${e.name}"`).join(', ')} for contender`)
  return found
}
