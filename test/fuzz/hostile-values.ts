// Values that no option means: of the wrong kind, without memory, or with a mind of their own.

interface Resizable {
  resize(length: number): void
}

const ResizableBuffer = ArrayBuffer as unknown as new (
  length: number,
  limits: { maxByteLength: number }
) => ArrayBuffer & Resizable

/** Takes an array's memory away, as a caller may at any moment. */
export function detach<T extends ArrayBufferView>(array: T): T {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] })
  return array
}

/** A view whose buffer has shrunk below its end (`fixed`), or that follows its buffer's length, shrunk below its start. */
export function outOfBounds(elements: number, kind: 'fixed' | 'tracking'): Float32Array {
  const buffer = new ResizableBuffer(4 * elements + 8, { maxByteLength: 4 * elements + 8 })
  const view = kind === 'fixed' ? new Float32Array(buffer, 8, elements) : new Float32Array(buffer, 8)
  buffer.resize(4)
  return view
}

/** A view that follows the length of a buffer that may grow and shrink. */
export function tracking(values: Float32Array): Float32Array & { buffer: Resizable } {
  const view = new Float32Array(
    new ResizableBuffer(values.byteLength, { maxByteLength: 2 * values.byteLength })
  )
  view.set(values)
  return view as never
}

export function revoked(target: object): object {
  const { proxy, revoke } = Proxy.revocable(target, {})
  revoke()
  return proxy
}

/** What the callers' own traps throw: it passes through. */
export const trapMessage = 'a trap of the caller'

export function trap(): never {
  throw new Error(trapMessage)
}

class Longer extends Float32Array {
  override get length() {
    return 1e6
  }
}

class Displaced extends Float32Array {
  static get [Symbol.species](): never {
    return trap()
  }
  override get byteLength() {
    return 1
  }
  override get byteOffset() {
    return -5
  }
}

function named<T extends object>(array: T, name: PropertyKey, property: PropertyDescriptor): T {
  return Object.defineProperty(array, name, property)
}

/** By what they are; each call makes a new value. `elements`: of arrays. */
export const hostileValues: Record<string, (elements: number) => unknown> = {
  null: () => null,
  true: () => true,
  false: () => false,
  '0': () => 0,
  '−1': () => -1,
  '1.5': () => 1.5,
  '2³¹': () => 2 ** 31,
  '2⁵³': () => 2 ** 53,
  '1e308': () => 1e308,
  NaN: () => Number.NaN,
  Infinity: () => Infinity,
  'an empty string': () => '',
  'a word': () => 'word',
  'a long string': () => 'x'.repeat(1e4),
  'a name of Object.prototype': () => '__proto__',
  'a BigInt': () => 10n,
  'a Symbol': () => Symbol('s'),
  'a function': () => () => 1,
  'a Date': () => new Date(0),
  'a Map': () => new Map(),
  'an object': () => ({}),
  'an object without a prototype': () => Object.create(null),
  'an object that throws when it is described': () => ({
    get constructor() {
      return trap()
    },
    toString: trap,
    [Symbol.toPrimitive]: trap,
  }),
  'an object whose constructor is odd': () => ({ constructor: { name: 7n } }),
  'a Proxy that throws': () => new Proxy({}, { get: trap, ownKeys: trap, getPrototypeOf: trap }),
  'a revoked Proxy': () => revoked({}),
  'a revoked Proxy of a list': () => revoked([]),
  'a Proxy of an array': (elements) => new Proxy(new Float32Array(elements), {}),
  'a list that claims to be long': () =>
    new Proxy([0, 1, 2], { get: (list, key) => (key === 'length' ? 2 ** 32 - 1 : Reflect.get(list, key)) }),
  'a list that claims to be of another length': () =>
    new Proxy([0, 1, 2], { get: (list, key) => (key === 'length' ? Number.NaN : Reflect.get(list, key)) }),
  'an empty list': () => [],
  'a list of strings': (elements) => new Array(elements).fill('1'),
  'a list of BigInts': (elements) => new Array(elements).fill(1n),
  'a list with holes': (elements) => new Array(elements),
  'something like a list': (elements) => ({ length: elements, 0: 1 }),
  'an ArrayBuffer': (elements) => new ArrayBuffer(4 * elements),
  'a DataView': (elements) => new DataView(new ArrayBuffer(4 * elements)),
  'a BigInt64Array': (elements) => new BigInt64Array(elements),
  'a Uint8ClampedArray': (elements) => new Uint8ClampedArray(elements),
  'an Int16Array': (elements) => new Int16Array(elements),
  'a detached Float32Array': (elements) => detach(new Float32Array(elements)),
  'a detached Float64Array': (elements) => detach(new Float64Array(elements)),
  'a detached Int32Array': (elements) => detach(new Int32Array(elements)),
  'a view out of bounds': (elements) => outOfBounds(elements, 'fixed'),
  'a tracking view out of bounds': (elements) => outOfBounds(elements, 'tracking'),
  'an object with the prototype of Float32Array': () => Object.create(Float32Array.prototype),
  'an Int16Array that poses as a Float32Array': (elements) =>
    Object.setPrototypeOf(new Int16Array(elements), Float32Array.prototype),
  'an array that claims to be longer': (elements) => new Longer(elements + 1),
  'an array that claims another place': (elements) => new Displaced(elements + 1),
  'an array with a length of its own': (elements) =>
    named(new Float32Array(elements + 1), 'length', { value: elements }),
  'an array without a constructor': (elements) =>
    named(new Float32Array(elements + 1), 'constructor', { get: trap }),
}
