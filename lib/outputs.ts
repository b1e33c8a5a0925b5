// The arrays that results go into: the caller's own, new ones, or staging arrays while asynchronous work runs.

import { detached, wrongType } from './errors'
import { floatsToFill, newArrayToFill } from './internal/check'
import { copyInto, isFloat32, isShared, lengthOf } from './internal/intrinsics'

/** Whether a gradient is computed, or an array to fill with it; undefined stands for the default. */
export type GradientChoice = boolean | Float32Array | undefined

/** A gradient in a result: undefined where it was switched off with `false`. */
export type Gradient<Choice extends GradientChoice = GradientChoice> = Choice extends false
  ? undefined
  : Float32Array

/** An array to hold a result: the caller's own, a new one, or none. */
export function outputArray(
  choice: unknown,
  name: string,
  length: number,
  wanted: boolean
): Float32Array | undefined {
  if (isFloat32(choice)) return floatsToFill(choice, name, length)
  if (choice !== undefined && choice !== true && choice !== false)
    throw wrongType('true, false or a Float32Array', name, choice)
  return (choice ?? wanted) ? newArrayToFill(Float32Array, length, name) : undefined
}

/** An array to hold a result that is always computed: the caller's own, or a new one. */
export function resultArray(array: Float32Array | undefined, name: string, length: number): Float32Array {
  return array === undefined ? newArrayToFill(Float32Array, length, name) : floatsToFill(array, name, length)
}

/**
 * Arrays for asynchronous work to write into. Those that the caller handed in (in `options`) could be transferred away
 * meanwhile, unless they are shared: each gets a staging array until the work is done.
 */
export function stagingArrays<T extends object>(outputs: T, options: object): T {
  const callers: unknown[] = Object.values(options)
  const staging = { ...outputs }
  for (const name of Object.keys(outputs) as (keyof T)[]) {
    const array: unknown = outputs[name]
    if (isFloat32(array) && callers.includes(array) && !isShared(array))
      staging[name] = newArrayToFill(Float32Array, lengthOf(array), String(name)) as T[typeof name]
  }
  return staging
}

/** Copies the staging arrays' contents into the caller's arrays and returns those. */
export function copyBack<T extends object>(staging: T, outputs: T): T {
  for (const name of Object.keys(outputs) as (keyof T)[]) {
    const from = staging[name] as Float32Array | undefined
    const to = outputs[name] as Float32Array | undefined
    if (!from || !to || from === to) continue
    if (lengthOf(to) !== lengthOf(from)) throw detached(String(name))
    copyInto(to, from)
  }
  return omitUndefined(outputs)
}

/** The outputs without those that are undefined. */
export function omitUndefined<T extends object>(outputs: T): T {
  const defined = { ...outputs }
  for (const name of Object.keys(defined) as (keyof T)[])
    if (defined[name] === undefined) delete defined[name]
  return defined
}
