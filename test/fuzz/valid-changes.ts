// Changes to living heads: how they train, and which classes they have. Each change is also made to what is
// known of the head, so that the calls after it can be judged.
import * as assert from 'uvu/assert'
import {
  adamW,
  classMeans,
  type HeadChanges,
  type MarginHead,
  type MarginHeadOptions,
  sgd,
} from '../../lib/index'
import { type MarginCase, marginCases } from '../support/margins'
import { normals, sameBits } from '../support/support'
import { anyLabels, anyLossWeights, anyValues, inAnyForm, tamper } from './batches'
import type { Dice } from './campaign'

/** A head as its calls have made it so far, whether or not they have run. */
export interface Known {
  settings: MarginHeadOptions & { optimizer: ReturnType<typeof sgd> | ReturnType<typeof adamW> }
  margin: MarginCase
  classWeights?: Float32Array
  /** Names that have been given so far, and may not come again. */
  named: number
}

function anyOptimizer(dice: Dice): Known['settings']['optimizer'] {
  if (dice.chance(0.4)) return adamW({ learningRate: 1e-3 })
  return sgd({
    learningRate: dice.pick([0.1, 1e-3]),
    momentum: dice.pick([0, 0, 0.9]),
    weightDecay: dice.pick([0, 0.01]),
  })
}

/** Draws the options of training, which `create`, `set` and `load` take alike. */
const trainings: ((dice: Dice) => HeadChanges)[] = [
  (dice) => ({ optimizer: anyOptimizer(dice) }),
  (dice) => ({ marginWarmupSteps: dice.integer(0, 5) }),
  (dice) => ({ labelSmoothing: dice.pick([0, 0.1, 1]) }),
  (dice) => ({ sampleRate: dice.pick([1, 0.5, 1e-6]), sampleCorrection: dice.chance(0.3) }),
  (dice) => ({ interclassFilter: dice.pick([1, 0.5]) }),
  (dice) => ({ maxGradientNorm: dice.pick([0, 1e-3, 0.1, 10]) }),
  (dice) => ({ negligible: dice.pick([0, 1e-7, 1e-3]) }),
]

/** Draws changes of a head that has this margin, each with the same probability; none that contradicts another. */
export function anyTraining(
  dice: Dice,
  { settings, margin }: Pick<Known, 'settings' | 'margin'>,
  probability: number
): HeadChanges {
  const changes: HeadChanges = {}
  for (const training of trainings) if (dice.chance(probability)) Object.assign(changes, training(dice))
  const { labelSmoothing, interclassFilter = 1 } = { ...settings, ...changes }
  if (interclassFilter < 1 && (labelSmoothing || margin.row.raw)) changes.interclassFilter = 1
  return changes
}

/** Names of `count` more classes. */
export function namesOf(known: Known, count: number): string[] {
  return Array.from({ length: count }, () => `class ${known.named++}`)
}

/** First weights of classes [count,D], of either kind. */
export function anyFirstWeights(dice: Dice, count: number, dim: number): Float32Array {
  if (dice.chance(0.7)) return normals(dice, count * dim)
  const rows = dice.integer(1, 2 * count)
  const labels = Array.from({ length: rows }, () => dice.integer(-1, count - 1))
  return classMeans(inAnyForm(dice, anyValues(dice, rows * dim)), anyLabels(dice, labels), {
    classes: count,
    dim,
  })
}

/** A change that has been called for: its promise, and what has to hold of the head once that has settled. */
interface Change {
  running: Promise<unknown>
  check: () => Promise<void> | void
}

/** Calls for some change. `before`: the head's weights, where it is idle. */
export function anyChange(dice: Dice, head: MarginHead, known: Known, before?: Float32Array): Change {
  const change = dice.pick([trained, trained, added, removed])(dice, head, known, before)
  const { settings, margin, classWeights } = known
  return {
    running: change.running,
    async check() {
      await change.check()
      assert.is(head.classes, settings.classes)
      assert.equal(head.margin, margin.margin)
      assert.equal(head.optimizer, settings.optimizer)
      assert.equal(head.classNames, settings.classNames)
      assert.equal(head.classWeights, classWeights)
    },
  }
}

function trained(dice: Dice, head: MarginHead, known: Known, before?: Float32Array): Change {
  const { settings } = known
  if (dice.chance(0.5)) {
    const others = settings.bias ? marginCases.filter(({ row }) => row.raw) : marginCases
    known.margin = dice.pick(others)
  }
  const changes = { margin: known.margin.margin, ...anyTraining(dice, known, 0.3) }
  known.settings = { ...settings, ...changes } as Known['settings']
  const check = () => before && sameBits(head.weights(), before, 'weights after set')
  return { running: head.set(changes), check }
}

function added(dice: Dice, head: MarginHead, known: Known, before?: Float32Array): Change {
  const { settings } = known
  const { classes, dim } = settings
  const count = dice.integer(1, 5)
  const weights = dice.chance(0.6) ? anyFirstWeights(dice, count, dim) : undefined
  const classWeights = known.classWeights && anyLossWeights(dice, count)
  const classNames = settings.classNames && namesOf(known, count)
  known.settings = { ...settings, classes: classes + count }
  if (classNames) known.settings.classNames = [...(settings.classNames ?? []), ...classNames]
  if (classWeights) known.classWeights = Float32Array.of(...(known.classWeights ?? []), ...classWeights)
  const running = head.addClasses(count, {
    weights: weights && inAnyForm(dice, weights),
    classWeights: classWeights && inAnyForm(dice, classWeights.slice()),
    classNames,
  })
  return {
    running,
    async check() {
      assert.equal(await running, { first: classes, count })
      if (!before) return
      const after = head.weights()
      sameBits(after.subarray(0, before.length), before, 'weights of the classes before')
      if (weights && head.weightStorage === 'float32')
        sameBits(after.subarray(before.length), weights, 'weights of the added classes')
    },
  }
}

function removed(dice: Dice, head: MarginHead, known: Known, before?: Float32Array): Change {
  const { settings } = known
  const { classes, dim } = settings
  const gone = Array.from({ length: classes }, () => dice.chance(0.3))
  gone[dice.integer(0, classes - 1)] = false
  const kept = [...gone.keys()].filter((j) => !gone[j])
  const of = <T>(values: ArrayLike<T>) => kept.map((j) => values[j] as T)
  known.settings = { ...settings, classes: kept.length }
  if (settings.classNames) known.settings.classNames = of(settings.classNames)
  if (known.classWeights) known.classWeights = Float32Array.from(of(known.classWeights))
  const list = anyLabels(dice, [...gone.keys()].filter((j) => gone[j]).reverse())
  const running = head.removeClasses(list)
  if (dice.chance(0.3)) tamper({ list })
  return {
    running,
    async check() {
      const places = await running
      assert.equal(
        [...places],
        [...gone.keys()].map((j) => kept.indexOf(j))
      )
      if (!before) return
      const rows = kept.flatMap((j) => [...before.subarray(j * dim, (j + 1) * dim)])
      sameBits(head.weights(), Float32Array.from(rows), 'weights of the classes that stay')
    },
  }
}
