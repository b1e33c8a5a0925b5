// One scenario of outputs-off.test.ts: `outputs-off.child.ts <precision> <margin> <outputs that are wanted, or "none">`.
// The first call of the process is the one with outputs switched off: scratch memory holds nothing of earlier calls.
import assert from 'node:assert'
import { MarginHead, type MarginLossOptions, marginLossSync, type Precision } from '../../lib/index'
import { marginCase } from '../support/margins'
import { makeBatch, sameBits } from '../support/support'

/** As many rows of 512 numbers as one pass takes. */
const shape = { rows: 3584, dim: 512, classes: 20 }
const [precision, name, words] = process.argv.slice(2) as [Precision, string, string]
const { margin, row } = marginCase(name)
const outputs = row.raw
  ? (['gradInput', 'gradWeight', 'gradBias'] as const)
  : (['gradInput', 'gradWeight'] as const)
const batch = makeBatch(1, shape, { bias: row.raw })

function compareParts(options: MarginLossOptions): void {
  const switches = Object.fromEntries(outputs.map((output) => [output, words.split(',').includes(output)]))
  const parts = marginLossSync(batch, { margin, precision, ...options, ...switches })
  const whole = marginLossSync(batch, { margin, precision, ...options })
  assert.strictEqual(parts.loss, whole.loss)
  sameBits(parts.losses, whole.losses, 'losses')
  for (const output of outputs)
    if (switches[output]) sameBits(parts[output] as Float32Array, whole[output] as Float32Array, output)
    else assert.strictEqual(parts[output], undefined)
}

async function compareHeads(): Promise<void> {
  const { classes, dim } = shape
  const make = () =>
    MarginHead.create({ classes, dim, margin, precision, weights: batch.weight, bias: row.raw === true })
  const [whole, without] = [await make(), await make()]
  const { losses } = without.evaluateSync(batch.input, batch.labels)
  const step = whole.stepSync(batch.input, batch.labels)
  sameBits(step.losses, losses, 'losses of evaluate')
  without.stepSync(batch.input, batch.labels, { gradInput: false })
  sameBits(without.weights(), whole.weights(), 'weights after a step without gradInput')
  const more = new Float32Array((shape.rows + 1) * dim).fill(1)
  assert.throws(() => whole.stepSync(more, new Int32Array(shape.rows + 1)), /at most 3584 rows/)
}

async function main(): Promise<void> {
  for (const reduction of ['mean', 'sum', 'none'] as const)
    for (const workspace of [2 ** 25, undefined]) compareParts({ reduction, workspace })
  await compareHeads()
  console.log('done')
}

main()
