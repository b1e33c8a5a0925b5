// The cross-entropy of given logits at its edges: ignored rows, nothing at all, extreme logits, rejected arguments.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { type CrossEntropyLossOptions, crossEntropyLoss } from '../../lib/probability'
import { compare, make, run, type Target } from '../support/cross-entropy'
import { at, sets } from '../support/probability-support'
import { norm, normals, random, throwsLike, within } from '../support/support'

const test = suite('cross-entropy loss, edges')

test('ignored rows take no part, whatever they hold', () => {
  for (const weights of [false, true]) {
    for (const ignoreIndex of [-1, -100, 255, 3]) {
      const problem = { ...make(8, { classes: 9, rows: 6, weights }), ignoreIndex, labelSmoothing: 0.1 }
      const labels = [ignoreIndex, 1, 4, ignoreIndex, 8, ignoreIndex]
      compare({ ...problem, labels }, `ignoreIndex ${ignoreIndex}`)
      problem.logits.fill(Number.NaN, 27, 36)
      const { loss, losses, gradLogits } = run(
        { ...problem, labels },
        { gradLogits: new Float32Array(54).fill(7) }
      )
      assert.ok(loss > 0)
      assert.is(losses[3], 0)
      assert.is(norm((gradLogits as Float32Array).subarray(27, 36)), 0)
    }
  }
})

test('all rows ignored, no weight, no rows: loss 0, gradients 0', () => {
  const logits = normals(random(1), 12)
  for (const reduction of ['mean', 'sum', 'none'] as const) {
    for (const options of [
      { target: [-1, -1, -1] },
      { target: [0, 0, 0], classWeights: Float32Array.of(0, 1, 1, 1) },
    ]) {
      const { target, ...weights } = options
      const { loss, losses, gradLogits } = crossEntropyLoss(logits, target, { reduction, ...weights })
      assert.is(loss, 0)
      assert.is(norm(losses), 0)
      assert.is(norm(gradLogits as Float32Array), 0)
    }
    const none = crossEntropyLoss(new Float32Array(0), [], { reduction })
    assert.equal(none, { loss: 0, losses: new Float32Array(0), gradLogits: new Float32Array(0) })
    assert.equal(crossEntropyLoss(new Float32Array(0), new Float32Array(0), { reduction, classes: 4 }), none)
  }
})

test('extreme logits', () => {
  const big = Math.fround(1e15)
  const signed = (values?: Float32Array) => Array.from(values ?? [], (value) => value + 0) // −0 becomes 0
  const check = (logits: number[], label: number, loss: number, gradient: number[], smoothing = 0) => {
    for (const instructionSet of sets) {
      const options = { instructionSet, labelSmoothing: smoothing }
      const actual = crossEntropyLoss(Float32Array.from(logits), [label], options)
      assert.equal([...actual.losses], [Math.fround(loss)], `${logits} label ${label} ${instructionSet}`)
      assert.equal(signed(actual.gradLogits), gradient, `${logits} label ${label}`)
    }
  }
  check([big, -big], 0, 0, [0, 0])
  check([big, -big], 1, 2 * big, [1, -1])
  check([big, big], 1, Math.LN2, [0.5, -0.5])
  check([big, -big], 0, 0.25 * 2 * big, [0.25, -0.25], 0.5)
  check([3, -Infinity, -Infinity], 0, 0, [0, 0, 0])
  check([3, -Infinity], 1, Infinity, [1, -1])
  check([3, -Infinity], 0, Infinity, [0.25, -0.25], 0.5)
  check([-Infinity, -Infinity], 0, Number.NaN, [Number.NaN, Number.NaN])
  check([Infinity, 0], 0, Number.NaN, [Number.NaN, Number.NaN])
  check([Infinity, 0], 1, Number.NaN, [Number.NaN, Number.NaN])
  check([7], 0, 0, [0])
  for (const instructionSet of sets) {
    // A class of no share counts nothing even where its probability is 0.
    const how = { classes: 2, instructionSet }
    const soft = crossEntropyLoss(Float32Array.of(3, -Infinity), Float32Array.of(1, 0), how)
    assert.equal([...soft.losses, ...(soft.gradLogits as Float32Array)].map(Math.abs), [0, 0, 0])
    assert.is(crossEntropyLoss(Float32Array.of(3, -Infinity), Float32Array.of(0.5, 0.5), how).loss, Infinity)
    const weighted = { ...how, classWeights: Float32Array.of(1, 0), reduction: 'sum' } as const
    assert.is(crossEntropyLoss(Float32Array.of(3, -Infinity), [1], weighted).loss, 0)
  }
})

test('a certain target keeps the digits of its small loss and gradient', () => {
  for (const gap of [5, 17, 25, 60, 80]) {
    const logits = Float32Array.of(0, gap, -1, 0.5)
    const others = Math.exp(-gap) + Math.exp(-gap - 1) + Math.exp(0.5 - gap)
    for (const instructionSet of sets) {
      const { losses, gradLogits } = crossEntropyLoss(logits, [1], { instructionSet })
      within(Math.abs(at(losses, 0) / Math.log1p(others) - 1), 1e-5, `loss at ${gap}`)
      within(
        Math.abs(at(gradLogits as Float32Array, 1) / (-others / (1 + others)) - 1),
        1e-5,
        `gradient at ${gap}`
      )
    }
  }
})

test('rejected arguments', () => {
  const z = new Float32Array(12)
  const call =
    (target: unknown, options?: unknown, logits: unknown = z) =>
    () =>
      crossEntropyLoss(logits as Float32Array, target as Target, options as CrossEntropyLossOptions)
  const labels = [0, 1, 2]
  throwsLike(
    call(labels, {}, [1, 2, 3]),
    TypeError,
    /^Expected a Float32Array, Float64Array or Float16Array for logits but received Array\(3\)$/
  )
  throwsLike(
    call('abc'),
    TypeError,
    /^Expected labels or a Float32Array of probabilities for target but received "abc"$/
  )
  throwsLike(call(undefined), TypeError, /for target but received undefined$/)
  throwsLike(call(new BigInt64Array(3)), TypeError, /for target but received BigInt64Array\(3\)$/)
  throwsLike(
    call([0, 1, 4]),
    RangeError,
    /^Expected an integer from 0 to 3 or the ignoreIndex -1 for target\[2\] but received 4$/
  )
  throwsLike(call([0, 1.5, 1]), RangeError, /for target\[1\] but received 1.5$/)
  throwsLike(call([0, '1', 1]), TypeError, /for target\[1\] but received "1"$/)
  throwsLike(call([0, -2, 1]), RangeError, /for target\[1\] but received -2$/)
  throwsLike(
    call([0, -1, 1], { ignoreIndex: -100 }),
    RangeError,
    /the ignoreIndex -100 for target\[1\] but received -1$/
  )
  throwsLike(call([0, 1, 2, 0, 1]), RangeError, /^Expected a positive integer for classes but received 2.4$/)
  throwsLike(call([]), RangeError, /^Expected a positive integer for classes but received Infinity$/)
  throwsLike(
    call(labels, { classes: 5 }),
    RangeError,
    /^Expected a multiple of classes 5 elements for logits/
  )
  throwsLike(
    call(labels, { classes: 3 }),
    RangeError,
    /^Expected 4 elements for target but received Array\(3\)$/
  )
  throwsLike(
    call(labels, { classes: '4' }),
    TypeError,
    /^Expected a positive integer for classes but received "4"$/
  )
  throwsLike(
    call(new Float32Array(11)),
    RangeError,
    /^Expected 12 elements for target but received Float32Array\(11\)$/
  )
  throwsLike(
    call(z.slice(), { ignoreIndex: 0 }),
    TypeError,
    /^Expected no ignoreIndex with probabilities for ignoreIndex but received 0$/
  )
  throwsLike(call(labels, { ignoreIndex: 0.5 }), RangeError, /for ignoreIndex but received 0.5$/)
  throwsLike(
    call(labels, { reduction: 'max' }),
    RangeError,
    /^Expected "mean" or "sum" or "none" for reduction but received "max"$/
  )
  for (const labelSmoothing of [-0.1, 1.1, Number.NaN])
    throwsLike(call(labels, { labelSmoothing }), RangeError, /for labelSmoothing but received/)
  throwsLike(
    call(labels, { classWeights: [1, 1, 1, 1] }),
    TypeError,
    /^Expected a Float32Array, Float64Array or Float16Array for classWeights/
  )
  throwsLike(
    call(labels, { classWeights: new Float32Array(3) }),
    RangeError,
    /^Expected 4 elements for classWeights/
  )
  for (const wrong of [-1, Number.NaN, Infinity]) {
    const classWeights = Float32Array.of(1, wrong, 1, 1)
    throwsLike(
      call(labels, { classWeights }),
      RangeError,
      /^Expected a finite number of at least 0 for classWeights\[1\] but/
    )
  }
  throwsLike(
    call(labels, { gradOutput: z }),
    TypeError,
    /^Expected a number for gradOutput but received Float32Array\(12\)$/
  )
  throwsLike(call(labels, { gradOutput: 1, reduction: 'none' }), TypeError, /for gradOutput but received 1$/)
  throwsLike(
    call(labels, { gradOutput: z, reduction: 'none' }),
    RangeError,
    /^Expected 3 elements for gradOutput/
  )
  throwsLike(
    call(labels, { gradLogits: 1 }),
    TypeError,
    /^Expected true, false or a Float32Array for gradLogits but received 1$/
  )
  throwsLike(
    call(labels, { gradLogits: new Float32Array(4) }),
    RangeError,
    /^Expected 12 elements for gradLogits/
  )
  throwsLike(
    call(labels, { losses: [] }),
    TypeError,
    /^Expected a Float32Array for losses but received Array\(0\)$/
  )
  throwsLike(call(labels, { losses: new Float32Array(4) }), RangeError, /^Expected 3 elements for losses/)
  throwsLike(
    call(labels, { losses: z.subarray(0, 3) }),
    RangeError,
    /^Expected memory apart from logits for losses/
  )
  throwsLike(call(labels, { threads: 2000 }), RangeError, /for threads but received 2000$/)
  throwsLike(call(labels, { instructionSet: 'sse9' }), RangeError, /for instructionSet but received "sse9"$/)
  throwsLike(call(labels, { weight: z }), TypeError, /for options but received "weight"$/)
  const memory = new Float32Array(30)
  const logits = memory.subarray(0, 12)
  throwsLike(
    call(labels, { gradLogits: memory.subarray(1, 13) }, logits),
    RangeError,
    /^Expected memory apart from logits for gradLogits/
  )
  const targets = memory.subarray(12, 24)
  throwsLike(
    call(targets, { gradLogits: targets }),
    RangeError,
    /^Expected memory apart from targets for gradLogits/
  )
  const both = { losses: memory.subarray(0, 3), gradLogits: memory.subarray(2, 14) }
  throwsLike(call(labels, both), RangeError, /^Expected memory apart from losses for gradLogits/)
})

test.run()
