// The order of a head's asynchronous work. Steps begin at once and native code keeps their order; a save or a change waits
// for all that was called before it and holds up what is called after it.
import { MarginSoftmaxError } from '../errors'
import { until } from './abort'

export class WorkOrder {
  /** All work that has not ended. */
  readonly #called = new Set<Promise<unknown>>()
  /** Settles with the last save or change, and those before it. */
  #last: Promise<unknown> | undefined

  /** Refuses work that does not wait, as it would overtake what still runs. @throws MarginSoftmaxError `ERR_BUSY` */
  assertIdle(name: string): void {
    if (this.#called.size)
      throw new MarginSoftmaxError(
        'ERR_BUSY',
        `Expected asynchronous work of this head to be awaited before ${name}`
      )
  }

  /**
   * Keeps the arguments of new work until its turn comes: a copy if it has to wait, since the caller may change them
   * meanwhile. A copy that cannot be made is the work's failure, which the other ranks of a sharded head are told of.
   */
  givenNow<T>(called: T, copy: () => T): () => T {
    if (this.#last === undefined) return () => called
    try {
      const copied = copy()
      return () => copied
    } catch (error) {
      return () => {
        throw error
      }
    }
  }

  /** Does work beside other such work: before it returns, unless something holds it up. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    return this.#add(this.#last ? this.#last.then(work) : work())
  }

  /** Does work once all that was called before it has ended, and never if the signal is aborted until then. */
  alone<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const outcome = this.#add(until(Promise.allSettled(this.#called), signal).then(work))
    // Work that was given up lets nothing overtake what it waited for.
    const last = Promise.allSettled([this.#last, outcome]).then(() => {
      if (this.#last === last) this.#last = undefined
    })
    this.#last = last
    return outcome
  }

  #add<T>(work: Promise<T>): Promise<T> {
    this.#called.add(work)
    const forget = () => this.#called.delete(work)
    work.then(forget, forget)
    return work
  }
}
