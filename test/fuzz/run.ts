// Runs a fuzz suite in a process of its own and says which call it was, should that process die.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import * as assert from 'uvu/assert'
import { runNode } from '../support/processes'
import { positionIn, requested } from './campaign'

export async function fuzz(suite: string): Promise<void> {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-fuzz-'))
  const position = path.join(folder, 'call')
  const { seed, seconds } = requested(0)
  try {
    const { code, signal, output } = await runNode(
      ['--expose-gc', '--import', 'tsx', path.join(__dirname, 'child.ts'), suite, position],
      { timeout: 240_000 + (seconds === Infinity ? 0 : 1000 * seconds) }
    )
    const again = `MARGIN_SOFTMAX_FUZZ=${seed},call:${fs.existsSync(position) ? positionIn(position) : 0}`
    assert.is(signal, null, `it died of ${signal}; ${again} repeats its last call:\n${output}`)
    assert.is(code, 0, output)
    console.log(output.trim())
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}
