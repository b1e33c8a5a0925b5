// The stateless losses: against the golden vectors, the oracle on odd sizes, the textbook's own rounding, and
// differences of the library's own loss.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { instructionSets, marginLoss, marginLossSync } from '../../lib/index'
import { goldenArguments, goldenCases, goldenFolder } from '../support/golden'
import { compare, compareWithOracle, errorsBesideTextbook, gradients, runLoss } from '../support/losses'
import type { MarginCase } from '../support/margins'
import { marginCase, marginCases } from '../support/margins'
import { reference } from '../support/reference'
import type { Batch } from '../support/support'
import {
  integer,
  lacking,
  makeBatch,
  norm,
  normals,
  pick,
  random,
  relativeError,
  sameBits,
  within,
} from '../support/support'

const test = suite('loss')

/** The best instruction set, as users have it, and every other that this machine can run. */
const sets = instructionSets() as NonNullable<Parameters<typeof marginLossSync>[1]>['instructionSet'][]

test('there is always a portable instruction set', () => {
  assert.ok(sets.includes('portable'), `instruction sets: ${sets}`)
})

const cases = goldenCases()

if (cases) {
  for (const golden of cases) {
    test(`golden vectors: ${golden.title}`, () => {
      const margin = marginCase(golden.margin, golden.parameters)
      const { batch, options } = goldenArguments(golden)
      const { tolerance } = golden
      for (const instructionSet of [undefined, ...sets]) {
        const result = runLoss(margin, batch, { ...options, instructionSet })
        const what = (name: string) => `${name} on ${instructionSet ?? 'the default'}`
        if (golden.loss !== undefined)
          within(relativeError([result.loss], [golden.loss]), tolerance, what('loss'))
        for (const name of ['losses', 'gradInput', 'gradWeight', 'gradBias'] as const) {
          const expected = golden[name]
          if (expected) within(relativeError(result[name] ?? [], expected), tolerance, what(name))
        }
      }
    })
  }
} else {
  lacking(test, `no golden vectors were found in ${goldenFolder}`)
}

// Every remainder of the tiles' and vectors' widths, and both ends of every range.
const dims = [1, 2, 3, 5, 15, 16, 17, 31, 33, 48, 50, 63, 64, 65, 127, 130]
const classCounts = [1, 2, 3, 5, 6, 7, 11, 12, 13, 63, 64, 65, 127, 128, 129, 130, 131, 255, 257, 300]
const rowCounts = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 70]

/** In one or two dimensions targets lie near ±1 by chance, where float32 inputs allow no more. */
const toleranceFor = (dim: number) => (dim <= 3 ? 1e-4 : 1e-5)

for (const margin of marginCases) {
  test(`the oracle on odd sizes: ${margin.title}`, () => {
    const next = random(11)
    const raw = margin.row.raw === true
    for (let seed = 0; seed < 12; seed++) {
      const shape = { rows: pick(next, rowCounts), dim: pick(next, dims), classes: pick(next, classCounts) }
      const batch = makeBatch(100 + seed, shape, { bias: raw && seed % 2 === 0 })
      const instructionSet = pick(next, [undefined, ...sets])
      compareWithOracle(margin, batch, { instructionSet }, toleranceFor(shape.dim))
    }
  })
}

test('the oracle for every dim with every number of classes', () => {
  const next = random(12)
  for (const dim of dims) {
    for (const classes of classCounts) {
      const margin = pick(next, marginCases)
      const batch = makeBatch(integer(next, 0, 1e6), { rows: pick(next, rowCounts), dim, classes })
      compareWithOracle(
        margin,
        batch,
        { instructionSet: pick(next, [undefined, ...sets]) },
        toleranceFor(dim)
      )
    }
  }
})

test('the oracle for every number of rows from 1 to 70', () => {
  const next = random(13)
  for (let rows = 1; rows <= 70; rows++) {
    const margin = pick(next, marginCases)
    const dim = pick(next, dims)
    const batch = makeBatch(rows, { rows, dim, classes: pick(next, classCounts) })
    for (const instructionSet of sets) compareWithOracle(margin, batch, { instructionSet }, toleranceFor(dim))
  }
})

for (const name of ['softmax', 'arcface', 'sphereface', 'mvsoftmax', 'curricularface']) {
  test(`reduction, gradOutput, smoothing and ignored rows together: ${name}`, () => {
    const next = random(14)
    const margin = marginCase(name)
    for (const reduction of ['mean', 'sum', 'none'] as const) {
      for (const labelSmoothing of [0, 0.1, 1]) {
        for (const ignoreIndex of [-1, -100, 3]) {
          const batch = makeBatch(
            integer(next, 0, 1e6),
            { rows: 19, dim: 17, classes: 35 },
            { bias: margin.row.raw }
          )
          for (let i = 0; i < 19; i += 4) batch.labels[i] = ignoreIndex
          const gradOutput = reduction === 'none' ? normals(next, 19) : pick(next, [1, 0.5, -3, 0])
          const options = { reduction, labelSmoothing, ignoreIndex, gradOutput }
          const result = compareWithOracle(margin, batch, options)
          for (let i = 0; i < 19; i++) if (batch.labels[i] === ignoreIndex) assert.is(result.losses[i], 0)
        }
      }
    }
  })
}

test('a batch in several tiles and slots equals the oracle', () => {
  for (const name of ['softmax', 'arcface']) {
    const margin = marginCase(name)
    const batch = makeBatch(21, { rows: 37, dim: 40, classes: 2500 }, { bias: margin.row.raw })
    for (const workspace of [1 << 25, 1 << 28]) compareWithOracle(margin, batch, { workspace, threads: 2 })
  }
})

// Work is cut along the rows, along the classes and, for very long batches, into several passes.
for (const [rows, dim, classes] of [
  [700, 20, 150],
  [1300, 9, 33],
  [513, 30, 129],
  [600, 6000, 5],
  [1030, 3000, 2],
  [90_000, 1, 3],
  [2, 20_000, 5],
  [1, 33, 20_001],
] as const) {
  test(`the oracle on ${rows}×${dim}×${classes}`, () => {
    const further = { reduction: 'sum', gradOutput: 0.5, labelSmoothing: 0.1, threads: 3 } as const
    for (const [name, options] of [
      ['arcface', {}],
      ['softmax', further],
    ] as const) {
      const margin = marginCase(name)
      const batch = makeBatch(23, { rows, dim, classes }, { bias: margin.row.raw })
      for (let i = 5; i < rows; i += 11) batch.labels[i] = -1
      compareWithOracle(margin, batch, options, toleranceFor(dim))
    }
  })
}

test('the asynchronous twin gives the same bits', async () => {
  for (const margin of marginCases) {
    const batch = makeBatch(5, { rows: 9, dim: 20, classes: 33 }, { bias: margin.row.raw })
    const expected = runLoss(margin, batch)
    const actual = await marginLoss(batch, { margin: margin.margin })
    assert.is(actual.loss, expected.loss, margin.title)
    sameBits(actual.losses, expected.losses, `${margin.title}: losses`)
    for (const name of gradients) {
      sameBits(actual[name] as Float32Array, expected[name] as Float32Array, `${margin.title}: ${name}`)
    }
  }
})

test('without options the loss is arcface and a mean', () => {
  const batch = makeBatch(6, { rows: 9, dim: 20, classes: 33 })
  compare(marginLossSync(batch), reference(batch, marginCase('arcface').oracle), 'defaults')
})

// One seed's error is chance; the rule is about the method, hence the mean over seeds.
for (const margin of marginCases) {
  test(`no worse than twice the textbook's own rounding: ${margin.title}`, () => {
    for (const [rows, dim, classes] of [
      [17, 33, 61],
      [32, 64, 130],
      [8, 128, 257],
    ] as const) {
      const sums = { library: [0, 0, 0], textbook: [0, 0, 0] }
      const seeds = 3
      for (let seed = 0; seed < seeds; seed++) {
        const errors = errorsBesideTextbook(margin, makeBatch(40 + seed, { rows, dim, classes }))
        for (const who of ['library', 'textbook'] as const) {
          errors[who].forEach((error, i) => {
            sums[who][i] = (sums[who][i] as number) + error / seeds
          })
        }
      }
      ;['losses', ...gradients].forEach((name, i) => {
        // A result stored in float32 cannot be closer than half a unit in its last place, 6e-8.
        const bound = 2 * Math.max(sums.textbook[i] as number, 6e-8)
        within(sums.library[i] as number, bound, `${rows}×${dim}×${classes}: ${name}`)
      })
    }
  })
}

/** Σ gradient·direction against the difference of the loss along the direction, in steps that float32 holds. */
function directionalError(margin: MarginCase, batch: Batch, name: 'input' | 'weight', seed: number): number {
  const values = batch[name]
  const direction = normals(random(seed), values.length)
  const step = 2 ** -9
  const moved = (sign: number) => values.map((value, i) => value + sign * step * (direction[i] as number))
  const above = { ...batch, [name]: moved(1) }
  const below = { ...batch, [name]: moved(-1) }
  const difference = runLoss(margin, above).loss - runLoss(margin, below).loss
  const gradient = runLoss(margin, batch)[name === 'input' ? 'gradInput' : 'gradWeight'] as Float32Array
  let expected = 0
  for (let i = 0; i < values.length; i++) {
    expected += (gradient[i] as number) * ((above[name][i] as number) - (below[name][i] as number))
  }
  return Math.abs(difference - expected) / (2 * step * norm(gradient) * norm(direction) || 1)
}

for (const margin of marginCases) {
  test(`gradients equal differences of the library's own loss: ${margin.title}`, () => {
    const batch = makeBatch(31, { rows: 6, dim: 24, classes: 9 })
    for (const seed of [1, 2, 3]) {
      within(directionalError(margin, batch, 'input', seed), 1e-3, `input ${seed}`)
      within(directionalError(margin, batch, 'weight', seed), 1e-3, `weight ${seed}`)
    }
  })
}

test.run()
