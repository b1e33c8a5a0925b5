// A process group whose ranks run in one process, for what ranks settle in JavaScript: no MPI is needed.
import type { ProcessGroup } from '../../lib/distributed'

/** As many groups as ranks. Their calls meet: each waits until all have called. */
export function inProcessGroups(size: number): ProcessGroup[] {
  let waiting: { array: Uint8Array; resolve: (all: Uint8Array) => void }[] = []
  const gather = (array: Uint8Array, rank: number) =>
    new Promise<Uint8Array>((resolve) => {
      waiting[rank] = { array, resolve }
      if (Object.keys(waiting).length < size) return
      const all = Buffer.concat(waiting.map((one) => one.array))
      for (const one of waiting) one.resolve(all)
      waiting = []
    })
  return Array.from({ length: size }, (_, rank) => {
    const allGather = async (array: Int32Array | Uint8Array) => {
      const bytes = await gather(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), rank)
      return array instanceof Int32Array
        ? new Int32Array(new Uint8Array(bytes).buffer)
        : new Uint8Array(bytes)
    }
    return { rank, size, allGather } as unknown as ProcessGroup
  })
}
