'use strict'
// Uses the package as a program does, and prints its figures as one line, which are the same in every runtime. Each part is one
// that failed somewhere: files under Yarn's Plug'n'Play, shared memory in Bun, what a result or an error is an instance of
// in Jest, whose globals are not those of the addon.
const assert = require('node:assert')
const path = require('node:path')

const wave = (length) => Float32Array.from({ length }, (_, i) => Math.sin(i + 1))

/** @param api the package, however it was imported */
exports.use = async (
  { crossEntropyLoss, MarginHead, marginLoss, marginLossSync, sgd, topK, verification },
  folder
) => {
  const optimizer = sgd({ learningRate: 0.1, momentum: 0.9 })
  const head = await MarginHead.create({ classes: 5, dim: 4, optimizer })
  const step = (of) => of.step(wave(8), [0, 1])
  await step(head)
  const file = path.join(folder, `head-${Math.random()}.safetensors`)
  await head.save(file)
  const same = await MarginHead.load(file)
  const [one, two] = [await step(head), await step(same)]
  assert.deepStrictEqual(one.gradInput, two.gradInput)
  head.dispose()

  const batch = { input: wave(8), weight: wave(20), labels: Int32Array.of(0, 1), dim: 4 }
  const shared = new Float32Array(new SharedArrayBuffer(32))
  shared.set(batch.input)
  const promise = marginLoss({ ...batch, input: shared })
  const [awaited, result] = [await promise, marginLossSync(batch)]
  assert.deepStrictEqual(awaited.gradWeight, result.gradWeight)
  assert.ok(promise instanceof Promise && result.gradInput instanceof Float32Array)
  assert.throws(
    () => marginLossSync({ ...batch, labels: [0, 9] }),
    (error) => error instanceof RangeError && error.message.startsWith('Expected')
  )
  if (typeof Float16Array !== 'undefined') {
    const input = Float16Array.from(batch.input) // rounded by JavaScript, then taken as it is
    const expected = marginLossSync({ ...batch, input: Float32Array.from(input) })
    assert.deepStrictEqual(marginLossSync({ ...batch, input }).gradWeight, expected.gradWeight)
    const crossEntropyOf = (target) => crossEntropyLoss(wave(8), target, { classes: 4 }).losses
    assert.deepStrictEqual(crossEntropyOf(input), crossEntropyOf(Float32Array.from(input)))
    // A step that waits for a save has the numbers that it was called with.
    const { loss } = same.evaluateSync(Float32Array.from(input), [0, 1])
    const [saving, waiting] = [same.save(file), same.step(input, [0, 1])]
    input.fill(0)
    await saving
    assert.strictEqual((await waiting).loss, loss)
  }
  const { scores } = await topK({ input: batch.input, weight: batch.weight, dim: 4 }, { k: 2 })
  const { areaUnderCurve } = await verification(wave(64), [0, 0, 1, 1, 2, 2, 3, 3])
  return JSON.stringify([one.loss, result.loss, [...result.gradInput], [...scores], areaUnderCurve])
}
