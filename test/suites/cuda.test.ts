// device: 'cuda', driven on the shim: golden vectors in every precision, odd sizes, two devices, and calls that fail. Machines
// that lack something have a suite of their own, cuda-machines.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { fails, shimRuns, useShim, withEnvironment } from '../support/cuda'

if (shimRuns) {
  useShim()
  process.env.SIMT_DEVICES = '2'
}

import { arcface, devices, MarginHead, marginLoss, marginLossSync, sgd, topKSync } from '../../lib/index'
import { goldenArguments, goldenCases, goldenFolder } from '../support/golden'
import { compare } from '../support/losses'
import { marginCase, marginCases } from '../support/margins'
import { reference } from '../support/reference'
import { lacking, makeBatch, pick, random, relativeError, sameBits, within } from '../support/support'

const test = suite('cuda')
const precisions = ['float32', 'tf32', 'bfloat16'] as const
const bounds = { float32: 1e-5, tf32: 1e-2, bfloat16: 1e-2 }

const small = () => makeBatch(5, { rows: 9, dim: 20, classes: 30 })
const headOf = (device: `cuda:${number}` | 'cpu', seed = 1) =>
  MarginHead.create({
    classes: 30,
    dim: 20,
    device,
    seed,
    optimizer: sgd({ learningRate: 0.1, momentum: 0.9 }),
  })

if (!shimRuns) {
  test.skip('the shim runs on Linux', () => {})
} else {
  const cases = goldenCases()
  if (cases) {
    for (const golden of cases)
      test(`golden vectors: ${golden.title}`, () => {
        const margin = marginCase(golden.margin, golden.parameters)
        const { batch, options } = goldenArguments(golden)
        for (const precision of precisions) {
          const result = marginLossSync(batch, {
            margin: margin.margin,
            ...options,
            device: 'cuda',
            precision,
          })
          const tolerance = precision === 'float32' ? golden.tolerance : bounds[precision]
          for (const name of ['losses', 'gradInput', 'gradWeight', 'gradBias'] as const) {
            const expected = golden[name]
            if (expected)
              within(relativeError(result[name] ?? [], expected), tolerance, `${name}, ${precision}`)
          }
        }
      })
  } else {
    lacking(test, `no golden vectors were found in ${goldenFolder}`)
  }

  test('every margin on odd sizes, with float32 as exact as the CPU', () => {
    const next = random(7)
    for (const margin of marginCases) {
      const shape = {
        rows: pick(next, [1, 2, 31, 33, 127, 129]),
        dim: pick(next, [2, 4, 15, 17, 33, 63, 130]),
        classes: pick(next, [1, 2, 127, 128, 130, 257]),
      }
      const batch = makeBatch(shape.rows, shape, { bias: margin.row.raw })
      const expected = reference(batch, margin.oracle)
      const what = `${margin.title} ${Object.values(shape).join('×')}`
      compare(marginLossSync(batch, { margin: margin.margin, device: 'cuda' }), expected, what, 1e-5)
    }
  })

  test('the same bits on every run, in every precision', () => {
    const batch = makeBatch(3, { rows: 140, dim: 40, classes: 300 })
    for (const precision of precisions) {
      const [first, second] = [1, 2].map(() => marginLossSync(batch, { device: 'cuda', precision }))
      for (const name of ['losses', 'gradInput', 'gradWeight'] as const)
        sameBits(first?.[name] as Float32Array, second?.[name] as Float32Array, `${name} ${precision}`)
    }
  })

  test('devices() lists the CPU and both GPUs, usable after their trial', () => {
    const [own, first, second] = devices()
    assert.is(own?.device, 'cpu')
    assert.equal([first?.device, second?.device], ['cuda:0', 'cuda:1'])
    assert.ok(first?.usable && second?.usable)
    assert.equal(first?.precisions, [...precisions])
    assert.is(first?.computeCapability, '9.0')
    assert.ok((first?.freeBytes ?? 0) > 0 && (first?.freeBytes ?? 0) <= (first?.memoryBytes ?? 0))
  })

  test('heads on two GPUs and the CPU train alike, at the same time', async () => {
    const batch = small()
    const heads = await Promise.all([headOf('cpu'), headOf('cuda:0'), headOf('cuda:1')])
    assert.equal(
      heads.map(({ device }) => device),
      ['cpu', 'cuda:0', 'cuda:1']
    )
    sameBits(heads[0].weights(), heads[1].weights(), 'the first weights')
    for (let i = 0; i < 5; i++) await Promise.all(heads.map((head) => head.step(batch.input, batch.labels)))
    const [expected, first, second] = heads.map((head) => head.weights())
    within(relativeError(first as Float32Array, expected as Float32Array), 1e-5, 'weights')
    sameBits(first as Float32Array, second as Float32Array, 'both GPUs')
    for (const head of heads) head.dispose()
  })

  test('a head saved on a GPU goes on on the CPU, and the other way round', async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-'))
    const batch = small()
    for (const [from, to] of [
      ['cuda:0', 'cpu'],
      ['cpu', 'cuda:1'],
    ] as const) {
      const file = path.join(folder, `${to}.safetensors`)
      const head = await headOf(from)
      await head.step(batch.input, batch.labels)
      await head.save(file)
      const loaded = await MarginHead.load(file, { device: to })
      assert.is(loaded.device, to)
      assert.is(loaded.iteration, 1)
      sameBits(loaded.weights(), head.weights(), 'weights')
      const [a, b] = [head, loaded].map((each) => each.stepSync(batch.input, batch.labels))
      within(relativeError(b?.gradInput as Float32Array, a?.gradInput as Float32Array), 1e-5, 'the next step')
    }
    fs.rmSync(folder, { recursive: true })
  })

  test('a step whose loss is not finite changes nothing', async () => {
    const head = await headOf('cuda:0')
    const before = head.weights()
    const batch = small()
    batch.input[25] = Number.NaN
    await fails(() => head.step(batch.input, batch.labels), 'ERR_NOT_FINITE', /row 1/)
    assert.is(head.iteration, 0)
    sameBits(head.weights(), before, 'weights')
  })

  test('no memory: the bytes asked for and those free; the head goes on when there is room again', async () => {
    await withEnvironment({ SIMT_MEMORY: '1000' }, () =>
      fails(
        () => headOf('cuda:1'),
        'ERR_OUT_OF_MEMORY',
        /^Expected 2400 bytes of memory for the head but cuda:1 has \d+ of its 1000 free$/
      )
    )
    const head = await headOf('cuda:1')
    const batch = makeBatch(6, { rows: 3000, dim: 20, classes: 30 })
    await withEnvironment({ SIMT_FAIL: 'cudaMalloc:1' }, () =>
      fails(() => head.step(batch.input, batch.labels), 'ERR_OUT_OF_MEMORY', /the workspace/)
    )
    assert.is(head.iteration, 0)
    await head.step(batch.input, batch.labels)
    assert.is(head.iteration, 1)
  })

  test('a copy that fails is an error with the name that CUDA gives it, and the head stays as it was', async () => {
    const head = await headOf('cuda:0')
    const before = head.weights()
    const batch = small()
    for (const upload of [1, 2, 3, 4])
      await withEnvironment({ SIMT_FAIL: `cudaMemcpyAsync:${upload}` }, () =>
        fails(
          () => head.step(batch.input, batch.labels),
          'ERR_CUDA',
          /^Expected the GPU to receive its inputs but cuda:0 reported cudaErrorInvalidValue \(1\): [^;]*$/
        )
      )
    sameBits(head.weights(), before, 'weights')
    await head.step(batch.input, batch.labels)
    assert.is(head.iteration, 1)
  })

  test('a failure after the update has begun disposes of the head, in words', async () => {
    const head = await headOf('cuda:0')
    const batch = small()
    await withEnvironment({ SIMT_FAIL: 'cudaMemcpyAsync:6' }, () =>
      fails(
        () => head.step(batch.input, batch.labels),
        'ERR_CUDA',
        /send its results.*; the head held part of an update and was disposed of$/
      )
    )
    assert.is(head.disposed, true)
    await fails(() => head.step(batch.input, batch.labels), 'ERR_DISPOSED', /disposed/)
    assert.ok(marginLossSync(batch, { device: 'cuda:0' }).loss > 0)
  })

  test('asynchronous and synchronous work and topK give the same', async () => {
    const batch = small()
    const result = await marginLoss(batch, { device: 'cuda:1' })
    sameBits(
      result.gradWeight as Float32Array,
      marginLossSync(batch, { device: 'cuda:0' }).gradWeight as Float32Array,
      'gradWeight'
    )
    const { input, weight, dim } = batch
    const [onGpu, onCpu] = (['cuda', 'cpu'] as const).map((device) =>
      topKSync({ input, weight, dim }, { device, k: 3 })
    )
    assert.equal(onGpu?.indices, onCpu?.indices)
  })

  test('names of devices and precisions are checked', async () => {
    for (const [options, code, pattern] of [
      [{ device: 'cuda:2' }, 'ERR_UNAVAILABLE', /"cuda:2": cuda:0 is usable; cuda:1 is usable/],
      [{ device: 'gpu' }, 'RangeError', /for device but received "gpu"/],
      [{ device: 'cuda:-1' }, 'RangeError', /for device/],
      [{ device: 1 }, 'TypeError', /for device but received 1/],
      [
        { device: 'cpu', precision: 'tf32' },
        'RangeError',
        /'float32' or 'bfloat16' on the CPU for precision/,
      ],
      [{ device: 'cuda', precision: 'fp8' }, 'RangeError', /for precision but received "fp8"/],
      [{ device: 'cuda', instructionSet: 'portable' }, 'RangeError', /'cpu' with an instructionSet/],
    ] as const)
      await fails(() => marginLossSync(small(), options as object), code, pattern)
    const head = { classes: 4, dim: 3, device: 'cuda', weightStorage: 'bfloat16' } as const
    await fails(
      () => MarginHead.create(head),
      'RangeError',
      /'float32' on a GPU for weightStorage but received/
    )
  })

  test('the margin is the same value on every device', async () => {
    const head = await MarginHead.create({
      classes: 30,
      dim: 20,
      device: 'cuda',
      margin: arcface({ scale: 16 }),
    })
    assert.equal(head.margin, arcface({ scale: 16 }))
    assert.is(head.precision, 'float32')
    head.dispose()
    await fails(() => head.step(new Float32Array(20), [0]), 'ERR_DISPOSED', /disposed/)
  })
}

test.run()
