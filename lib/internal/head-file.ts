// A head in a file: one safetensors file, or for a sharded head one a rank and an index that names them (head-shards.ts).
import { unlink } from 'node:fs/promises'
import path from 'node:path'
import type { ProcessGroup } from '../distributed'
import { allOrNone, gatherTexts } from './agreement'
import { checkOptions, integerInRange, isLossWeight, newArray } from './check'
import { brief, fileError, parseJson, propertiesOf, shown } from './file-error'
import { decodeNames, encodeNames, indexOfAgain, largestNames, namesTensor } from './head-names'
import { checkSettings, type Settings, settingNames } from './head-options'
import {
  expectedShapes,
  type HeadPlan,
  projectionArrays,
  stateNames,
  tensorType,
  weightsTensor,
} from './head-settings'
import {
  type ClassRun,
  fileFormat,
  readIndex,
  removeShards,
  type Shard,
  type ShardIndex,
  shardName,
  shardsOf,
  writeIndex,
} from './head-shards'
import { beginSave, endSave, removeLeftovers } from './leftovers'
import { realpath } from './read-file'
import { elementsOf, SafetensorsFile } from './safetensors'
import { type ByteTensor, type FloatTensor, writeSafetensors } from './safetensors-write'
import { targetOf } from './write-file'

interface OpenedShard extends ClassRun {
  file: SafetensorsFile
}

/** The checked contents of a head's file, without its numbers. Its files stay open until `close`, for `numbersOf`. */
export interface HeadFile extends Pick<HeadPlan, 'settings' | 'iteration' | 'optimizerStart'> {
  shards: OpenedShard[]
  close(): Promise<void>
}

/** Fills a part with numbers of a head's native array of this name, from an offset on. */
export type Fill = (name: string, offset: number, part: Float32Array) => void

/** An array of some of a head's classes, in native memory and in a file. */
interface HeadArray {
  name: string
  fileName: string
  shape: number[]
  /** Where the classes begin in each of the two. */
  offset: number
  fileOffset: number
}

/**
 * The arrays of the classes that `run` has and a file of `held` has, of a head with these settings; and its projection's,
 * which the file of the first classes has for all.
 */
function arraysOf(settings: Settings, run: ClassRun, held: ClassRun): HeadArray[] {
  const ofAll = held.first === 0 ? projectionArrays(settings) : []
  return [
    ...classArraysOf(settings, run, held),
    ...ofAll.map((array) => ({ ...array, offset: 0, fileOffset: 0 })),
  ]
}

function classArraysOf(settings: Settings, run: ClassRun, held: ClassRun): HeadArray[] {
  const first = Math.max(run.first, held.first)
  const count = Math.min(run.first + run.count, held.first + held.count) - first
  if (count <= 0) return []
  const names = { weight: 'weight', bias: 'bias', ...stateNames[settings.optimizer.name] }
  const shapes = expectedShapes(settings, count)
  return Object.entries(names).flatMap(([name, fileName]) => {
    const shape = shapes[fileName]
    if (!shape) return []
    const [, width = 1] = shape
    const offset = (first - run.first) * width
    return [{ name, fileName, shape, offset, fileOffset: (first - held.first) * width }]
  })
}

/** A head's arrays on their way to its file. */
function tensorsOf(settings: Settings, run: ClassRun, fill: Fill): Record<string, FloatTensor> {
  return Object.fromEntries(
    arraysOf(settings, run, run).map(({ name, fileName, shape }) => [
      fileName,
      { shape, dtype: tensorType(settings, fileName), fill: (offset, part) => fill(name, offset, part) },
    ])
  )
}

/** The names of this process's classes: each shard has its own. */
function namesOf(classNames: readonly string[] | undefined, run: ClassRun): Record<string, ByteTensor> {
  if (!classNames) return {}
  const bytes = encodeNames(classNames.slice(run.first, run.first + run.count))
  return { [namesTensor]: { shape: [bytes.length], dtype: 'U8', bytes } }
}

/** The class weights of this process's classes: each shard has its own. */
function weightsOf(classWeights: Float32Array | undefined, run: ClassRun): Record<string, FloatTensor> {
  if (!classWeights) return {}
  const fill = (offset: number, part: Float32Array) => {
    const first = run.first + offset
    part.set(classWeights.subarray(first, first + part.length))
  }
  return { [weightsTensor]: { shape: [run.count], fill } }
}

/** Writes a head; a sharded one on all ranks together. A file of this name is always a whole checkpoint. */
export async function writeHead(
  file: string,
  { settings, iteration, optimizerStart, classNames, classWeights }: Omit<HeadPlan, 'execution' | 'group'>,
  run: ClassRun,
  fill: Fill,
  group?: ProcessGroup
): Promise<void> {
  const head = JSON.stringify({ ...settings, iteration, ...(optimizerStart > 0 && { optimizerStart }) })
  const { path: target } = await allOrNone(group, 'find the file', () =>
    targetOf(file).catch((cause) => {
      throw fileError(`Expected to write ${file}`, cause)
    })
  )
  const tensors = {
    ...tensorsOf(settings, run, fill),
    ...namesOf(classNames, run),
    ...weightsOf(classWeights, run),
  }
  const write = (to: string, metadata: Record<string, string>) =>
    writeSafetensors(to, tensors, { format: fileFormat, head, ...metadata }, ['head'])
  const old = await shardsOf(target)
  if (!group) {
    await write(target, {})
    await removeShards(target, old)
    return
  }
  const ownSave = group.rank === 0 ? beginSave() : ''
  try {
    const [save = ''] = await gatherTexts(group, ownSave)
    await writeShards(target, save, run, { group, write, old, head })
  } finally {
    endSave(ownSave)
  }
}

/** Each rank's shard, then the index. */
async function writeShards(
  target: string,
  save: string,
  run: ClassRun,
  work: {
    group: ProcessGroup
    write: (to: string, metadata: Record<string, string>) => Promise<void>
    old: Shard[]
    head: string
  }
): Promise<void> {
  const { group, write, old, head } = work
  const name = (rank: number) => shardName(target, save, rank, group.size)
  const mine = name(group.rank)
  if (group.rank === 0) await removeShards(target, [])
  await removeLeftovers(target) // on every rank: each knows the processes of its own machine
  try {
    await allOrNone(group, 'write its shard', () => write(mine, { shard: JSON.stringify(run), save }))
  } catch (error) {
    await unlink(mine).catch(() => {}) // else a later save does
    throw error
  }
  // From here on the index may come to name this rank's shard: whatever fails, only rank 0 knows whether it does.
  const runs = (await gatherTexts(group, JSON.stringify(run))).map((text) => JSON.parse(text) as ClassRun)
  const shards = runs.map((run, rank) => ({ file: path.basename(name(rank)), ...run }))
  await allOrNone(group, 'see the index', async () => {
    if (group.rank === 0) await writeIndex(target, { head: JSON.parse(head), save, shards })
  })
  if (group.rank === 0) await removeShards(target, old)
}

/**
 * Opens a head's file and checks everything but the numbers.
 * @throws MarginSoftmaxError `ERR_FILE`
 */
export async function openHead(file: string): Promise<HeadFile> {
  const shards: OpenedShard[] = []
  const close = async () => {
    for (const { file: opened } of shards) await opened.close()
  }
  const open = async (shardFile: string, run?: ClassRun) => {
    const shard = { file: await openShard(shardFile), first: 0, count: 0, ...run }
    shards.push(shard)
    return shard
  }
  try {
    const index = await readIndex(file)
    if (!index) {
      const whole = await open(file)
      const said = checkPart(whole)
      whole.count = said.settings.classes
      return { ...said, shards, close }
    }
    const said = settingsOf(index.head)
    const { settings } = said
    const total = index.shards.reduce((sum, { count }) => sum + count, 0)
    if (total !== settings.classes) throw new Error(`its shards hold ${total} of ${settings.classes} classes`)
    const folder = path.dirname(await realpath(file)) // beside the index, not beside a link to it
    for (const { file: name, first, count } of index.shards) {
      const run = { first, count }
      const part = checkPart(await open(path.join(folder, name), run), run, index)
      if (JSON.stringify(part) !== JSON.stringify(said)) throw notTogether()
    }
    return { ...said, shards, close }
  } catch (cause) {
    await close()
    throw unreadable(file, cause)
  }
}

/** @throws MarginSoftmaxError `ERR_FILE` */
async function openShard(file: string): Promise<SafetensorsFile> {
  try {
    return await SafetensorsFile.open(file, { types: ['F32', 'BF16', 'U8'], checksums: true })
  } catch (cause) {
    throw unreadable(file, cause)
  }
}

export const unreadable = (file: string, cause: unknown) =>
  fileError(`Expected a whole safetensors file of a head in ${file}`, cause)

/** As `openHead`, on every rank of a group or on none. */
export async function openHeadTogether(file: string, group: ProcessGroup | undefined): Promise<HeadFile> {
  let opened: HeadFile | undefined
  try {
    return await allOrNone(group, 'open the file', async () => {
      opened = await openHead(file)
      return opened
    })
  } catch (error) {
    await opened?.close() // another rank failed
    throw error
  }
}

const notTogether = () => new Error('it is a shard of another save than its index')

function settingsOf(saved: unknown): Omit<HeadFile, 'shards' | 'close'> {
  const names = [...settingNames, 'iteration', 'optimizerStart']
  const properties = checkOptions(propertiesOf(saved, 'head'), 'head', names)
  const { iteration: made, optimizerStart = 0, ...settings } = properties as unknown as Settings & HeadPlan
  const iteration = integerInRange(made, 'iteration', 0)
  return {
    settings: checkSettings(settings),
    iteration,
    optimizerStart: integerInRange(optimizerStart, 'optimizerStart', 0, iteration),
  }
}

/** A whole head's file, or a shard as its index describes it: what it says is held against itself and the index. */
function checkPart({ file }: OpenedShard, run?: ClassRun, index?: ShardIndex) {
  try {
    const { entries, metadata } = file
    if (metadata.format !== fileFormat)
      throw new Error(`its format is ${metadata.format ?? 'not named'}, not ${fileFormat}`)
    const said = settingsOf(parseJson(metadata.head, 'head'))
    const { settings } = said
    if (metadata.shard !== undefined && !run)
      throw new Error('it is one shard of a head: load the index that names it')
    if (run) checkRun(metadata, run)
    if (index && metadata.save !== index.save) throw notTogether()
    const held = run ?? { first: 0, count: settings.classes }
    for (const { fileName, shape } of arraysOf(settings, held, held))
      if (entries.get(fileName)?.shape.join() !== shape.join())
        throw new Error(`it has no ${fileName} of shape [${shape}]`)
    for (const [name, { dtype }] of entries) {
      const expected = name === namesTensor ? 'U8' : tensorType(settings, name)
      if (dtype !== expected) throw new Error(`its tensor ${name} is ${dtype}, not ${expected}`)
    }
    return said
  } catch (cause) {
    throw unreadable(file.path, cause)
  }
}

function checkRun(metadata: Record<string, string>, { first, count }: ClassRun): void {
  const said = parseJson(metadata.shard, 'shard') as Partial<ClassRun> | null
  if (said?.first !== first || said.count !== count)
    throw new Error(
      `it is the shard ${brief(metadata.shard as string)}, not ${JSON.stringify({ first, count })} as its index says`
    )
}

/** The classes' names in an opened file, on every rank of a group or on none; undefined where it has none. */
export function readClassNames(
  { shards }: HeadFile,
  checksums: boolean,
  group?: ProcessGroup
): Promise<readonly string[] | undefined> {
  return allOrNone(group, 'read the class names', async () => {
    const named = shards.filter(({ file }) => file.entries.has(namesTensor))
    if (!named.length) return undefined
    const names: string[] = []
    for (const shard of shards)
      try {
        if (!named.includes(shard)) throw new Error('it has no class_names, as other shards have')
        const bytes = await shard.file.bytes(namesTensor, largestNames, checksums)
        for (const name of decodeNames(bytes, shard.count)) names.push(name)
      } catch (cause) {
        throw unreadable(shard.file.path, cause)
      }
    const again = indexOfAgain(names)
    if (again >= 0)
      throw unreadable(
        (shards[0] as OpenedShard).file.path,
        new Error(`two of its classes are named ${shown(names[again])}`)
      )
    return Object.freeze(names)
  })
}

/** Reads the class weights, all of them on every rank of a group; undefined where the file has none. */
export function readClassWeights(
  { settings, shards }: HeadFile,
  checksums: boolean,
  group?: ProcessGroup
): Promise<Float32Array | undefined> {
  return allOrNone(group, 'read the class weights', async () => {
    if (!shards.some(({ file }) => file.entries.has(weightsTensor))) return undefined
    const weights = newArray(Float32Array, settings.classes, weightsTensor)
    for (const shard of shards)
      try {
        const { first, count, file } = shard
        const shape = file.entries.get(weightsTensor)?.shape
        if (shape?.join() !== `${count}`) throw new Error(`it has no ${weightsTensor} of shape [${count}]`)
        const read = weights.subarray(first, first + count)
        await file.read(weightsTensor, read, { checksum: checksums })
        const wrong = read.findIndex((weight) => !isLossWeight(weight))
        if (wrong >= 0) throw new Error(`class ${first + wrong} has the weight ${read[wrong]}`)
      } catch (cause) {
        throw unreadable(shard.file.path, cause)
      }
    return weights
  })
}

/** Numbers of a head's file, and where they belong. */
export interface HeadPart {
  /** The file that they are from. */
  file: string
  /** The head's native array. */
  name: string
  offset: number
  /** They stay until the next part is asked for. */
  values: Float32Array
}

/**
 * Reads the numbers of the classes of `run` part by part out of an opened file, whatever its shards.
 * @param how whether to hold what is read against the file's checksums; which arrays, by their names in a file (default all)
 * @throws MarginSoftmaxError `ERR_FILE`
 */
export async function* numbersOf(
  { settings, shards }: HeadFile,
  run: ClassRun,
  { checksums = true, wanted }: { checksums?: boolean; wanted?: readonly string[] } = {}
): AsyncGenerator<HeadPart, void, undefined> {
  for (const shard of shards) {
    const arrays = arraysOf(settings, run, shard).filter(({ fileName }) => wanted?.includes(fileName) ?? true)
    if (!arrays.length) continue
    const { file } = shard
    try {
      if (checksums) file.checkMetadata('head')
      for (const { name, fileName, shape, offset, fileOffset } of arrays) {
        const range = { from: fileOffset, count: elementsOf(shape), checksum: checksums }
        for await (const { at, values } of file.parts(fileName, range))
          yield { file: file.path, name, offset: offset + at, values }
      }
    } catch (cause) {
      throw unreadable(file.path, cause)
    }
  }
}
