/** NumPy's .npy: a magic number, the length of a Python dictionary, the dictionary, then the numbers. */
import { kinds } from './numbers'

export interface NpyHeader {
  kind: string
  shape: number[]
  /** Where the numbers begin. */
  start: number
}

/** What must be read of a file to know its header: longer ones are not written by NumPy. */
export const npyHeaderBytes = 2 ** 16

/** Throws a plain Error that says what is wrong. */
export function parseNpyHeader(bytes: Uint8Array): NpyHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const magic = '\x93NUMPY'
  if (bytes.length < 12 || [...magic].some((character, i) => bytes[i] !== character.charCodeAt(0)))
    throw new Error('it is no .npy file')
  const wide = (bytes[6] as number) > 1
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true)
  const start = (wide ? 12 : 10) + length
  if (start > npyHeaderBytes)
    throw new Error(`its header has ${start} bytes, above the limit of ${npyHeaderBytes}`)
  if (start > bytes.length) throw new Error('its header is cut short')
  const text = Buffer.from(bytes.subarray(wide ? 12 : 10, start)).toString('latin1')
  const type = /'descr':\s*'([<>|=])(\w+)'/.exec(text)
  const order = /'fortran_order':\s*(True|False)/.exec(text)?.[1]
  const shape = /'shape':\s*\(([\d,\sL]*)\)/.exec(text)?.[1]
  if (!type || !order || shape === undefined)
    throw new Error(`its header is not understood: ${text.trim().slice(0, 80)}`)
  const [, byteOrder, kind] = type as unknown as [string, string, string]
  if (!Object.hasOwn(kinds, kind) || kind === 'bf2') throw new Error(`its numbers are of the type ${kind}`)
  if (byteOrder === '>' && (kinds[kind]?.bytes ?? 1) > 1)
    throw new Error('its numbers are big-endian: save it after array.astype(array.dtype.newbyteorder("<"))')
  const sizes = (shape.match(/\d+/g) ?? []).map(Number)
  if (order === 'True' && sizes.length > 1)
    throw new Error('its columns come first (Fortran order): save it after numpy.ascontiguousarray')
  return { kind, shape: sizes, start }
}
