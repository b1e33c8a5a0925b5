// Agreements of a process group's ranks in JavaScript, before and after the native code's common work.
import type { ProcessGroup } from '../distributed'
import { MarginSoftmaxError } from '../errors'

/** Every rank's text, in rank order. */
export async function gatherTexts(group: ProcessGroup, text: string): Promise<string[]> {
  const bytes = new TextEncoder().encode(text)
  const lengths = await group.allGather(Int32Array.of(bytes.length))
  const all = await group.allGather(bytes)
  let end = 0
  return Array.from(lengths, (length) => {
    end += length
    return new TextDecoder().decode(all.subarray(end - length, end))
  })
}

/** Fails on every rank, and names what differs, unless all of them give equal values. */
export async function assertSameOnAllRanks(group: ProcessGroup, values: object): Promise<void> {
  const all = (await gatherTexts(group, JSON.stringify(values))).map((text) => JSON.parse(text))
  for (const [rank, theirs] of all.entries())
    for (const name of Object.keys({ ...all[0], ...theirs })) {
      const [first, other] = [JSON.stringify(all[0][name]), JSON.stringify(theirs[name])]
      if (first !== other)
        throw new MarginSoftmaxError(
          'ERR_DISTRIBUTED',
          `Expected the same ${name} on every rank but received ${first} from rank 0 and ${other} from rank ${rank}`
        )
    }
}

/** Work that may fail on some ranks only: then it fails on all of them. Without a group just the work. */
export async function allOrNone<T>(
  group: ProcessGroup | undefined,
  what: string,
  work: () => Promise<T>
): Promise<T> {
  if (!group) return work()
  const [outcome] = await Promise.allSettled([work()])
  const failed = outcome.status === 'rejected'
  const reports = await gatherTexts(group, failed ? outcome.reason.message || 'it failed' : '').catch(
    (error) => {
      throw failed ? outcome.reason : error
    }
  )
  if (failed) throw outcome.reason
  const rank = reports.findIndex((report) => report !== '')
  if (rank < 0) return outcome.value
  throw new MarginSoftmaxError(
    'ERR_DISTRIBUTED',
    `Expected every rank to ${what} but rank ${rank} failed: ${reports[rank]}`
  )
}
