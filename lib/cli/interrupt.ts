/** Ctrl-C: ends the program at once, unless the work that runs wants to finish what it is at. */
import { exitCodes } from './terminal'

const codes = { SIGINT: exitCodes.interrupted, SIGTERM: exitCodes.terminated } as const
let received: number | undefined
let atEnd: (() => void) | undefined
let graceful = false

export function listen(): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.on(signal, () => {
      const again = received !== undefined
      received = codes[signal]
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
}

/** The exit code of the signal that came, if one did. */
export const interrupted = () => received

/** What gives the terminal back where the program ends at once. */
export function cleanUp(action: () => void): void {
  atEnd = action
}

/** From here on the first signal only makes `interrupted()` answer; the second ends the program. */
export function finishStepFirst(): void {
  graceful = true
}
