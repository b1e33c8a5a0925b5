// A projection in a head's file, through changes of the head, and what is refused.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { adamW, MarginHead, type MarginSoftmaxError, type ProjectionOptions, sgd } from '../../lib/index'
import { batchOf, tensorsOf, trained } from '../support/projection'
import { complaint, filesOf, rejectsLike, relativeError, sameBits } from '../support/support'

const test = suite('projection-file')
const file = filesOf(test)

test('continues from its file with the same bits, under the names of a Sequential', async () => {
  for (const [kind, names] of [
    [{}, ['0.bias', '0.weight']],
    [{ batchNorm: true }, ['0.weight', '1.bias', '1.running_mean', '1.running_var', '1.weight']],
    [{ layers: 2, dropout: 0.2 }, ['0.bias', '0.weight', '2.bias', '2.weight']],
    [
      { layers: 2, hidden: 9, batchNorm: true },
      ['0.weight', '1.bias', '1.running_mean', '1.running_var', '1.weight', '3.bias', '3.weight'],
    ],
  ] as [Omit<ProjectionOptions, 'from' | 'to'>, string[]][])
    for (const optimizer of [sgd(), sgd({ momentum: 0.9 }), adamW()]) {
      const { head } = await trained({ projection: { from: 11, to: 5, ...kind }, optimizer })
      await head.save(file('resumed'))
      const tensors = Object.keys(await tensorsOf(file('resumed')))
      const beginning = (prefix: string) =>
        tensors
          .filter((name) => name.startsWith(prefix))
          .map((name) => name.slice(prefix.length))
          .sort()
      assert.equal(beginning('projection.'), names)
      const states = optimizer.name === 'adamw' ? ['firstMoment', 'secondMoment'] : ['momentum']
      const kept = names.filter((name) => !name.includes('running'))
      for (const state of states)
        assert.equal(
          beginning(`optimizer.${state}.projection.`),
          optimizer.name === 'sgd' && optimizer.momentum === 0 ? [] : kept
        )
      const again = await MarginHead.load(file('resumed'))
      assert.equal(again.projection, head.projection)
      for (let step = 0; step < 2; step++) {
        const { features, labels } = batchOf(30 + step, 50, 11, 20)
        const [expected, actual] = [await head.step(features, labels), await again.step(features, labels)]
        sameBits(actual.gradInput as Float32Array, expected.gradInput as Float32Array, JSON.stringify(kind))
      }
      sameBits(again.weights(), head.weights(), 'weights')
      const { features } = batchOf(40, 9, 11, 20)
      sameBits(again.embedSync(features), head.embedSync(features), 'embeddings')
    }
})

test('another optimizer begins without state; added and removed classes leave the projection alone', async () => {
  const projection = { from: 12, to: 6, layers: 2 as const, batchNorm: true }
  const { features, labels } = batchOf(50, 30, 12, 20)
  const { head } = await trained({ projection })
  await head.save(file('changes'))
  const before = head.embedSync(features)
  await head.set({ optimizer: adamW(), projection, dim: 6 })
  const loaded = await MarginHead.load(file('changes'), { optimizer: adamW() })
  for (const one of [head, loaded]) await one.step(features, labels)
  sameBits(loaded.embedSync(features), head.embedSync(features), 'set and load')
  assert.ok(relativeError(head.embedSync(features), before) > 1e-3)

  const classes = await MarginHead.load(file('changes'))
  await classes.addClasses(3)
  await classes.removeClasses([20, 21, 22])
  sameBits(classes.embedSync(features), before, 'classes')
  const kept = await MarginHead.load(file('changes'))
  for (const one of [classes, kept]) await one.step(features, labels)
  sameBits(classes.embedSync(features), kept.embedSync(features), 'with its state')
})

test('a refused step changes nothing', async () => {
  const projection = { from: 12, to: 6, batchNorm: true }
  const { head } = await trained({ projection, maxGradientNorm: 1 })
  const { features, labels } = batchOf(53, 30, 12, 20)
  await head.save(file('before'))
  for (const [value, pattern] of [
    [Number.NaN, /features .*not finite in row 4/],
    [Number.POSITIVE_INFINITY, /features .*not finite in row 4/],
    [2e15, /at most 1e15 for the features of row 4 /],
  ] as [number, RegExp][]) {
    const wrong = features.slice()
    wrong[4 * 12 + 3] = value
    await rejectsLike(head.step(wrong, labels), Error, pattern)
  }
  await rejectsLike(head.step(features.subarray(0, 12), [0]), RangeError, complaint('features'))
  await rejectsLike(head.step(features.subarray(1), labels), RangeError, /projection.from 12 elements/)
  const wide = await MarginHead.create({ classes: 3, device: 'cpu', projection: { from: 1, to: 6000 } })
  await rejectsLike(
    wide.step(new Float32Array(600), new Int32Array(600)),
    RangeError,
    /512 rows.*received 600/
  )
  assert.is(wide.iteration, 0)
  await head.save(file('behind'))
  const [before, behind] = [await tensorsOf(file('before')), await tensorsOf(file('behind'))]
  for (const [name, values] of Object.entries(before)) sameBits(behind[name] as Float64Array, values, name)
  assert.is(head.iteration, 3)
})

test('options that do not fit are refused by name', async () => {
  const good = { from: 12, to: 6 }
  for (const [projection, kind, name, value] of [
    [null, TypeError, 'projection', 'null'],
    [{ to: 6 }, TypeError, 'projection.from', 'undefined'],
    [{ from: 12 }, TypeError, 'projection.to', 'undefined'],
    [{ ...good, from: 0 }, RangeError, 'projection.from', 0],
    [{ ...good, to: 1.5 }, RangeError, 'projection.to', 1.5],
    [{ ...good, layers: 3 }, RangeError, 'projection.layers', 3],
    [{ ...good, hidden: 4 }, RangeError, 'projection.layers', 1],
    [{ ...good, batchNorm: 1 }, TypeError, 'projection.batchNorm', 1],
    [{ ...good, dropout: 1 }, RangeError, 'projection.dropout', 1],
    [{ ...good, dropout: -0.1 }, RangeError, 'projection.dropout', -0.1],
    [{ ...good, width: 3 }, TypeError, 'projection', 'width'],
  ] as [ProjectionOptions, typeof TypeError, string, unknown][])
    await rejectsLike(MarginHead.create({ classes: 3, projection }), kind, complaint(name, value))
  await rejectsLike(
    MarginHead.create({ classes: 3, dim: 7, projection: good }),
    RangeError,
    complaint('dim', 7)
  )
  const head = await MarginHead.create({ classes: 3, projection: good })
  assert.is(head.dim, 6)
  assert.equal(head.projection, {
    ...{ from: 12, to: 6, layers: 1, hidden: 12 },
    ...{ batchNorm: false, dropout: 0 },
  })
  await rejectsLike(
    head.set({ projection: { from: 12, to: 6, layers: 2 } }),
    RangeError,
    complaint('projection')
  )
  await rejectsLike(head.embed(new Float32Array(13)), RangeError, complaint('features'))
  const plain = await MarginHead.create({ classes: 3, dim: 6 })
  assert.is(plain.projection, undefined)
  for (const embed of [
    () => plain.embed(new Float32Array(6)),
    async () => plain.embedSync(new Float32Array(6)),
  ])
    await embed().then(
      () => assert.unreachable(),
      (error: MarginSoftmaxError) => assert.is(error.code, 'ERR_UNAVAILABLE')
    )
  await rejectsLike(plain.set({ projection: good }), RangeError, complaint('projection'))
})

test.run()
