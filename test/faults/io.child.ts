// Runs under the shim of test/faults/io.c: every file operation of a save and of a load fails once, and falls short once.
// Prints a line of JSON for each kind of work; throws where something is not as it must be.
import assert from 'node:assert'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { MarginHead, MarginSoftmaxError } from '../../lib/index'
import { writeReport } from '../../lib/internal/write-file'
import { loadHead, saveHead } from '../support/saved-heads'

const folder = process.argv[2] as string // its name is $FAULT_PATH
const log = process.env.FAULT_LOG as string
const { EIO, EDQUOT, EACCES } = os.constants.errno
/** Open files of the folder. Others come and go: those of the loader that compiles TypeScript, for one. */
const descriptors = () =>
  fs.readdirSync('/proc/self/fd').filter((descriptor) => {
    try {
      return fs.readlinkSync(`/proc/self/fd/${descriptor}`).includes(folder)
    } catch {
      return false // that of the list itself
    }
  }).length

interface Work {
  /** Brings the old state about. */
  prepare(): Promise<unknown>
  /** Turns the old state into the new one; a load leaves it. */
  run(): Promise<unknown>
  /** Returns the state that there is; throws where it is none. */
  state(): Promise<'old' | 'new'>
  /** Names in the folder once all is well. */
  files: RegExp
  count: number
  /** Renames after which the new state is there, even if an error is reported. None for what only reads. */
  renames?: number
}

const oldOrNew = (seed: number) => (seed === 1 ? 'old' : 'new')
const savedAs = (name: string, ranks?: number): Work => {
  const file = path.join(folder, name)
  return {
    prepare: () => saveHead(file, 1, ranks),
    run: () => saveHead(file, 2, ranks),
    state: async () => oldOrNew(await loadHead(file)),
    files: ranks ? /^sharded(\..*-of-1\.safetensors)?$/ : new RegExp(`^${name}$`),
    count: ranks ? 2 : 1,
    renames: ranks ? 2 : 1,
  }
}
const loaded: Work = {
  prepare: () => saveHead(path.join(folder, 'loaded'), 1),
  run: async () => assert.strictEqual(await loadHead(path.join(folder, 'loaded')), 1),
  state: async () => oldOrNew(await loadHead(path.join(folder, 'loaded'))),
  files: /^loaded$/,
  count: 1,
}
const shardsLoaded: Work = {
  prepare: () => saveHead(path.join(folder, 'sharded'), 1, 2),
  run: async () => assert.strictEqual(await loadHead(path.join(folder, 'sharded')), 1),
  state: async () => oldOrNew(await loadHead(path.join(folder, 'sharded'))),
  files: /^sharded(\..*-of-2\.safetensors)?$/,
  count: 3,
}
const native: Work = {
  prepare: () => saveHead(path.join(folder, 'native'), 1),
  async run() {
    const head = await MarginHead.load(path.join(folder, 'native'))
    const weights = head.weights()
    head.dispose()
    assert.deepStrictEqual(
      [...weights],
      Array.from(weights, (_, i) => 1000 + i)
    )
  },
  state: async () => 'old',
  files: /^native$/,
  count: 1,
}
const report = path.join(folder, 'report.html')
const reported: Work = {
  prepare: () => writeReport(report, 'old'),
  run: () => writeReport(report, 'new'),
  state: async () => fs.readFileSync(report, 'utf8') as 'old' | 'new',
  files: /^report\.html$/,
  count: 1,
  renames: 1,
}
const works = {
  saved: savedAs('saved'),
  sharded: savedAs('sharded', 1),
  loaded,
  shardsLoaded,
  native,
  reported,
}

let serial = 0

/** @returns the call that failed, empty where there is no n-th */
async function attempt(work: Work, n: number, what: string | number, renamed: number): Promise<string> {
  fs.writeFileSync(log, '')
  process.env.FAULT = `${++serial}:${n}:${what}`
  let error: unknown
  await work.run().catch((caught) => {
    error = caught
  })
  delete process.env.FAULT
  const failed = fs.readFileSync(log, 'utf8')
  const at = `${what} at call ${n}, ${failed}`
  const state = await work.state().catch((broken) => assert.fail(`${at}: BROKEN, ${broken.message}`))
  if (error === undefined) {
    if (work.renames) assert.strictEqual(state, 'new', `${at}: success, but the old file`)
    return failed
  }
  assert.ok(error instanceof MarginSoftmaxError, `${at}: ${(error as Error).stack}`)
  assert.strictEqual(error.code, 'ERR_FILE', `${at}: ${error.message}`)
  assert.ok(failed && what !== 'short', `${at}: ${error.message}`)
  if (what === EDQUOT) assert.match(error.message, /EDQUOT: the disk quota is used up/)
  if (work.renames && renamed < work.renames)
    assert.strictEqual(state, 'old', `${at}: failure, but the new file`)
  return failed
}

async function main(): Promise<void> {
  for (const [name, work] of Object.entries(works)) {
    await work.prepare()
    const calls: Record<string, number> = {}
    for (const what of ['short', EIO, EDQUOT, EACCES]) {
      let renamed = 0
      for (let n = 1; ; n++) {
        const failed = await attempt(work, n, what, renamed)
        if (failed === 'rename') renamed++
        const at = `${name}, ${what} at call ${n}, ${failed}`
        assert.strictEqual(descriptors(), 0, `${at}: descriptors`)
        // The next call is right, and removes what was left.
        await work.prepare()
        assert.strictEqual(await work.state(), 'old', `${at}: the next call`)
        const files = fs.readdirSync(folder)
        assert.ok(
          files.length <= work.count && files.every((file) => work.files.test(file)),
          `${at}: ${files}`
        )
        if (!failed) break
        assert.ok(n < 500, `${at}: no end of calls`)
        const key = `${what === 'short' ? 'shortened' : 'failed'} ${failed}`
        calls[key] = (calls[key] ?? 0) + 1
      }
    }
    for (const file of fs.readdirSync(folder)) fs.rmSync(path.join(folder, file))
    console.log(JSON.stringify({ work: name, calls }))
  }
}

main()
