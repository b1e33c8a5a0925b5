// Temporary files: their names say whose they are, so that the next save finds those of a saver that was killed.
//
//   head.safetensors.0f3a9c21-kq1-3x9fz2-9f8e7d6c-1.tmp
//                    host     pid start  random   which of its saves
//
// The host is this boot of this machine's kernel and the process's namespace of process numbers: only within them does a
// number name a process. The start, in ticks of the kernel, tells a process from a later one of the same number.
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import { readdir, stat, unlink } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'

/** A file that a save which did not end has left, or that one which is under way is writing. */
export interface Leftover {
  file: string
  bytes: number
  /** `elsewhere`: on another machine, in another container, or before this machine was started. */
  saver: 'gone' | 'running' | 'elsewhere'
  /** Whether the next save of the same path removes it. */
  abandoned: boolean
}

export const savePattern = '[0-9a-f]{8}-[0-9a-z]+-[0-9a-z]+-[0-9a-f]{8}-[0-9a-z]+'
const day = 24 * 3600e3
const random = randomBytes(4).toString('hex')
const underWay = new Set<string>()
let saves = 0

export const temporaryName = (file: string, save: string) => `${file}.${save}.tmp`

/** A name for this process and a save of it, which runs until `endSave`. */
export function beginSave(): string {
  const save = `${ownSaves()}${(++saves).toString(36)}`
  underWay.add(save)
  return save
}

export function endSave(save: string): void {
  underWay.delete(save)
}

let ownName: string | undefined

/** Returns what the names of this process's saves begin with. */
function ownSaves(): string {
  if (ownName) return ownName
  const { pid } = process
  const start = startOf(pid)
  const name = `${host()}-${pid.toString(36)}-${start ?? '0'}-${random}-`
  if (start !== undefined || process.platform !== 'linux') ownName = name // else no file could be opened just now
  return name
}

/** @param save as `beginSave` named it; something else is nobody's */
export function saverOf(save: string): Leftover['saver'] {
  if (save.startsWith(ownSaves())) return underWay.has(save) ? 'running' : 'gone'
  const [where, pid = '', start] = save.split('-')
  if (where !== ownSaves().split('-')[0]) return 'elsewhere'
  const number = Number.parseInt(pid, 36)
  try {
    process.kill(number, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return 'gone'
  }
  const started = startOf(number)
  return started === undefined || started === start ? 'running' : 'gone'
}

/** Another machine's saver cannot be asked whether it lives: a file that was not written to for a day is no longer written. */
export function isAbandoned(saver: Leftover['saver'], modifiedMs: number): boolean {
  return saver === 'gone' || (saver === 'elsewhere' && Date.now() - modifiedMs > day)
}

/** Temporary files of this path, and of the shards beside it where it is an index. */
export async function leftoversOf(file: string): Promise<Leftover[]> {
  const { dir, base } = path.parse(file)
  const shard = `(?:\\.${savePattern}\\.\\d+-of-\\d+\\.safetensors)?`
  const pattern = new RegExp(`^${literally(base)}${shard}\\.(${savePattern})\\.tmp$`)
  const found: Leftover[] = []
  for (const name of await readdir(dir || '.')) {
    const save = pattern.exec(name)?.[1]
    const info = save && (await stat(path.join(dir, name)).catch(() => undefined))
    if (!info) continue
    const saver = saverOf(save)
    found.push({
      file: path.join(dir, name),
      bytes: info.size,
      saver,
      abandoned: isAbandoned(saver, info.mtimeMs),
    })
  }
  return found
}

/** Best effort: what cannot be read or removed is left for the next save. */
export async function removeLeftovers(file: string): Promise<void> {
  for (const leftover of await leftoversOf(file).catch(() => []))
    if (leftover.abandoned) await unlink(leftover.file).catch(() => {})
}

export const literally = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')

function host(): string {
  const parts = [
    os.hostname(),
    kernelSays(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8')),
    kernelSays(() => readlinkSync('/proc/self/ns/pid')),
  ]
  return createHash('sha256').update(parts.join(' ')).digest('hex').slice(0, 8)
}

/** When a process began, in base 36; '-' for one that has ended and waits to be heard; undefined where that is not told. */
function startOf(pid: number): string | undefined {
  const text = kernelSays(() => readFileSync(`/proc/${pid}/stat`, 'latin1'))
  // Behind the program's name, which is in parentheses and may hold any others: state, …, start as the 20th.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  if (fields[0] === 'Z' || fields[0] === 'X') return '-'
  return fields[19] && Number(fields[19]).toString(36)
}

/** Empty where the system has no /proc. */
function kernelSays(read: () => string): string {
  try {
    return read()
  } catch {
    return ''
  }
}
