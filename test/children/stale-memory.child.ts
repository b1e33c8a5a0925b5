// Hashes every result that comes in a new array, for stale-memory.test.ts, which sets what new memory holds.
import { createHash } from 'node:crypto'
import {
  arcface,
  crossEntropyLoss,
  entropy,
  klDivergence,
  logSoftmax,
  MarginHead,
  marginLoss,
  marginLossSync,
  softmax,
  softmaxMargin,
  topKSync,
} from '../../lib/index'
import { makeBatch } from '../support/support'

// Rows of 4 KiB and more: smaller arrays would come from V8's own heap.
const shape = { rows: 131, dim: 67, classes: 301 }

async function main(): Promise<void> {
  const hash = createHash('sha256')
  const take = (results: object) => {
    for (const [name, value] of Object.entries(results))
      hash.update(name).update(ArrayBuffer.isView(value) ? (value as Float32Array) : JSON.stringify(value))
  }
  const { dim, classes } = shape
  const { weight, input, labels } = makeBatch(1, shape)
  for (const ignored of [0, 1, shape.rows]) {
    const given = { labels: labels.map((label, i) => (i < ignored ? -1 : label)) }
    for (const margin of [arcface(), softmaxMargin()])
      for (const precision of ['float32', 'bfloat16'] as const)
        for (const reduction of ['mean', 'sum', 'none'] as const) {
          const batch = { ...makeBatch(1, shape, { bias: margin.name === 'softmax' }), ...given }
          take(marginLossSync(batch, { margin, reduction, precision }))
          take(await marginLoss(batch, { margin, reduction, precision }))
        }
    const head = await MarginHead.create({ classes, dim, weights: weight })
    take(await head.step(input, given.labels))
    take(head.stepSync(input, given.labels))
    take(await head.evaluate(input, given.labels))
    take(head.topKSync(input, 7))
    take({ weights: head.weights() })
  }
  take(topKSync({ input, weight, dim }, { k: 7 }))
  const p = softmax(weight, { classes: dim })
  take({ p, logarithms: logSoftmax(weight, { classes: dim }), entropy: entropy(p, { classes: dim }) })
  take({ divergence: klDivergence(p, p.toReversed(), { classes: dim }) })
  take(
    crossEntropyLoss(
      weight,
      Int32Array.from({ length: classes }, (_, i) => (i % 3) - 1),
      { classes: dim }
    )
  )
  // new memory, and what the results are
  console.log(Buffer.allocUnsafeSlow(8192).subarray(4096, 4097).toString('hex'), hash.digest('hex'))
}

main()
