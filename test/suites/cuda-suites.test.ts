// The suites of the CPU once more, with the CUDA executor in its place: same oracle, same bounds.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { shimRuns, useShim } from '../support/cuda'

const test = suite('cuda suites')

/** The suites that judge results. What concerns threads, instruction sets and arguments is the same code on any device. */
const suites: string[] = JSON.parse(fs.readFileSync(path.join(__dirname, 'cuda-suites.json'), 'utf8'))

if (shimRuns) {
  useShim()
  for (const name of suites)
    test(`${name} on 'cuda'`, () => {
      const { status, stdout, stderr } = spawnSync(
        process.execPath,
        ['--require', 'tsx/cjs', path.join(__dirname, `${name}.test.ts`)],
        {
          encoding: 'utf8',
          env: {
            ...process.env,
            MARGIN_SOFTMAX_DEVICE: 'cuda',
            SIMT_THREADS: '1',
            SIMT_POISON: '1',
            NO_COLOR: '1',
          },
          timeout: 400e3,
        }
      )
      assert.is(status, 0, `${stdout}${stderr}`.slice(-3000))
      const [, total, passed] = /Total: +(\d+)\s+Passed: +(\d+)/.exec(stdout) ?? []
      assert.ok(Number(total) > 0, stdout)
      assert.is(passed, total)
    })
} else {
  test.skip('the shim runs on Linux', () => {})
}

test.run()
