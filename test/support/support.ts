// Seeded data and the comparisons that the suites share.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { Test } from 'uvu'
import * as assert from 'uvu/assert'

export interface Shape {
  rows: number
  dim: number
  classes: number
}

export interface Batch {
  input: Float32Array // [rows, dim]
  weight: Float32Array // [classes, dim]
  labels: Int32Array // [rows]
  dim: number
  bias?: Float32Array // [classes]
}

/** mulberry32: uniform numbers in [0, 1), the same on every machine. */
export function random(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** An integer in [low, high], both ends included. */
export function integer(next: () => number, low: number, high: number): number {
  return low + Math.floor(next() * (high - low + 1))
}

export function pick<T>(next: () => number, values: readonly T[]): T {
  return values[integer(next, 0, values.length - 1)] as T
}

export function normals(next: () => number, length: number, scale = 1): Float32Array {
  const values = new Float32Array(length)
  for (let i = 0; i < length; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - next()))
    values[i] = scale * radius * Math.cos(2 * Math.PI * next())
  }
  return values
}

export function makeBatch(
  seed: number,
  shape: Shape,
  { bias = false, inputScale = 1, weightScale = 1 } = {}
): Batch {
  const { rows, dim, classes } = shape
  const next = random(seed)
  const batch: Batch = {
    input: normals(next, rows * dim, inputScale),
    weight: normals(next, classes * dim, weightScale),
    labels: Int32Array.from({ length: rows }, () => integer(next, 0, classes - 1)),
    dim,
  }
  // The first and the last class are where an off-by-one would hide.
  batch.labels[0] = classes - 1
  if (rows > 1) batch.labels[rows - 1] = 0
  if (bias) batch.bias = normals(next, classes)
  return batch
}

export function norm(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += (values[i] as number) ** 2
  return Math.sqrt(sum)
}

/** ‖actual − expected‖; NaN as soon as anything is not finite. */
export function distance(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.NaN
  let sum = 0
  for (let i = 0; i < actual.length; i++) sum += ((actual[i] as number) - (expected[i] as number)) ** 2
  return Math.sqrt(sum)
}

/** ‖actual − expected‖ / ‖expected‖; the absolute distance where expected is zero. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  return distance(actual, expected) / (norm(expected) || 1)
}

/** Fails with what, the error and its bound. Written so that NaN fails. */
export function within(error: number, bound: number, what: string): void {
  assert.ok(error <= bound, `${what}: error ${error} is above ${bound}`)
}

export function allFinite(values: ArrayLike<number>, what: string): void {
  for (let i = 0; i < values.length; i++) {
    assert.ok(Number.isFinite(values[i]), `${what}[${i}] is ${values[i]}`)
  }
}

/** The same bits, which also tells 0 from −0 and one NaN from another. */
export function sameBits(actual: ArrayBufferView, expected: ArrayBufferView, what: string): void {
  const bytes = (view: ArrayBufferView) => Buffer.from(view.buffer, view.byteOffset, view.byteLength)
  assert.ok(bytes(actual).equals(bytes(expected)), `${what}: the bits differ`)
}

type ErrorClass = new (...parameters: never[]) => Error

function check(error: unknown, kind: ErrorClass, pattern: RegExp): void {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  assert.ok(error instanceof kind, `expected a ${kind.name} like ${pattern} but caught ${text}`)
  assert.match((error as Error).message, pattern)
}

/** The shape of every complaint about an argument, with its name and somewhere the value that was received. */
export function complaint(name: string, value: unknown = ''): RegExp {
  const literal = (text: string) => text.replace(/[.*+?^${}()|[\]\\-]/g, '\\$&')
  return new RegExp(`^Expected .+ for (.*\\W)?${literal(name)} but received .*${literal(String(value))}`, 's')
}

export function throwsLike(run: () => unknown, kind: ErrorClass, pattern: RegExp): void {
  try {
    run()
  } catch (error) {
    check(error, kind, pattern)
    return
  }
  assert.unreachable(`expected a ${kind.name} like ${pattern} but nothing was thrown`)
}

/** Numbers that a variable of the environment lists, parted by commas; none where it is not set. */
export function numbersIn(variable: string): number[] {
  return (process.env[variable] ?? '').split(',').filter(Boolean).map(Number)
}

export async function rejectsLike(
  promise: Promise<unknown>,
  kind: ErrorClass,
  pattern: RegExp
): Promise<void> {
  let caught: unknown
  try {
    await promise
  } catch (error) {
    caught = error
  }
  assert.ok(caught !== undefined, `expected a ${kind.name} like ${pattern} but the promise resolved`)
  check(caught, kind, pattern)
}

/**
 * Replaces tests that need something which is not here: skips them and says why, or fails in CI, where
 * `.ci/run` installs it. Not for what depends on the processor or the operating system: that is `test.skip`.
 */
export function lacking(test: Test, what: string): void {
  if (process.env.CI) test(what, () => assert.unreachable(`Expected nothing to be skipped in CI but ${what}`))
  else {
    console.log(`Skipped: ${what}`)
    test.skip(what, () => {})
  }
}

/** Whether suites run on the CPU, and not on the shim's GPUs (cuda-suites.test.ts), to which threads mean nothing. */
export const onCpu = process.env.MARGIN_SOFTMAX_DEVICE !== 'cuda'
/** Numbers of threads that give the same bits. */
export const threadCounts = onCpu ? [1, 2, 3, 8] : [1]

/**
 * The folder for files that suites write over and over: in memory, if the system has such a place. A disk takes 10 ms to make
 * a file safe, and each saved head waits for that.
 */
export const quickFolder = process.platform === 'linux' && hasRoom('/dev/shm') ? '/dev/shm' : os.tmpdir()

function hasRoom(folder: string): boolean {
  try {
    fs.accessSync(folder, fs.constants.W_OK)
    const { bavail, bsize } = fs.statfsSync(folder)
    return bavail * bsize > 512e6 // a container has 64 MB unless told
  } catch {
    return false
  }
}

/** Makes a folder for a suite's files, which goes with it. Returns what gives the path of a name in it. */
export function filesOf(test: Test): (name: string) => string {
  let folder = ''
  test.before(() => {
    folder = fs.mkdtempSync(path.join(quickFolder, 'margin-softmax-test-'))
  })
  test.after(() => {
    fs.rmSync(folder, { recursive: true, force: true })
  })
  return (name) => path.join(folder, name)
}
