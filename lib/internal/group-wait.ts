// Says how long a rank waits for the others, and what it prints while it does. The native side gives a wait up by itself; this
// side looks on while one goes on, since native code prints nothing.
import { writeSync } from 'node:fs'
import { MarginSoftmaxError, wrongType, wrongValue } from '../errors'
import { checkOptions } from './check'
import { type NativeGroup, succeeded } from './native'

/** Options of `processGroup`: how long a rank waits for the others. */
export interface ProcessGroupOptions {
  /**
   * Milliseconds for which this rank waits for others that send nothing, because they compute something else, are stopped or
   * cannot be reached. After that every rank's call rejects with `ERR_DISTRIBUTED` and names them. `Infinity` waits for ever.
   * Default: `MARGIN_SOFTMAX_GROUP_TIMEOUT` in the environment, or 600,000 (10 minutes).
   */
  timeout?: number | undefined
  /** Milliseconds of waiting after which a line on stderr names the ranks and the call. Default: 60,000. */
  warnAfter?: number | undefined
}

const defaults = { timeout: 600_000, warnAfter: 60_000 }
/** The native side gives up at the timeout. What it cannot give up (MPI's own start and end) is given up so much later. */
const grace = 5000
/** The longest time between two looks at a wait, in milliseconds. */
const lookingEvery = 1000

/** A process that waits for others: for how long it may, and what it has said so far. */
export class Waiting {
  #timeout: number
  #warnAfter = defaults.warnAfter
  #warnedOf: number | undefined
  #timer: NodeJS.Timeout | undefined
  readonly #native: NativeGroup
  readonly whoWaits: string

  /** @param whoWaits this rank in words, as the launcher told it */
  constructor(native: NativeGroup, whoWaits: string) {
    this.#native = native
    this.whoWaits = whoWaits
    const timeout = process.env.MARGIN_SOFTMAX_GROUP_TIMEOUT
    this.#timeout = timeout
      ? milliseconds(Number(timeout), 'MARGIN_SOFTMAX_GROUP_TIMEOUT', timeout)
      : defaults.timeout
    this.set({})
  }

  /** @throws TypeError, RangeError */
  set(options: ProcessGroupOptions | undefined): void {
    const { timeout, warnAfter } = checkOptions(options, 'options', ['timeout', 'warnAfter'])
    if (timeout !== undefined) this.#timeout = milliseconds(timeout, 'timeout')
    if (warnAfter !== undefined) this.#warnAfter = milliseconds(warnAfter, 'warnAfter')
    this.#native.setPatience(this.#timeout)
    if (this.#timer) this.watch()
  }

  /** Begins to look, at intervals, whether others keep this rank waiting. Keeps no process alive. */
  watch(): void {
    clearInterval(this.#timer)
    this.#timer = setInterval(() => this.#look(), this.#interval)
    this.#timer.unref()
  }

  /** The start of MPI, which no one can give up: it waits for every rank that was started. */
  async join<Opened>(opening: Promise<Opened>, launched: number): Promise<Opened> {
    const began = Date.now()
    let timer: NodeJS.Timeout | undefined
    const tooLong = new Promise<never>((_, reject) => {
      timer = setInterval(() => {
        const time = Date.now() - began
        this.#warn(0, time, 'the other ranks', 'to join the group')
        if (time >= this.#timeout)
          reject(
            new MarginSoftmaxError(
              'ERR_DISTRIBUTED',
              `Expected all ${launched} ranks to join the group within ${seconds(time)} s but not all of them did`
            )
          )
      }, this.#interval)
    })
    try {
      return await Promise.race([opening, tooLong])
    } finally {
      clearInterval(timer)
    }
  }

  /**
   * The end of the process, on its last turn: waits for the other ranks here, in no event loop.
   * @param opened whether this process had joined the group
   */
  leave(opened: boolean): void {
    const began = Date.now()
    for (;;) {
      const ended = this.#native.left(this.#interval)
      if (ended) {
        succeeded(ended)
        return
      }
      const wait = this.#look()
      const time = wait ? wait.milliseconds : opened ? 0 : Date.now() - began
      if (time >= this.#timeout + grace)
        throw new MarginSoftmaxError(
          'ERR_DISTRIBUTED',
          `Expected every rank to end within ${seconds(time)} s but ${wait?.ranks ?? 'not all of them'} did not`
        )
    }
  }

  get #interval(): number {
    return Math.max(10, Math.min(lookingEvery, this.#warnAfter / 4, this.#timeout / 4))
  }

  #look() {
    const wait = this.#native.waiting()
    if (wait) this.#warn(wait.call, wait.milliseconds, wait.ranks, wait.place)
    return wait
  }

  #warn(call: number, time: number, ranks: string, place: string): void {
    if (time < this.#warnAfter || this.#warnedOf === call) return
    this.#warnedOf = call
    const end = Number.isFinite(this.#timeout) ? `; it gives up after ${seconds(this.#timeout)} s` : ''
    say(`${this.whoWaits} has waited ${seconds(time)} s for ${ranks} ${place}${end}`)
  }
}

/** A line on stderr, at once. Where nobody reads it any more, nothing else may suffer. */
export function say(line: string): void {
  try {
    writeSync(2, `margin-softmax: ${line}\n`)
  } catch {}
}

const seconds = (time: number) => Number((time / 1000).toFixed(1))

function milliseconds(value: unknown, name: string, shown = value): number {
  if (typeof value !== 'number') throw wrongType('a number of milliseconds', name, shown)
  if (!(value >= 1)) throw wrongValue('at least 1 millisecond', name, shown)
  return value
}
