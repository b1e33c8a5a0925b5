// What a head's files say is held against whatever else they say, and a save removes nothing but what is its own.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { MarginHead, MarginSoftmaxError, sgd } from '../../lib/index'
import { beginSave, endSave, leftoversOf } from '../../lib/internal/leftovers'
import { classes, dim, loadHead, refused, runOf, saveHead } from '../support/saved-heads'
import { rejectsLike } from '../support/support'

const test = suite('head, integrity of files')
let folder = ''
test.before.each(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-integrity-'))
})
test.after.each(() => fs.rmSync(folder, { recursive: true, force: true }))

const at = (name: string) => path.join(folder, name)
const names = () => fs.readdirSync(folder).sort()
const shards = (index: string) => names().filter((name) => name.startsWith(`${index}.`))
type Header = { __metadata__: Record<string, string> } & Record<string, Record<string, unknown>>

/** Rewrites a file's header, and perhaps what is behind it. */
function edit(file: string, change: (header: Header, body: Buffer) => unknown): void {
  const bytes = fs.readFileSync(file)
  const end = 8 + Number(bytes.readBigUInt64LE())
  const header = JSON.parse(bytes.toString('utf8', 8, end)) as Header
  const changed = change(header, bytes.subarray(end))
  const body = Buffer.isBuffer(changed) ? changed : bytes.subarray(end)
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  fs.writeFileSync(file, Buffer.concat([length, json, body]))
}

function editIndex(
  file: string,
  change: (index: { save?: string; shards: Record<string, unknown>[] }) => void
) {
  const { format, ...index } = JSON.parse(fs.readFileSync(file, 'utf8'))
  change(index)
  fs.writeFileSync(file, JSON.stringify({ format, ...index }))
}

test('a whole head and a sharded one load whole and in parts', async () => {
  await saveHead(at('whole'), 3)
  await saveHead(at('sharded'), 4, 3)
  for (const [file, seed] of [
    ['whole', 3],
    ['sharded', 4],
  ] as const) {
    assert.is(await loadHead(at(file)), seed)
    for (const rank of [0, 1]) assert.is(await loadHead(at(file), { own: runOf(rank, 2) }), seed)
  }
  assert.is(names().length, 5)
})

test('shards that were exchanged are refused', async () => {
  await saveHead(at('head'), 1, 3)
  const [, second, third] = shards('head') as [string, string, string]
  assert.is(fs.statSync(at(second)).size, fs.statSync(at(third)).size)
  fs.renameSync(at(second), at('x'))
  fs.renameSync(at(third), at(second))
  fs.renameSync(at('x'), at(third))
  await refused(
    loadHead(at('head')),
    /it is the shard \{"first":7,"count":4\}, not \{"first":3,"count":4\} as its index says/
  )
})

test('a shard of another save is refused, also if both saves are of the same step', async () => {
  await saveHead(at('head'), 1, 2)
  await saveHead(at('other'), 1, 2)
  fs.copyFileSync(at(shards('other')[0] as string), at(shards('head')[0] as string))
  await refused(loadHead(at('head')), /it is a shard of another save than its index/)
})

for (const [what, change, pattern] of [
  [
    'the same file twice',
    (all) => ((all[1] as object as { file: unknown }).file = all[0]?.file),
    /named "head\.[^ ]*, not as a file of its own/,
  ],
  ['a file in another folder', (all) => ((all[0] as { file: unknown }).file = '../x'), /named "\.\.\/x"/],
  ['a number for a file', (all) => ((all[0] as { file: unknown }).file = 7), /named 7/],
  ['a gap', (all) => ((all[1] as { first: unknown }).first = 6), /do not follow one another/],
  ['half a class', (all) => ((all[1] as { count: unknown }).count = 1.5), /do not follow one another/],
  ['too few classes', (all) => all.pop(), /its shards hold 5 of 11 classes/],
  ['null for a shard', (all) => all.splice(0, 1, null as never), /its shard is null, not an object/],
] as [string, (shards: Record<string, unknown>[]) => unknown, RegExp][])
  test(`an index with ${what} is refused`, async () => {
    await saveHead(at('head'), 1, 2)
    editIndex(at('head'), (index) => void change(index.shards))
    await refused(loadHead(at('head')), pattern)
  })

for (const [what, text, pattern] of [
  ['no shards', '{"format":"margin-softmax sharded head 1"}', /its shards are undefined, not an array/],
  [
    'null for the head',
    '{"format":"margin-softmax sharded head 1","head":null,"shards":[]}',
    /its head is null/,
  ],
  ['broken JSON', '{"format":', /its index is no JSON/],
] as const)
  test(`an index with ${what} is refused`, async () => {
    fs.writeFileSync(at('head'), text)
    await refused(MarginHead.load(at('head')), pattern)
  })

for (const ranks of [undefined, 2])
  test(`a bit that flipped in any tensor is found by its checksum${ranks ? ', in a shard' : ''}`, async () => {
    await saveHead(at('head'), 1, ranks)
    const file = at(ranks ? (shards('head')[0] as string) : 'head')
    const bytes = fs.readFileSync(file)
    const start = 8 + Number(bytes.readBigUInt64LE())
    for (const [position, name] of [
      [start, 'weight'],
      [bytes.length - 1, 'optimizer.momentum'],
    ] as const) {
      const flipped = Buffer.from(bytes)
      flipped[position] = (flipped[position] as number) ^ 4
      fs.writeFileSync(file, flipped)
      const pattern = new RegExp(`its ${name} does not have the checksum that it should: the file is damaged`)
      await refused(loadHead(at('head')), pattern)
      // Also by a rank that needs other classes of that file.
      await refused(loadHead(at('head'), { own: { first: 1, count: 2 } }), pattern)
      await rejectsLike(loadHead(at('head'), { checksums: false }), Error, /is .*, not /)
    }
    await refused(MarginHead.load(at('head')), /checksum/)
    const head = await MarginHead.load(at('head'), { checksums: false })
    assert.is(head.classes, classes)
    await rejectsLike(
      MarginHead.load(at('head'), { checksums: 1 as never }),
      TypeError,
      /for checksums but received 1/
    )
  })

test('settings have a checksum, too', async () => {
  await saveHead(at('head'), 1)
  edit(at('head'), ({ __metadata__: metadata }) => {
    metadata.head = (metadata.head as string).replace('"seed":0', '"seed":4')
  })
  await refused(loadHead(at('head')), /its head does not have the checksum/)
})

test('a file without checksums loads; one whose checksums leave a tensor out, or are none, does not', async () => {
  await saveHead(at('head'), 1)
  edit(at('head'), ({ __metadata__: metadata }) => {
    const { weight: _, ...others } = JSON.parse(metadata.sha256 as string)
    metadata.sha256 = JSON.stringify(others)
  })
  await refused(loadHead(at('head')), /it has no checksum of its weight/)
  for (const [text, pattern] of [
    ['null', /its sha256 is null, not an object/],
    ['{"weight":5}', /its checksum of weight is 5, no SHA-256/],
    ['{', /its sha256 is no JSON/],
  ] as const) {
    edit(at('head'), ({ __metadata__: metadata }) => {
      metadata.sha256 = text
    })
    await refused(loadHead(at('head')), pattern)
  }
  edit(at('head'), ({ __metadata__: metadata }) => {
    delete metadata.sha256
  })
  assert.is(await loadHead(at('head')), 1)
})

test('tensors that share bytes, gaps between them and bytes behind them are refused', async () => {
  const size = classes * dim * 4
  for (const [change, pattern] of [
    [
      (header: Header) => Object.assign(header['optimizer.momentum'] as object, { data_offsets: [0, size] }),
      /shares bytes with another/,
    ],
    [
      (header: Header) =>
        Object.assign(header['optimizer.momentum'] as object, { data_offsets: [size - 4, 2 * size - 4] }),
      /its tensor optimizer\.momentum shares bytes with another/,
    ],
    [
      (header: Header, body: Buffer) => {
        Object.assign(header['optimizer.momentum'] as object, { data_offsets: [size + 8, 2 * size + 8] })
        return Buffer.concat([body, Buffer.alloc(8)])
      },
      /has bytes 132 to 140 before its tensor optimizer\.momentum that are of no tensor/,
    ],
    [
      (_: Header, body: Buffer) => Buffer.concat([body, Buffer.alloc(5)]),
      /its last 5 bytes are of no tensor/,
    ],
  ] as const) {
    await saveHead(at('head'), 1)
    edit(at('head'), (header, body) => {
      const changed = change(header, body)
      return Buffer.isBuffer(changed) ? changed : undefined
    })
    await refused(loadHead(at('head')), pattern)
  }
})

for (const [what, head, pattern] of [
  ['null', null, /its head is null, not an object/],
  ['an array', [], /its head is an array, not an object/],
  ['a number', 5, /its head is 5, not an object/],
  [
    'an option of a later version',
    { tomorrow: 1 },
    /Expected only classes, .* for head but received "tomorrow"/,
  ],
] as const)
  test(`a head in a file that is ${what} is refused`, async () => {
    await saveHead(at('head'), 1)
    edit(at('head'), ({ __metadata__: metadata }) => {
      const settings = JSON.parse(metadata.head as string)
      metadata.head = JSON.stringify(
        what.startsWith('an option') ? { ...settings, ...(head as object) } : head
      )
    })
    await refused(MarginHead.load(at('head')), pattern)
  })

test('metadata that are no strings, and types and names that JavaScript knows for something else', async () => {
  for (const [change, pattern] of [
    [
      (header: Header) => Object.assign(header.__metadata__, { format: { toString: 1 } }),
      /its metadata format is an object, not a string/,
    ],
    [
      (header: Header) => Object.assign(header.weight as object, { dtype: { toString: 1 } }),
      /its tensor weight is an object, not F32/,
    ],
    [
      (header: Header) => Object.assign(header.weight as object, { dtype: 'constructor' }),
      /its tensor weight is "constructor"/,
    ],
  ] as const) {
    await saveHead(at('head'), 1)
    edit(at('head'), (header) => void change(header))
    await refused(MarginHead.load(at('head')), pattern)
  }
})

test('control characters of a file are escaped in messages', async () => {
  await saveHead(at('head'), 1)
  edit(at('head'), (header) => {
    Object.assign(header, { '\u001b[31m\u009bred\n\u202e': header.weight })
    delete header.weight
  })
  await refused(MarginHead.load(at('head')), /^[ -~…]+$/)
})

test('a save over an index of whoever removes only shards of its own', async () => {
  await saveHead(at('head'), 1, 2)
  const [first, second] = shards('head') as [string, string]
  fs.writeFileSync(at('precious.csv'), 'the only copy')
  fs.copyFileSync(at(first), at('copy.safetensors')) // a shard, but not by its name
  fs.writeFileSync(at(second), 'not a shard, for all its name')
  editIndex(at('head'), ({ shards: all }) => {
    const entry = all[0] as object
    all.splice(
      0,
      2,
      { ...entry, file: 'precious.csv' },
      { ...entry, file: 'copy.safetensors', first: 5 },
      { file: second, first: 10, count: 1 }
    )
  })
  await saveHead(at('head'), 2)
  assert.equal(names(), ['copy.safetensors', 'head', second, 'precious.csv'].sort())
  assert.is(fs.readFileSync(at('precious.csv'), 'utf8'), 'the only copy')
  assert.is(await loadHead(at('head')), 2)
})

test("a save replaces its path's shards, but none that another index names", async () => {
  await saveHead(at('head'), 1, 2)
  fs.copyFileSync(at('head'), at('kept'))
  await saveHead(at('head'), 2, 3)
  assert.is(await loadHead(at('kept')), 1)
  assert.is(await loadHead(at('head')), 2)
  assert.is(shards('head').length, 5)
  fs.rmSync(at('kept'))
  await saveHead(at('head'), 3, 2)
  assert.is(shards('head').length, 2)
  await saveHead(at('head'), 4)
  assert.equal(names(), ['head'])
})

test('what abandoned saves of this path left is removed by the next one, nothing else', async () => {
  await saveHead(at('head'), 1, 2)
  const save = beginSave()
  const [host, , start, random, count] = save.split('-') as [string, string, string, string, string]
  const dead = [host, (2 ** 22 + 12345).toString(36), start, random, count].join('-') // above Linux's largest process number
  const reused = [host, process.ppid.toString(36), '1', '00000000', '1'].join('-') // an older process of that number
  const elsewhere = ['00000000', '1', '1', '00000000', '1'].join('-')
  const orphan = (name: string) => `head.${name}.1-of-2.safetensors`
  const shard = at(shards('head')[0] as string)
  const put = (name: string, daysOld = 0) => {
    fs.writeFileSync(at(name), 'x')
    const time = Date.now() / 1000 - daysOld * 86400
    fs.utimesSync(at(name), time, time)
  }
  const gone = [`head.${dead}.tmp`, `head.${elsewhere}.tmp`, `${orphan(dead)}.${dead}.tmp`]
  if (process.platform === 'linux') gone.push(`head.${reused}.tmp`)
  for (const name of gone) put(name, name.includes(elsewhere) ? 1.1 : 0)
  const kept = [
    `head.${save}.tmp`,
    `head2.${dead}.tmp`,
    `head.${elsewhere}9.tmp`,
    'head.tmp',
    'head.x.tmp',
    `xhead.${dead}.tmp`,
  ]
  for (const name of kept) put(name)
  // Shards of saves that ended before they had an index: of a save that is gone, and one whose header names another.
  for (const name of [dead, reused]) fs.copyFileSync(shard, at(orphan(name)))
  edit(at(orphan(dead)), ({ __metadata__: metadata }) => {
    metadata.save = dead
  })
  const found = await leftoversOf(at('head'))
  assert.equal(
    found
      .filter(({ abandoned }) => abandoned)
      .map(({ file }) => path.basename(file))
      .sort(),
    [...gone].sort()
  )
  assert.is(found.find(({ file }) => file.endsWith(`head.${save}.tmp`))?.saver, 'running')
  await saveHead(at('head'), 2, 2)
  const own = shards('head').filter(
    (name) => /^head\..*\d-of-2\.safetensors$/.test(name) && name !== orphan(reused)
  )
  assert.is(own.length, 2)
  assert.equal(names(), ['head', ...own, ...kept, orphan(reused)].sort())
  endSave(save)
  await saveHead(at('head'), 3)
  assert.not(fs.existsSync(at(`head.${save}.tmp`)), 'own saves that have ended count as gone')
  assert.is(await loadHead(at('head')), 3)
})

test('a head that the container has no memory for is refused before anything is allocated', async () => {
  const known = process.constrainedMemory
  const limited = async (limit: number, work: () => Promise<unknown>) => {
    process.constrainedMemory = () => limit
    try {
      return await work()
    } finally {
      process.constrainedMemory = known
    }
  }
  const create = (device: 'cpu', count: number) =>
    MarginHead.create({ classes: count, dim: 64, optimizer: sgd({ momentum: 0.9 }), device })
  const tooLarge = (promise: Promise<unknown>, pattern: RegExp) =>
    rejectsLike(promise, MarginSoftmaxError, pattern).then(() =>
      promise.catch((error) => assert.is(error.code, 'ERR_OUT_OF_MEMORY'))
    )
  await tooLarge(
    limited(1e6, () => create('cpu', 2000)),
    /^Expected 1024000 bytes of memory for the head but this process may use 1000000$/
  )
  const head = (await limited(1.1e6, () => create('cpu', 2000))) as MarginHead
  await head.save(at('head'))
  await tooLarge(
    limited(1e6, () => MarginHead.load(at('head'))),
    /^Expected 1024000 bytes/
  )
  // No limit but the machine's.
  for (const none of [0, 2 ** 64])
    await tooLarge(
      limited(none, () => create('cpu', Math.ceil(os.totalmem() / 512) + 1)),
      new RegExp(`but this process may use ${os.totalmem()}$`)
    )
})

test('a number that is not finite is refused with its class, also where nothing is checksummed', async () => {
  const file = at('head')
  const head = await MarginHead.create({ classes, dim, optimizer: sgd({ momentum: 0.9 }) })
  await head.step(new Float32Array(dim).fill(1), [2])
  await head.save(file)
  head.dispose()
  const starts = { weight: 0, 'optimizer.momentum': classes * dim * 4 }
  for (const [name, start] of Object.entries(starts))
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, 3.4e38]) {
      const damaged = at(`${name} ${value}`)
      fs.copyFileSync(file, damaged)
      edit(damaged, (_, body) => void body.writeFloatLE(value, start + 4 * (5 * dim + 1)))
      const loaded = MarginHead.load(damaged, { checksums: false, weightStorage: 'bfloat16' })
      if (name !== 'weight' && value === 3.4e38) (await loaded).dispose()
      else await refused(loaded, /that is not finite once stored, of class 5$/)
    }
})

test.run()
