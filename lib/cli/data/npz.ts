/** NumPy's .npz: a zip archive of .npy files. Nothing is unpacked beyond what a member's own header says it holds. */
import type { FileHandle } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import * as zlib from 'node:zlib'
import { type Entry, fromFdPromise, type ZipFile } from 'yauzl'
import { bytesOfElements, type NpyHeader, npyHeaderBytes, parseNpyHeader } from './npy'

interface Member {
  archive: ZipFile
  entry: Entry
}

/** The members by their names without .npy. */
export async function membersOf(file: FileHandle): Promise<Map<string, Member>> {
  const archive = await fromFdPromise(file.fd, { autoClose: false })
  const members = new Map<string, Member>()
  for await (const entry of archive.eachEntry())
    members.set(entry.fileName.replace(/\.npy$/, ''), { archive, entry })
  return members
}

/** @param read takes the elements from who fills parts in their order */
export async function readMember<T>(
  members: Map<string, Member>,
  name: string,
  read: (header: NpyHeader, fill: (part: Uint8Array) => Promise<void>) => Promise<T>
): Promise<T> {
  const { archive, entry } = members.get(name) as Member
  const stream = await archive.openReadStreamPromise(entry)
  try {
    const bytes = new StreamedBytes(stream)
    const head = new Uint8Array(Math.min(entry.uncompressedSize, npyHeaderBytes))
    await bytes.fill(head)
    const header = parseNpyHeader(head)
    const { shape, start } = header
    const claimed = start + bytesOfElements(header)
    if (claimed !== entry.uncompressedSize)
      throw new Error(
        `its ${name} unpacks to ${entry.uncompressedSize} bytes, not to ${claimed} as its shape [${shape}] says`
      )
    bytes.giveBack(head.subarray(start))
    const result = await read(header, (part) => bytes.fill(part))
    if (bytes.checksum !== undefined && bytes.checksum !== entry.crc32)
      throw new Error(`its ${name} does not have the checksum that it should: the file is damaged`)
    return result
  } finally {
    stream.destroy()
  }
}

/** Hands out the bytes of a stream in pieces of any length. */
class StreamedBytes {
  readonly #chunks: AsyncIterator<Buffer>
  #rest: Uint8Array = new Uint8Array(0)
  /** CRC-32 of all that was read. Node.js before 20.15 computes none: then it is undefined. */
  checksum: number | undefined = 'crc32' in zlib ? 0 : undefined

  constructor(stream: Readable) {
    this.#chunks = stream[Symbol.asyncIterator]()
  }

  /** @throws Error where the stream ends before */
  async fill(part: Uint8Array): Promise<void> {
    for (let done = 0; done < part.length; ) {
      if (this.#rest.length === 0) {
        const { done: ended, value } = await this.#chunks.next()
        if (ended) throw new Error('it ends too early')
        this.#rest = value
        if (this.checksum !== undefined) this.checksum = zlib.crc32(value, this.checksum)
      }
      const count = Math.min(this.#rest.length, part.length - done)
      part.set(this.#rest.subarray(0, count), done)
      this.#rest = this.#rest.subarray(count)
      done += count
    }
  }

  /** Bytes that were read and come again. */
  giveBack(bytes: Uint8Array): void {
    this.#rest = Buffer.concat([bytes, this.#rest])
  }
}
