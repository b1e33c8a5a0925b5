// The cross-entropy of given logits, forward and backward, against the float64 oracle and the float32 textbook.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { type CrossEntropyLossResult, crossEntropyLoss } from '../../lib/probability'
import { compare, make, run } from '../support/cross-entropy'
import { double, crossEntropyLoss as reference } from '../support/probability-reference'
import { at, fused, sets, sizes } from '../support/probability-support'
import { normals, onCpu, random, relativeError, sameBits, threadCounts, within } from '../support/support'

const test = suite('cross-entropy loss')

for (const probabilities of [false, true]) {
  const kind = probabilities ? 'probabilities' : 'labels'

  test(`${kind}: every size, weights, smoothing, on every instruction set`, () => {
    for (const classes of sizes) {
      for (const weights of [false, true]) {
        for (const labelSmoothing of classes > 5000 ? [0.1] : [0, 0.1, 1]) {
          const problem = make(classes, { rows: classes > 5000 ? 2 : 5, classes, probabilities, weights })
          compare({ ...problem, labelSmoothing }, `${kind} ${classes} ${weights} ${labelSmoothing}`)
        }
      }
    }
  })

  test(`${kind}: reductions and upstream gradients`, () => {
    const gradOutput = normals(random(5), 5)
    for (const weights of [false, true]) {
      for (const labelSmoothing of [0, 0.3]) {
        const problem = { ...make(2, { classes: 19, probabilities, weights }), labelSmoothing }
        for (const reduction of ['mean', 'sum'] as const) {
          compare({ ...problem, reduction }, reduction)
          compare({ ...problem, reduction, gradOutput: -2.5 }, `${reduction} with gradOutput`)
          sameBits(
            run({ ...problem, reduction, gradOutput: 3 }).losses,
            run({ ...problem, reduction }).losses,
            'losses'
          )
        }
        compare({ ...problem, reduction: 'none' }, 'none')
        const { loss } = run({ ...problem, reduction: 'none', gradOutput })
        const expected = reference(double, { ...problem, reduction: 'none', gradOutput })
        within(Math.abs(loss - expected.loss), 1e-6 * (1 + Math.abs(expected.loss)), 'Σ gradOutput·losses')
        const { gradLogits } = run({ ...problem, reduction: 'none', gradOutput })
        within(relativeError(gradLogits as Float32Array, expected.gradLogits), 3e-7, 'none with gradOutput')
      }
    }
  })

  test(`${kind}: the gradient is the loss's finite difference`, () => {
    for (const labelSmoothing of [0, 0.2]) {
      const problem = {
        ...make(3, { rows: 3, classes: 7, probabilities, weights: true, scale: 1 }),
        labelSmoothing,
      }
      const gradient = run(problem).gradLogits as Float32Array
      for (let i = 0; i < problem.logits.length; i++) {
        const moved = (step: number) => {
          const logits = problem.logits.slice()
          logits[i] = at(logits, i) + step
          return { z: at(logits, i), loss: reference(double, { ...problem, logits }).loss }
        }
        const [after, before] = [moved(1e-3), moved(-1e-3)]
        within(
          Math.abs((after.loss - before.loss) / (after.z - before.z) - at(gradient, i)),
          1e-6,
          `logit ${i}`
        )
      }
    }
  })

  test(`${kind}: the same bits for any number of threads, in place, and on every set with a fused multiply-add`, () => {
    for (const [rows, classes] of [
      [onCpu ? 30_001 : 301, 3],
      [700, 100],
      [4, 70_001],
    ] as const) {
      const problem = { ...make(4, { rows, classes, probabilities, weights: true }), labelSmoothing: 0.1 }
      const expected = run(problem, { threads: 1 })
      const check = (actual: CrossEntropyLossResult, as: CrossEntropyLossResult, what: string) => {
        assert.is(actual.loss, as.loss)
        sameBits(actual.losses, as.losses, `${what} losses`)
        sameBits(actual.gradLogits as Float32Array, as.gradLogits as Float32Array, `${what} gradLogits`)
      }
      for (const threads of threadCounts) check(run(problem, { threads }), expected, `${threads} threads`)
      const logits = problem.logits.slice()
      const losses = new Float32Array(rows)
      const inPlace = run({ ...problem, logits }, { gradLogits: logits, losses })
      assert.is(inPlace.gradLogits, logits)
      assert.is(inPlace.losses, losses)
      check(inPlace, expected, 'in place')
      const [first, ...others] = fused.map((instructionSet) => run(problem, { instructionSet }))
      for (const other of others) check(other, first as CrossEntropyLossResult, 'instruction set')
    }
  })

  test(`${kind}: NaN stays in its row`, () => {
    for (const classes of [1, 5, 16, 1030]) {
      for (const place of new Set([0, classes >> 1, classes - 1])) {
        for (const instructionSet of sets) {
          const problem = make(5, { rows: 3, classes, probabilities })
          problem.logits[classes + place] = Number.NaN
          const { loss, losses, gradLogits } = run(problem, { instructionSet })
          assert.ok(Number.isNaN(loss))
          assert.equal([...losses].map(Number.isNaN), [false, true, false])
          gradLogits?.forEach((value, i) => {
            assert.is(Number.isNaN(value), Math.floor(i / classes) === 1, `${classes} ${place} at ${i}`)
          })
        }
      }
    }
  })
}

test('gradients written past the caches, wherever rows begin', () => {
  const problem = { ...make(6, { rows: 421, classes: 10_007 }), labelSmoothing: 0.1 }
  const logits = problem.logits.slice()
  run({ ...problem, logits }, { gradLogits: logits })
  const memory = new Float32Array(logits.length + 1)
  for (const first of [0, 1]) {
    const gradLogits = memory.subarray(first, first + logits.length)
    run(problem, { gradLogits })
    sameBits(gradLogits, logits, `from ${first}`)
  }
})

test('a worked example with weights: a mean divides by the weights of the labels', () => {
  const logits = Float32Array.of(0, 0, 0, Math.LN2, 0, 0)
  const classWeights = Float32Array.of(1, 2, 5)
  const { loss, losses } = crossEntropyLoss(logits, [1, 0], { classWeights })
  within(relativeError(losses, [2 * Math.log(3), Math.LN2]), 1e-7, 'losses')
  within(Math.abs(loss - (2 * Math.log(3) + Math.LN2) / 3), 1e-7, 'mean')
  const targets = Float32Array.of(0, 1, 0, 1, 0, 0)
  const mean = crossEntropyLoss(logits, targets, { classes: 3, classWeights }).loss
  within(Math.abs(mean - (2 * Math.log(3) + Math.LN2) / 2), 1e-7, 'mean with probabilities')
})

test('labels of every type give what probabilities of 0 and 1 give', () => {
  const problem = make(7, { classes: 11, rows: 6 })
  const expected = run(problem)
  const labels = [...(problem.labels as Int32Array)]
  for (const type of [Uint8Array, Uint16Array, Uint32Array, Int32Array]) {
    sameBits(crossEntropyLoss(problem.logits, type.from(labels)).losses, expected.losses, type.name)
  }
  sameBits(crossEntropyLoss(problem.logits, labels).losses, expected.losses, 'number[]')
  sameBits(
    crossEntropyLoss(Float64Array.from(problem.logits), labels).losses,
    expected.losses,
    'Float64Array'
  )
  const targets = new Float32Array(66)
  labels.forEach((label, i) => {
    targets[i * 11 + label] = 1
  })
  for (const how of [{ classes: 11 }, { classes: 11, labelSmoothing: 0.1 }]) {
    const hard = crossEntropyLoss(problem.logits, labels, how)
    for (const given of [targets, Float64Array.from(targets)]) {
      const soft = crossEntropyLoss(problem.logits, given, how)
      within(relativeError(soft.losses, hard.losses), 2e-7, 'losses')
      within(
        relativeError(soft.gradLogits as Float32Array, hard.gradLogits as Float32Array),
        2e-7,
        'gradients'
      )
    }
  }
})

test.run()
