/** NumPy's .npy: a magic number, the length of a Python dictionary, the dictionary, then the elements. */
import { elementsOf } from '../../internal/safetensors'
import { type ArrayLayout, kinds } from './numbers'

export interface NpyHeader extends ArrayLayout {
  /** The offset in bytes at which the elements begin. */
  start: number
}

/** Bytes to read for the header. NumPy writes no longer one. */
export const npyHeaderBytes = 2 ** 16

/** Throws a plain Error that says what is wrong. */
export function parseNpyHeader(file: Uint8Array): NpyHeader {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const magic = '\x93NUMPY'
  if (file.length < 12 || [...magic].some((character, i) => file[i] !== character.charCodeAt(0)))
    throw new Error('it is no .npy file')
  const wide = (file[6] as number) > 1
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true)
  const start = (wide ? 12 : 10) + length
  if (start > npyHeaderBytes)
    throw new Error(`its header has ${start} bytes, above the limit of ${npyHeaderBytes}`)
  if (start > file.length) throw new Error('its header is cut short')
  const text = Buffer.from(file.subarray(wide ? 12 : 10, start)).toString('latin1')
  const type = /'descr':\s*'([<>|=])([A-Za-z]+)(\d*)'/.exec(text)
  const order = /'fortran_order':\s*(True|False)/.exec(text)?.[1]
  const shape = /'shape':\s*\(([\d,\sL]*)\)/.exec(text)?.[1]
  if (!type || !order || shape === undefined)
    throw new Error(`its header is not understood: ${text.trim().slice(0, 80)}`)
  const [, byteOrder, letter, size] = type as unknown as [string, string, string, string]
  const kind = `${letter}${size}`
  const isText = (letter === 'U' || letter === 'S') && Number(size) > 0
  if (!isText && (!Object.hasOwn(kinds, kind) || kind === 'bf2'))
    throw new Error(
      letter === 'O'
        ? 'it holds Python objects: save names after array.astype("U")'
        : `its numbers are of the type ${kind}`
    )
  const sizes = (shape.match(/\d+/g) ?? []).map(Number)
  const columnsFirst = order === 'True' && sizes.filter((length) => length !== 1).length > 1
  if (columnsFirst && sizes.length > 2)
    throw new Error(
      `its ${sizes.length} dimensions are in Fortran order: save it after numpy.ascontiguousarray`
    )
  const bytes = isText ? Number(size) * (letter === 'U' ? 4 : 1) : (kinds[kind]?.bytes as number)
  return { kind, shape: sizes, start, bytes, isText, columnsFirst, bigEndian: byteOrder === '>' }
}

/** The header of an array of float32. */
export function npyHeader(shape: number[]): Uint8Array {
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(', ')}${shape.length === 1 ? ',' : ''}), }`
  const [before, alignment] = [10, 64] // bytes: magic number, version, length; where NumPy lets elements begin
  const length = Math.ceil((before + text.length + 1) / alignment) * alignment - before
  const header = Buffer.from(`\x93NUMPY\x01\x00  ${text.padEnd(length - 1)}\n`, 'latin1')
  header.writeUInt16LE(length, 8)
  return header
}

/** Counts the bytes of the elements in a file; the number is inexact where no file could hold so many. */
export function bytesOfElements({ shape, bytes }: Pick<ArrayLayout, 'shape' | 'bytes'>): number {
  return elementsOf(shape) * bytes
}
