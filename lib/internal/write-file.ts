// The one way in which this package writes files: all bytes or an error; beside the target, to the disk, then renamed, so
// that a file of this name is always a whole one, the old or the new, even if the power fails.
import { constants, fsync, type Stats, write as writeDescriptor } from 'node:fs'
import { type FileHandle, lstat, open, readlink, rename, stat, unlink } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { promisify } from 'node:util'
import { fileError } from './file-error'
import { beginSave, endSave, removeLeftovers, temporaryName } from './leftovers'
import { bytesOf, notRegular, realpath } from './read-file'

const {
  O_RDONLY,
  O_WRONLY,
  O_APPEND,
  O_CREAT,
  O_NONBLOCK = 0,
  O_NOCTTY = 0,
  O_DIRECTORY = 0,
} = constants as Partial<typeof constants> & typeof constants
const mostLinks = 40 // as many as Linux follows
const permissions = 0o777
const openFiles = /^\/proc\/\d+\/(task\/\d+\/)?fd$/

/** Writes all bytes at a position of the file, or throws. */
export type Write = (bytes: ArrayBufferView, position: number) => Promise<void>

/** Follows a name through symbolic links to what is there, if anything is. */
export interface Target {
  path: string
  info?: Stats
  /** Set for an open file of this process, which names such as /dev/stdout lead to. */
  descriptor?: number
}

/**
 * Replaces a regular file, or makes one, with what `fill` writes. A symbolic link stays and its target is replaced; the
 * old file's mode and, where that is allowed, its owner stay. What abandoned saves of this path left is removed.
 * @throws MarginSoftmaxError `ERR_FILE`, also for what is no regular file; and what `fill` throws
 */
export async function replaceFile(file: string, fill: (write: Write) => Promise<void>): Promise<void> {
  try {
    const { path: target, info } = await targetOf(file)
    if (info && !info.isFile()) throw notRegular(info)
    await removeLeftovers(target)
    await replace(target, info, fill)
  } catch (cause) {
    throw fileError(`Expected to write ${file}`, cause)
  }
}

/** As `replaceFile`, of a text. */
export function replaceText(file: string, text: string): Promise<void> {
  return replaceFile(file, (write) => write(Buffer.from(text), 0))
}

/** As `replaceText`, but a pipe, a terminal or another device is written through and stays what it is. */
export async function writeReport(file: string, text: string): Promise<void> {
  const target = await targetOf(file).catch((cause) => {
    throw fileError(`Expected to write ${file}`, cause)
  })
  if (!isStream(target)) return replaceText(file, text)
  try {
    await writeThrough(target, Buffer.from(text))
  } catch (cause) {
    throw fileError(`Expected to write ${file}`, cause)
  }
}

/**
 * Adds to the end of a file, or makes it, and waits until the disk has it; a pipe or a device is written through.
 * @throws MarginSoftmaxError `ERR_FILE`
 */
export async function appendText(file: string, text: string): Promise<void> {
  try {
    const target = await targetOf(file)
    if (isStream(target)) return await writeThrough(target, Buffer.from(text))
    if (target.info && !target.info.isFile()) throw notRegular(target.info)
    const handle = await open(target.path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY, 0o666)
    try {
      await writeAll(handle, Buffer.from(text), null)
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch (cause) {
    throw fileError(`Expected to write ${file}`, cause)
  }
}

/** Whether something is written through rather than replaced. */
export function isStream({ info, descriptor }: Target): boolean {
  return descriptor !== undefined || Boolean(info?.isFIFO() || info?.isCharacterDevice())
}

/** @throws Error for a folder that is missing, too many links, … */
export async function targetOf(file: string): Promise<Target> {
  let at = file
  for (let links = 0; links <= mostLinks; links++) {
    const folder = await realpath(path.dirname(at))
    at = path.join(folder, path.basename(at))
    const entry = await lstat(at).catch(absent)
    if (!entry?.isSymbolicLink()) return { path: at, info: entry }
    // The link of an open file there need not hold a name, so it is not followed.
    if (openFiles.test(folder)) {
      const ownDescriptor = folder === `/proc/${process.pid}/fd`
      const info = await stat(at).catch(absent)
      return { path: at, info, descriptor: ownDescriptor ? Number(path.basename(at)) : undefined }
    }
    const link = await readlink(at)
    at = path.isAbsolute(link) ? link : `${folder}${path.sep}${link}` // not path.join: it would take away `link/..`
  }
  throw new Error(`it leads through more than ${mostLinks} symbolic links`)
}

async function replace(target: string, old: Stats | undefined, fill: (write: Write) => Promise<void>) {
  const save = beginSave()
  const temporary = temporaryName(target, save)
  try {
    // Exclusive: a link that someone planted under this name is not followed. Never more readable than the old file.
    const file = await open(temporary, 'wx', old ? old.mode & permissions : 0o666)
    try {
      try {
        await fill((bytes, position) => writeAll(file, bytes, position))
        if (old) await keepOwnerAndMode(file, old)
        await sync(file.fd)
      } finally {
        await file.close()
      }
      await moveOver(temporary, target)
    } catch (cause) {
      await unlink(temporary).catch(() => {}) // else the next save does
      throw cause
    }
  } finally {
    endSave(save)
  }
  await syncFolder(path.dirname(target))
}

const longestPause = 2560 // milliseconds, after 10, 20, 40, …: five seconds in all

/**
 * Windows replaces no file that anyone has open: a virus scanner, an indexer, another process that reads it. They are done
 * soon, so it is asked again for some seconds. (A right that is missing has the same codes, and costs these seconds.)
 */
async function moveOver(from: string, to: string): Promise<void> {
  for (let pause = 10; pause <= longestPause; pause *= 2) {
    try {
      return await rename(from, to)
    } catch (cause) {
      if (process.platform !== 'win32') throw cause
      unless('EPERM', 'EACCES', 'EBUSY')(cause as NodeJS.ErrnoException)
    }
    await wait(pause)
  }
  await rename(from, to)
}

async function keepOwnerAndMode(file: FileHandle, old: Stats): Promise<void> {
  const created = await file.stat()
  // Only root may give a file away; in any case the content is the saver's.
  if (created.uid !== old.uid || created.gid !== old.gid)
    await file.chown(old.uid, old.gid).catch(unless('EPERM'))
  if ((created.mode & permissions) !== (old.mode & permissions)) await file.chmod(old.mode & permissions)
}

/** So that the new name outlasts a power failure. A folder that may not be read, and some file systems, do not allow it. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return
  const handle = await open(folder, O_RDONLY | O_DIRECTORY).catch(unless('EACCES', 'EPERM'))
  try {
    if (handle) await sync(handle.fd).catch(unless('EINVAL', 'ENOTSUP', 'EOPNOTSUPP'))
  } finally {
    await handle?.close()
  }
}

/** The system may write less than it was asked to. @param position null: where the file ends or stands */
async function writeAll(file: FileHandle, array: ArrayBufferView, position: number | null): Promise<void> {
  const bytes = bytesOf(array)
  for (let done = 0; done < bytes.length; ) {
    const at = position === null ? null : position + done
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at)
    if (bytesWritten === 0) throw new Error('the system writes nothing more')
    done += bytesWritten
  }
}

async function writeThrough({ path: file, descriptor }: Target, bytes: Uint8Array): Promise<void> {
  // Without blocking: a pipe that nobody reads is an error rather than a wait for ever.
  const handle = descriptor === undefined ? await open(file, O_WRONLY | O_NONBLOCK | O_NOCTTY) : undefined
  try {
    for (let done = 0; done < bytes.length; ) {
      const writing = write(handle?.fd ?? (descriptor as number), bytes, done, bytes.length - done, null)
      const written = await writing.catch(unless('EAGAIN'))
      if (written) done += written.bytesWritten
      else await wait(10) // the pipe is full until someone reads
    }
  } finally {
    await handle?.close()
  }
}

const write = promisify(writeDescriptor)

// Not FileHandle.sync(): under Yarn's Plug'n'Play file handles are Yarn's own, and theirs throws.
const sync = promisify(fsync)

const absent = (cause: NodeJS.ErrnoException) => unless('ENOENT')(cause)

/** Throws errors of other codes on. */
function unless(...codes: string[]): (cause: NodeJS.ErrnoException) => undefined {
  return (cause) => {
    if (!codes.includes(cause.code ?? '')) throw cause
  }
}
