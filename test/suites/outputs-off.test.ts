// Every output switched off, at every precision of the CPU, with every reduction, for as many rows as one pass takes: see
// outputs-off.child.ts. The other outputs keep their bits.
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runNode } from '../support/processes'

const test = suite('outputs off')
const file = path.join(__dirname, '../children/outputs-off.child.ts')

for (const precision of ['float32', 'bfloat16'])
  for (const [margin, ...wanted] of [
    ['arcface', 'none', 'gradInput', 'gradWeight'],
    ['softmax', 'none', 'gradInput', 'gradWeight', 'gradBias', 'gradInput,gradBias', 'gradWeight,gradBias'],
  ] as [string, ...string[]][])
    for (const outputs of wanted)
      test(`${precision}, ${margin}: ${outputs}`, async () => {
        const { code, signal, output } = await runNode([
          '--require',
          'tsx/cjs',
          file,
          precision,
          margin,
          outputs,
        ])
        assert.ok(code === 0 && /^done$/m.test(output), `ended with ${signal ?? `code ${code}`}:\n${output}`)
      })

test.run()
