// Reading safetensors files: a header that says where each tensor lies, then the tensors. A file that we wrote
// (safetensors-write.ts) has checksums in its metadata: `sha256` there is a JSON object of names and digests.
import { createHash, type Hash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { brief, parseJson, propertiesOf, shown } from './file-error'
import { bytesOf, closeRead, openToRead, readAll } from './read-file'

/** Types of the tensors that we write. */
export type TensorType = 'F32' | 'BF16' | 'U8' | 'I32'

/** A tensor's entry in the header; offsets count from where the tensors begin. */
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

/** The range of a tensor to read. */
export interface TensorRange {
  /** The first element. Default 0. */
  from?: number
  /** The number of elements. Default all that follow. */
  count?: number
  /**
   * Whether to hold the tensor against its checksum, if the file has checksums. All of the tensor is read for that, even if
   * only a part of it is wanted. Default true.
   */
  checksum?: boolean
}

/** Elements of a tensor that follow one another. */
export interface TensorPart {
  /** The place of the first of them in the range. */
  at: number
  /** They stay until the next part is asked for. */
  values: Float32Array
}

/** Bytes of an element, of the format's types. */
export const elementBytes: Record<TensorType, number> & Record<string, number> = {
  ...{ BOOL: 1, U8: 1, I8: 1, F8_E5M2: 1, F8_E4M3: 1, I16: 2, U16: 2, F16: 2, BF16: 2 },
  ...{ I32: 4, U32: 4, F32: 4, F64: 8, I64: 8, U64: 8 },
}
/** Elements that are in memory at a time, whatever the size of the tensors: 16 MiB of floats. */
export const partLength = 2 ** 22
const largestHeader = 100e6 // bytes, the limit of the format's reference implementation

export const sha256 = () => createHash('sha256')

/**
 * A file whose header has been checked against its size. It stays open until `close`, so that its tensors are those of its
 * header even if a save replaces it meanwhile. Methods throw a plain Error that says what is wrong: callers name the file.
 */
export class SafetensorsFile {
  readonly #handle: FileHandle

  private constructor(
    handle: FileHandle,
    readonly path: string,
    readonly header: SafetensorsHeader,
    /** SHA-256 of what the file says it holds, in hexadecimal digits; undefined for a file without checksums. */
    readonly checksums: ReadonlyMap<string, string> | undefined
  ) {
    this.#handle = handle
  }

  /**
   * @param expected the types that its tensors may have (default any); whether `sha256` in its metadata are checksums (default
   *   false: in a file of another program it may be anything)
   */
  static async open(
    path: string,
    { types, checksums = false }: { types?: readonly TensorType[]; checksums?: boolean } = {}
  ): Promise<SafetensorsFile> {
    const handle = await openToRead(path)
    try {
      const header = await readHeader(handle, types)
      return new SafetensorsFile(handle, path, header, checksums ? checksumsOf(header.metadata) : undefined)
    } catch (cause) {
      await closeRead(handle)
      throw cause
    }
  }

  /** The header alone, of a file that is closed again. */
  static async headerOf(path: string): Promise<SafetensorsHeader> {
    const file = await SafetensorsFile.open(path)
    await file.close()
    return file.header
  }

  close(): Promise<void> {
    return closeRead(this.#handle)
  }

  get metadata(): Record<string, string> {
    return this.header.metadata
  }

  get entries(): Map<string, SafetensorsEntry> {
    return this.header.entries
  }

  /** Reads numbers of an F32 or BF16 tensor into `into`, as many as it has room for. */
  async read(name: string, into: Float32Array, range: Omit<TensorRange, 'count'> = {}): Promise<void> {
    for await (const { at, values } of this.parts(name, { ...range, count: into.length }))
      into.set(values, at)
  }

  /** Reads numbers of an F32 or BF16 tensor part by part. The checksum is compared after the last part. */
  async *parts(
    name: string,
    { from = 0, count, checksum = true }: TensorRange = {}
  ): AsyncGenerator<TensorPart, void, undefined> {
    const { dtype, shape, data_offsets: offsets } = this.#entry(name)
    if (dtype !== 'F32' && dtype !== 'BF16')
      throw new Error(`its tensor ${brief(name)} is ${dtype}, not F32 or BF16`)
    const elements = elementsOf(shape)
    const end = count === undefined ? elements : from + count
    if (from < 0 || from > end || end > elements)
      throw new Error(`its tensor ${brief(name)} has no elements ${from} to ${end}`)
    const hash = checksum && this.checksums ? sha256() : undefined
    const [first, last] = hash ? [0, elements] : [from, end]
    const length = Math.min(partLength, last - first)
    const makePart = () => (dtype === 'BF16' ? new Uint16Array(length) : new Float32Array(length))
    // Two parts: one is used while the system reads the other.
    const parts = [makePart(), makePart()] as [ReturnType<typeof makePart>, ReturnType<typeof makePart>]
    const floats = dtype === 'BF16' ? new Float32Array(length) : undefined
    const read = async (at: number) => {
      const part = parts[((at - first) / partLength) & 1]?.subarray(0, last - at) as Float32Array
      await readAll(this.#handle, part, this.header.start + offsets[0] + at * elementBytes[dtype])
      return part
    }
    let reading = last > first ? read(first) : undefined
    try {
      for (let at = first; reading; at += partLength) {
        const part = await reading
        reading = at + partLength < last ? read(at + partLength) : undefined
        reading?.catch(() => {}) // it is thrown where it is awaited, however long the caller takes until then
        hash?.update(bytesOf(part))
        const begin = Math.max(from, at)
        const fitting = Math.min(end, at + part.length) - begin
        if (fitting <= 0) continue
        const values = floats?.subarray(0, part.length) ?? part
        if (floats) widen(part as unknown as Uint16Array, values)
        yield { at: begin - from, values: values.subarray(begin - at, begin - at + fitting) }
      }
    } finally {
      await reading?.catch(() => {}) // nothing may be under way when the file is closed
    }
    if (hash) this.#compare(name, hash)
  }

  /** A tensor of bytes, whole. */
  async bytes(name: string, most: number, checksum = true): Promise<Uint8Array> {
    const [from, to] = this.#entry(name).data_offsets
    if (to - from > most) throw new Error(`its ${name} have ${to - from} bytes, above the limit of ${most}`)
    const bytes = Buffer.alloc(to - from)
    await this.readBytes(name, bytes, 0)
    if (checksum) this.#compare(name, sha256().update(bytes))
    return bytes
  }

  /** Reads the bytes of a tensor of any type from `offset` on, as they are, without its checksum. */
  async readBytes(name: string, into: Uint8Array, offset: number): Promise<void> {
    const [from, to] = this.#entry(name).data_offsets
    if (from + offset + into.length > to) throw new Error(`its tensor ${brief(name)} ends too early`)
    await readAll(this.#handle, into, this.header.start + from + offset)
  }

  /** Holds a text of the metadata against its checksum, if the file has checksums. */
  checkMetadata(name: string): void {
    this.#compare(name, sha256().update(this.metadata[name] ?? ''))
  }

  #entry(name: string): SafetensorsEntry {
    const entry = this.entries.get(name)
    if (!entry) throw new Error(`it has no ${brief(name)}`)
    return entry
  }

  #compare(name: string, hash: Hash): void {
    if (!this.checksums) return
    const expected = this.checksums.get(name)
    if (expected === undefined) throw new Error(`it has no checksum of its ${name}`)
    if (hash.digest('hex') !== expected)
      throw new Error(`its ${name} does not have the checksum that it should: the file is damaged`)
  }
}

export function elementsOf(shape: number[]): number {
  return shape.reduce((product, length) => product * length, 1)
}

/**
 * The header of a safetensors file, checked against the file's size. Throws a plain Error that says what is wrong.
 * @param types the types that tensors may have; default any
 */
async function readHeader(file: FileHandle, types?: readonly TensorType[]): Promise<SafetensorsHeader> {
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
  const { __metadata__: saved = {}, ...entries } = propertiesOf(
    parseJson(json.toString('utf8'), 'header'),
    'header'
  )
  const metadata = propertiesOf(saved, 'metadata') as Record<string, string>
  for (const [name, value] of Object.entries(metadata))
    if (typeof value !== 'string')
      throw new Error(`its metadata ${brief(name)} is ${shown(value)}, not a string`)
  const header: SafetensorsHeader = {
    metadata,
    entries: new Map(Object.entries(entries) as [string, SafetensorsEntry][]),
    start: 8 + length,
    end: size,
  }
  for (const [name, entry] of header.entries) checkEntry(brief(name), entry, size - header.start, types)
  checkLayout(header)
  return header
}

function checksumsOf({ sha256: text }: Record<string, string>): Map<string, string> | undefined {
  if (text === undefined) return undefined
  const checksums = Object.entries(propertiesOf(parseJson(text, 'sha256'), 'sha256'))
  for (const [name, digest] of checksums)
    if (typeof digest !== 'string' || !/^[0-9a-f]{64}$/.test(digest))
      throw new Error(`its checksum of ${brief(name)} is ${shown(digest)}, no SHA-256`)
  return new Map(checksums as [string, string][])
}

function checkEntry(name: string, value: unknown, bytes: number, types?: readonly string[]): void {
  const { dtype, shape, data_offsets: offsets } = propertiesOf(value, `tensor ${name}`)
  if (types && !types.includes(dtype as string))
    throw new Error(`its tensor ${name} is ${shown(dtype)}, not ${types.join(' or ')}`)
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

function widen(halves: Uint16Array, part: Float32Array): void {
  const bits = new Uint32Array(part.buffer, part.byteOffset, part.length)
  for (let i = 0; i < halves.length; i++) bits[i] = (halves[i] as number) << 16
}
