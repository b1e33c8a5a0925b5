// Arguments that a call can not mean: every one is refused, in the one shape of errors.
import type { Test } from 'uvu'
import * as assert from 'uvu/assert'
import { faultOf } from '../fuzz/errors'
import { hostileValues, trapMessage } from '../fuzz/hostile-values'

export type Options = Record<string, unknown>

export interface Call {
  /** Names of what is spoiled, and what else has their meaning: as hostile values are called. */
  names: Record<string, string[]>
  /** Makes the call with some of its arguments replaced. */
  run: (changes: Options) => unknown
}

/** Where an array of any length will do: what they say of themselves is not asked. */
export const lyingArrays = [
  'an array that claims to be longer',
  'an array that claims another place',
  'an array with a length of its own',
  'an array without a constructor',
]
/** What a list of rates may be: its numbers are read one by one. */
export const rateLists = [
  'an empty list',
  'a Uint8ClampedArray',
  'an Int16Array',
  'an Int16Array that poses as a Float32Array',
  ...lyingArrays,
]
export const anyNumber = ['0', '−1', '1.5', '2³¹', '2⁵³', '1e308']

/** Parts the changes of which `names` has the name from the others. */
export function split(changes: Options, names: object): [Options, Options] {
  const [first, others]: [Options, Options] = [{}, {}]
  for (const [name, value] of Object.entries(changes)) (name in names ? first : others)[name] = value
  return [first, others]
}

/** A test for each argument of each call. @param rows how long hostile arrays are */
export function refuseHostileValues(test: Test, calls: Record<string, Call>, rows: number): void {
  for (const [name, { names, run }] of Object.entries(calls))
    for (const [option, meant] of Object.entries(names))
      test(`${name} refuses for ${option} what it can not mean`, async () => {
        for (const [what, make] of Object.entries(hostileValues)) {
          if (name === 'head.save' && meant.includes(what)) continue
          const value = make(rows)
          const [outcome] = await Promise.allSettled([(async () => run({ [option]: value }))()])
          if (outcome.status === 'fulfilled') assert.ok(meant.includes(what), `${what} was accepted`)
          else {
            const own = (outcome.reason as Error).message === trapMessage
            assert.is(own ? undefined : faultOf(outcome.reason), undefined, what)
            assert.not.ok(meant.includes(what), `${what} was refused: ${outcome.reason.message}`)
          }
        }
      })
}
