/** Signals, Ctrl-C for one: they end the program at once, unless the work that runs wants to finish what it is at. */
import os from 'node:os'
import { exitCodes } from './terminal'

// SIGHUP: the terminal or its window was closed, on Windows some seconds before the program is ended. SIGBREAK: Ctrl-Break
// there, where nobody can send SIGTERM.
const signals: NodeJS.Signals[] = [
  'SIGINT',
  'SIGTERM',
  'SIGHUP',
  ...(process.platform === 'win32' ? (['SIGBREAK'] as const) : []),
]
let received: number | undefined
let atEnd: (() => void) | undefined
let graceful = false

export function listen(): void {
  for (const signal of signals)
    process.on(signal, () => {
      const again = received !== undefined
      received = exitCodes.signalled + os.constants.signals[signal]
      if (graceful && !again) return
      atEnd?.()
      process.exit(received)
    })
  // Who reads our output may stop: `| head` is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(exitCodes.success)
    process.stderr.write(`margin-softmax: Expected to write the output but: ${error.message}\n`)
    process.exit(exitCodes.failure)
  })
  // Nobody sees progress and complaints once the terminal is closed: what is being computed is still to be saved.
  process.stderr.on('error', () => {})
}

/** The exit code of the signal that came, if one did. */
export const interrupted = () => received

/** Restores the terminal where the program ends at once. */
export function cleanUp(action: () => void): void {
  atEnd = action
}

/** From here on the first signal only makes `interrupted()` answer; the second ends the program. */
export function finishStepFirst(): void {
  graceful = true
}
