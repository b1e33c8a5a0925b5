// The shards of a sharded head: the JSON index that names them, and which of them a save may remove.
import type { Stats } from 'node:fs'
import { readdir, stat, unlink } from 'node:fs/promises'
import path from 'node:path'
import { parseJson, propertiesOf, shown } from './file-error'
import { isAbandoned, literally, savePattern, saverOf } from './leftovers'
import { readAll, readText, withFile } from './read-file'
import { SafetensorsFile } from './safetensors'
import { replaceText } from './write-file'

export const fileFormat = 'margin-softmax head 1'
export const indexFormat = 'margin-softmax sharded head 1'

/** A run of classes: rows of the weights and of all that goes with them. */
export interface ClassRun {
  /** The first of them. */
  first: number
  /** Their number. */
  count: number
}

export interface Shard extends ClassRun {
  /** Beside the index. */
  file: string
}

export interface ShardIndex {
  /** Settings and iteration. */
  head: unknown
  /** Names the save that wrote index and shards. */
  save?: string
  shards: Shard[]
}

const indexStart = '{"format"'
const largestIndex = 100e6 // bytes, as for a safetensors header

export function shardName(file: string, save: string, rank: number, ranks: number): string {
  return `${file}.${save}.${rank + 1}-of-${ranks}.safetensors`
}

/** Whether a file is an index: a safetensors file begins with a number of 8 bytes. */
export function isIndex(file: string): Promise<boolean> {
  return withFile(file, async (handle) => {
    const { size } = await handle.stat()
    const start = Buffer.alloc(Math.min(size, indexStart.length))
    await readAll(handle, start, 0)
    return start.toString('latin1') === indexStart
  })
}

/** The index, or undefined for a file that is something else. */
export async function readIndex(file: string): Promise<ShardIndex | undefined> {
  if (!(await isIndex(file))) return undefined
  const index = propertiesOf(parseJson(await readText(file, largestIndex), 'index'), 'index')
  const { format, head, save, shards } = index
  if (format !== indexFormat) throw new Error(`its format is ${shown(format)}, not ${indexFormat}`)
  if (!Array.isArray(shards)) throw new Error(`its shards are ${shown(shards)}, not an array`)
  const names = new Set<string>()
  let next = 0
  for (const shard of shards) {
    const { file: name, first, count } = propertiesOf(shard, 'shard')
    if (typeof name !== 'string' || !isPlainName(name) || names.has(name))
      throw new Error(`a shard is named ${shown(name)}, not as a file of its own beside the index`)
    names.add(name)
    if (first !== next || !Number.isSafeInteger(count) || (count as number) < 1)
      throw new Error('its shards do not follow one another')
    next += count as number
  }
  if (save !== undefined && typeof save !== 'string')
    throw new Error(`its save is ${shown(save)}, not a name`)
  return { head, save, shards: shards as Shard[] }
}

function isPlainName(name: string): boolean {
  return path.basename(name) === name && !['', '.', '..'].includes(name) && !name.includes('\0')
}

/** Writes the index, on one rank. If that fails, its shards are removed. */
export async function writeIndex(file: string, index: ShardIndex): Promise<void> {
  try {
    await replaceText(file, JSON.stringify({ format: indexFormat, ...index }))
  } catch (error) {
    // The folder's fsync may have failed behind the renaming: then the index is there, and so must its shards be.
    const there = await readIndex(file).catch(() => undefined)
    if (there?.save !== index.save)
      for (const shard of index.shards) await unlink(beside(file, shard.file)).catch(() => {})
    throw error
  }
}

/** The shards that the index of this name lists, if there is one: those of the save before. */
export async function shardsOf(file: string): Promise<Shard[]> {
  const index = await readIndex(file).catch(() => undefined)
  return index ? index.shards : []
}

/**
 * Removes shards of this path that nothing needs any more: the `old` ones, which the index named before, and those whose
 * save was abandoned before it had an index. A shard goes only if its name is one that this package makes for this path,
 * its header names the same save and the classes as expected, and no index in the folder names it. Best effort.
 */
export async function removeShards(file: string, old: Shard[]): Promise<void> {
  const pattern = new RegExp(
    `^${literally(path.basename(file))}\\.(${savePattern})\\.\\d+-of-\\d+\\.safetensors$`
  )
  const names = await readdir(path.dirname(file)).catch(() => [])
  const found: string[] = []
  for (const name of names) {
    const save = pattern.exec(name)?.[1]
    if (save === undefined) continue
    const info = await stat(beside(file, name)).catch(() => undefined)
    const before = old.find((shard) => shard.file === name)
    if (info && (before ?? isUnfinished(save, info)) && (await isShardOf(beside(file, name), save, before)))
      found.push(name)
  }
  if (!found.length) return
  const needed = await shardsOfAll(names.map((name) => beside(file, name))).catch(() => found)
  for (const name of found) if (!needed.includes(name)) await unlink(beside(file, name)).catch(() => {})
}

/** The shards that any index among these files names. Throws where one may be an index but cannot be read now. */
async function shardsOfAll(files: string[]): Promise<string[]> {
  const all: string[] = []
  for (const file of files) {
    const index = await readIndex(file).catch((error: NodeJS.ErrnoException) => {
      // Without a code of the system's it is something else, or a broken index.
      if (error.code && !['ENOENT', 'EACCES', 'EPERM'].includes(error.code)) throw error
      return undefined
    })
    for (const shard of index?.shards ?? []) all.push(shard.file)
  }
  return all
}

const isUnfinished = (save: string, info: Stats) => isAbandoned(saverOf(save), info.mtimeMs)
const beside = (file: string, name: string) => path.join(path.dirname(file), name)

/** @param run what the index said of it; any, for one that no index knows */
async function isShardOf(file: string, save: string, run?: ClassRun): Promise<boolean> {
  try {
    const { metadata } = await SafetensorsFile.headerOf(file)
    const { first, count } = propertiesOf(parseJson(metadata.shard, 'shard'), 'shard')
    const same = !run || (first === run.first && count === run.count)
    return metadata.format === fileFormat && metadata.save === save && same
  } catch {
    return false
  }
}
