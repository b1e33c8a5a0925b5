// Reading files so that nothing hangs or grows without bound: opened without blocking, regular files only, limits that are
// named where they are exceeded.
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readSync,
  realpath as realpathByParts,
  type Stats,
} from 'node:fs'
import { type FileHandle, open, realpath as realpathBySystem, stat } from 'node:fs/promises'
import { promisify } from 'node:util'

// Windows has neither flag.
const { O_RDONLY, O_NONBLOCK = 0, O_NOCTTY = 0 } = constants as Partial<typeof constants> & typeof constants
const pieceBytes = 2 ** 25
const piecesAtOnce = 4 // as many threads as libuv has for files

/** Resolves a path through links. The call of Windows fails on RAM disks (EISDIR), and Wine's for more than 260 letters. */
export const realpath = process.platform === 'win32' ? promisify(realpathByParts) : realpathBySystem

/** Names the kind of thing that a path leads to, for a message. */
export function kindOf(info: Stats): string {
  if (info.isDirectory()) return 'a folder'
  if (info.isFIFO()) return 'a pipe'
  if (info.isSocket()) return 'a socket'
  return info.isFile() ? 'a regular file' : 'a device'
}

export function notRegular(info: Stats): Error {
  return new Error(`it is ${kindOf(info)}, not a regular file`)
}

/**
 * Opens a regular file. A pipe would block until someone writes to it, a device may have no end: both are refused.
 * @throws Error that says what it is instead
 */
export async function openToRead(file: string): Promise<FileHandle> {
  let handle: FileHandle
  try {
    handle = await open(file, O_RDONLY | O_NONBLOCK | O_NOCTTY)
  } catch (cause) {
    // A socket cannot be opened, on Windows neither a folder.
    const info = await stat(file).catch(() => undefined)
    throw info && !info.isFile() ? notRegular(info) : cause
  }
  try {
    const info = await handle.stat()
    if (!info.isFile()) throw notRegular(info)
    return handle
  } catch (cause) {
    await closeRead(handle)
    throw cause
  }
}

/** Closes a file. A failure to close loses nothing, because all of it has been read. */
export async function closeRead(handle: FileHandle): Promise<void> {
  await handle.close().catch(() => {})
}

/** Runs `body` on an opened file and closes it. */
export async function withFile<T>(file: string, body: (handle: FileHandle) => Promise<T>): Promise<T> {
  const handle = await openToRead(file)
  try {
    return await body(handle)
  } finally {
    await closeRead(handle)
  }
}

/** The bytes of a whole file of at most `largest` bytes. */
export function readWhole(file: string, largest: number): Promise<Buffer> {
  return withFile(file, async (handle) => {
    const { size } = await handle.stat()
    if (size > largest) throw new Error(`it has ${size} bytes, above the limit of ${largest}`)
    const bytes = Buffer.alloc(size)
    await readAll(handle, bytes, 0)
    return bytes
  })
}

/** A whole text file of at most `largest` bytes. */
export async function readText(file: string, largest: number): Promise<string> {
  return (await readWhole(file, largest)).toString('utf8')
}

/** The first bytes of a regular file, as many as it has of those asked for, and its size. Does not return to the event loop. */
export function beginningOf(file: string, length: number): { header: Buffer; size: number } {
  const descriptor = openSync(file, O_RDONLY | O_NONBLOCK | O_NOCTTY)
  try {
    const info = fstatSync(descriptor)
    if (!info.isFile()) throw notRegular(info)
    const header = Buffer.alloc(length)
    return { header: header.subarray(0, readSync(descriptor, header, 0, length, 0)), size: info.size }
  } finally {
    closeSync(descriptor)
  }
}

export function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
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
  // All of them end before this does: whoever closes the file next must have no read under way.
  const outcomes = await Promise.allSettled(
    Array.from({ length: piecesAtOnce }, () =>
      readPieces().catch((error) => {
        next = bytes.length // the others stop after their piece
        throw error
      })
    )
  )
  const failed = outcomes.find((outcome) => outcome.status === 'rejected')
  if (failed) throw failed.reason
}
