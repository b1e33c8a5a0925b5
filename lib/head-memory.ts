// A head's arrays in native memory: made for a new head or a loaded one, on one process or on every rank of a group.
import { agree, together } from './agreement'
import { cpu, ncclLibrary } from './devices'
import type { ProcessGroup } from './distributed'
import { detached, notFinite, wrongType, wrongValue } from './errors'
import type { Execution } from './execution'
import { type HeadFile, readHead } from './head-file'
import { digestOfNames } from './head-names'
import { checkBytes, type Exchange, type Settings } from './head-settings'
import type { ClassRun } from './head-shards'
import { isObject, lengthOf, partOf } from './intrinsics'
import { encodeMargin } from './margins'
import { groupTable, type NativeHead, type NativeResult, native, succeeded } from './native'

/** What a head is made as, apart from the numbers that it holds. */
export interface HeadPlan {
  settings: Settings
  execution: Execution
  group?: ProcessGroup
  /** Updates made so far. */
  iteration: number
  /** The name of each class, all of them on every rank. */
  classNames?: readonly string[]
}

/** A head in native memory. */
export interface HeadMemory extends Omit<HeadPlan, 'iteration'> {
  native: NativeHead
  /** The classes that this process holds. */
  shard: Readonly<ClassRun>
  /** Of a sharded head. */
  exchange?: Exchange
}

let sharded = 0

/** A new head with these first values of its weights [C,D], or random ones. */
export function newHead(plan: HeadPlan, weights: Float32Array | undefined): Promise<HeadMemory> {
  return allocate(plan, weights === undefined, async ({ native: head, settings, shard }) => {
    if (!weights) return
    const { classes, dim, weightStorage } = settings
    if (lengthOf(weights) !== classes * dim) throw detached('weights')
    const own = partOf(weights, shard.first * dim, shard.count * dim)
    const written = native().headWrite(head, 'weight', 0, own)
    if (written.failure === 'ERR_NOT_FINITE')
      throw notFinite(
        weightStorage === 'bfloat16' ? 'weights in bfloat16' : 'weights',
        shard.first + (written.row as number)
      )
    succeeded(written)
  })
}

/** A head with the numbers of an opened file. */
export function loadedHead(plan: HeadPlan, file: HeadFile, checksums: boolean): Promise<HeadMemory> {
  return allocate(plan, false, ({ native: head, shard }) =>
    readHead(
      file,
      shard,
      (name, offset, part) => {
        const written = native().headWrite(head, name, offset, part)
        if (written.failure === 'ERR_NOT_FINITE')
          throw new Error(`it holds a ${name} that is not finite once stored, of class ${written.row}`)
        succeeded(written)
      },
      checksums
    )
  )
}

/** Memory for the (share of the) classes, filled by `fill`; on every rank of a group, or on none. */
async function allocate(
  plan: HeadPlan,
  random: boolean,
  fill: (head: HeadMemory) => Promise<void>
): Promise<HeadMemory> {
  const { settings, execution, group, iteration, classNames } = plan
  if (group && settings.classes < group.size)
    throw wrongValue(`at least ${group.size} classes, one for each rank,`, 'classes', settings.classes)
  if (settings.weightStorage === 'bfloat16' && execution.device !== cpu)
    throw wrongValue("'float32' on a GPU", 'weightStorage', settings.weightStorage)
  checkBytes(settings, Math.ceil(settings.classes / (group?.size ?? 1)), execution.device === cpu)
  const start = { iteration, random }
  const shared = group && { group: group[groupTable], name: `head ${++sharded}` }
  const encoded = encodeMargin(settings.margin)
  const request = { __proto__: null, ...settings, ...encoded, ...start, ...execution, ...shared }
  if (group)
    await agree(group, {
      head: shared?.name,
      ...settings,
      ...start,
      precision: execution.precision,
      classNames: classNames && digestOfNames(classNames),
    })
  let made: NativeHead | undefined
  try {
    const memory = await together(group, 'make its share of the head', async () => {
      const { head, firstClass, ownClasses }: NativeResult = succeeded(await native().headCreate(request))
      made = head
      const shard = { first: firstClass, count: ownClasses }
      const own: HeadMemory = { native: head, settings, execution, group, shard, classNames }
      await fill(own)
      return own
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

export function groupOf({ group }: { group?: ProcessGroup }): ProcessGroup | undefined {
  if (group !== undefined && !(isObject(group) && group[groupTable]))
    throw wrongType("a process group of 'margin-softmax/distributed'", 'group', group)
  return group
}
