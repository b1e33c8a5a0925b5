// The scenarios of distributed.test.ts, which starts them on several ranks: node distributed.child.cjs <scenario> … (mpirun.ts)
import assert from 'node:assert'
import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import { type Combination, type NumberArray, type ProcessGroup, processGroup } from '../../lib/distributed'
import { limitMemory } from '../support/memory-limit'
import { ranksOf } from '../support/ranks'
import { integer, normals, pick, random, sameBits } from '../support/support'

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

const types = [
  Int8Array,
  Uint8Array,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
] as const
type Type = (typeof types)[number]

/** The contribution of rank `rank`: any rank can make it for all of them. Wide enough that integers of 8 and 16 bits wrap. */
function numbers(Type: Type, seed: number, rank: number, length: number): NumberArray {
  const values = normals(random(1000 * seed + rank), length, 100)
  if (Type === BigInt64Array || Type === BigUint64Array)
    return Type.from(Array.from(values, (value) => BigInt(Math.trunc(value * 1e6))))
  return (Type as Float64ArrayConstructor).from(values as unknown as number[])
}

/** In rank order; floating point in double precision, rounded once. */
function combined(arrays: NumberArray[], operation: Combination): NumberArray {
  const Type = arrays[0]?.constructor as Float64ArrayConstructor
  const join = (a: number, b: number): number =>
    operation === 'sum' ? a + b : operation === 'max' ? (a > b ? a : b) : a < b ? a : b
  const length = arrays[0]?.length ?? 0
  return Type.from({ length }, (_, i) =>
    (arrays as Float64Array[]).map((array) => array[i] as number).reduce(join)
  )
}

function joinedArrays(arrays: NumberArray[]): NumberArray {
  const Type = arrays[0]?.constructor as Float64ArrayConstructor
  const all = new Type(arrays.reduce((total, { length }) => total + length, 0))
  let at = 0
  for (const array of arrays as Float64Array[]) {
    all.set(array, at)
    at += array.length
  }
  return all
}

// Lengths around 0, around the number of ranks, around what goes in one exchange (16 KiB), and into several stretches.
const lengths = [0, 1, 2, 3, 5, 2047, 4096, 4097, 30_011]

const works: Record<string, (group: ProcessGroup) => Promise<void>> = {
  async operations(group) {
    for (const [seed, length] of lengths.entries())
      for (const Type of types) {
        const arrays = ranksOf(group).map((rank) => numbers(Type, seed, rank, length))
        const mine = () => (arrays[group.rank] as NumberArray).slice()
        const what = `${Type.name}(${length})`
        for (const operation of ['sum', 'max', 'min'] as const) {
          const array = mine()
          const expected = combined(arrays, operation)
          assert.strictEqual(await group.allReduce(array, operation), array)
          sameBits(array, expected, `allReduce ${operation} ${what}`)

          const least = Math.floor(length / group.size)
          const more = length % group.size
          const from = group.rank * least + Math.min(group.rank, more)
          const even = expected.slice(from, from + least + (group.rank < more ? 1 : 0))
          sameBits(
            await group.reduceScatter(mine(), { operation }),
            even,
            `reduceScatter ${operation} ${what}`
          )
        }
        const root = seed % group.size
        const array = mine()
        assert.strictEqual(await group.broadcast(array, root), array)
        sameBits(array, arrays[root] as NumberArray, `broadcast ${what}`)
      }
  },

  async uneven(group) {
    const next = random(7)
    for (let round = 0; round < 40; round++) {
      const counts = ranksOf(group).map(() => pick(next, [0, 0, 1, integer(next, 0, 50), 9001]))
      const Type = pick(next, types)
      const parts = counts.map((count, rank) => numbers(Type, round, rank, count))
      const gathered = await group.allGather(parts[group.rank] as NumberArray)
      sameBits(gathered, joinedArrays(parts), `allGather ${Type.name} of ${counts}`)

      const wholes = counts.map((_, rank) => numbers(Type, round + 100, rank, gathered.length))
      const before = counts.slice(0, group.rank).reduce((total, count) => total + count, 0)
      const expected = combined(wholes, 'sum').slice(before, before + (counts[group.rank] as number))
      const scattered = await group.reduceScatter(wholes[group.rank] as NumberArray, { counts })
      sameBits(scattered, expected, `reduceScatter ${Type.name} of ${counts}`)
    }
  },

  // Far more than what is set aside for one stretch.
  async large(group) {
    const length = 12_000_007
    const pattern = (rank: number) => (i: number) => ((i * (2 * rank + 3)) % 1021) / 1024
    const array = new Float32Array(length)
    for (let i = 0; i < length; i++) array[i] = pattern(group.rank)(i)
    await group.allReduce(array)
    for (let i = 0; i < length; i++) {
      let expected = 0
      for (let rank = 0; rank < group.size; rank++) expected += pattern(rank)(i)
      if (array[i] !== Math.fround(expected)) assert.fail(`allReduce[${i}] is ${array[i]}, not ${expected}`)
    }
    for (let i = 0; i < length; i++) array[i] = pattern(group.rank)(i)
    await group.broadcast(array, group.size - 1)
    const last = pattern(group.size - 1)
    for (let i = 0; i < length; i++) if (array[i] !== last(i)) assert.fail(`broadcast[${i}] is ${array[i]}`)
  },

  async notNumbers(group) {
    const array = Float32Array.of(group.rank === group.size - 1 ? Number.NaN : 1, group.rank, -0, Infinity)
    const largest = await group.allReduce(array.slice(), 'max')
    assert.deepStrictEqual([...largest], [Number.NaN, group.size - 1, -0, Infinity])
    const least = await group.allReduce(array.slice(), 'min')
    assert.deepStrictEqual([...least], [Number.NaN, 0, -0, Infinity])
    const sum = await group.allReduce(Float32Array.of(Infinity, group.rank === 0 ? 1e30 : 1))
    assert.deepStrictEqual([...sum], [Infinity, Math.fround(1e30 + group.size - 1)])
  },

  // Calls in flight together are answered in order, and take what the array was when they were called.
  async flight(group) {
    const rounds = Array.from({ length: 100 }, (_, i) => i)
    const array = new Float64Array(3000)
    const sums = rounds.map((i) => {
      const copy = array.fill(i * (group.rank + 1)).slice()
      const sum = group.allReduce(copy)
      copy.fill(Number.NaN)
      return sum
    })
    const gathered = rounds.map((i) => group.allGather(Int32Array.of(i, group.rank)))
    const barrier = group.barrier()
    for (const i of rounds) {
      const expected = (i * group.size * (group.size + 1)) / 2
      assert.ok((await (sums[i] as Promise<Float64Array>)).every((value) => value === expected))
      const expectedAll = ranksOf(group).flatMap((rank) => [i, rank])
      assert.deepStrictEqual([...(await (gathered[i] as Promise<Int32Array>))], expectedAll)
    }
    await barrier

    const shared = new Float32Array(new SharedArrayBuffer(4 * 50_000)).fill(group.rank)
    await group.allReduce(shared)
    assert.ok(shared.every((value) => value === (group.size * (group.size - 1)) / 2))

    // Transferred in flight: the others get what it was, this rank an error, and the group goes on.
    const moved = new Int32Array(50_000).fill(1)
    const sum = group.allReduce(moved)
    if (group.rank === 0) {
      structuredClone(moved.buffer, { transfer: [moved.buffer] })
      await assert.rejects(sum, { code: 'ERR_DETACHED' })
    } else assert.ok((await sum).every((value) => value === group.size))
    await group.barrier()
  },

  async mistakes(group) {
    const wrong = (call: Promise<unknown>, message: RegExp) => assert.rejects(call, message)
    await wrong(
      group.allReduce([1] as never),
      /^TypeError: Expected a typed array .*for array but received Array/
    )
    await wrong(group.allReduce(new Uint8ClampedArray(1) as never), /for array but received Uint8Clamped/)
    await wrong(group.allReduce(new DataView(new ArrayBuffer(1)) as never), /for array but received/)
    await wrong(group.allReduce(new Int8Array(1), 'mean' as never), /for operation but received "mean"/)
    await wrong(
      group.broadcast(new Int8Array(1), group.size),
      /^RangeError: Expected .*for root but received/
    )
    await wrong(
      group.reduceScatter(new Int8Array(1), { count: [1] } as never),
      /for options but received "count"/
    )
    await wrong(group.reduceScatter(new Int8Array(1), { counts: [1, 2, 3, 4, 5] }), /for counts but received/)
    const counts = ranksOf(group).map(() => 1)
    await wrong(group.reduceScatter(new Int8Array(group.size + 1), { counts }), /for counts but received/)
    assert.strictEqual(await processGroup(), group)
    const library = JSON.stringify(path.resolve('lib/distributed.ts'))
    const worker = new Worker(`require('tsx/cjs'); require(${library}).processGroup()`, {
      eval: true,
      execArgv: [],
    })
    const [error] = await new Promise<[Error]>((resolve) =>
      worker.once('error', (caught) => resolve([caught]))
    )
    assert.match(error.message, /^Expected the main thread for processGroup but received a Worker$/)
    const code = `require(${library}).processGroup().then(console.log, (error) => console.log(error.message))`
    const child = execFileSync(process.execPath, ['--require', 'tsx/cjs', '-e', code], { encoding: 'utf8' })
    if (group.size > 1)
      assert.match(child, /^Expected a process that mpirun itself started .* received a child of one/)
    await group.barrier()
  },

  // README and doc comments say this of the traffic.
  async traffic(group) {
    const others = group.size - 1
    const sent = async (call: () => Promise<unknown>) => {
      const before = group.bytesSent
      await call()
      return group.bytesSent - before
    }
    const header = 256 * others
    assert.strictEqual(await sent(() => group.barrier()), header)
    assert.strictEqual(await sent(() => group.allReduce(new Float32Array(1000))), header + 4000 * others)
    const share = 120_000 / group.size
    assert.strictEqual(
      await sent(() => group.allReduce(new Float32Array(120_000))),
      header + 2 * 4 * share * others
    )
    assert.strictEqual(
      await sent(() => group.reduceScatter(new Float32Array(120_000))),
      header + 4 * share * others
    )
    assert.strictEqual(await sent(() => group.allGather(new Int8Array(7))), 2 * header + 7 * others)
  },

  async idle(group) {
    await group.allReduce(new Float32Array(10))
    const before = process.cpuUsage()
    await sleep(2000)
    const { user, system } = process.cpuUsage(before)
    assert.ok(user + system < 500e3, `an idle group took ${user + system} µs of 2 s`)
  },

  // Not awaited by anyone; then the process ends, for an idle group keeps no process alive.
  async pending(group) {
    group.allReduce(new Float32Array(1000).fill(1)).then(([sum]) => {
      assert.strictEqual(sum, group.size)
      console.log('settled')
    })
  },

  async exitsWithCode0(group) {
    const array = new Float32Array(100_000)
    for (let i = 0; i < 20; i++) group.allReduce(array)
    console.log(`done exitsWithCode0 of ${group.size}`)
    process.exit(0)
  },
}

/** Rank 1 does something else than the others; each says what it is about. */
const failures: Record<string, (group: ProcessGroup, odd: boolean) => Promise<unknown>> = {
  async throws(group, odd) {
    if (odd) throw new RangeError('thrown on purpose')
    await group.allReduce(new Float32Array(5))
  },
  async exits(group, odd) {
    if (odd) process.exit(3)
    await group.broadcast(new Float32Array(5))
  },
  async exitsEarly(group, odd) {
    if (odd) process.exit(0)
    await group.allGather(new Int8Array(5))
  },
  async endsEarly(group, odd) {
    if (!odd) await group.barrier()
  },
  async killed(group, odd) {
    if (odd) process.kill(process.pid, 'SIGKILL')
    await group.barrier()
  },
  async exitsInFlight(group, odd) {
    for (let i = 0; i < 50; i++) group.allReduce(new Float32Array(100_000))
    if (odd) process.exit(4)
    await group.allReduce(new Float32Array(5))
  },
  async whileOthersCompute(_group, odd) {
    if (odd) process.exit(5)
    const end = Date.now() + 30_000
    while (Date.now() < end);
  },
  async whileOthersSleep(_group, odd) {
    if (odd) throw new Error('thrown on purpose')
    await sleep(30_000)
  },
  calls: (group, odd) => (odd ? group.broadcast(new Float32Array(5)) : group.allReduce(new Float32Array(5))),
  sizes: (group, odd) => group.allReduce(new Float32Array(odd ? 50_000 : 40_000)),
  types: (group, odd) => group.broadcast(odd ? new Float64Array(5) : new Float32Array(5)),
  gatheredTypes: (group, odd) => group.allGather(odd ? new Uint32Array(5) : new Int32Array(3)),
  combinations: (group, odd) => group.allReduce(new Int8Array(5), odd ? 'max' : 'sum'),
  roots: (group, odd) => group.broadcast(new Int8Array(5), odd ? 1 : 0),
  counts: (group, odd) => group.reduceScatter(new Int8Array(3), { counts: odd ? [0, 3, 0] : [1, 1, 1] }),
  async order(group, odd) {
    const reduce = () => group.allReduce(new Float32Array(5))
    const gather = () => group.allGather(new Float32Array(5))
    await group.barrier()
    await Promise.all(odd ? [gather(), reduce()] : [reduce(), gather()])
  },
  async memory(group, odd) {
    const array = new Float32Array(50e6)
    if (odd) limitMemory(100e6)
    await group.allReduce(array)
  },
  async memoryOfResult(group, odd) {
    const array = new Float32Array(odd ? 1 : 50e6)
    if (odd) limitMemory(100e6)
    await group.allGather(array)
  },
  async caught(group, odd) {
    for (let i = 0; i < 3; i++)
      await assert.rejects(group.allReduce(new Float32Array(odd ? 5 : 4)), (error: Error) => {
        console.log(`caught ${i}: ${error.message}`)
        return true
      })
    process.exit(0)
  },
}

async function main(): Promise<void> {
  const scenario = process.argv[2] as string
  const rank = Number(process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK ?? 0)
  const odd = rank === 1
  const begin = () => odd && console.log(`begins at ${Date.now()}`)
  if (scenario.endsWith('Before')) begin()
  if (scenario === 'throwsBefore' && odd) throw new Error('thrown on purpose')
  if (scenario === 'endsBefore' && odd) return
  const group = await processGroup()
  assert.strictEqual(group.rank, rank)
  if (failures[scenario]) {
    begin()
    await failures[scenario](group, odd)
    console.log('went well')
  } else if (scenario.endsWith('Before')) await group.barrier()
  else
    for (const name of process.argv.slice(2)) {
      await works[name]?.(group)
      console.log(`done ${name} of ${group.size}`)
    }
}

main()
