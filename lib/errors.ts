import { isGone, isProxy, lengthOf, typeOf } from './internal/intrinsics'

/**
 * A failure of the machine rather than of the call: no memory, no native binary, a broken file, numbers that are not
 * finite. Misuse throws a `TypeError` (wrong type) or `RangeError` (wrong value) instead.
 */
export class MarginSoftmaxError extends Error {
  /** Always `'MarginSoftmaxError'`. */
  override readonly name = 'MarginSoftmaxError'
  /** Which failure it is; docs/failures.md lists all codes: `ERR_OUT_OF_MEMORY`, `ERR_NOT_FINITE`, `ERR_DISPOSED`, `ERR_BUSY`, `ERR_DETACHED`, `ERR_FILE`, `ERR_NATIVE_MISSING`, `ERR_CUDA`, `ERR_UNAVAILABLE`, … */
  readonly code: string

  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
  }
}

/** `Expected <what> for <name> but received <value>`: the one shape of every complaint about an argument. */
export function wrongType(what: string, name: string, value: unknown): TypeError {
  return new TypeError(`Expected ${what} for ${name} but received ${describe(value)}`)
}

/** As `wrongType`, for a value of the right type that is out of range. */
export function wrongValue(what: string, name: string, value: unknown): RangeError {
  return new RangeError(`Expected ${what} for ${name} but received ${describe(value)}`)
}

/** The failure for a row of `name` that holds NaN or an infinite number. */
export function notFinite(name: string, row: number | undefined): MarginSoftmaxError {
  return new MarginSoftmaxError(
    'ERR_NOT_FINITE',
    `Expected finite numbers for ${name} but received one that is not finite in row ${row}`
  )
}

/** The failure for memory that the system refused. */
export function outOfMemory(name: string, bytes: number | bigint): MarginSoftmaxError {
  return new MarginSoftmaxError(
    'ERR_OUT_OF_MEMORY',
    `Expected ${bytes} bytes of memory for ${name} but the system refused them`
  )
}

/** The failure for an array of the caller's that was transferred or resized while asynchronous work needed it. */
export function detached(name: string): MarginSoftmaxError {
  return new MarginSoftmaxError(
    'ERR_DETACHED',
    `Expected ${name} to stay attached and of its length until the work was done`
  )
}

/** A short form of any value for a message: `NaN`, `"abc"`, `Float32Array(12)`, `an object`. Never throws. */
function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value)
  if (typeof value === 'bigint') return `${shortened(String(value))}n`
  if (typeof value === 'function') return 'a function'
  if (typeof value !== 'object' || value === null) return shortened(String(value))
  const type = typeOf(value)
  if (type !== undefined) {
    const array = value as ArrayBufferView
    return `${type}(${lengthOf(array)}${isGone(array) ? ', detached or out of bounds' : ''})`
  }
  if (isProxy(value)) return 'a Proxy'
  try {
    if (Array.isArray(value)) return `Array(${value.length})`
    const name: unknown = value.constructor.name // and not value.constructor: another realm has another Object
    return typeof name === 'string' && name !== '' && name !== 'Object' ? `a ${shortened(name)}` : 'an object'
  } catch {
    return 'an object' // a getter of its own threw, or it has no constructor
  }
}

function shortened(text: string): string {
  return text.length > 40 ? `${text.slice(0, 40)}…` : text
}
