// Runs random calls, each from a seed and its number alone, so that any of them can be repeated by itself.
//   MARGIN_SOFTMAX_FUZZ=<seed>,<seconds>    as many calls as fit, from another seed
//   MARGIN_SOFTMAX_FUZZ=<seed>,call:<n>     one call
import fs from 'node:fs'
import { integer, pick, random } from '../support/support'

/** Random numbers of one call. */
export interface Dice {
  /** From 0 to below 1. */
  (): number
  integer(low: number, high: number): number
  pick<T>(values: readonly T[]): T
  chance(probability: number): boolean
}

/** Makes one call; returns how many calls of the library it made, if not 1. Throws where one is not right. */
export type Kind = (dice: Dice) => Promise<number | undefined> | number | undefined

export interface Plan {
  /** Calls where the environment asks for no more. */
  calls: number
  /** Kinds of calls by name, and how often each comes. */
  kinds: Record<string, { share: number; run: Kind }>
  /** Milliseconds that no call may take: only a hang does. */
  deadline?: number
}

export interface Request {
  seed: number
  calls: number
  seconds: number
  only?: number
}

const usualSeed = 1

/** Reads what the environment asks for. */
export function requested(calls: number, given = process.env.MARGIN_SOFTMAX_FUZZ): Request {
  if (!given) return { seed: usualSeed, calls, seconds: Infinity }
  const match = /^(\d+),(?:(\d+(?:\.\d+)?)|call:(\d+))$/.exec(given)
  if (!match)
    throw new Error(
      `Expected <seed>,<seconds> or <seed>,call:<number> for MARGIN_SOFTMAX_FUZZ but received ${given}`
    )
  const [, seed, seconds, only] = match
  if (only !== undefined) return { seed: Number(seed), calls: 1, seconds: Infinity, only: Number(only) }
  return { seed: Number(seed), calls: Infinity, seconds: Number(seconds) }
}

/** The seed of a call: seeds and numbers that are neighbours have nothing in common. */
function mixed(seed: number, call: number): number {
  let hash = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(call + 1, 0xc2b2ae35)
  hash = Math.imul(hash ^ (hash >>> 16), 0x27d4eb2f)
  return (hash ^ (hash >>> 15)) >>> 0
}

export function dice(seed: number, call: number): Dice {
  const next = random(mixed(seed, call))
  return Object.assign(next, {
    integer: (low: number, high: number) => integer(next, low, high),
    pick: <T>(values: readonly T[]) => pick(next, values),
    chance: (probability: number) => next() < probability,
  })
}

function chosen(kinds: Plan['kinds'], at: number): [string, Kind] {
  const entries = Object.entries(kinds)
  let rest = at * entries.reduce((sum, [, { share }]) => sum + share, 0)
  for (const [name, { share, run }] of entries) {
    rest -= share
    if (rest < 0) return [name, run]
  }
  throw new Error('no kind has a share')
}

/** A call that takes this long will never end. */
async function withDeadline<T>(work: Promise<T> | T, milliseconds: number): Promise<T> {
  if (!(work instanceof Promise)) return work
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it has not ended after ${milliseconds} ms`)), milliseconds)
  })
  return Promise.race([work, late]).finally(() => clearTimeout(timer))
}

/**
 * Makes the calls and prints what was wrong, then one line of figures. `position`: a file that always holds the number of
 * the call, for whoever finds the process dead.
 * @returns whether all went well
 */
export async function campaign(name: string, plan: Plan, position?: string): Promise<boolean> {
  const request = requested(plan.calls)
  const { seed, only } = request
  const file = position === undefined ? undefined : fs.openSync(position, 'w')
  const number = Buffer.alloc(8)
  const counts: Record<string, number> = {}
  const faults = new Map<string, number>()
  const began = Date.now()
  let [made, call] = [0, only ?? 0]
  for (; made < request.calls && Date.now() - began < 1000 * request.seconds; call++) {
    if (file !== undefined) {
      number.writeDoubleLE(call)
      fs.writeSync(file, number, 0, 8, 0)
    }
    const roll = dice(seed, call)
    const [kind, run] = chosen(plan.kinds, roll())
    try {
      const calls = (await withDeadline(run(roll), plan.deadline ?? 60_000)) ?? 1
      made += calls
      counts[kind] = (counts[kind] ?? 0) + calls
    } catch (error) {
      made++
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
      const signature = `${kind}: ${text
        .split('\n')[0]
        ?.replace(/-?\d[\d.e+-]*/g, 'N')
        .slice(0, 120)}`
      const seen = faults.get(signature) ?? 0
      faults.set(signature, seen + 1)
      if (seen === 0)
        console.log(`FAULT in ${kind}, to be repeated by MARGIN_SOFTMAX_FUZZ=${seed},call:${call}\n${text}`)
    }
    if (only !== undefined) break
  }
  const seconds = (Date.now() - began) / 1000
  for (const [signature, times] of faults) console.log(`×${times} ${signature}`)
  console.log(
    JSON.stringify({ fuzz: name, seed, calls: made, seconds, perSecond: Math.round(made / seconds), counts })
  )
  return faults.size === 0
}

/** The call that a process died in. */
export function positionIn(file: string): number {
  const bytes = fs.readFileSync(file)
  return bytes.length < 8 ? -1 : bytes.readDoubleLE()
}
