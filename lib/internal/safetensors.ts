// safetensors files: a header that says where each tensor lies, then the tensors. They come and go in parts, and each has
// a checksum in the metadata: `sha256` there is a JSON object of tensors' names and the digests of their bytes.
import { createHash, type Hash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { brief, fileError, parseJson, propertiesOf, shown } from './file-error'
import { bytesOf, closeRead, openToRead, readAll } from './read-file'
import { replaceFile } from './write-file'

/** Types of the tensors that come and go here. */
export type TensorType = 'F32' | 'BF16' | 'U8'

/**
 * A tensor on its way to or from a file: its elements come and go in parts, as floats. Those of a BF16 tensor are read
 * as they are; ones to be written have no more than its bits.
 */
export interface StreamedTensor {
  shape: number[]
  /** Default F32. */
  dtype?: 'F32' | 'BF16'
  /** Where in the file's tensor these elements begin, for a part of it. Default 0. */
  from?: number
  /** Copies elements from `offset` on into or out of `part`. */
  transfer(offset: number, part: Float32Array): void
}

/** A tensor of bytes, small enough to be in memory at once. */
export interface ByteTensor {
  shape: [number]
  dtype: 'U8'
  bytes: Uint8Array
}

type WrittenTensor = StreamedTensor | ByteTensor

/** What a header says of a tensor; offsets count from where the tensors begin. */
export interface SafetensorsEntry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

export interface SafetensorsHeader {
  metadata: Record<string, string>
  entries: Map<string, SafetensorsEntry>
  /** SHA-256 of what the file says it holds, in hexadecimal digits; undefined for a file without checksums. */
  checksums?: Map<string, string>
  /** Where in the file the tensors begin, and where they end. */
  start: number
  end: number
}

/** A file that stays open, so that its tensors are those of its header even if a save replaces it meanwhile. */
export interface OpenedFile {
  handle: FileHandle
  header: SafetensorsHeader
}

/** Bytes of an element, of the format's types. */
export const elementBytes: Record<TensorType, number> & Record<string, number> = {
  ...{ BOOL: 1, U8: 1, I8: 1, F8_E5M2: 1, F8_E4M3: 1, I16: 2, U16: 2, F16: 2, BF16: 2 },
  ...{ I32: 4, U32: 4, F32: 4, F64: 8, I64: 8, U64: 8 },
}
const partLength = 2 ** 22 // floats: 16 MiB in memory at a time, whatever the size of the tensors
const largestHeader = 100e6 // bytes, the limit of the format's reference implementation
const digestLength = 64 // hexadecimal digits

/**
 * Writes a safetensors file as `replaceFile` does, with a checksum of each tensor.
 * @param alsoChecked texts of the metadata that have a checksum, too
 * @throws MarginSoftmaxError `ERR_FILE`
 */
export async function writeSafetensors(
  path: string,
  tensors: Record<string, WrittenTensor>,
  metadata: Record<string, string>,
  alsoChecked: string[] = []
): Promise<void> {
  // The header comes first but the digests are known last: room is left for them, all of one length.
  const digests = Object.fromEntries(Object.keys(tensors).map((name) => [name, '0'.repeat(digestLength)]))
  for (const name of alsoChecked)
    digests[name] = sha256()
      .update(metadata[name] as string)
      .digest('hex')
  const header = () => headerBytes(tensors, { ...metadata, sha256: JSON.stringify(digests) })
  await replaceFile(path, async (write) => {
    let position = header().length
    for (const [name, tensor] of Object.entries(tensors)) {
      const hash = sha256()
      await forParts(tensor, async (bytes) => {
        const writing = write(bytes, position)
        hash.update(bytes) // while the system writes
        await writing
        position += bytes.length
      })
      digests[name] = hash.digest('hex')
    }
    await write(header(), 0)
  })
}

/** @throws MarginSoftmaxError `ERR_FILE` */
export async function openSafetensors(path: string, only?: TensorType[]): Promise<OpenedFile> {
  let handle: FileHandle | undefined
  try {
    handle = await openToRead(path)
    const header = await readHeader(handle, only)
    return { handle, header: { ...header, checksums: checksumsOf(header.metadata) } }
  } catch (cause) {
    if (handle) await closeRead(handle)
    throw unreadable(path, cause)
  }
}

export const unreadable = (path: string, cause: unknown) =>
  fileError(`Expected a whole safetensors file of a head in ${path}`, cause)

/**
 * Streams tensors out of a file. Where it has checksums they are compared, for which a tensor is read whole even if only
 * a part of it is wanted.
 * @param checksums false leaves that out
 * @throws Error that says what is wrong
 */
export async function readTensors(
  { handle, header }: OpenedFile,
  tensors: Record<string, StreamedTensor>,
  checksums = true
): Promise<void> {
  for (const [name, tensor] of Object.entries(tensors)) {
    const entry = header.entries.get(name)
    if (!entry) throw new Error(`it has no ${name}`)
    if (checksums && header.checksums) {
      const hash = sha256()
      await streamTensor(handle, header.start, entry, tensor, hash)
      checkDigest(header, name, hash)
    } else await streamTensor(handle, header.start, entry, tensor)
  }
}

/** Holds what was read against its checksum, if the file has checksums. Throws a plain Error. */
export function checkDigest({ checksums }: SafetensorsHeader, name: string, read: Hash | string): void {
  if (!checksums) return
  const actual = (typeof read === 'string' ? sha256().update(read) : read).digest('hex')
  const expected = checksums.get(name)
  if (expected === undefined) throw new Error(`it has no checksum of its ${name}`)
  if (actual !== expected)
    throw new Error(`its ${name} does not have the checksum that it should: the file is damaged`)
}

/** A tensor of bytes, whole. Parameters and errors as for `readTensors`. */
export async function readBytes(
  { handle, header }: OpenedFile,
  name: string,
  most: number,
  checksums = true
): Promise<Uint8Array> {
  const [from, to] = header.entries.get(name)?.data_offsets ?? [0, 0]
  if (to - from > most) throw new Error(`its ${name} have ${to - from} bytes, above the limit of ${most}`)
  const bytes = Buffer.alloc(to - from)
  await readAll(handle, bytes, header.start + from)
  if (checksums) checkDigest(header, name, sha256().update(bytes))
  return bytes
}

const sha256 = () => createHash('sha256')

/** @param hash of all of the tensor's bytes, also of those that are not wanted; without it only the wanted ones are read */
async function streamTensor(
  handle: FileHandle,
  start: number,
  { dtype, shape, data_offsets: offsets }: SafetensorsEntry,
  { from = 0, shape: wanted, transfer }: StreamedTensor,
  hash?: Hash
): Promise<void> {
  const bytesEach = elementBytes[dtype] as number
  const end = from + elementsOf(wanted)
  const [first, last] = hash ? [0, elementsOf(shape)] : [from, end]
  const length = Math.min(partLength, last - first)
  const makePart = () => (dtype === 'BF16' ? new Uint16Array(length) : new Float32Array(length))
  // Two parts: one is used while the system reads the other.
  const parts = [makePart(), makePart()] as [ReturnType<typeof makePart>, ReturnType<typeof makePart>]
  const floats = dtype === 'BF16' ? new Float32Array(length) : undefined
  const read = async (at: number) => {
    const part = parts[((at - first) / partLength) & 1]?.subarray(0, last - at) as Float32Array
    await readAll(handle, part, start + offsets[0] + at * bytesEach)
    return part
  }
  let reading = last > first ? read(first) : undefined
  try {
    for (let at = first; reading; at += partLength) {
      const part = await reading
      reading = at + partLength < last ? read(at + partLength) : undefined
      hash?.update(bytesOf(part))
      const begin = Math.max(from, at)
      const count = Math.min(end, at + part.length) - begin
      if (count <= 0) continue
      const values = floats?.subarray(0, part.length) ?? part
      if (floats) widen(part as unknown as Uint16Array, values)
      transfer(begin - from, values.subarray(begin - at, begin - at + count))
    }
  } finally {
    await reading?.catch(() => {}) // nothing may be under way when the file is closed
  }
}

export function elementsOf(shape: number[]): number {
  return shape.reduce((product, length) => product * length, 1)
}

function headerBytes(tensors: Record<string, WrittenTensor>, metadata: Record<string, string>): Uint8Array {
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
  if (8 + length > size)
    throw new Error('it is no safetensors file: its header would be longer than the file')
  if (length > largestHeader)
    throw new Error(`its header has ${length} bytes, above the format's limit of ${largestHeader}`)
  const json = Buffer.alloc(length)
  await readAll(file, json, 8)
  const { __metadata__: given = {}, ...entries } = propertiesOf(
    parseJson(json.toString('utf8'), 'header'),
    'header'
  )
  const metadata = propertiesOf(given, 'metadata') as Record<string, string>
  for (const [name, value] of Object.entries(metadata))
    if (typeof value !== 'string')
      throw new Error(`its metadata ${brief(name)} is ${shown(value)}, not a string`)
  const header: SafetensorsHeader = {
    metadata,
    entries: new Map(Object.entries(entries) as [string, SafetensorsEntry][]),
    start: 8 + length,
    end: size,
  }
  for (const [name, entry] of header.entries) checkEntry(brief(name), entry, size - header.start, only)
  checkLayout(header)
  return header
}

function checksumsOf({ sha256: text }: Record<string, string>): SafetensorsHeader['checksums'] {
  if (text === undefined) return undefined
  const checksums = Object.entries(propertiesOf(parseJson(text, 'sha256'), 'sha256'))
  for (const [name, digest] of checksums)
    if (typeof digest !== 'string' || !/^[0-9a-f]{64}$/.test(digest))
      throw new Error(`its checksum of ${brief(name)} is ${shown(digest)}, no SHA-256`)
  return new Map(checksums as [string, string][])
}

function checkEntry(name: string, given: unknown, bytes: number, only?: string[]): void {
  const { dtype, shape, data_offsets: offsets } = propertiesOf(given, `tensor ${name}`)
  if (only && !only.includes(dtype as string))
    throw new Error(`its tensor ${name} is ${shown(dtype)}, not ${only.join(' or ')}`)
  if (typeof dtype !== 'string' || !Object.hasOwn(elementBytes, dtype))
    throw new Error(`its tensor ${name} is ${shown(dtype)}, which is no type of the format`)
  const integers = Array.isArray(shape) && Array.isArray(offsets) && offsets.length === 2
  if (!integers || ![...shape, ...offsets].every((n) => Number.isSafeInteger(n) && n >= 0))
    throw new Error(`its tensor ${name} has no proper shape and offsets`)
  const bytesEach = elementBytes[dtype] as number
  if (offsets[1] - offsets[0] !== elementsOf(shape) * bytesEach || offsets[1] > bytes)
    throw new Error(`its tensor ${name} does not fit into it: the file is cut short or damaged`)
}

/** The format wants every byte to belong to one tensor. */
function checkLayout({ entries, start, end }: SafetensorsHeader): void {
  const inOrder = [...entries].map(
    ([
      name,
      {
        data_offsets: [from, to],
      },
    ]) => ({ name: brief(name), from, to })
  )
  inOrder.sort((a, b) => a.from - b.from || a.to - b.to)
  let at = 0
  for (const { name, from, to } of inOrder) {
    if (from < at) throw new Error(`its tensor ${name} shares bytes with another`)
    if (from > at)
      throw new Error(`it has bytes ${at} to ${from} before its tensor ${name} that are of no tensor`)
    at = to
  }
  if (at !== end - start) throw new Error(`its last ${end - start - at} bytes are of no tensor`)
}

/** Calls `body` with the bytes of one part after the other. */
async function forParts(tensor: WrittenTensor, body: (bytes: Uint8Array) => Promise<void>): Promise<void> {
  if ('bytes' in tensor) return body(tensor.bytes)
  const length = elementsOf(tensor.shape)
  const buffer = new Float32Array(Math.min(length, partLength))
  for (let offset = 0; offset < length; offset += partLength) {
    const part = buffer.subarray(0, Math.min(partLength, length - offset))
    tensor.transfer(offset, part)
    await body(bytesOf(tensor.dtype === 'BF16' ? upperHalves(part) : part))
  }
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
