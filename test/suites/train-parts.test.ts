// The parts of `train` that are functions of their arguments alone: schedules, samplers, the rows that are kept back.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { balancedWeights } from '../../lib/cli/train/class-weights'
import { optionsOf, type SettingOptions, settingOptions, settingsOf } from '../../lib/cli/train/options'
import { balancedEpoch, shuffledEpoch } from '../../lib/cli/train/sampler'
import { learningRateAt, type Schedule } from '../../lib/cli/train/schedules'
import { censusOf, splitRows } from '../../lib/cli/train/split'
import { integer, random, within } from '../support/support'

const test = suite('parts of train')

const plain: Schedule = {
  learningRate: 0.4,
  schedule: 'constant',
  power: 1,
  milestones: [],
  gamma: 0.1,
  rateWarmupSteps: 0,
}
/** The rates of 40 steps, 4 an epoch. */
const ratesOf = (changed: Partial<Schedule>) =>
  Array.from({ length: 40 }, (_, step) => learningRateAt({ ...plain, ...changed }, step, 40, 4))

function near(actual: number[], expected: (step: number) => number, what: string): void {
  actual.forEach((rate, step) => {
    within(Math.abs(rate - expected(step)), 1e-15, `${what}, step ${step}`)
  })
}

test('each schedule is the formula that it is named after', () => {
  near(ratesOf({}), () => 0.4, 'constant')
  near(ratesOf({ schedule: 'cosine' }), (step) => 0.2 + 0.2 * Math.cos((Math.PI * step) / 40), 'cosine')
  near(ratesOf({ schedule: 'polynomial' }), (step) => 0.4 * (1 - step / 40), 'linear')
  near(
    ratesOf({ schedule: 'polynomial', power: 2 }),
    (step) => (0.4 * (40 - step) * (40 - step)) / 1600,
    'square'
  )
  near(
    ratesOf({ schedule: 'step', milestones: [3, 7], gamma: 0.5 }),
    (step) => (step < 12 ? 0.4 : step < 28 ? 0.2 : 0.1),
    'step'
  )
})

test('the warm-up rises in a straight line to the rate from which the schedule goes over what is left', () => {
  for (const schedule of ['constant', 'cosine', 'polynomial'] as const) {
    const rates = ratesOf({ schedule, rateWarmupSteps: 8 })
    near(rates.slice(0, 8), (step) => 0.05 * (step + 1), schedule)
    assert.is(rates[8], 0.4, schedule)
    const after = Array.from({ length: 32 }, (_, step) => learningRateAt({ ...plain, schedule }, step, 32, 4))
    assert.equal(rates.slice(8), after, schedule)
  }
  // Milestones are epochs of the training, not of what the warm-up leaves.
  const stepped = ratesOf({ schedule: 'step', milestones: [3], rateWarmupSteps: 8 })
  assert.is(stepped[11], 0.4)
  within(Math.abs((stepped[12] as number) - 0.04), 1e-15, 'the first milestone')
})

test('a shuffled epoch has every row once, in an order that belongs to seed and epoch', () => {
  const rows = Uint32Array.from({ length: 101 }, (_, i) => 3 * i)
  const first = shuffledEpoch(rows, 5, 2)
  assert.equal(first.slice().sort(), rows)
  assert.equal(shuffledEpoch(rows, 5, 2), first)
  assert.not.equal(shuffledEpoch(rows, 5, 3), first)
  assert.not.equal(shuffledEpoch(rows, 6, 2), first)
})

test('a balanced batch has P classes with K rows each; classes and rows come up equally often', () => {
  const next = random(4)
  for (const [classes, P, K, batches] of [
    [7, 3, 2, 28],
    [5, 5, 1, 9],
    [12, 4, 8, 30],
    [3, 2, 5, 31],
  ] as [number, number, number, number][]) {
    // One row for class 0, up to ten for the others; every third row is not to be drawn.
    const labels = Int32Array.from({ length: classes * 10 }, (_, i) =>
      i === 1 ? 0 : i < classes + 1 ? i : 1 + integer(next, 0, classes - 2)
    )
    const rows = Uint32Array.from(labels.keys())
      .filter((row) => row % 3 > 0 || row < classes + 1)
      .filter((row) => row > 0)
    const own = (label: number) => [...rows].filter((row) => labels[row] === label)
    const present = [...new Set([...rows].map((row) => labels[row] as number))]
    const order = balancedEpoch(labels, rows, { classesPerBatch: P, rowsPerClass: K }, batches, 7, 1)
    assert.is(order.length, batches * P * K)
    const uses = new Map(present.map((label) => [label, 0]))
    for (let batch = 0; batch < batches; batch++) {
      const drawn = order.subarray(batch * P * K, (batch + 1) * P * K)
      const inBatch = new Map<number, number>()
      for (const row of drawn) {
        assert.ok(rows.includes(row), `row ${row}`)
        const label = labels[row] as number
        inBatch.set(label, (inBatch.get(label) ?? 0) + 1)
      }
      assert.equal([...inBatch.values()], Array(P).fill(K), `batch ${batch}`)
      for (const label of inBatch.keys()) uses.set(label, (uses.get(label) as number) + 1)
    }
    const counts = [...uses.values()]
    assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, `uses of ${classes} classes: ${counts}`)
    for (const label of present) {
      const times = own(label).map((row) => order.filter((drawn) => drawn === row).length)
      assert.ok(Math.max(...times) - Math.min(...times) <= 1, `rows of class ${label}: ${times}`)
    }
    assert.equal(balancedEpoch(labels, rows, { classesPerBatch: P, rowsPerClass: K }, batches, 7, 1), order)
    assert.not.equal(
      balancedEpoch(labels, rows, { classesPerBatch: P, rowsPerClass: K }, batches, 7, 2),
      order
    )
  }
})

test('no class gives its last row to the validation, whatever the share', () => {
  const next = random(9)
  for (let round = 0; round < 60; round++) {
    const classes = integer(next, 1, 40)
    const labels = Int32Array.from({ length: integer(next, 1, 120) }, () => Math.floor(classes * next() ** 3))
    const share = next() * 0.9
    const census = censusOf(labels, classes)
    const { training, validation } = splitRows(labels, census, share, round)
    assert.equal(
      [...training, ...validation].sort((a, b) => a - b),
      [...labels.keys()]
    )
    const trained = new Set(Array.from(training, (row) => labels[row]))
    for (const row of validation) assert.ok(trained.has(labels[row]), `class ${labels[row]}`)
    // As many as were asked for, or all that the classes can spare.
    const spare = labels.length - census.present
    assert.is(validation.length, Math.min(Math.round(labels.length * share), spare))
    assert.is(census.single, [...census.counts].filter((count) => count === 1).length)
  }
})

test('balanced weights make classes count alike, and the mean over the rows 1', () => {
  const labels = Int32Array.of(0, 0, 0, 0, 1, 1, 3, 3, 3, 0)
  const rows = Uint32Array.of(0, 1, 2, 3, 4, 5, 6, 7, 8) // the last one is kept back
  const weights = balancedWeights(labels, rows, 5)
  assert.equal(weights, Float32Array.of(9 / 12, 9 / 6, 1, 1, 1))
  const sums = new Float64Array(5)
  for (const row of rows) (sums[labels[row] as number] as number) += weights[labels[row] as number] as number
  assert.equal(sums, Float64Array.of(3, 3, 0, 3, 0))
})

/** Options at something else than their defaults, with what must go with them. */
const others: Record<string, Partial<SettingOptions>> = {
  loss: { loss: 'cosface' },
  scale: { scale: 20 },
  margin: { margin: 0.3 },
  m1: { loss: 'combined', m1: 0.9 },
  m2: { loss: 'combined', m2: 0.1 },
  m3: { loss: 'combined', m3: -0.1 },
  t: { loss: 'mvsoftmax', t: 0.3 },
  bias: { loss: 'softmax', bias: true },
  interclassFilter: { interclassFilter: 0.9 },
  labelSmoothing: { labelSmoothing: 0.1 },
  sampleRate: { sampleRate: 0.5 },
  sampleCorrection: { sampleCorrection: true },
  optimizer: { optimizer: 'adamw' },
  learningRate: { learningRate: 0.03 },
  momentum: { momentum: 0.8 },
  weightDecay: { weightDecay: 0.01 },
  schedule: { schedule: 'constant' },
  power: { schedule: 'polynomial', power: 3 },
  milestones: { schedule: 'step', milestones: [2, 5] },
  gamma: { schedule: 'step', milestones: [2], gamma: 0.3 },
  rateWarmupSteps: { rateWarmupSteps: 7 },
  marginWarmupSteps: { marginWarmupSteps: 9 },
  epochs: { epochs: 3 },
  batch: { batch: 33 },
  classesPerBatch: { classesPerBatch: 3, rowsPerClass: 4 },
  rowsPerClass: { classesPerBatch: 5, rowsPerClass: 2 },
  project: { project: 4 },
  projectLayers: { project: 4, projectLayers: 2 },
  projectHidden: { project: 4, projectLayers: 2, projectHidden: 3 },
  batchNorm: { project: 4, batchNorm: true },
  dropout: { project: 4, dropout: 0.2 },
  validation: { validation: 0.2 },
  validationClasses: { project: 4, validationClasses: 2 },
  patience: { patience: 2 },
  seed: { seed: 11 },
  precision: { precision: 'bfloat16' },
  weightStorage: { weightStorage: 'bfloat16' },
  maxGradientNorm: { maxGradientNorm: 5 },
  negligible: { negligible: 0 },
}

test('settings and options become each other, each option by its own value', () => {
  const defaults = Object.fromEntries(
    settingOptions.map(({ option }) => [option.attributeName(), option.defaultValue])
  ) as unknown as SettingOptions
  assert.equal(
    settingOptions.map(({ option }) => option.attributeName()).sort(),
    Object.keys(others).sort(),
    'this test knows every option'
  )
  for (const [name, given] of Object.entries(others)) {
    const settings = settingsOf({ ...defaults, ...given }, 8, 5)
    const without = settingsOf(
      { ...defaults, ...given, [name]: defaults[name as keyof SettingOptions] },
      8,
      5
    )
    assert.not.equal(settings, without, `${name} changes the settings`)
    const saved = JSON.parse(JSON.stringify(settings))
    const again = settingsOf({ ...defaults, ...optionsOf(saved) }, 8, 5)
    assert.equal(again, settings, name)
  }
})

test.run()
