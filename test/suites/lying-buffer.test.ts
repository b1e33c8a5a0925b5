// Memory that JavaScript takes away under native code: see lying-buffer.child.ts. Under AddressSanitizer every access to
// freed memory ends the process; without it those whose pages the system took back do.
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runNode } from '../support/processes'

const test = suite('lying buffers')

for (const scenario of [
  'own buffer',
  'inherited buffer',
  'freed while read',
  'own buffer of an output',
  'getters on Object.prototype',
  'getters of options and batches',
])
  test(`${scenario}: the honest result, or an error`, async () => {
    const file = path.join(__dirname, '../children/lying-buffer.child.ts')
    const flags = ['--expose-gc', '--single-threaded-gc', '--require', 'tsx/cjs']
    const { code, signal, output } = await runNode([...flags, file, scenario])
    assert.ok(code === 0 && /^done$/m.test(output), `ended with ${signal ?? `code ${code}`}:\n${output}`)
  })

test.run()
