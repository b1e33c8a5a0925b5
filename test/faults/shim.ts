// Fault shims: small libraries, preloaded into a child process, that let calls of the system fail.
import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import type { Test } from 'uvu'
import { lacking } from '../support/support'

const compiler = ['cc', 'gcc', 'clang'].find((name) => !spawnSync(name, ['--version']).error)
const elsewhere =
  process.platform !== 'linux'
    ? 'this is no Linux'
    : process.env.LD_PRELOAD && 'something else is preloaded, as a sanitizer is'

/** The reason why no shim can be used here, if there is one. */
export const noShim = elsewhere || (!compiler && 'there is no C compiler')

/** Skips what needs a shim. */
export function withoutShim(test: Test, what: string): void {
  if (elsewhere) test.skip(`${what}: ${elsewhere}`, () => {})
  else lacking(test, `${what}: ${noShim}`)
}

/** Compiles test/faults/<name>.c, where it is newer than what is there, and names the library. */
export function compileShim(name: string): string {
  const source = path.join(__dirname, `${name}.c`)
  const library = path.join(__dirname, '..', '..', 'build', 'faults', `${name}.so`)
  if (fs.existsSync(library) && fs.statSync(library).mtimeMs > fs.statSync(source).mtimeMs) return library
  fs.mkdirSync(path.dirname(library), { recursive: true })
  const options = ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-o', library, source, '-ldl']
  execFileSync(compiler as string, options)
  return library
}
