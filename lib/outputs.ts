// The arrays that results go into: the caller's own, new ones, or stand-ins while asynchronous work runs.

import { detached, wrongType } from './errors'
import { floatsToFill, newArrayToFill } from './internal/check'
import { copyInto, isFloat32, isShared, lengthOf } from './internal/intrinsics'

/** Whether a gradient is computed, or an array to fill with it; undefined leaves that to the default. */
export type GradientChoice = boolean | Float32Array | undefined

/** A gradient in a result: undefined where it was switched off with `false`. */
export type Gradient<Choice extends GradientChoice = GradientChoice> = Choice extends false
  ? undefined
  : Float32Array

/** An array to hold a result: the caller's own, a new one, or none. */
export function outputArray(
  given: unknown,
  name: string,
  length: number,
  wanted: boolean
): Float32Array | undefined {
  if (isFloat32(given)) return floatsToFill(given, name, length)
  if (given !== undefined && given !== true && given !== false)
    throw wrongType('true, false or a Float32Array', name, given)
  return (given ?? wanted) ? newArrayToFill(Float32Array, length, name) : undefined
}

/** An array to hold a result that is always computed: the caller's own, or a new one. */
export function resultArray(given: Float32Array | undefined, name: string, length: number): Float32Array {
  return given === undefined ? newArrayToFill(Float32Array, length, name) : floatsToFill(given, name, length)
}

/**
 * Arrays for asynchronous work to write into. Those that the caller handed in (among `given`) could be transferred away
 * meanwhile, unless they are shared: each gets a stand-in until the work is done.
 */
export function standIns<T extends object>(outputs: T, given: object): T {
  const callers: unknown[] = Object.values(given)
  const own = { ...outputs }
  for (const name of Object.keys(outputs) as (keyof T)[]) {
    const array: unknown = outputs[name]
    if (isFloat32(array) && callers.includes(array) && !isShared(array))
      own[name] = newArrayToFill(Float32Array, lengthOf(array), String(name)) as T[typeof name]
  }
  return own
}

/** Copies the stand-ins' contents into the caller's arrays and returns those. */
export function handOver<T extends object>(own: T, outputs: T): T {
  for (const name of Object.keys(outputs) as (keyof T)[]) {
    const from = own[name] as Float32Array | undefined
    const to = outputs[name] as Float32Array | undefined
    if (!from || !to || from === to) continue
    if (lengthOf(to) !== lengthOf(from)) throw detached(String(name))
    copyInto(to, from)
  }
  return present(outputs)
}

/** Without the properties that were not asked for. */
export function present<T extends object>(outputs: T): T {
  const asked = { ...outputs }
  for (const name of Object.keys(asked) as (keyof T)[]) if (asked[name] === undefined) delete asked[name]
  return asked
}
