// The shim-built addon: 'cuda' devices whose kernels run on the CPU (test/simt). A suite that calls `useShim` before it
// touches lib/ drives the real kernels and the real launch code without a GPU.
import { execFile } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import * as assert from 'uvu/assert'

/** Whether the shim runs here: its fibres are written for Linux. */
export const shimRuns = process.platform === 'linux'

/** The shim-built addon's file. */
export function shimBinary(): string {
  const binary = path.join(__dirname, '../../build/simt/Release/margin_softmax.node')
  if (!fs.existsSync(binary)) throw new Error('npm test builds the addon for this; or: npm run build:simt')
  return binary
}

/** Makes lib/ load the shim-built addon in this process and its children. */
export function useShim(): void {
  process.env.MARGIN_SOFTMAX_BINARY = shimBinary()
}

/** Something goes wrong on the machine while `work` runs. */
export async function withEnvironment<T>(
  environment: Record<string, string>,
  work: () => T | Promise<T>
): Promise<T> {
  Object.assign(process.env, environment)
  try {
    return await work()
  } finally {
    for (const name of Object.keys(environment)) delete process.env[name]
  }
}

/** `code` is an error's own, or the name of its class where it has none. */
export async function fails(run: () => unknown, code: string, pattern: RegExp): Promise<void> {
  let caught: (Error & { code?: string }) | undefined
  try {
    await run()
  } catch (error) {
    caught = error as Error
  }
  assert.ok(caught, `expected ${code} like ${pattern} but nothing was thrown`)
  assert.is(caught.code ?? caught.name, code, caught.message)
  assert.match(caught.message, pattern)
}

const execute = promisify(execFile)

/** Runs `body` in a fresh process, on a machine that the environment describes; returns what it gives `say`. `m` is lib/index. */
export async function elsewhere(environment: Record<string, string>, body: string): Promise<unknown> {
  const index = JSON.stringify(path.join(__dirname, '../../lib/index.ts'))
  const script = `const m = require(${index}); const say = (x) => console.log(JSON.stringify(x)); ${body}`
  const { stdout, stderr } = await execute(process.execPath, ['--require', 'tsx/cjs', '-e', script], {
    env: { ...process.env, MARGIN_SOFTMAX_DEVICE: 'auto', ...environment },
  })
  return stdout ? JSON.parse(stdout) : { stderr }
}
