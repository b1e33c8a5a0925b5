// For a child process: how much memory it may still take.
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'

/** This process may map this many bytes more than it has now. Linux only. */
export function limitMemory(more: number): void {
  const pages = Number(fs.readFileSync('/proc/self/statm', 'utf8').split(' ')[0])
  execFileSync('prlimit', ['--pid', String(process.pid), `--as=${pages * 4096 + more}`])
}
