// A head in a file: one safetensors file, or for a sharded head one a rank and an index that names them.
import { randomUUID } from 'node:crypto'
import { open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { gatherTexts, together } from './agreement'
import { integerFrom } from './check'
import type { ProcessGroup } from './distributed'
import { MarginSoftmaxError } from './errors'
import { checkSettings, expectedShapes, type Settings, stateNames, tensorType } from './head-settings'
import { fileError, readSafetensors, type StreamedTensor, writeSafetensors } from './safetensors'

export const fileFormat = 'margin-softmax head 1'
export const indexFormat = 'margin-softmax sharded head 1'

/** A run of classes: rows of the weights and of all that goes with them. */
export interface ClassRun {
  /** The first of them. */
  first: number
  /** How many. */
  count: number
}

interface Shard extends ClassRun {
  /** Beside the index. */
  file: string
}

/** What a file says of its head, once checked. */
export interface HeadFile {
  settings: Settings
  iteration: number
  shards: Shard[]
}

/** Copies between a part and a head's native array of this name, from an offset on. */
export type Move = (name: string, offset: number, part: Float32Array) => void

/** The arrays of `own` classes under their names in a file that holds the classes `held`. */
function tensorsOf(
  settings: Settings,
  own: ClassRun,
  held: ClassRun,
  move: Move
): Record<string, StreamedTensor> {
  const first = Math.max(own.first, held.first)
  const count = Math.min(own.first + own.count, held.first + held.count) - first
  const names = { weight: 'weight', bias: 'bias', ...stateNames[settings.optimizer.name] }
  const shapes = expectedShapes(settings, count)
  const tensors: Record<string, StreamedTensor> = {}
  for (const [name, fileName] of Object.entries(names)) {
    const shape = shapes[fileName]
    if (!shape || count <= 0) continue
    const width = shape[1] ?? 1
    tensors[fileName] = {
      shape,
      dtype: tensorType(settings, fileName),
      from: (first - held.first) * width,
      transfer: (offset, part) => move(name, (first - own.first) * width + offset, part),
    }
  }
  return tensors
}

/** Writes a head; a sharded one on all ranks together. A file of this name is always a whole checkpoint. */
export async function writeHead(
  file: string,
  { settings, iteration }: { settings: Settings; iteration: number },
  own: ClassRun,
  move: Move,
  group?: ProcessGroup
): Promise<void> {
  const head = JSON.stringify({ ...settings, iteration })
  const write = (to: string, metadata: Record<string, string>) =>
    writeSafetensors(to, tensorsOf(settings, own, own, move), { format: fileFormat, head, ...metadata })
  const old = await shardsOf(file)
  if (!group) {
    await write(file, {})
  } else {
    const [save] = await gatherTexts(group, group.rank === 0 ? randomUUID().slice(0, 8) : '')
    const name = (rank: number) => `${file}.${save}.${rank + 1}-of-${group.size}.safetensors`
    const mine = name(group.rank)
    try {
      await together(group, 'write its shard', () => write(mine, { shard: JSON.stringify(own) }))
      const runs = (await gatherTexts(group, JSON.stringify(own))).map((text) => JSON.parse(text) as ClassRun)
      const shards = runs.map((run, rank) => ({ file: path.basename(name(rank)), ...run }))
      await together(group, 'see the index', async () => {
        if (group.rank === 0)
          await writeIndex(file, JSON.stringify({ format: indexFormat, head: JSON.parse(head), shards }))
      })
    } catch (error) {
      await rm(mine, { force: true }).catch(() => {})
      throw error
    }
  }
  // What the file was before: shards that nothing names any more.
  if (!group || group.rank === 0)
    for (const shard of old) await rm(path.join(path.dirname(file), shard), { force: true }).catch(() => {})
}

async function writeIndex(file: string, text: string): Promise<void> {
  const temporary = `${file}.${randomUUID()}.tmp`
  try {
    await writeFile(temporary, text, { flush: true } as object)
    await rename(temporary, file)
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => {})
    throw fileError(`Expected to write ${file} but: ${(cause as Error).message}`, cause)
  }
}

/** Names of the shards of an index of this name, if there is one. */
async function shardsOf(file: string): Promise<string[]> {
  const index = await readIndex(file).catch(() => undefined)
  return index ? index.shards.map((shard) => shard.file) : []
}

/** Whether a file is an index: a safetensors file begins with a number of 8 bytes. */
export async function isIndex(file: string): Promise<boolean> {
  const handle = await open(file, 'r')
  const start = Buffer.alloc(9)
  await handle.read(start, 0, 9, 0).finally(() => handle.close())
  return start.toString('latin1') === '{"format"'
}

/** The index, or undefined for a file that is something else. */
async function readIndex(file: string): Promise<{ head: object; shards: Shard[] } | undefined> {
  if (!(await isIndex(file))) return undefined
  const { format, head, shards } = JSON.parse(await readFile(file, 'utf8'))
  if (format !== indexFormat) throw new Error(`its format is ${format}, not ${indexFormat}`)
  let next = 0
  for (const { file: name, first, count } of shards as Shard[]) {
    if (typeof name !== 'string' || path.basename(name) !== name || first !== next || !(count > 0))
      throw new Error('its shards do not follow one another')
    next += count
  }
  return { head, shards }
}

/**
 * What a file holds, with everything checked but the numbers.
 * @throws MarginSoftmaxError `ERR_FILE`
 */
export async function openHead(file: string): Promise<HeadFile> {
  try {
    const index = await readIndex(file)
    if (!index) return await inspectFile(file)
    const files: HeadFile[] = []
    for (const shard of index.shards)
      files.push(await inspectFile(path.join(path.dirname(file), shard.file), shard))
    const whole = files[0]
    const { settings, iteration } = settingsOf(index.head)
    const total = index.shards.reduce((sum, { count }) => sum + count, 0)
    if (!whole || total !== settings.classes)
      throw new Error(`its shards hold ${total} of ${settings.classes} classes`)
    for (const one of files)
      if (JSON.stringify([one.settings, one.iteration]) !== JSON.stringify([settings, iteration]))
        throw new Error('its shards were not saved together')
    return { settings, iteration, shards: index.shards }
  } catch (cause) {
    if (cause instanceof MarginSoftmaxError) throw cause
    throw fileError(
      `Expected a whole safetensors file of a head in ${file} but: ${(cause as Error).message}`,
      cause
    )
  }
}

function settingsOf(saved: object): Omit<HeadFile, 'shards'> {
  const { iteration, ...given } = saved as Settings & { iteration: number }
  const settings = checkSettings(given)
  return { settings, iteration: integerFrom(iteration, 'iteration', 0) }
}

function inspectFile(file: string, shard?: ClassRun): Promise<HeadFile> {
  return readSafetensors(file, async ({ entries, metadata }) => {
    if (metadata.format !== fileFormat)
      throw new Error(`its format is ${metadata.format ?? 'not named'}, not ${fileFormat}`)
    const { settings, iteration } = settingsOf(JSON.parse(metadata.head as string))
    if (metadata.shard !== undefined && !shard)
      throw new Error('it is one shard of a head: load the index that names it')
    const { first, count } = shard ?? { first: 0, count: settings.classes }
    for (const [name, shape] of Object.entries(expectedShapes(settings, count)))
      if (entries.get(name)?.shape.join() !== shape.join())
        throw new Error(`it has no ${name} of shape [${shape}]`)
    for (const [name, { dtype }] of entries)
      if (dtype !== tensorType(settings, name))
        throw new Error(`its tensor ${name} is ${dtype}, not ${tensorType(settings, name)}`)
    return {
      tensors: {},
      result: { settings, iteration, shards: [{ file: path.basename(file), first, count }] },
    }
  })
}

/** Streams the numbers of `own` classes out of an opened file, whatever its shards. */
export async function readHead(
  file: string,
  { settings, shards }: HeadFile,
  own: ClassRun,
  move: Move
): Promise<void> {
  for (const shard of shards) {
    const tensors = tensorsOf(settings, own, shard, move)
    if (Object.keys(tensors).length)
      await readSafetensors(path.join(path.dirname(file), shard.file), async () => ({
        tensors,
        result: undefined,
      }))
  }
}
