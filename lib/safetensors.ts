import { randomUUID } from 'node:crypto'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { MarginSoftmaxError } from './errors'

/** Types of the tensors that come and go here. */
export type TensorType = 'F32' | 'BF16'

/**
 * A tensor on its way to or from a file: its elements come and go in parts, as floats. Those of a BF16 tensor are read
 * as they are; ones to be written have no more than its bits.
 */
export interface StreamedTensor {
  shape: number[]
  /** In a file that is written. Default F32. */
  dtype?: TensorType
  /** Where in the file's tensor these elements begin, for a part of it. Default 0. */
  from?: number
  /** Copies elements from `offset` on into or out of `part`. */
  transfer(offset: number, part: Float32Array): void
}

/** What a header says of a tensor; offsets count from where the tensors begin. */
export interface SafetensorsEntry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

export interface SafetensorsHeader {
  metadata: Record<string, string>
  entries: Map<string, SafetensorsEntry>
  /** Where in the file the tensors begin, and where they end. */
  start: number
  end: number
}

/** Bytes of an element, of the format's types. */
export const elementBytes: Record<TensorType, number> & Record<string, number> = {
  ...{ BOOL: 1, U8: 1, I8: 1, F8_E5M2: 1, F8_E4M3: 1, I16: 2, U16: 2, F16: 2, BF16: 2 },
  ...{ I32: 4, U32: 4, F32: 4, F64: 8, I64: 8, U64: 8 },
}
const partLength = 2 ** 22 // floats: 16 MiB in memory at a time, whatever the size of the tensors
const pieceBytes = 2 ** 25
const piecesAtOnce = 4 // as many threads as libuv has for files
const largestHeader = 100e6 // bytes, the limit of the format's reference implementation

/**
 * Writes a safetensors file: next to `path` first, then renamed, so that a file of this name is always a whole one.
 * @throws MarginSoftmaxError `ERR_FILE`
 */
export async function writeSafetensors(
  path: string,
  tensors: Record<string, StreamedTensor>,
  metadata: Record<string, string>
): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`
  let file: FileHandle | undefined
  try {
    file = await open(temporary, 'wx')
    await file.write(headerBytes(tensors, metadata))
    for (const tensor of Object.values(tensors))
      await forParts(elementsOf(tensor.shape), async (offset, part) => {
        tensor.transfer(offset, part)
        await writeAll(file as FileHandle, tensor.dtype === 'BF16' ? upperHalves(part) : part)
      })
    await file.sync()
    await file.close()
    file = undefined
    await rename(temporary, path)
  } catch (cause) {
    await file?.close().catch(() => {})
    await rm(temporary, { force: true }).catch(() => {})
    if (cause instanceof MarginSoftmaxError) throw cause
    throw fileError(`Expected to write ${path} but: ${(cause as Error).message}`, cause)
  }
}

/**
 * Reads a safetensors file's header, lets `place` say where its tensors go (and check that they are what it wants), and
 * streams them there. `place` throws to refuse the file.
 * @throws MarginSoftmaxError `ERR_FILE`
 */
export async function readSafetensors<T>(
  path: string,
  place: (header: SafetensorsHeader) => Promise<{ tensors: Record<string, StreamedTensor>; result: T }>
): Promise<T> {
  let file: FileHandle | undefined
  try {
    file = await open(path, 'r')
    const header = await readHeader(file, ['F32', 'BF16'])
    const { tensors, result } = await place(header)
    for (const [name, tensor] of Object.entries(tensors)) {
      const { dtype, data_offsets: offsets } = header.entries.get(name) as SafetensorsEntry
      const bytesEach = elementBytes[dtype] as number
      const start = header.start + offsets[0] + (tensor.from ?? 0) * bytesEach
      await forParts(elementsOf(tensor.shape), async (offset, part) => {
        const halves = dtype === 'BF16' ? new Uint16Array(part.length) : undefined
        await readAll(file as FileHandle, halves ?? part, start + offset * bytesEach)
        if (halves) widen(halves, part)
        tensor.transfer(offset, part)
      })
    }
    return result
  } catch (cause) {
    if (cause instanceof MarginSoftmaxError) throw cause
    throw fileError(
      `Expected a whole safetensors file of a head in ${path} but: ${(cause as Error).message}`,
      cause
    )
  } finally {
    await file?.close()
  }
}

export function fileError(message: string, cause: unknown): MarginSoftmaxError {
  return new MarginSoftmaxError('ERR_FILE', message, { cause })
}

export function elementsOf(shape: number[]): number {
  return shape.reduce((product, length) => product * length, 1)
}

function headerBytes(tensors: Record<string, StreamedTensor>, metadata: Record<string, string>): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: metadata }
  let end = 0
  for (const [name, { shape, dtype = 'F32' }] of Object.entries(tensors)) {
    const begin = end
    end += elementsOf(shape) * elementBytes[dtype]
    header[name] = { dtype, shape, data_offsets: [begin, end] }
  }
  const json = Buffer.from(JSON.stringify(header))
  const padding = (8 - (json.length % 8)) % 8 // tensors begin at a multiple of 8 bytes
  const bytes = Buffer.alloc(8 + json.length + padding, ' ')
  bytes.writeBigUInt64LE(BigInt(json.length + padding))
  json.copy(bytes, 8)
  return bytes
}

/**
 * The header of a safetensors file, checked against the file's size. Throws a plain Error that says what is wrong.
 * @param only the types that tensors may have; default any
 */
export async function readHeader(file: FileHandle, only?: TensorType[]): Promise<SafetensorsHeader> {
  const { size } = await file.stat()
  if (size < 8) throw new Error(`it has only ${size} bytes`)
  const prefix = Buffer.alloc(8)
  await readAll(file, prefix, 0)
  const length = Number(prefix.readBigUInt64LE())
  if (length > largestHeader || 8 + length > size)
    throw new Error('it is no safetensors file: its header is longer than it may be')
  const json = Buffer.alloc(length)
  await readAll(file, json, 8)
  const parsed: unknown = JSON.parse(json.toString('utf8'))
  if (typeof parsed !== 'object' || parsed === null) throw new Error('its header is not an object')
  const { __metadata__: metadata = {}, ...entries } = parsed as Record<string, never> & {
    __metadata__?: never
  }
  const header: SafetensorsHeader = {
    metadata,
    entries: new Map(Object.entries(entries)),
    start: 8 + length,
    end: size,
  }
  for (const [name, entry] of header.entries) checkEntry(name, entry, size - header.start, only)
  return header
}

function checkEntry(name: string, entry: SafetensorsEntry, bytes: number, only?: string[]): void {
  const { dtype, shape, data_offsets: offsets } = entry ?? {}
  if (only && !only.includes(dtype))
    throw new Error(`its tensor ${name} is ${dtype}, not ${only.join(' or ')}`)
  const bytesEach = elementBytes[dtype]
  if (!bytesEach) throw new Error(`its tensor ${name} is ${dtype}, which is no type of the format`)
  const integers = Array.isArray(shape) && Array.isArray(offsets) && offsets.length === 2
  if (!integers || ![...shape, ...offsets].every((n) => Number.isSafeInteger(n) && n >= 0))
    throw new Error(`its tensor ${name} has no proper shape and offsets`)
  if (offsets[1] - offsets[0] !== elementsOf(shape) * bytesEach || offsets[1] > bytes)
    throw new Error(`its tensor ${name} does not fit into it: the file is cut short or damaged`)
}

async function forParts(
  length: number,
  body: (offset: number, part: Float32Array) => Promise<void>
): Promise<void> {
  const buffer = new Float32Array(Math.min(length, partLength))
  for (let offset = 0; offset < length; offset += partLength)
    await body(offset, buffer.subarray(0, Math.min(partLength, length - offset)))
}

/** A bfloat16 is the upper half of a float, which lies second: the format, as every processor here, is little-endian. */
function upperHalves(part: Float32Array): Uint16Array {
  const words = new Uint16Array(part.buffer, part.byteOffset, part.length * 2)
  const halves = new Uint16Array(part.length)
  for (let i = 0; i < halves.length; i++) halves[i] = words[2 * i + 1] as number
  return halves
}

function widen(halves: Uint16Array, part: Float32Array): void {
  const bits = new Uint32Array(part.buffer, part.byteOffset, part.length)
  for (let i = 0; i < halves.length; i++) bits[i] = (halves[i] as number) << 16
}

export function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}

async function writeAll(file: FileHandle, array: ArrayBufferView): Promise<void> {
  const bytes = bytesOf(array)
  for (let done = 0; done < bytes.length; )
    done += (await file.write(bytes, done, bytes.length - done)).bytesWritten
}

/**
 * Fills an array from a file, several pieces at a time: one thread alone is slower than the memory.
 * @throws Error also where the file ends before
 */
export async function readAll(file: FileHandle, array: ArrayBufferView, position: number): Promise<void> {
  const bytes = bytesOf(array)
  let next = 0
  const readPieces = async () => {
    while (next < bytes.length) {
      let done = next
      const end = Math.min(done + pieceBytes, bytes.length)
      next = end
      while (done < end) {
        const { bytesRead } = await file.read(bytes, done, end - done, position + done)
        if (bytesRead === 0) throw new Error('it ends too early')
        done += bytesRead
      }
    }
  }
  try {
    await Promise.all(Array.from({ length: piecesAtOnce }, readPieces))
  } finally {
    next = bytes.length // the others stop after their piece
  }
}
