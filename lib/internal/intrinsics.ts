// Asks for a typed array's type and memory through JavaScript's own getters, taken when this module is loaded.
// A property of the caller's (`length`, `buffer`, `constructor`, an inherited getter) may say anything, and may free memory
// while it is read; these run no code of the caller's. They also know the arrays of another realm (node:vm, Jest), for
// which `instanceof` is false.
import { types } from 'node:util'

type Getter = (of: unknown) => unknown

const typedArray = Object.getPrototypeOf(Float32Array.prototype)
const { call } = Function.prototype
/** A method as a function of its receiver, whatever becomes of `Function.prototype.call`. */
const unbound = (method: unknown) => call.bind(method as never) as (...words: unknown[]) => unknown
const getterOf = (name: PropertyKey) =>
  unbound(Object.getOwnPropertyDescriptor(typedArray, name)?.get) as Getter

const tag = getterOf(Symbol.toStringTag)
const length = getterOf('length')
const buffer = getterOf('buffer')
const byteOffset = getterOf('byteOffset')
const byteLength = getterOf('byteLength')
const values = unbound(typedArray.values)
const set = unbound(typedArray.set)
const { isSharedArrayBuffer, isStringObject } = types

export const { isProxy } = types

/** `'Float32Array'` and the like; undefined for whatever is no typed array. Never throws. */
export const typeOf = tag as (value: unknown) => string | undefined

export const lengthOf = length as (array: ArrayBufferView) => number
export const bufferOf = buffer as (array: ArrayBufferView) => ArrayBufferLike
export const byteOffsetOf = byteOffset as (array: ArrayBufferView) => number
export const byteLengthOf = byteLength as (array: ArrayBufferView) => number

/** Whether the memory can neither be transferred nor shrink. */
export const isShared = (array: ArrayBufferView): boolean => isSharedArrayBuffer(bufferOf(array))

/** Whether an array lost its memory: its buffer was transferred, or shrank below the array's beginning or fixed length. */
export function isGone(array: ArrayBufferView): boolean {
  if (lengthOf(array) > 0) return false
  try {
    values(array)
    return false
  } catch {
    return true
  }
}

export function isFloat32(value: unknown): value is Float32Array {
  return typeOf(value) === 'Float32Array'
}

/** Part of an array over the same memory. */
export function partOf(array: Float32Array, first: number, count: number): Float32Array {
  return new Float32Array(bufferOf(array), byteOffsetOf(array) + first * 4, count)
}

/** `to.set(from)`. */
export const copyInto = set as (to: Float32Array, from: Float32Array) => void

/** An object or a function that answers: not a Proxy that was revoked, of which every question throws. */
export function isObject(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false
  try {
    Array.isArray(value)
    return true
  } catch {
    return false
  }
}

/** An object with names rather than elements, of which there may be more than names fit into memory. */
export function isRecord(value: unknown): value is object {
  return isObject(value) && !Array.isArray(value) && typeOf(value) === undefined && !isStringObject(value)
}

/** `Array.isArray` that never throws. */
export function isList(value: unknown): value is readonly unknown[] {
  return isObject(value) && Array.isArray(value)
}
