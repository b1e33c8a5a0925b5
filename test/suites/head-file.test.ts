// A head in a file: training goes on with the same bits, the file is a plain safetensors file, it appears whole or not at
// all, and a damaged one is refused with what is wrong.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { adamW, MarginHead, MarginSoftmaxError, sgd, softmaxMargin, sphereface } from '../../lib/index'
import { readSafetensors } from '../support/golden'
import { table } from '../support/margins'
import {
  filesOf,
  makeBatch,
  normals,
  random,
  rejectsLike,
  relativeError,
  sameBits,
  within,
} from '../support/support'

const test = suite('head, files')

const [rows, dim, classes] = [13, 24, 37]
const at = filesOf(test)

const optimizers = [
  sgd({ learningRate: 0.1 }),
  sgd({ learningRate: 0.05, momentum: 0.9, weightDecay: 0.01 }),
  sgd({ learningRate: 0.05, momentum: 0.9, nesterov: true }),
  adamW({ learningRate: 0.01 }),
  adamW({ learningRate: 0.02, beta1: 0.8, beta2: 0.95, epsilon: 1e-6, weightDecay: 0.1 }),
]

async function train(head: MarginHead, from: number, to: number) {
  const results = []
  for (let seed = from; seed < to; seed++) {
    const { input, labels } = makeBatch(seed, { rows, dim, classes })
    results.push(await head.step(input, labels))
  }
  return results
}

const trained = async (steps = 3, settings: Partial<Parameters<typeof MarginHead.create>[0]> = {}) => {
  const head = await MarginHead.create({
    classes,
    dim,
    optimizer: sgd({ momentum: 0.9 }),
    seed: 1,
    ...settings,
  })
  await train(head, 0, steps)
  return head
}

for (const [number, optimizer] of optimizers.entries()) {
  for (const row of table) {
    test(`training goes on with the same bits: ${JSON.stringify(optimizer)}, ${row.name}`, async () => {
      const file = at(`resume-${number}-${row.name}.safetensors`)
      const settings = {
        classes,
        dim,
        margin: row.make(),
        optimizer,
        bias: row.raw === true,
        marginWarmupSteps: 5,
        labelSmoothing: 0.05,
        ignoreIndex: -7,
        seed: 11,
      }
      const whole = await MarginHead.create(settings)
      await train(whole, 0, 3)
      await whole.save(file)
      const resumed = await MarginHead.load(file)
      assert.is(resumed.iteration, 3)
      assert.is(resumed.classes, classes)
      assert.is(resumed.dim, dim)
      assert.equal(resumed.margin, whole.margin)
      assert.equal(resumed.optimizer, whole.optimizer)
      sameBits(resumed.weights(), whole.weights(), 'weights as loaded')
      const [expected, actual] = [await train(whole, 3, 7), await train(resumed, 3, 7)]
      expected.forEach((step, i) => {
        assert.is(actual[i]?.loss, step.loss, `loss of step ${i + 3}`)
        sameBits(
          actual[i]?.gradInput as Float32Array,
          step.gradInput as Float32Array,
          `gradInput of step ${i + 3}`
        )
        assert.equal(actual[i]?.stats, step.stats)
      })
      sameBits(resumed.weights(), whole.weights(), 'weights at the end')
      if (row.raw) sameBits(resumed.bias() as Float32Array, whole.bias() as Float32Array, 'bias at the end')
      // The ignoreIndex comes from the file as well.
      const { input, labels } = makeBatch(9, { rows, dim, classes })
      labels[0] = -7
      assert.is(resumed.evaluateSync(input, labels).losses[0], 0)
    })
  }
}

test('saving again gives the same file', async () => {
  const [first, second] = [at('first.safetensors'), at('second.safetensors')]
  const head = await trained()
  await head.save(first)
  await (await MarginHead.load(first)).save(second)
  assert.ok(fs.readFileSync(first).equals(fs.readFileSync(second)))
})

test('the file is a safetensors file: weights, state and settings', async () => {
  const file = at('plain.safetensors')
  const margin = softmaxMargin()
  for (const [optimizer, states] of [
    [sgd({ learningRate: 0.1 }), 0],
    [sgd({ learningRate: 0.1, momentum: 0.9 }), 1],
    [adamW(), 2],
  ] as const) {
    const head = await trained(2, { optimizer, margin, bias: true })
    await head.save(file)
    const { tensors, metadata } = readSafetensors(file)
    sameBits(tensors.weight?.data as Float32Array, head.weights(), 'weight')
    sameBits(tensors.bias?.data as Float32Array, head.bias() as Float32Array, 'bias')
    assert.equal(tensors.weight?.shape, [classes, dim])
    assert.is(Object.keys(tensors).length, 2 + 2 * states)
    for (const { dtype } of Object.values(tensors)) assert.is(dtype, 'F32')
    for (const value of Object.values(metadata)) assert.type(value, 'string')
    assert.match(JSON.stringify(metadata), /softmax/)
  }
})

test("AdamW's moments of one step are (1 − β) of the gradient and its square, to float32's last places", async () => {
  const file = at('moments.safetensors')
  await (await trained(1, { optimizer: adamW() })).save(file)
  const { tensors } = readSafetensors(file)
  const [first, second] = ['optimizer.firstMoment', 'optimizer.secondMoment'].map(
    (name) => tensors[name]?.data
  )
  const expected = Float64Array.from(first as Float32Array, (moment) => (0.001 * moment ** 2) / 0.1 ** 2)
  within(relativeError(second as Float32Array, expected), 3e-7, 'the second of the first')
})

test('saving over an existing file replaces it and leaves nothing beside it', async () => {
  const inner = fs.mkdtempSync(at('replace-'))
  const file = path.join(inner, 'head.safetensors')
  const head = await trained()
  await head.save(file)
  await train(head, 3, 4)
  await head.save(file)
  assert.equal(fs.readdirSync(inner), ['head.safetensors'])
  const loaded = await MarginHead.load(file)
  assert.is(loaded.iteration, 4)
  sameBits(loaded.weights(), head.weights(), 'weights')
})

test('saves at once to one name leave a whole file', async () => {
  const inner = fs.mkdtempSync(at('together-'))
  const file = path.join(inner, 'head.safetensors')
  const head = await trained()
  await Promise.all([head.save(file), head.save(file), head.save(file)])
  assert.equal(fs.readdirSync(inner), ['head.safetensors'])
  sameBits((await MarginHead.load(file)).weights(), head.weights(), 'weights')
})

test('a save holds the state of the steps called before it, whatever is called meanwhile', async () => {
  const file = at('meanwhile.safetensors')
  const [head, other] = [await trained(0), await trained(0)]
  const batches = Array.from({ length: 6 }, (_, seed) => makeBatch(seed, { rows, dim, classes }))
  const running: Promise<unknown>[] = []
  for (const [i, { input, labels }] of batches.entries()) {
    if (i === 3) running.push(head.save(file))
    running.push(head.step(input, labels))
    input.fill(Number.NaN) // taken as it was when the step was called
    labels.fill(-1)
  }
  await Promise.all(running)
  await train(other, 0, 3)
  const loaded = await MarginHead.load(file)
  assert.is(loaded.iteration, 3)
  sameBits(loaded.weights(), other.weights(), 'weights as saved')
  await train(other, 3, 6)
  assert.is(head.iteration, 6)
  sameBits(head.weights(), other.weights(), 'weights after all steps')
})

const fileError = async (promise: Promise<unknown>, pattern: RegExp) => {
  await rejectsLike(promise, MarginSoftmaxError, pattern)
  await promise.catch((error: MarginSoftmaxError) => assert.is(error.code, 'ERR_FILE'))
}

test('a folder that does not exist, a folder in place of a file', async () => {
  const head = await trained()
  const missing = at('missing/head.safetensors')
  await fileError(head.save(missing), /missing/)
  assert.not(fs.existsSync(at('missing')))
  const occupied = fs.mkdtempSync(at('occupied-'))
  fs.mkdirSync(path.join(occupied, 'head'))
  fs.writeFileSync(path.join(occupied, 'head', 'keep'), '')
  await fileError(head.save(path.join(occupied, 'head')), /head/)
  assert.equal(fs.readdirSync(occupied), ['head'], 'no temporary file is left')
  await fileError(MarginHead.load(missing), /missing/)
  await fileError(MarginHead.load(occupied), /./)
  // The head goes on.
  await train(head, 3, 4)
  assert.is(head.iteration, 4)
})

test('a save that fails leaves the old file as it was', async () => {
  const inner = fs.mkdtempSync(at('failing-'))
  const file = path.join(inner, 'head.safetensors')
  const head = await trained()
  await head.save(file)
  const before = fs.readFileSync(file)
  const saving = head.save(file)
  head.dispose() // takes the arrays away under it, or is too late
  try {
    await saving
  } catch (error) {
    assert.instance(error, MarginSoftmaxError)
  }
  assert.equal(fs.readdirSync(inner), ['head.safetensors'])
  assert.ok(fs.readFileSync(file).equals(before))
})

for (const name of [undefined, null, '', 5, {}]) {
  test(`the file name ${JSON.stringify(name)} is refused`, async () => {
    const head = await trained(0)
    const pattern = /^Expected .+ for path but received /
    await rejectsLike(head.save(name as never), Error, pattern)
    await rejectsLike(MarginHead.load(name as never), Error, pattern)
  })
}

let files = 0

/** A saved head with its header rewritten. */
async function damaged(change: (header: Record<string, never>, metadata: Record<string, string>) => void) {
  const file = at(`damaged-${files++}.safetensors`)
  await (await trained(2, { optimizer: adamW() })).save(file)
  const bytes = fs.readFileSync(file)
  const length = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString('utf8'))
  change(header, header.__metadata__)
  const json = Buffer.from(JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  fs.writeFileSync(file, Buffer.concat([prefix, json, bytes.subarray(8 + length)]))
  return file
}

type Entry = { dtype: string; shape: unknown; data_offsets: unknown }
const entryOf = (header: Record<string, never>) => header.weight as unknown as Entry

const damages: [string, Parameters<typeof damaged>[0], RegExp][] = [
  [
    'a weight that is not named',
    (header) => delete (header as Record<string, unknown>).weight,
    /has bytes 0 to 3552 before its tensor optimizer.firstMoment that are of no tensor/,
  ],
  [
    'a weight of another name',
    (header) => {
      ;(header as Record<string, unknown>).weights = header.weight
      delete (header as Record<string, unknown>).weight
    },
    /it has no weight of shape/,
  ],
  ['another dtype', (header) => Object.assign(entryOf(header), { dtype: 'F16' }), /F16/],
  ['a negative shape', (header) => Object.assign(entryOf(header), { shape: [-classes, -dim] }), /weight/],
  ['a shape that is no list', (header) => Object.assign(entryOf(header), { shape: 'x' }), /weight/],
  ['another shape', (header) => Object.assign(entryOf(header), { shape: [dim, classes] }), /weight/],
  ['a huge shape', (header) => Object.assign(entryOf(header), { shape: [2 ** 40, 2 ** 40] }), /weight/],
  [
    'offsets beyond the file',
    (header) => Object.assign(entryOf(header), { data_offsets: [1e9, 1e9 + classes * dim * 4] }),
    /weight/,
  ],
  [
    'negative offsets',
    (header) => Object.assign(entryOf(header), { data_offsets: [-4, classes * dim * 4 - 4] }),
    /weight/,
  ],
  [
    'offsets back to front',
    (header) => Object.assign(entryOf(header), { data_offsets: [classes * dim * 4, 0] }),
    /weight/,
  ],
  ['offsets missing', (header) => Object.assign(entryOf(header), { data_offsets: undefined }), /weight/],
  ['an entry that is null', (header) => Object.assign(header, { weight: null }), /weight/],
  ['no metadata', (header) => delete (header as Record<string, unknown>).__metadata__, /format/],
  ['metadata that is null', (header) => Object.assign(header, { __metadata__: null }), /./],
  ['another format', (_, metadata) => Object.assign(metadata, { format: 'pt' }), /pt/],
  ['no settings', (_, metadata) => delete metadata.head, /./],
  ['settings that are no JSON', (_, metadata) => Object.assign(metadata, { head: '{' }), /./],
  ['settings that are null', (_, metadata) => Object.assign(metadata, { head: 'null' }), /./],
]

const settingsOf = (change: object) => (_: unknown, metadata: Record<string, string>) => {
  metadata.head = JSON.stringify({ ...JSON.parse(metadata.head as string), ...change })
}
for (const [name, value] of [
  ['classes', classes + 1],
  ['classes', -1],
  ['classes', 2 ** 40],
  ['dim', 0],
  ['dim', '24'],
  ['iteration', -1],
  ['iteration', 1.5],
  ['iteration', 'x'],
  ['margin', { name: 'nopeface' }],
  ['margin', null],
  ['optimizer', { name: 'adagrad' }],
  ['optimizer', null],
  ['labelSmoothing', 7],
  ['marginWarmupSteps', -1],
] as const) {
  const what = name === 'classes' && value === classes + 1 ? /weight/ : new RegExp(`${name}|weight`)
  damages.push([`${name} ${JSON.stringify(value)}`, settingsOf({ [name]: value }), what])
}

for (const [what, change, pattern] of damages) {
  test(`a file with ${what} is refused`, async () => {
    const file = await damaged(change)
    await fileError(MarginHead.load(file), new RegExp(path.basename(file)))
    await fileError(MarginHead.load(file), pattern)
  })
}

test('a file cut short anywhere is refused', async () => {
  const file = at('whole.safetensors')
  await (await trained(2)).save(file)
  const bytes = fs.readFileSync(file)
  const short = at('short.safetensors')
  const next = random(1)
  const ends = [0, 1, 7, 8, 9, 20, 200, bytes.length - 4, bytes.length - 1]
  for (let i = 0; i < 20; i++) ends.push(Math.floor(next() * bytes.length))
  for (const end of ends) {
    fs.writeFileSync(short, bytes.subarray(0, end))
    await fileError(MarginHead.load(short), /short\.safetensors/)
  }
})

test('a header length beyond all bounds, and bytes at random', async () => {
  const file = at('random.safetensors')
  const huge = Buffer.alloc(64)
  for (const length of [2n ** 64n - 1n, 2n ** 63n, 2n ** 53n, 2n ** 31n, 100n, 0n]) {
    huge.writeBigUInt64LE(length)
    fs.writeFileSync(file, huge)
    await fileError(MarginHead.load(file), /random\.safetensors/)
  }
  for (let seed = 0; seed < 20; seed++) {
    fs.writeFileSync(file, Buffer.from(normals(random(seed), 50 + seed).buffer))
    await fileError(MarginHead.load(file), /random\.safetensors/)
  }
  fs.writeFileSync(file, '')
  await fileError(MarginHead.load(file), /random\.safetensors/)
})

test('a flipped bit in the header is refused or harmless, never a crash', async () => {
  const file = at('flipped.safetensors')
  await (await trained(1, { margin: sphereface() })).save(file)
  const bytes = fs.readFileSync(file)
  const headerEnd = 8 + Number(bytes.readBigUInt64LE(0))
  const next = random(2)
  for (let i = 0; i < 200; i++) {
    const position = Math.floor(next() * headerEnd)
    const copy = Buffer.from(bytes)
    copy[position] = (copy[position] as number) ^ (1 << Math.floor(next() * 8))
    fs.writeFileSync(file, copy)
    try {
      const head = await MarginHead.load(file)
      head.dispose()
    } catch (error) {
      assert.instance(error, MarginSoftmaxError, `bit of byte ${position}: ${error}`)
    }
  }
})

test('loading takes execution options and refuses others', async () => {
  const file = at('options.safetensors')
  const head = await trained()
  await head.save(file)
  const loaded = await MarginHead.load(file, { threads: 1 })
  sameBits(loaded.weights(), head.weights(), 'weights')
  await rejectsLike(
    MarginHead.load(file, { threads: 0 }),
    RangeError,
    /^Expected .+ for threads but received 0/
  )
  await rejectsLike(MarginHead.load(file, { weights: head.weights() } as never), Error, /weights/)
})

test.run()
