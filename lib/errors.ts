/**
 * A failure of the machine rather than of the call: no memory, no native binary, a broken file, numbers that are not
 * finite. Misuse throws a `TypeError` (wrong type) or `RangeError` (wrong value) instead.
 */
export class MarginSoftmaxError extends Error {
  /** Of the class. */
  override readonly name = 'MarginSoftmaxError'
  /** `ERR_OUT_OF_MEMORY`, `ERR_NOT_FINITE`, `ERR_DISPOSED`, `ERR_BUSY`, `ERR_DETACHED`, `ERR_FILE`, `ERR_NATIVE_MISSING`, `ERR_CUDA`, `ERR_UNAVAILABLE`, … */
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

/** A short form of any value for a message: `NaN`, `"abc"`, `Float32Array(12)`, `an object`. */
function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value)
  if (typeof value === 'function') return 'a function'
  if (typeof value !== 'object' || value === null) return String(value)
  if (ArrayBuffer.isView(value)) {
    const length = 'length' in value ? value.length : value.byteLength
    const detached = value.byteLength === 0 && value.buffer.byteLength === 0 ? ', empty or detached' : ''
    return `${value.constructor.name}(${length}${detached})`
  }
  if (Array.isArray(value)) return `Array(${value.length})`
  return value.constructor?.name && value.constructor !== Object ? `a ${value.constructor.name}` : 'an object'
}
