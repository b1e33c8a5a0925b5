// Native code reads exactly the names that lib/ writes into a request: an option that one of them forgets is found here.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  adamW,
  crossEntropy,
  crossEntropyLoss,
  entropy,
  MarginHead,
  marginLoss,
  marginLossSync,
  sgd,
  softmaxMargin,
  topK,
  topKSync,
  verification,
  verificationFromScores,
  verificationSync,
} from '../../lib/index'
import { native } from '../../lib/internal/native'

const test = suite('requests')
const root = path.join(__dirname, '../..')

/** The place of the request among the arguments. */
const functions = {
  loss: 0,
  topK: 0,
  measure: 0,
  crossEntropyLoss: 0,
  verification: 0,
  headCreate: 0,
  headChange: 1,
  headAdopt: 2,
  headStep: 1,
  headTopK: 1,
  headEmbed: 1,
} as const
type Name = keyof typeof functions

const read = new Map<Name, Set<string>>()
const written = new Map<Name, Set<string>>()
const undeclared: string[] = []

/** Notes which properties are read of a request, and those that are not there. */
function watchedRequest(name: Name, request: object, prefix = ''): object {
  const names = [read.get(name) as Set<string>, written.get(name) as Set<string>] as const
  for (const key of Object.keys(request)) names[1].add(prefix + key)
  return new Proxy(request, {
    get(target, key) {
      names[0].add(prefix + String(key))
      if (!Object.hasOwn(target, key)) undeclared.push(`${name}: ${prefix}${String(key)}`)
      const value: unknown = Reflect.get(target, key)
      const isPart = typeof value === 'object' && ['optimizer', 'projection'].includes(String(key))
      return isPart ? watchedRequest(name, value as object, `${String(key)}.`) : value
    },
  })
}

const addon = native() as unknown as Record<Name, (...words: unknown[]) => unknown>
for (const [name, place] of Object.entries(functions) as [Name, number][]) {
  read.set(name, new Set())
  written.set(name, new Set())
  const original = addon[name]
  addon[name] = (...words) => {
    const request = words[place] as object
    assert.is(Object.getPrototypeOf(request), null, `${name}: a request inherits nothing`)
    return original(...words.with(place, watchedRequest(name, request)))
  }
}

const rows = 2
const batch = {
  input: Float32Array.of(1, 2, 3, 4),
  weight: Float32Array.of(1, 0, 0, 1, 1, 1),
  labels: [0, 1],
  dim: 2,
}
const bias = Float32Array.of(0, 0, 0)
const { labels: _, ...classesAndRows } = batch
const everyFunction = async () => {
  marginLossSync(batch)
  await marginLoss({ ...batch, bias }, { margin: softmaxMargin() })
  await topK(classesAndRows)
  topKSync({ ...classesAndRows, bias }, { margin: softmaxMargin() })
  const p = Float32Array.of(0.5, 0.5)
  entropy(p)
  crossEntropy(p, p)
  crossEntropyLoss(batch.input, [0, 1])
  crossEntropyLoss(p, p)
  const labels = [0, 0, 1]
  const embeddings = Float32Array.of(1, 0, 1, 1, 0, 1)
  verificationSync(embeddings, labels)
  const { signal } = new AbortController()
  await verification(embeddings, { pairs: [0, 1, 0, 2], same: [true, false] }, { dim: 2, signal })
  await verificationFromScores([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], { folds: 2 })
  for (const optimizer of [sgd({ momentum: 0.9 }), adamW()]) {
    const head = await MarginHead.create({ classes: 3, dim: 2, optimizer })
    await head.step(batch.input, batch.labels)
    head.stepSync(batch.input, batch.labels)
    await head.topK(batch.input, 1, { signal })
    head.topKSync(batch.input)
    await head.set({ optimizer: optimizer.name === 'sgd' ? adamW() : sgd() })
    await head.addClasses(1)
    head.dispose()
  }
  const head = await MarginHead.create({ classes: 3, projection: { from: 2, to: 4 } })
  await head.step(batch.input, batch.labels)
  await head.embed(batch.input, { signal })
  head.embedSync(batch.input)
  head.dispose()
}

test('what native code reads of a request is in it, and what is in it is read', async () => {
  await everyFunction()
  assert.equal(undeclared, [], 'read, but not written')
  for (const [name, names] of written) {
    assert.ok(names.size > 0, `${name} was called`)
    const ignored = [...names].filter((each) => !read.get(name)?.has(each))
    assert.equal(ignored, [], `${name}: written, but never read`)
  }
})

/** The names in the bindings' sources. */
const namesIn = (file: string) =>
  [
    ...fs
      .readFileSync(path.join(root, file), 'utf8')
      .matchAll(/\brequest\.(?!refuse)\w+(?:<\w+>)?\(\s*"(\w+)"/g),
  ].map(([, name]) => name as string)

test('the calls of this suite have native code read every name that its sources have', () => {
  const bindings = fs.readdirSync(path.join(root, 'native/node')).filter((file) => file.endsWith('.cc'))
  const inSources = new Set(bindings.flatMap((file) => namesIn(`native/node/${file}`)))
  const seen = new Set([...read.values()].flatMap((names) => [...names].map((each) => each.split('.').pop())))
  assert.ok(inSources.size > 50)
  assert.equal([...inSources].filter((each) => !seen.has(each)).sort(), [])
})

test('the addon of process groups reads what lib/distributed.ts writes', () => {
  const names = namesIn('native/node/mpi/binding_group.cc')
  const text = fs.readFileSync(path.join(root, 'lib/distributed.ts'), 'utf8')
  const [, usual = ''] = /usualChoices = \{([^}]*)\}/.exec(text) ?? []
  const lists = [...usual.matchAll(/(\w+):/g)].map(([, name]) => name as string)
  assert.equal(names.sort(), [...lists, 'operation', 'array'].sort())
})

test('only the reader of requests asks JavaScript for a property', () => {
  const elsewhere = fs
    .readdirSync(path.join(root, 'native/node'), { recursive: true })
    .map(String)
    .filter((file) => /\.(h|cc)$/.test(file) && file !== 'request.h')
    .filter((file) => /\.Get\(/.test(fs.readFileSync(path.join(root, 'native/node', file), 'utf8')))
  assert.equal(elsewhere, [])
})

for (const [what, spoil, pattern] of [
  ['a number', { labelSmoothing: '0' }, /Expected a number for labelSmoothing/],
  ['a text for a number', { rows: 'two' }, /Expected a number for rows/],
  ['a share of a row', { rows: 1.5 }, /Expected an integer from 1 to 2147483647 for rows/],
  ['no number', { dim: Number.NaN }, /for dim/],
  ['a flag', { asynchronous: 1 }, /Expected true or false for asynchronous/],
  ['a forgotten flag', { asynchronous: undefined }, /Expected true or false for asynchronous/],
  ['a forgotten number', { gradScale: undefined }, /Expected a number for gradScale/],
  ['a reduction that there is not', { reduction: 3 }, /Expected an integer from 0 to 2 for reduction/],
  ['a margin that there is not', { marginKind: 99 }, /for marginKind/],
  ['too many threads', { threads: 1024 }, /Expected an integer from 1 to 1023 for threads/],
  ['a forgotten output', { losses: undefined }, /Expected 2 elements for losses/],
  ['a forgotten input', { input: undefined }, /Expected 4 elements for input/],
  ['a short array', { weight: new Float32Array(5) }, /Expected 6 elements for weight but received 5/],
  ['another type', { labels: new Float32Array(2) }, /Expected another element type for labels/],
  ['a list for an array', { sampleWeights: [1, 1] }, /Expected a typed array for sampleWeights/],
  ['a label out of range', { labels: Int32Array.of(0, 3) }, /Expected indices in range for labels/],
  ['a gradient of no bias', { gradBias: new Float32Array(3) }, /Expected a bias for gradBias/],
] as [string, object, RegExp][])
  test(`a defect of lib/ is named rather than computed with: ${what}`, () => {
    const { loss } = addon
    let request: object = {}
    addon.loss = (given) => {
      request = { ...(given as object), ...spoil, __proto__: null }
      return loss(request)
    }
    try {
      assert.throws(() => marginLossSync(batch), pattern)
    } finally {
      addon.loss = loss
    }
    assert.is((request as { rows?: unknown }).rows, 'rows' in spoil ? spoil.rows : rows)
  })

test('a property that answers otherwise the second time is read once', () => {
  const { loss } = addon
  const counts = new Map<string, number>()
  addon.loss = (given) =>
    loss(
      new Proxy(given as object, {
        get(target, key) {
          counts.set(String(key), (counts.get(String(key)) ?? 0) + 1)
          return Reflect.get(target, key)
        },
      })
    )
  try {
    marginLossSync({ ...batch, bias }, { margin: softmaxMargin() })
  } finally {
    addon.loss = loss
  }
  const arrays = ['input', 'weight', 'bias', 'labels', 'losses', 'gradInput', 'gradWeight', 'gradBias']
  for (const name of arrays) assert.is(counts.get(name), 1, name)
})

test.run()
