// Files that are not what they say: heads, indices of sharded heads, .npy, .npz, safetensors and CSV files, with bytes or
// whole values changed. Whoever reads one gets a result or the documented error, in words that are ours.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Command } from 'commander'
import { strToU8, type Zippable, zipSync } from 'fflate'
import { asMatrix, parseSource, readArray } from '../../lib/cli/data/files'
import { asLabels } from '../../lib/cli/data/labels'
import { addInspect } from '../../lib/cli/inspect'
import { Failure } from '../../lib/cli/terminal'
import { adamW, MarginHead, MarginSoftmaxError, sgd, softmaxMargin } from '../../lib/index'
import type { Dice, Plan } from './campaign'

const folder = fs.mkdtempSync(path.join(fs.existsSync('/dev/shm') ? '/dev/shm' : os.tmpdir(), 'fuzz-files-'))
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))

type Json = Record<string, unknown>

// Makers of whole files.

const floats = (length: number) => Buffer.from(Float32Array.from({ length }, (_, i) => Math.sin(i)).buffer)

function npy(type: string, shape: number[], content: Buffer, order = 'False', version = 1): Buffer {
  const comma = shape.length === 1 ? ',' : ''
  const text = `{'descr': '${type}', 'fortran_order': ${order}, 'shape': (${shape.join(', ')}${comma}), }`
  const line = `${text.padEnd(64 * Math.ceil((text.length + 13) / 64) - 13)}\n`
  const length =
    version > 1 ? [line.length & 255, line.length >> 8, 0, 0] : [line.length & 255, line.length >> 8]
  return Buffer.concat([
    Buffer.from([0x93, ...strToU8('NUMPY'), version, 0, ...length]),
    Buffer.from(line, 'latin1'),
    content,
  ])
}

function safetensors(header: Json, content: Buffer): Buffer {
  const text = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, content])
}

const headerOf = (file: Buffer): Json =>
  JSON.parse(file.toString('utf8', 8, 8 + Number(file.readBigUInt64LE())))
const contentOf = (file: Buffer): Buffer => file.subarray(8 + Number(file.readBigUInt64LE()))

const save = '0a1b2c3d'
const shardFile = (rank: number) => `head.safetensors.${save}.${rank + 1}-of-2.safetensors`

/** Heads as `save` writes them, and two shards with their index. */
async function wholeHeads(): Promise<{ heads: Buffer[]; index: Json; shards: Buffer[] }> {
  const heads: Buffer[] = []
  for (const how of [
    { optimizer: sgd({ momentum: 0.9 }) },
    { margin: softmaxMargin(), bias: true, optimizer: adamW() },
    { weightStorage: 'bfloat16' as const },
  ]) {
    const file = path.join(folder, 'whole.safetensors')
    const head = await MarginHead.create({ classes: 7, dim: 5, ...how })
    await head.save(file)
    head.dispose()
    heads.push(fs.readFileSync(file))
  }
  const metadata = headerOf(heads[0] as Buffer).__metadata__ as Record<string, string>
  const { format, head = '' } = metadata
  const runs = [
    { first: 0, count: 4 },
    { first: 4, count: 3 },
  ]
  const shards = runs.map((run) => {
    const bytes = run.count * 20
    const tensor = (from: number) => ({
      dtype: 'F32',
      shape: [run.count, 5],
      data_offsets: [from, from + bytes],
    })
    const said = { format, head, shard: JSON.stringify(run), save }
    return safetensors(
      { __metadata__: said, weight: tensor(0), 'optimizer.momentum': tensor(bytes) },
      floats(run.count * 10)
    )
  })
  const named = runs.map((run, rank) => ({ file: shardFile(rank), ...run }))
  return {
    heads,
    shards,
    index: { format: 'margin-softmax sharded head 1', head: JSON.parse(head), save, shards: named },
  }
}

// Ways to damage a file.

const oddNumbers = [
  -1,
  0,
  1,
  1.5,
  2 ** 31,
  2 ** 32,
  2 ** 40,
  2 ** 53 - 1,
  2 ** 53,
  1e308,
  '1',
  null,
  [],
  {},
  true,
]
const oddWords = [
  '',
  '../x',
  '/etc/passwd',
  '__proto__',
  'F64',
  'BF16',
  'margin-softmax head 2',
  '\0',
  '\x1b[2J',
  '{}',
  'null',
  '1'.repeat(1e4),
]
const oddNames = ['__proto__', 'constructor', 'toString', 'x', '__metadata__', '\x1b]0;x\x07']

/** A document with one to three of its values changed, removed or renamed. */
function spoiledJson(dice: Dice, document: Json): Json {
  const copy = structuredClone(document)
  for (let n = dice.integer(1, 3); n > 0; n--) {
    let at = copy
    for (;;) {
      const names = Object.keys(at)
      if (names.length === 0) break
      const name = dice.pick(names)
      const value = at[name]
      if (typeof value === 'object' && value !== null && dice.chance(0.8)) {
        at = value as Json
        continue
      }
      const way = dice.integer(0, 5)
      if (way === 0) delete at[name]
      else if (way === 1)
        Object.defineProperty(at, dice.pick(oddNames), {
          value,
          enumerable: true,
          configurable: true,
          writable: true,
        })
      else
        at[name] = typeof value === 'string' && dice.chance(0.5) ? dice.pick(oddWords) : dice.pick(oddNumbers)
      break
    }
  }
  return copy
}

/** One to four places cut, doubled, overwritten or flipped, early ones more often. */
function spoiledBytes(dice: Dice, whole: Buffer): Buffer {
  let copy = Buffer.from(whole)
  for (let n = dice.integer(1, 4); n > 0; n--) {
    const last = Math.max(0, copy.length - 1)
    const at = dice.integer(0, dice.chance(0.5) ? Math.min(200, last) : last)
    const way = dice.integer(0, 6)
    if (way === 0) copy = copy.subarray(0, at)
    else if (way === 1)
      copy = Buffer.concat([
        copy.subarray(0, at),
        copy.subarray(Math.min(copy.length, at + dice.integer(1, 20))),
      ])
    else if (way === 2)
      copy = Buffer.concat([
        copy.subarray(0, at),
        Buffer.from(String(dice.pick(oddNumbers))),
        copy.subarray(at),
      ])
    else if (way === 3 && copy.length >= 8)
      copy.writeBigUInt64LE(
        BigInt(dice.pick([0, 1, 7, 100, 2 ** 31, 2 ** 40, 2 ** 52])) + (dice.chance(0.2) ? 2n ** 63n : 0n),
        0
      )
    else if (copy.length && way === 4) copy[at] = (copy[at] as number) ^ (1 << dice.integer(0, 7))
    else if (copy.length) copy[at] = dice.integer(0, 255)
  }
  return copy
}

/** Sizes and offsets of an archive's directory. */
function spoiledDirectory(dice: Dice, zip: Buffer): Buffer {
  const at = zip.lastIndexOf('PK\x01\x02', undefined, 'latin1')
  if (at >= 0)
    zip.writeUInt32LE(dice.pick([0, 1, 0xffffffff, 0x7fffffff, 100_000]), at + dice.pick([20, 24, 28, 42]))
  return zip
}

// Readers.

/** The work's end must be one that users are told of. */
async function ends(file: string, what: string, work: () => Promise<unknown>): Promise<void> {
  const before = process.memoryUsage.rss()
  try {
    await work()
  } catch (error) {
    const known =
      error instanceof Failure ||
      (error instanceof MarginSoftmaxError && ['ERR_FILE', 'ERR_OUT_OF_MEMORY'].includes(error.code))
    if (!known) throw error
    const { message } = error as Error
    if (
      /not a function|Cannot read|Cannot destructure|Cannot convert|not iterable|call stack|undefined \(/.test(
        message
      )
    )
      throw new Error(`${what} of ${path.basename(file)} ends in words that are not ours: ${message}`)
  }
  const grown = process.memoryUsage.rss() - before
  if (grown > 300e6) throw new Error(`${what} of ${path.basename(file)} took ${Math.round(grown / 1e6)} MB`)
}

async function inspect(...words: string[]): Promise<void> {
  const all = new Command().exitOverride()
  addInspect(all)
  const { write } = process.stdout
  process.stdout.write = () => true
  try {
    await all.parseAsync(['inspect', ...words], { from: 'user' })
  } finally {
    process.stdout.write = write
  }
}

async function loads(dice: Dice, file: string): Promise<number> {
  await ends(file, 'load', async () => (await MarginHead.load(file)).dispose())
  await ends(file, 'inspect', () => inspect(file, ...(dice.chance(0.5) ? ['--json'] : [])))
  return 2
}

async function reads(dice: Dice, file: string): Promise<number> {
  const named = dice.chance(0.2) ? `${file}:labels` : file
  await ends(file, 'embeddings', async () =>
    asMatrix(await readArray(parseSource(file), 'embeddings', 'numbers'))
  )
  await ends(file, 'labels', async () => asLabels(await readArray(parseSource(named), 'labels', 'labels')))
  return 2
}

function written(name: string, bytes: Buffer): string {
  const file = path.join(folder, name)
  fs.writeFileSync(file, bytes)
  return file
}

const tensors: Json = {
  embeddings: { dtype: 'F32', shape: [6, 4], data_offsets: [0, 96] },
  labels: { dtype: 'I64', shape: [3], data_offsets: [96, 120] },
}
const texts = [
  ...['label,a,b\nx,1,2\ny,3,4\n', '1,2\n3,4\n', '"a""b",1\n"c",2\n', '1 2 3\n4 5 6', '\ufeff1;2\r\n3;4\r'],
  ...['a\tb\n1e999\t2\n', '"', ',,,\n,,,', '"a\n1,2', ''],
]

export async function filePlan(): Promise<Plan> {
  const { heads, index, shards } = await wholeHeads()
  shards.forEach((shard, rank) => {
    written(shardFile(rank), shard)
  })
  const kinds: Record<string, (dice: Dice) => Promise<number>> = {
    head(dice) {
      const whole = dice.pick(heads)
      const header = headerOf(whole)
      const metadata = header.__metadata__ as Record<string, string>
      // Without checksums, which would tell before anyone looks.
      header.__metadata__ = { format: metadata.format, head: metadata.head }
      const inside = {
        ...header,
        __metadata__: {
          format: metadata.format,
          head: JSON.stringify(spoiledJson(dice, JSON.parse(metadata.head as string))),
        },
      }
      const bytes = dice.pick([
        () => spoiledBytes(dice, whole),
        () => safetensors(spoiledJson(dice, header), contentOf(whole)),
        () => safetensors(inside, contentOf(whole)),
      ])()
      return loads(dice, written('head.safetensors', bytes))
    },
    index(dice) {
      const bytes = dice.chance(0.3)
        ? spoiledBytes(dice, Buffer.from(JSON.stringify(index)))
        : Buffer.from(JSON.stringify(spoiledJson(dice, index)))
      return loads(dice, written('head.safetensors', bytes))
    },
    async shard(dice) {
      const rank = dice.integer(0, 1)
      const shard = shards[rank] as Buffer
      const bytes = dice.chance(0.5)
        ? spoiledBytes(dice, shard)
        : safetensors(spoiledJson(dice, headerOf(shard)), contentOf(shard))
      written(shardFile(rank), bytes)
      const calls = await loads(dice, written('head.safetensors', Buffer.from(JSON.stringify(index))))
      written(shardFile(rank), shard)
      return calls
    },
    npy(dice) {
      const type = dice.pick(['<f4', '<f4', '<f8', '<i8', '|b1', '<f2', '>f4', '<U3', '|O'])
      const shape = dice.pick([
        [6, 4],
        [24],
        [],
        [0, 4],
        [6, 2 ** 20],
        [2 ** 31, 2 ** 31],
        [2 ** 53, 4],
        [6, 4, 1],
        [2 ** 32 + 1, 2 ** 32 + 1],
      ])
      const file = npy(
        type,
        shape,
        floats(dice.pick([0, 12, 24, 48])),
        dice.pick(['False', 'False', 'True']),
        dice.integer(1, 3)
      )
      return reads(dice, written('a.npy', dice.chance(0.5) ? spoiledBytes(dice, file) : file))
    },
    npz(dice) {
      const members: Zippable = {
        'embeddings.npy': npy('<f4', [6, 4], floats(24)),
        'labels.npy': npy('<i4', [6], Buffer.from(Int32Array.of(0, 1, 2, 0, 1, 2).buffer)),
      }
      const zip = Buffer.from(zipSync(members, { level: dice.pick([0, 6]) }))
      const listed = dice.chance(0.6) ? spoiledDirectory(dice, zip) : zip
      return reads(dice, written('a.npz', dice.chance(0.9) ? spoiledBytes(dice, listed) : listed))
    },
    async tensors(dice) {
      const bytes = dice.chance(0.5)
        ? spoiledBytes(dice, safetensors(tensors, floats(30)))
        : safetensors(spoiledJson(dice, tensors), floats(30))
      const file = written('t.safetensors', bytes)
      await ends(file, 'inspect', () => inspect(file))
      return 1 + (await reads(dice, file))
    },
    text: (dice) =>
      reads(
        dice,
        written(`a.${dice.pick(['csv', 'tsv', 'txt'])}`, spoiledBytes(dice, Buffer.from(dice.pick(texts))))
      ),
  }
  return {
    calls: 3000,
    kinds: Object.fromEntries(Object.entries(kinds).map(([name, run]) => [name, { share: 1, run }])),
    deadline: 20_000,
  }
}
