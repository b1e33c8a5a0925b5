// What ends does not wait for what it has no part in: see ends.child.ts.
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runNode } from '../support/processes'

const test = suite('ends')

for (const [scenario, what] of [
  ['queued', "a Worker whose job waits in a queue ends before the other threads' jobs"],
  ['disposed', 'dispose() during a step returns at once, and the step ends as it would'],
] as const)
  test(what, async () => {
    const { code, signal, output } = await runNode([
      '--require',
      'tsx/cjs',
      path.join(__dirname, '../children/ends.child.ts'),
      scenario,
    ])
    assert.ok(code === 0 && /^done$/m.test(output), `${code ?? signal}: ${output}`)
  })

test.run()
