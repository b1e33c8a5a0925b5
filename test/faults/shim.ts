// Fault shims: small libraries, preloaded into a child process, that let calls of the system fail.
import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'

/** Why there is none here, or undefined. */
export const missing =
  process.platform !== 'linux' || process.env.LD_PRELOAD
    ? 'shims are preloaded on Linux, alone'
    : spawnSync('cc', ['--version']).error
      ? 'there is no C compiler'
      : undefined

/** Compiles test/faults/<name>.c, where it is newer than what is there, and names the library. */
export function compileShim(name: string): string {
  const source = path.join(__dirname, `${name}.c`)
  const library = path.join(__dirname, '..', '..', 'build', 'faults', `${name}.so`)
  if (fs.existsSync(library) && fs.statSync(library).mtimeMs > fs.statSync(source).mtimeMs) return library
  fs.mkdirSync(path.dirname(library), { recursive: true })
  execFileSync('cc', ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-o', library, source, '-ldl'])
  return library
}
