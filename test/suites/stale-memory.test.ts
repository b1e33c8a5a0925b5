// Arrays for results are not zeroed first: every element of them is written, whatever their memory held before. glibc fills
// what it hands out, where it is told to (MALLOC_PERTURB_).
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runNode } from '../support/processes'

const test = suite('stale memory')
const { glibcVersionRuntime } = (process.report.getReport() as { header: { glibcVersionRuntime?: string } })
  .header
const run = glibcVersionRuntime ? test : test.skip

run('results are the same bits, whatever new memory holds', async () => {
  const file = path.join(__dirname, '../children/stale-memory.child.ts')
  const ends = await Promise.all(
    ['85', '170'].map((fill) => runNode(['--require', 'tsx/cjs', file], { env: { MALLOC_PERTURB_: fill } }))
  )
  const [first, second] = ends.map(({ code, output }) => {
    assert.is(code, 0, output)
    return output.trim().split(' ')
  })
  assert.is.not(first?.[0], second?.[0], 'new memory holds the same in both runs: the test says nothing')
  assert.is(first?.[1], second?.[1])
})

test.run()
