// File operations that fail or fall short: the process survives, the file is the old one or the new one and whole, the next
// call is right, nothing is left open or lying about. See faults/io.child.ts.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { compileShim, noShim, withoutShim } from '../faults/shim'

const test = suite('faults, I/O')

if (noShim) {
  withoutShim(test, 'file operations did not fail')
} else {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-faults-'))
  test.after(() => fs.rmSync(folder, { recursive: true, force: true }))

  test('every operation of save, load and report fails once and falls short once', () => {
    const library = compileShim('io')
    const inner = path.join(folder, 'under-fault')
    fs.mkdirSync(inner)
    const child = path.join(__dirname, '..', 'faults', 'io.child.ts')
    const { status, signal, stdout, stderr } = spawnSync(
      process.execPath,
      ['--require', 'tsx/cjs', child, inner],
      {
        encoding: 'utf8',
        timeout: 400e3,
        killSignal: 'SIGKILL',
        env: {
          ...process.env,
          MARGIN_SOFTMAX_DEVICE: 'cpu',
          LD_PRELOAD: library,
          FAULT_PATH: 'under-fault',
          FAULT_LOG: path.join(folder, 'log'),
        },
      }
    )
    assert.is(`${status} ${signal}`, '0 null', `${stdout}\n${stderr}`)
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { work: string; calls: Record<string, number> })
    assert.is(lines.length, 6)
    // That the shim reaches what it is meant to.
    const calls = (work: string) => Object.keys(lines.find((line) => line.work === work)?.calls ?? {})
    for (const call of ['open', 'statx', 'pwrite', 'fsync', 'close', 'rename'])
      assert.ok(calls('saved').includes(`failed ${call}`), `${call}: ${calls('saved')}`)
    assert.ok(calls('saved').includes('shortened pwrite'))
    assert.ok(calls('sharded').includes('failed unlink'))
    for (const call of ['failed open', 'failed statx', 'failed pread', 'shortened pread', 'failed close'])
      assert.ok(calls('native').includes(call), `${call}: ${calls('native')}`)
    if (process.env.MARGIN_SOFTMAX_VERBOSE) console.log(stdout)
  })
}

test.run()
