// A caller's objects may do things while they are read: getters that throw, count, or take memory away; arrays of another realm.
import vm from 'node:vm'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import * as library from '../../lib/index'
import { detach, hostileValues, tracking } from '../fuzz/hostile-values'
import { complaint, makeBatch, rejectsLike, sameBits, throwsLike } from '../support/support'

const test = suite('arguments, reading')
const { MarginHead, marginLoss, marginLossSync } = library

const [rows, dim, classes] = [6, 4, 9]
const batch = makeBatch(1, { rows, dim, classes })
const logits = new Float32Array(12).fill(0.25)
const listed = { pairs: [0, 1, 2, 3, 4, 5, 0, 2], same: [1, 0, 0, 1] }
const head = () => MarginHead.create({ classes, dim, device: 'cpu' })

test('a getter’s own error passes through', async () => {
  const error = new Error('of the getter')
  const options = {
    get threads(): number {
      throw error
    },
  }
  for (const run of [
    () => marginLoss(batch, options),
    () => library.topK(batch, options),
    () => library.softmax(logits, options),
    () =>
      MarginHead.create({
        classes,
        dim,
        get seed(): number {
          throw error
        },
      }),
  ])
    assert.is(await (async () => run())().catch((caught) => caught), error)
})

test('what fails its description is still refused by name', () => {
  for (const what of Object.keys(hostileValues))
    if (!['0', '−1', '2³¹', '2⁵³', '1e308', '1.5'].includes(what))
      throwsLike(
        () => marginLossSync(batch, { labelSmoothing: hostileValues[what]?.(3) as never }),
        Error,
        complaint('labelSmoothing')
      )
  const shown = (value: unknown) => complaint('labelSmoothing', value)
  throwsLike(() => marginLossSync(batch, { labelSmoothing: 10n as never }), TypeError, shown('10n'))
  throwsLike(
    () => marginLossSync(batch, { labelSmoothing: Symbol('x') as never }),
    TypeError,
    shown('Symbol(x)')
  )
  throwsLike(
    () => marginLossSync(batch, { labelSmoothing: new Proxy({}, {}) as never }),
    TypeError,
    shown('a Proxy')
  )
  const gone = detach(new Float32Array(9))
  throwsLike(
    () => marginLossSync(batch, { labelSmoothing: gone as never }),
    TypeError,
    shown('Float32Array(0, detached or out of bounds)')
  )
})

test('every property of a call is read once', async () => {
  const readings: Record<string, number>[] = []
  const counted = <T extends object>(object: T): T => {
    const times: Record<string, number> = {}
    readings.push(times)
    return new Proxy(object, {
      get(target, key) {
        times[String(key)] = (times[String(key)] ?? 0) + 1
        return Reflect.get(target, key)
      },
    })
  }
  const made = await head()
  const { labels: _labels, ...rest } = structuredClone(batch)
  const outputs = { losses: new Float32Array(rows), gradInput: new Float32Array(rows * dim) }
  const margin = library.arcface()
  for (const run of [
    () =>
      marginLossSync(
        counted(structuredClone(batch)),
        counted({ margin: counted(margin), threads: 1, ...outputs })
      ),
    () =>
      marginLoss(
        counted(structuredClone(batch)),
        counted({ margin: counted(margin), threads: 1, ...outputs })
      ),
    () => library.topK(counted(rest), counted({ k: 2, margin: counted(margin) })),
    () => library.softmax(logits, counted({ classes: 3, threads: 1 })),
    () =>
      library.crossEntropyLoss(
        logits,
        counted([0, 1, 2, 0]),
        counted({ classes: 3, reduction: 'sum' as const })
      ),
    () =>
      library.verification(
        batch.input,
        counted({ ...listed, pairs: counted(listed.pairs) }),
        counted({ dim })
      ),
    () =>
      MarginHead.create(
        counted({ classes, dim, margin: counted(margin), optimizer: counted(library.sgd()) })
      ),
    () => made.step(batch.input, counted(Array.from(batch.labels)), counted({ gradInput: true })),
  ]) {
    readings.length = 0
    await run()
    assert.ok(
      readings.some((times) => Object.keys(times).length > 0),
      'nothing was read'
    )
    for (const times of readings)
      assert.equal(
        Object.entries(times).filter(([, count]) => count > 1),
        []
      )
  }
})

test('an array is no object of options, however many elements it has', async () => {
  const large = new Uint8Array(2 ** 30) // as names of properties its elements would take 60 GB
  throwsLike(() => marginLossSync(batch, large as never), TypeError, complaint('options', large.length))
  throwsLike(() => marginLossSync(large as never), TypeError, complaint('batch', large.length))
  throwsLike(() => library.arcface(large as never), TypeError, complaint('arcface', large.length))
  throwsLike(() => marginLossSync(batch, { margin: large as never }), TypeError, complaint('margin'))
  await rejectsLike(MarginHead.create(large as never), TypeError, complaint('options', large.length))
  const optimizer = large as never
  await rejectsLike(MarginHead.create({ classes, dim, optimizer }), TypeError, complaint('optimizer'))
  const text = Object('x'.repeat(2 ** 28))
  throwsLike(() => marginLossSync(batch, text), TypeError, complaint('options', 'a String'))
})

test('arrays of another realm are arrays', async () => {
  const realm = vm.createContext({})
  const foreign = <T extends ArrayBufferView>(array: T): T => {
    realm.values = Array.from(array as never)
    return vm.runInContext(`new ${array.constructor.name}(values)`, realm)
  }
  assert.not.ok(foreign(new Float32Array(1)) instanceof Float32Array)
  const expected = marginLossSync(batch)
  const given = {
    input: foreign(batch.input),
    weight: foreign(batch.weight),
    labels: foreign(batch.labels),
    dim,
  }
  const gradWeight = foreign(new Float32Array(classes * dim))
  for (const run of [marginLossSync, marginLoss]) {
    const result = await run(given, { gradWeight })
    assert.is(result.loss, expected.loss)
    assert.is(result.gradWeight, gradWeight)
    sameBits(gradWeight, expected.gradWeight as Float32Array, 'gradWeight')
    gradWeight.fill(0)
  }
  const made = await MarginHead.create({ classes, dim, weights: foreign(batch.weight) })
  sameBits(made.weights(), batch.weight, 'weights')
  assert.ok(Number.isFinite((await made.step(given.input, foreign(Uint8Array.from(batch.labels)))).loss))
  sameBits(library.softmax(foreign(Float64Array.from(logits))), library.softmax(logits), 'softmax')
  throwsLike(
    () => marginLossSync({ ...batch, input: vm.runInContext('new Int8Array(24)', realm) }),
    TypeError,
    complaint('input', 'Int8Array(24)')
  )
  throwsLike(
    () => marginLossSync({ ...batch, input: vm.runInContext('({})', realm) }),
    TypeError,
    complaint('input', 'an object')
  )
})

// Node.js 20 has none; test/suites/runtimes.test.ts gives one in Bun and Deno.
const { Float16Array: Half } = globalThis as { Float16Array?: { from(values: Float32Array): Float32Array } }
;(Half ? test : test.skip)('a Float16Array is converted exactly', async () => {
  // Whole numbers, the smallest subnormal, the largest number: half precision holds them all.
  const values = Float32Array.from(
    batch.input,
    (_, i) => [i - 7, 2 ** -24, 65504, -0.1015625][i % 4] as number
  )
  const half = Half?.from(values) as Float32Array
  const expected = marginLossSync({ ...batch, input: values })
  for (const run of [marginLossSync, marginLoss]) {
    const { loss, gradInput } = await run({ ...batch, input: half })
    assert.is(loss, expected.loss)
    sameBits(gradInput as Float32Array, expected.gradInput as Float32Array, 'gradInput')
  }
  throwsLike(
    () => marginLossSync(batch, { gradInput: half }),
    TypeError,
    complaint('gradInput', `Float16Array(${half.length})`)
  )
})

test('a label that takes other arrays away while it is read is noticed', async () => {
  for (const name of ['input', 'weight'] as const)
    for (const run of [marginLossSync, marginLoss]) {
      const given = { ...structuredClone(batch), labels: Array.from(batch.labels) }
      Object.defineProperty(given.labels, 3, {
        get: () => {
          detach(given[name])
          return 0
        },
      })
      await rejectsLike((async () => run(given))(), RangeError, complaint(name, 'detached'))
    }
  const input = tracking(batch.input)
  const labels = Array.from(batch.labels)
  Object.defineProperty(labels, 3, {
    get: () => {
      input.buffer.resize(8)
      return 0
    },
  })
  throwsLike(() => marginLossSync({ ...batch, input, labels }), RangeError, complaint('input'))
})

test('weights of a new head that are not finite are named with their row', async () => {
  for (const value of [Number.NaN, Infinity, -Infinity]) {
    const weights = batch.weight.slice()
    weights[7 * dim + 1] = value
    await rejectsLike(
      MarginHead.create({ classes, dim, weights }),
      library.MarginSoftmaxError,
      /^Expected finite numbers for weights but received one that is not finite in row 7$/
    )
  }
  const large = Float64Array.from(batch.weight)
  large[2 * dim] = 1e300 // no number of single precision
  await rejectsLike(
    MarginHead.create({ classes, dim, weights: large }),
    library.MarginSoftmaxError,
    /in row 2$/
  )
})

test('weights that are transferred while a head is made: an error that names them', async () => {
  const weights = batch.weight.slice()
  const making = MarginHead.create({ classes, dim, weights })
  detach(weights)
  await rejectsLike(making, library.MarginSoftmaxError, /^Expected weights to stay attached/)
})

test('a method that was taken off its head says so', async () => {
  const made = await head()
  const { step, stepSync, topK, weights, save, dispose } = made
  await rejectsLike(
    step.call(undefined as never, batch.input, batch.labels),
    TypeError,
    complaint('this', 'undefined')
  )
  await rejectsLike(topK.call({} as never, batch.input), TypeError, complaint('this', 'an object'))
  await rejectsLike(save.call(null as never, 'x'), TypeError, complaint('this', 'null'))
  for (const method of [stepSync, weights, dispose])
    throwsLike(
      () => (method as () => void).call(new Proxy(made, {})),
      TypeError,
      complaint('this', 'a Proxy')
    )
  throwsLike(
    () => Reflect.get(MarginHead.prototype, 'iteration'),
    TypeError,
    complaint('this', 'a MarginHead')
  )
})

test.run()
