// Programs of the suites in processes of their own, so that a crash is a failed test and no dead runner.
import { spawn } from 'node:child_process'
import path from 'node:path'

export interface Ended {
  code: number | null
  signal: string | null
  output: string
}

/** Runs node to its end. A process that hangs is killed after `timeout` milliseconds: its signal says so. */
export function runNode(args: string[], { env = {}, timeout = 240_000 } = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, {
      cwd: path.join(__dirname, '../..'),
      env: { ...process.env, ...env },
      timeout,
      killSignal: 'SIGKILL',
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (data) => {
        output += data
      })
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, output }))
  })
}
