// A head's arrays in native memory: made for a new head or a loaded one, on one process or on every rank of a group.

import { cpu, ncclLibrary } from '../devices'
import type { ProcessGroup } from '../distributed'
import { detached, notFinite, wrongType, wrongValue } from '../errors'
import { encodeMargin } from '../margins'
import { throwIfAborted } from './abort'
import { allOrNone, assertSameOnAllRanks } from './agreement'
import { type Fill, type HeadFile, numbersOf, unreadable, writeHead } from './head-file'
import { digestOf, digestOfNames } from './head-names'
import { bytesOf, checkBytes, expectedShapes, type HeadPlan } from './head-settings'
import type { ClassRun } from './head-shards'
import { isObject, lengthOf, partOf } from './intrinsics'
import { type Exchange, groupTable, type NativeHead, type NativeResult, native, succeeded } from './native'
import { bytesOf as asBytes } from './read-file'

/** A head in native memory. */
export interface HeadMemory extends Omit<HeadPlan, 'iteration'> {
  native: NativeHead
  /** The classes that this process holds. */
  shard: Readonly<ClassRun>
  /** The way in which the ranks of a sharded head exchange rows. */
  exchange?: Exchange
}

let sharded = 0

/** A new head with these first values of its weights [C,D], or random ones. */
export function newHead(plan: HeadPlan, weights: Float32Array | undefined): Promise<HeadMemory> {
  return allocate(plan, weights === undefined, async (head) => {
    const { classes, dim } = head.settings
    const { first, count } = head.shard
    if (!weights) return
    if (lengthOf(weights) !== classes * dim) throw detached('weights')
    writeWeights(head, partOf(weights, first * dim, count * dim), { row: 0, named: first })
  })
}

/** @param from the row where they go to, and what that row is called in a message */
function writeWeights(head: HeadMemory, weights: Float32Array, from: { row: number; named: number }): void {
  const { dim, weightStorage } = head.settings
  const written = native().headWrite(head.native, 'weight', from.row * dim, weights)
  if (written.failure === 'ERR_NOT_FINITE')
    throw notFinite(
      weightStorage === 'bfloat16' ? 'weights in bfloat16' : 'weights',
      (written.row as number) - from.row + from.named
    )
  succeeded(written)
}

/** A head with the numbers of an opened file, as far as the plan has arrays for them; the others are zero. */
export function loadedHead(plan: HeadPlan, file: HeadFile, checksums: boolean): Promise<HeadMemory> {
  return allocate(plan, false, async ({ native: head, settings, shard }) => {
    const wanted = Object.keys(expectedShapes(settings))
    for await (const part of numbersOf(file, shard, { checksums, wanted })) {
      const { name } = part
      const written = native().headWrite(head, name, part.offset, part.values)
      if (written.failure === 'ERR_NOT_FINITE') {
        const place = name.startsWith('projection') ? '' : `, of class ${written.row}`
        throw unreadable(part.file, new Error(`it holds a ${name} that is not finite once stored${place}`))
      }
      succeeded(written)
    }
  })
}

/** A rule that makes a head's classes from another head's. */
export interface Resizing {
  /** Classes of the other, ascending. */
  kept: Int32Array
  /** The number of classes that follow, with zeros for optimizer state. */
  added: number
  /** The added classes' weights [added,D]; without them they are random. */
  weights?: Float32Array
  classNames?: readonly string[]
  classWeights?: Float32Array
}

/** A head with some of another's classes and new ones. The other one stays as it is, so both take memory at once. */
export function resizedHead(
  old: HeadMemory,
  { kept, added, weights, classNames, classWeights }: Resizing
): Promise<HeadMemory> {
  const { settings, execution, optimizerStart } = old
  const { dim, classes } = settings
  const plan = {
    settings: { ...settings, classes: kept.length + added },
    ...{ execution, optimizerStart, classNames, classWeights },
    iteration: native().headIteration(old.native),
  }
  const fill = async (head: HeadMemory) => {
    const request = { __proto__: null, kept, random: added > 0 && !weights, threads: execution.threads }
    succeeded(await native().headAdopt(head.native, old.native, request))
    if (!weights) return
    if (lengthOf(weights) !== added * dim) throw detached('weights')
    writeWeights(head, weights, { row: kept.length, named: 0 })
  }
  return allocate(plan, false, fill, bytesOf(settings, classes))
}

/** Makes a head in memory train as this says; sizes, device and storage must be its own. */
export async function changeMemory(head: HeadMemory): Promise<HeadMemory> {
  succeeded(await native().headChange(head.native, { __proto__: null, ...requestOf(head) }))
  return head
}

/**
 * Writes a head to its file.
 * @param check throws where the head has been disposed of
 */
export async function saveMemory(
  head: HeadMemory,
  path: string,
  check: () => void,
  signal: AbortSignal | undefined
): Promise<void> {
  const fill: Fill = (name, offset, part) => {
    throwIfAborted(signal)
    check()
    succeeded(native().headRead(head.native, name, offset, part))
  }
  const iteration = native().headIteration(head.native)
  try {
    await writeHead(path, { ...head, iteration }, head.shard, fill, head.group)
  } catch (error) {
    throwIfAborted(signal)
    throw error
  }
}

/** A head's settings in the form that native code takes: all but `ignoreIndex`, as labels are checked before. */
function requestOf({ settings, execution, optimizerStart }: Omit<HeadPlan, 'iteration'>) {
  const { margin, ignoreIndex: _, ...told } = settings
  const { marginKind, marginParameters } = encodeMargin(margin)
  const { device, precision } = execution
  return { ...told, marginKind, marginParameters, device, precision, optimizerStart }
}

/** Memory for the (share of the) classes, filled by `fill`; on every rank of a group, or on none. */
async function allocate(
  plan: HeadPlan,
  random: boolean,
  fill: (head: HeadMemory) => Promise<void>,
  besides?: bigint
): Promise<HeadMemory> {
  const { settings, execution, group, iteration, optimizerStart, classNames, classWeights } = plan
  if (group && settings.classes < group.size)
    throw wrongValue(`at least ${group.size} classes, one for each rank,`, 'classes', settings.classes)
  if (settings.weightStorage === 'bfloat16' && execution.device !== cpu)
    throw wrongValue("'float32' on a GPU", 'weightStorage', settings.weightStorage)
  checkBytes(settings, Math.ceil(settings.classes / (group?.size ?? 1)), execution.device === cpu, besides)
  const start = { iteration, random }
  const name = group && `head ${++sharded}`
  const request = {
    __proto__: null,
    ...requestOf(plan),
    ...{ classWeights, ...start, threads: execution.threads },
    group: group?.[groupTable],
    ...(group && { name }),
  }
  if (group)
    await assertSameOnAllRanks(group, {
      head: name,
      ...settings,
      ...start,
      precision: execution.precision,
      classNames: classNames && digestOfNames(classNames),
      classWeights: classWeights && digestOf(asBytes(classWeights)),
    })
  let made: NativeHead | undefined
  try {
    const memory = await allOrNone(group, 'make its share of the head', async () => {
      const { head, firstClass, ownClasses }: NativeResult = succeeded(await native().headCreate(request))
      made = head
      const shard = { first: firstClass, count: ownClasses }
      const share: HeadMemory = {
        native: head,
        ...{ settings, execution, optimizerStart, group, shard, classNames, classWeights },
      }
      await fill(share)
      return share
    })
    if (group) {
      const { exchange, reason } = succeeded(await native().headConnect(memory.native, ncclLibrary()))
      memory.exchange = { exchange, reason }
    }
    return memory
  } catch (error) {
    if (made) native().headDispose(made)
    throw error
  }
}

export function checkGroup(value: unknown, name: string): ProcessGroup {
  if (!isObject(value) || !(value as Partial<ProcessGroup>)[groupTable])
    throw wrongType("a process group of 'margin-softmax/distributed'", name, value)
  return value as ProcessGroup
}
