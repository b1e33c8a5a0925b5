// The same bits: for any number of threads, run to run, with tiles kept or computed again, and on every instruction set
// with a fused multiply-add.
import { suite } from 'uvu'
import { instructionSets, marginLoss } from '../../lib/index'
import type { LossOptions, LossResult } from '../support/losses'
import { runLoss } from '../support/losses'
import type { MarginCase } from '../support/margins'
import { marginCase, marginCases } from '../support/margins'
import { type Batch, integer, makeBatch, random, sameBits } from '../support/support'

const test = suite('determinism')

const least = 32 * 2 ** 20

const shapes = [
  // More logits than the smallest workspace keeps: the same tiles kept, kept in part, and computed again.
  { rows: 256, dim: 8, classes: 45_000 },
  { rows: 4096, dim: 7, classes: 2500 },
  { rows: 4096, dim: 16, classes: 10 },
  { rows: 1000, dim: 33, classes: 3 },
  { rows: 33, dim: 48, classes: 5000 },
  { rows: 70, dim: 130, classes: 1025 },
  { rows: 256, dim: 64, classes: 257 },
  { rows: 1, dim: 512, classes: 3001 },
  { rows: 129, dim: 5, classes: 640 },
]

function sameResult(actual: LossResult, expected: LossResult, what: string): void {
  sameBits(Float64Array.of(actual.loss), Float64Array.of(expected.loss), `${what}: loss`)
  for (const name of ['losses', 'gradInput', 'gradWeight', 'gradBias'] as const) {
    const bits = expected[name]
    if (bits) sameBits(actual[name] as Float32Array, bits, `${what}: ${name}`)
  }
}

function same(margin: MarginCase, batch: Batch, first: LossOptions, others: LossOptions[]): void {
  const expected = runLoss(margin, batch, first)
  for (const options of others) sameResult(runLoss(margin, batch, options), expected, JSON.stringify(options))
}

for (const shape of shapes) {
  const size = `${shape.rows}×${shape.dim}×${shape.classes}`
  for (const name of ['softmax', 'arcface', 'sphereface', 'mvsoftmax', 'curricularface']) {
    const margin = marginCase(name)
    const batch = makeBatch(1, shape, { bias: margin.row.raw })

    test(`threads, workspace and runs: ${name} ${size}`, () => {
      same(margin, batch, { threads: 1 }, [
        { threads: 1 },
        { threads: 2 },
        { threads: 3 },
        { threads: 5 },
        { threads: 1, workspace: least },
        { threads: 3, workspace: least },
        { threads: 2, workspace: 1 << 29 },
        {},
      ])
    })
  }
}

// Arithmetic with a fused multiply-add is one chain in the same order on every width; the portable code has none.
const fused = instructionSets().filter((set) => set !== 'portable') as NonNullable<
  LossOptions['instructionSet']
>[]

if (fused.length > 1) {
  for (const margin of marginCases) {
    test(`instruction sets ${fused.join(', ')}: ${margin.title}`, () => {
      const next = random(2)
      const [first, ...others] = fused
      for (let seed = 0; seed < 4; seed++) {
        const shape = {
          rows: integer(next, 1, 70),
          dim: integer(next, 1, 130),
          classes: integer(next, 1, 400),
        }
        const batch = makeBatch(seed, shape, { bias: margin.row.raw })
        const sets: LossOptions[] = others.map((instructionSet) => ({ instructionSet }))
        same(margin, batch, { instructionSet: first }, [
          ...sets,
          ...sets.map((options) => ({ ...options, workspace: least, threads: 2 })),
        ])
      }
    })
  }
} else {
  test.skip('instruction sets: this machine has fewer than two with a fused multiply-add', () => {})
}

test('the portable instruction set: threads and workspace', () => {
  const batch = makeBatch(3, { rows: 65, dim: 65, classes: 700 })
  const portable = { instructionSet: 'portable' } as const
  same(marginCase('arcface'), batch, portable, [
    { ...portable, threads: 1, workspace: least },
    { ...portable, threads: 2 },
    { ...portable, threads: 3, workspace: least },
  ])
})

test('synchronous and asynchronous, alone and together', async () => {
  const margin = marginCase('arcface')
  const batches = [0, 1, 2, 3].map((seed) => makeBatch(seed, { rows: 64, dim: 50, classes: 900 + seed }))
  const expected = batches.map((batch) => runLoss(margin, batch, { threads: 1 }))
  for (const threads of [1, 2, 3]) {
    const actual = await Promise.all(
      batches.map((batch) => marginLoss(batch, { margin: margin.margin, threads }))
    )
    actual.forEach((result, i) => {
      sameResult(result, expected[i] as LossResult, `batch ${i}, ${threads} threads`)
    })
  }
})

test('the order of earlier calls leaves no trace', () => {
  const margin = marginCase('cosface')
  const small = makeBatch(4, { rows: 7, dim: 9, classes: 11 })
  const large = makeBatch(5, { rows: 300, dim: 40, classes: 2000 })
  const expected = runLoss(margin, small)
  runLoss(margin, large)
  sameResult(runLoss(margin, small), expected, 'after a large call')
  runLoss(marginCase('softmax'), makeBatch(6, { rows: 3, dim: 2, classes: 2 }))
  sameResult(runLoss(margin, small), expected, 'after another margin')
})

test.run()
