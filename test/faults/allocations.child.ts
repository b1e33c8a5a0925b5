// node --require tsx/cjs allocations.child.ts <scenario> <first> <once|onwards>, under allocations.c: lets the first, second, …
// allocation that the scenario makes fail, until it makes no more. Each time it must end with ERR_OUT_OF_MEMORY or with the
// right result, and then work as if nothing had been. Prints a line of JSON for each failure that was let happen.
import assert from 'node:assert'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import * as library from '../../lib/index'
import { makeBatch, normals, random } from '../support/support'

const { MarginHead } = library
const batch = makeBatch(1, { rows: 40, dim: 130, classes: 700 })
const { input, weight, labels, dim } = batch
const logits = normals(random(2), 4000)
const shares = new Float32Array(4000).fill(1 / 40)
const longRow = normals(random(3), 300_000)
const people = Int32Array.from({ length: 200 }, (_, i) => i % 20)
const faces = normals(random(4), 200 * 8)
const same = Array.from({ length: 100 }, (_, i) => i % 2)

interface Scenario {
  /** Whether it is about what only the first call of a process does. */
  first?: boolean
  /** Its result is compared from run to run. */
  run(): unknown
}

async function withHead(
  options: Partial<library.MarginHeadOptions>,
  body: (head: library.MarginHead) => Promise<unknown>
) {
  const head = await MarginHead.create({ classes: 700, dim, seed: 1, ...options })
  try {
    return await body(head)
  } finally {
    head.dispose()
  }
}

const steps = async (head: library.MarginHead) => [
  await head.step(input, labels),
  head.stepSync(input, labels),
  await head.evaluate(input, labels),
  await head.topK(input, 3),
  head.weights(),
]

export const scenarios: Record<string, Scenario> = {
  load: { first: true, run: () => library.instructionSets() },
  'first call': { first: true, run: () => library.marginLossSync(batch, { threads: 4 }) },
  'first asynchronous call': { first: true, run: () => library.marginLoss(batch, { threads: 4 }) },
  marginLossSync: { run: () => library.marginLossSync(batch, { threads: 2 }) },
  marginLoss: { run: () => library.marginLoss(batch, { threads: 2 }) },
  'marginLoss in bfloat16': {
    run: () => library.marginLoss(batch, { threads: 2, precision: 'bfloat16' }),
  },
  'three losses at once': {
    run: async () => {
      const all = await Promise.allSettled([1, 2, 3].map(() => library.marginLoss(batch)))
      return all.map((one) => {
        if (one.status === 'rejected') throw one.reason
        return one.value
      })
    },
  },
  topKSync: { run: () => library.topKSync({ input, weight, dim }, { k: 5 }) },
  topK: { run: () => library.topK({ input, weight, dim }, { k: 5 }) },
  verificationSync: { run: () => library.verificationSync(faces, people) },
  verification: { run: () => library.verification(faces, people) },
  'verification of pairs': { run: () => library.verification(faces, { same }, { dim: 8 }) },
  'probability functions': {
    run: () => [
      library.softmax(logits, { classes: 40, threads: 2 }),
      library.logSoftmax(logits, { classes: 40, threads: 2 }),
      library.entropy(shares, { classes: 40, threads: 2 }),
      library.klDivergence(shares, shares, { classes: 40 }),
      library.softmax(longRow, { threads: 2 }),
      library.crossEntropyLoss(logits, new Int32Array(100), { classes: 40 }),
    ],
  },
  'a head': { run: () => withHead({ optimizer: library.adamW() }, steps) },
  'a head that samples': {
    run: () =>
      withHead(
        { sampleRate: 0.3, weightStorage: 'bfloat16', optimizer: library.sgd({ momentum: 0.9 }) },
        async (head) => [await head.step(input, labels), head.stepSync(input, labels)]
      ),
  },
  'a head with a projection': {
    run: () =>
      withHead(
        {
          dim: 24,
          projection: { from: dim, to: 24, layers: 2, batchNorm: true },
          optimizer: library.adamW(),
        },
        async (head) => {
          const made = []
          for (let i = 0; i < 2; i++) {
            try {
              made.push(await head.step(input, labels))
            } finally {
              assert.ok(!head.disposed, 'the class weights were updated, and the projection was not')
            }
          }
          return [...made, await head.embed(input), head.embedSync(input), head.topKSync(input, 2)]
        }
      ),
  },
  'a head, saved and loaded': {
    run: () =>
      withHead({ classes: 50 }, async (head) => {
        const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-'))
        try {
          const file = path.join(folder, 'head.safetensors')
          await head.save(file)
          const loaded = await MarginHead.load(file)
          const weights = loaded.weights()
          loaded.dispose()
          return weights
        } finally {
          fs.rmSync(folder, { recursive: true, force: true })
        }
      }),
  },
  devices: { run: () => library.devices() },
}

const control = fs.openSync(process.env.MARGIN_SOFTMAX_FAULTS as string, 'r+')
const put = (...values: number[]) => fs.writeSync(control, BigInt64Array.from(values, BigInt), 0, null, 0)
function failures(): number {
  const values = new BigInt64Array(4)
  fs.readSync(control, values, 0, 32, 0)
  return Number(values[3])
}

async function main(name: string, first: number, onwards: boolean): Promise<void> {
  const { run, first: once } = scenarios[name] as Scenario
  // Everything of Node.js that is loaded late is loaded now: a module that is missing would be blamed on the addon.
  if (name !== 'load') library.devices()
  if (!once) for (let i = 0; i < 2; i++) await run()
  const expected = once ? undefined : await run()
  for (let number = first; ; number++) {
    put(number, 0, onwards ? 1 : 0, 0)
    let outcome = 'right'
    let result: unknown
    try {
      result = await run()
    } catch (error) {
      outcome = (error as { code?: string }).code ?? String(error)
    }
    put(0)
    const failed = failures()
    if (failed) {
      if (outcome !== 'right') assert.equal(outcome, 'ERR_OUT_OF_MEMORY')
      const again = await run()
      for (const value of outcome === 'right' ? [result, again] : [again])
        if (expected !== undefined) assert.deepEqual(value, expected)
      fs.writeSync(1, `${JSON.stringify({ name, number, outcome })}\n`)
    }
    if (!failed || once) return
  }
}

const [name = '', first = '1', mode] = process.argv.slice(2)
main(name, Number(first), mode === 'onwards')
