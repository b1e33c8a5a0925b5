// A rank of killed-ranks.test.ts: steps and saves of a sharded head, until it or another rank is killed.
import { processGroup } from '../../lib/distributed'
import { MarginHead, sgd } from '../../lib/index'
import { makeBatch } from '../support/support'

const file = process.argv[2] as string
const size = { dim: 64, classes: 3000 }

async function main(): Promise<void> {
  console.log(`pid ${process.pid}`)
  const group = await processGroup()
  const head = await MarginHead.create({ ...size, optimizer: sgd({ momentum: 0.9 }), threads: 1, group })
  const { input, labels } = makeBatch(group.rank, { ...size, rows: 16 })
  for (let i = 0; ; i++) {
    await head.step(input, labels)
    if (i % 3 === 0) await head.save(file)
    if (i === 3) console.log('saved') // for the second time: a kill finds a save to be replaced
  }
}

main()
