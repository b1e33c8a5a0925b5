// Every allocation of the addon fails once: alone, and together with all that follow. The process survives, the call says
// ERR_OUT_OF_MEMORY or is right, and the next one is right.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { compileShim, noShim, withoutShim } from '../faults/shim'
import { shimBinary } from '../support/cuda'

const test = suite('allocations that fail')
const child = path.join(__dirname, '..', 'faults', 'allocations.child.ts')
/** Scenarios of the first kind have a process for each allocation. */
const onFirstCalls = ['load', 'first call', 'first asynchronous call']
const later = [
  ...['marginLossSync', 'marginLoss', 'marginLoss in bfloat16', 'three losses at once'],
  ...['topKSync', 'topK', 'verificationSync', 'verification', 'verification of pairs'],
  ...['probability functions', 'a head', 'a head that samples', 'a head with a projection'],
  ...['a head, saved and loaded', 'devices'],
]
/**
 * The addon that is loaded without memory. NVIDIA's runtime, which is part of a binary for GPUs, does not survive that
 * (docs/failures.md), so it is the one for the shim. `npm test` has built it.
 */
const binaryToLoad = () => process.env.MARGIN_SOFTMAX_BINARY ?? shimBinary()
let failures = 0

/** Runs a scenario from its n-th allocation on; how many were let fail. */
function run(name: string, first: number, mode: 'once' | 'onwards'): number {
  const library = compileShim('allocations')
  const control = path.join(path.dirname(library), `allocations-${process.pid}`)
  fs.writeFileSync(control, new Uint8Array(64))
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    ['--require', 'tsx/cjs', child, name, String(first), mode],
    {
      encoding: 'utf8',
      env: {
        ...process.env,
        ...(name === 'load' && { MARGIN_SOFTMAX_BINARY: binaryToLoad() }),
        LD_PRELOAD: library,
        MARGIN_SOFTMAX_FAULTS: control,
      },
      timeout: 120e3,
      killSignal: 'SIGKILL',
    }
  )
  fs.rmSync(control)
  const lines = stdout.split('\n').filter(Boolean)
  assert.ok(
    status === 0,
    `${name}, ${mode}, after allocation ${first + lines.length - 1}: ${signal ?? `exit ${status}`}\n${stderr}`
  )
  failures += lines.length
  return lines.length
}

if (noShim) {
  withoutShim(test, 'allocations did not fail')
} else {
  for (const name of later)
    for (const mode of ['once', 'onwards'] as const)
      test(`${name}: each allocation ${mode === 'once' ? 'alone' : 'and all that follow'}`, () =>
        assert.ok(run(name, 1, mode) > 0, 'the shim let nothing fail'))

  for (const name of onFirstCalls)
    test(`${name}: each allocation alone`, () => {
      let number = 1
      while (run(name, number, 'once')) number++
      assert.ok(number > 1, 'the shim let nothing fail')
    })

  test('as many as that', () => assert.ok(failures >= 400, `only ${failures} allocations failed`))
}

test.run()
