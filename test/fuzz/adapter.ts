// The tfjs adapter: valid calls through tfjs's own differentiation beside the oracle, hostile ones by the shape of their
// errors; no call leaves a tensor behind.
import * as tf from '@tensorflow/tfjs'
import { MarginHead } from '../../lib/index'
import { adapter } from '../../lib/tfjs'
import { marginCases } from '../support/margins'
import { reference } from '../support/reference'
import { anyLabels, anyShape, anyValues, type Problem } from './batches'
import type { Dice, Plan } from './campaign'
import { anything, judged } from './hostile-calls'
import { compare } from './judge'

type Loose = (...words: unknown[]) => unknown

export async function adapterPlan(): Promise<Plan> {
  tf.enableProdMode() // no advice to install tfjs-node
  await tf.setBackend('cpu')
  const { marginLoss, headLoss } = adapter(tf)

  /** Runs `work` and demands that the tensors it made are gone. */
  async function leavingNothing(work: () => unknown): Promise<undefined> {
    const before = tf.memory().numTensors
    tf.engine().startScope()
    try {
      await work()
    } finally {
      tf.engine().endScope()
    }
    const left = tf.memory().numTensors - before
    if (left !== 0) throw new Error(`${left} tensors were left behind`)
  }

  function valid(dice: Dice): Promise<undefined> {
    const { rows, dim, classes } = anyShape(dice)
    const margin = dice.pick(marginCases)
    const input = anyValues(dice, rows * dim)
    const weight = anyValues(dice, classes * dim)
    const labels = Array.from({ length: rows }, () => dice.integer(0, classes - 1))
    const problem: Problem = { input, weight, labels, dim }
    const reduction = dice.pick(['mean', 'sum'] as const)
    return leavingNothing(() => {
      const given = dice.chance(0.5) ? tf.tensor1d(labels, 'int32') : anyLabels(dice, labels)
      const work = (x: tf.Tensor, w: tf.Tensor) =>
        marginLoss(x as tf.Tensor2D, w as tf.Tensor2D, given, {
          margin: margin.margin,
          reduction,
          threads: 1,
        })
      const tensors = [tf.tensor2d(input, [rows, dim]), tf.tensor2d(weight, [classes, dim])]
      const { value, grads } = tf.valueAndGrads(work)(tensors)
      const [gradInput, gradWeight] = grads.map((gradient) => gradient.dataSync() as Float32Array)
      const expected = reference(problem, margin.oracle, { reduction })
      compare({ loss: value.dataSync()[0], gradInput, gradWeight }, expected, problem, margin.oracle, {
        reduction,
      })
    })
  }

  const tensors: (() => unknown)[] = [
    () => tf.tensor1d([1, 2]),
    () => tf.tensor2d([[1, 2, 3, 4]], undefined, 'int32'),
    () => tf.zeros([0, 4]),
    () => tf.zeros([2, 2, 2]),
    () => tf.complex([1], [2]),
    () => tf.tensor(['a']),
    () => tf.scalar(3),
    () => new Proxy(tf.tensor1d([1]), {}),
    () => {
      const tensor = tf.tensor2d([[1, 2, 3, 4]])
      tensor.dispose()
      return tensor
    },
  ]

  async function hostile(dice: Dice): Promise<undefined> {
    const head = await MarginHead.create({ classes: 9, dim: 4 })
    const value = () => (dice.chance(0.5) ? (dice.pick(tensors) as () => unknown)() : anything(dice, 4))
    await leavingNothing(() => {
      const words: unknown[] = [tf.tensor2d([[1, 2, 3, 4]]), tf.ones([9, 4]), [3], {}, undefined]
      for (let n = dice.integer(1, 2); n > 0; n--) words[dice.integer(0, 4)] = value()
      const [input, , labels, options] = words
      const owner = dice.chance(0.8) ? head : value()
      const how = dice.chance(0.5) ? options : { onStep: value(), learningRate: value() }
      return judged(() =>
        dice.chance(0.5) ? (marginLoss as Loose)(...words) : (headLoss as Loose)(owner, input, labels, how)
      )
    })
    head.dispose()
    return undefined
  }

  return { calls: 600, kinds: { valid: { share: 1, run: valid }, hostile: { share: 1, run: hostile } } }
}
