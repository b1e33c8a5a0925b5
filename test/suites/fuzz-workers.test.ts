// Workers terminated, and processes that end, in the middle of calls at random moments: no crash, no hang, no wrong value.
// MARGIN_SOFTMAX_FUZZ=<seed>,<seconds> takes another seed and that long for each of the two.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { dice, requested } from '../fuzz/campaign'
import { type Ended, runNode } from '../support/processes'

const test = suite('fuzz, workers')
const { seed, seconds } = requested(0)
const long = seconds !== Infinity

test('workers that are terminated in mid-call leave the others right', async () => {
  const file = path.join(__dirname, '..', 'fuzz', 'workers.child.ts')
  const amount = long ? `${seconds}s` : '24'
  const timeout = 240_000 + (long ? 1000 * seconds : 0)
  const ended = await runNode(['--require', 'tsx/cjs', file, String(seed), amount], { timeout })
  assert.ok(ended.code === 0 && /^done$/m.test(ended.output), told(ended))
  console.log(ended.output.split('\n')[0])
})

const told = ({ code, signal, output }: Ended) => `ended with ${signal ?? `code ${code}`}:\n${output}`

/** Says what each end of exits.child.ts is to the one who started it. */
const expected: Record<string, [number | null, string | null]> = {
  exit: [7, null],
  exitCode: [7, null],
  throw: [1, null],
  reject: [1, null],
  SIGTERM: [null, 'SIGTERM'],
  SIGKILL: [null, 'SIGKILL'],
}

test('a process that ends in mid-call ends as it was told to', async () => {
  const file = path.join(__dirname, '..', 'fuzz', 'exits.child.ts')
  const end = Date.now() + (long ? 1000 * seconds : 0)
  const ways = Object.keys(expected)
  let ended = 0
  const one = async () => {
    const roll = dice(seed, ended++)
    const way = ways[ended % ways.length] as string
    const words = [way, roll() * 150, roll.pick([100, 20_000, 100_000]), roll.integer(0, 3)].map(String)
    const { code, signal, output } = await runNode(['--require', 'tsx/cjs', file, ...words])
    assert.equal([code, signal], expected[way], `${words.join(' ')} ended with ${signal ?? code}:\n${output}`)
  }
  const lane = async () => {
    while (long ? Date.now() < end : ended < 18) await one()
  }
  try {
    await Promise.all([lane(), lane()])
  } finally {
    const name = path.join(os.tmpdir(), `margin-softmax-exits-${process.pid}.safetensors`)
    for (const left of fs.readdirSync(os.tmpdir()))
      if (path.join(os.tmpdir(), left).startsWith(name))
        fs.rmSync(path.join(os.tmpdir(), left), { force: true })
  }
  console.log(JSON.stringify({ fuzz: 'exits', seed, ended }))
})

test.run()
