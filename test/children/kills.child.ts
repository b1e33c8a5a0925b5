// Saves heads one after the other, each with a number of its own for all weights, and says so. kills.test.ts kills it.
import fs from 'node:fs'
import { MarginHead, sgd } from '../../lib/index'

const [file, first] = process.argv.slice(2) as [string, string]
const [classes, dim] = [8000, 64]

async function main(): Promise<void> {
  for (let number = Number(first); ; number++) {
    const weights = new Float32Array(classes * dim).fill(number)
    const head = await MarginHead.create({
      classes,
      dim,
      weights,
      optimizer: sgd({ momentum: 0.9 }),
      device: 'cpu',
    })
    fs.writeSync(1, `begins ${number}\n`)
    await head.save(file)
    fs.writeSync(1, `saved ${number}\n`)
    head.dispose()
  }
}

main()
