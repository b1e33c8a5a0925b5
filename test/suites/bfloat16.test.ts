// precision: 'bfloat16' on the CPU: in tiles (AMX, or their emulation), by the processor's products of pairs, and by floats.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { adamW, arcface, devices, instructionSets, MarginHead, marginLossSync, sgd } from '../../lib/index'
import { emulatedInstructionSets, native, succeeded } from '../../lib/internal/native'
import { goldenArguments, goldenCases, goldenFolder } from '../support/golden'
import type { LossOptions } from '../support/losses'
import { compare, runLoss } from '../support/losses'
import { marginCase, marginCases } from '../support/margins'
import { reference } from '../support/reference'
import { lacking, makeBatch, relativeError, sameBits, within } from '../support/support'

const test = suite('bfloat16')
const precision = 'bfloat16'
const sets = [...instructionSets(), ...emulatedInstructionSets()]
// Code with fused multiply-adds gives the tiles' bits; the portable code's sums outside of the products differ.
const fused = sets.filter((set) => set !== 'portable')
const outputs = ['losses', 'gradInput', 'gradWeight', 'gradBias'] as const
const least = 32 * 2 ** 20

const cases = goldenCases()
if (cases) {
  for (const golden of cases)
    test(`golden vectors: ${golden.title}`, () => {
      const margin = marginCase(golden.margin, golden.parameters)
      const { batch, options } = goldenArguments(golden)
      for (const instructionSet of sets) {
        const result = marginLossSync(batch, {
          margin: margin.margin,
          ...options,
          precision,
          instructionSet,
        })
        // All of them have fewer than 128 dimensions, where operands have corrections: 5e-5 was measured.
        for (const name of outputs)
          if (golden[name])
            within(
              relativeError(result[name] ?? [], golden[name]),
              golden.tolerance * 10,
              `${name}, ${instructionSet}`
            )
      }
    })
} else {
  lacking(test, `no golden vectors were found in ${goldenFolder}`)
}

// Odd sizes: the last pair of dimensions, classes and rows half empty; one and several panels, blocks, tiles, chunks.
const shapes = [
  { rows: 1, dim: 1, classes: 1 },
  { rows: 1, dim: 2, classes: 2 },
  { rows: 3, dim: 127, classes: 61 },
  { rows: 65, dim: 33, classes: 129 },
  { rows: 130, dim: 129, classes: 127 },
  { rows: 17, dim: 128, classes: 300 },
  { rows: 70, dim: 515, classes: 259 },
  { rows: 600, dim: 20, classes: 2500 },
  { rows: 1030, dim: 131, classes: 7 },
]
for (const shape of shapes) {
  const size = Object.values(shape).join('×')
  for (const margin of marginCases.filter(({ title }) =>
    /^(softmax|arcface|cosface|sphereface)$/.test(title)
  )) {
    const batch = makeBatch(shape.rows, shape, {
      bias: margin.row.raw,
      weightScale: margin.row.raw ? 0.1 : 1,
    })

    test(`against float64: ${margin.title} ${size}`, () => {
      const expected = reference(batch, margin.oracle)
      // With corrections a logit of scale 64 is off by 64 · 3 · 2^-18 at the most.
      const bound = shape.dim < 128 ? 1e-3 : 1e-2
      for (const instructionSet of sets)
        compare(
          marginLossSync(batch, { margin: margin.margin, precision, instructionSet }),
          expected,
          `${size}, ${instructionSet}`,
          bound
        )
    })

    test(`the same bits on ${fused.join(', ')}, for every number of threads and workspace: ${margin.title} ${size}`, () => {
      const expected = runLoss(margin, batch, { precision, instructionSet: sets[0], threads: 1 })
      for (const instructionSet of fused)
        for (const threads of [1, 2, 5]) {
          const actual = runLoss(margin, batch, { precision, instructionSet, threads, workspace: least })
          for (const name of outputs) {
            const bits = expected[name]
            if (bits) sameBits(actual[name] as Float32Array, bits, `${name}, ${instructionSet}, ${threads}`)
          }
        }
    })
  }
}

test('tiles kept or computed again give the same bits', () => {
  const margin = marginCase('arcface')
  const batch = makeBatch(1, { rows: 256, dim: 130, classes: 45_000 })
  const expected = runLoss(margin, batch, { precision, workspace: 2 ** 29 })
  for (const options of [{ workspace: least }, { workspace: 3 * least, threads: 3 }]) {
    const actual = runLoss(margin, batch, { precision, ...options })
    for (const name of outputs)
      if (expected[name]) sameBits(actual[name] as Float32Array, expected[name] as Float32Array, name)
  }
})

test('numbers at the ends of the range: denormal products count as 0 on every instruction set, NaN stays NaN', () => {
  const batch = makeBatch(2, { rows: 40, dim: 150, classes: 90 })
  for (let i = 0; i < batch.input.length; i++) (batch.input as Float32Array)[i] *= 10 ** -((i * 7) % 39)
  for (let i = 0; i < batch.weight.length; i++) (batch.weight as Float32Array)[i] *= 10 ** -((i * 11) % 39)
  const margin = marginCase('softmax')
  const expected = runLoss(margin, batch, { precision, instructionSet: sets[0] })
  for (const instructionSet of fused) {
    const actual = runLoss(margin, batch, { precision, instructionSet })
    for (const name of ['losses', 'gradInput', 'gradWeight'] as const)
      sameBits(actual[name] as Float32Array, expected[name] as Float32Array, `${name}, ${instructionSet}`)
  }
  ;(batch.weight as Float32Array)[150 * 7 + 3] = Number.NaN
  for (const instructionSet of sets)
    assert.ok(Number.isNaN(runLoss(margin, batch, { precision, instructionSet }).loss), instructionSet)
})

// Each choice of outputs, and what changes a tile's logits, sums or probabilities; half-filled blocks of D, classes, rows.
test(`whole losses have the same bits on ${fused.join(', ')}`, () => {
  for (const [rows, dim, classes] of [
    [33, 161, 97],
    [97, 47, 131],
    [65, 129, 1100],
  ] as const) {
    const batch = makeBatch(rows, { rows, dim, classes })
    const classWeights = Float32Array.from({ length: classes }, (_, j) => 0.5 + (j % 3))
    for (const options of [
      { labelSmoothing: 0.1 },
      { classWeights, reduction: 'sum' },
      { gradWeight: false },
      { gradInput: false },
    ] as LossOptions[]) {
      const results = fused.map((instructionSet) =>
        marginLossSync(batch, { margin: arcface(), ...options, precision, instructionSet })
      )
      for (const [k, actual] of results.entries())
        for (const name of outputs) {
          const bits = results[0]?.[name]
          if (bits)
            sameBits(actual[name] as Float32Array, bits, `${name}, ${fused[k]}, ${JSON.stringify(options)}`)
        }
    }
  }
})

const optimizers = { sgd: sgd({ learningRate: 0.5, momentum: 0.9 }), adamW: adamW({ learningRate: 0.01 }) }
for (const [name, optimizer] of Object.entries(optimizers))
  test(`heads with ${name} have the same bits on ${fused.join(', ')}: sampled, filtered, stored in two bytes`, async () => {
    const batch = makeBatch(6, { rows: 45, dim: 145, classes: 333 })
    for (const options of [
      {},
      { sampleRate: 0.4 },
      { interclassFilter: 0.1 },
      { weightStorage: 'bfloat16' },
    ] as const) {
      const results: Float32Array[] = []
      for (const instructionSet of fused) {
        const head = await MarginHead.create({
          classes: 333,
          dim: 145,
          margin: arcface(),
          optimizer,
          device: 'cpu',
          seed: 3,
          precision,
          instructionSet,
          ...options,
        })
        for (let i = 0; i < 3; i++) head.stepSync(batch.input, batch.labels)
        const { losses, gradInput } = head.stepSync(batch.input, batch.labels)
        results.push(Float32Array.of(...losses, ...gradInput, ...head.weights()))
        head.dispose()
      }
      for (const [k, actual] of results.entries())
        sameBits(actual, results[0] as Float32Array, `${fused[k]}, ${JSON.stringify(options)}`)
    }
  })

test('the portable instruction set agrees with the others to the rounding of its sums', () => {
  for (const dim of [60, 300]) {
    const batch = makeBatch(3, { rows: 64, dim, classes: 500 })
    const [expected, actual] = [sets[0], 'portable' as const].map((instructionSet) =>
      marginLossSync(batch, { margin: arcface(), precision, instructionSet })
    )
    for (const name of ['losses', 'gradInput', 'gradWeight'] as const)
      within(relativeError(actual?.[name] as Float32Array, expected?.[name] as Float32Array), 1e-5, name)
  }
})

test('a head trains in bfloat16, with all classes and with a sample of them', async () => {
  const batch = makeBatch(4, { rows: 64, dim: 160, classes: 700 })
  for (const sampleRate of [1, 0.3]) {
    const heads = await Promise.all(
      (['float32', 'bfloat16'] as const).map((kind) =>
        MarginHead.create({
          classes: 700,
          dim: 160,
          margin: arcface(),
          optimizer: sgd({ learningRate: 0.5, momentum: 0.9 }),
          device: 'cpu',
          precision: kind,
          sampleRate,
          seed: 9,
        })
      )
    )
    assert.is(heads[1]?.precision, 'bfloat16')
    const losses = heads.map((head) => {
      for (let i = 0; i < 10; i++) head.stepSync(batch.input, batch.labels)
      return head.stepSync(batch.input, batch.labels)
    })
    within(
      Math.abs((losses[1]?.loss ?? Number.NaN) / (losses[0]?.loss ?? 1) - 1),
      1e-2,
      'loss after 10 steps'
    )
    within(
      relativeError(losses[1]?.gradInput as Float32Array, losses[0]?.gradInput as Float32Array),
      2e-2,
      'gradInput'
    )
    within(
      relativeError(heads[1]?.weights() as Float32Array, heads[0]?.weights() as Float32Array),
      1e-2,
      'weights'
    )
    for (const head of heads) head.dispose()
  }
})

test('what the CPU offers', () => {
  const { precisions, fastPrecisions } = devices()[0] ?? {}
  assert.equal(precisions, ['float32', 'bfloat16'])
  const { instructionSet, fast, timesFloat32 } = succeeded(native().bfloat16())
  assert.equal(fastPrecisions, fast ? ['bfloat16', 'float32'] : ['float32'])
  assert.ok(instructionSets().includes(instructionSet), instructionSet)
  assert.is(timesFloat32 > 0, instructionSet !== 'amx', 'what is not measured are tiles')
  assert.ok(!fast || ['amx', 'avx512bf16'].includes(instructionSet), instructionSet)
  const batch = makeBatch(5, { rows: 2, dim: 3, classes: 4 })
  assert.throws(
    () => marginLossSync(batch, { device: 'cpu', precision: 'tf32' }),
    (error: Error) =>
      error instanceof RangeError &&
      error.message === "Expected 'float32' or 'bfloat16' on the CPU for precision but received \"tf32\""
  )
})

test.run()
