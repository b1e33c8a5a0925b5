// The order of a head's asynchronous work. Steps begin at once and native code keeps their order; a save or a change waits
// for all that was called before it and holds up what is called after it.

export class WorkOrder {
  readonly #running = new Set<Promise<unknown>>()
  #alone: Promise<void> | undefined

  /** Whether nothing runs or waits. */
  get isIdle(): boolean {
    return !this.#running.size && !this.#alone
  }

  /** Whether new work must wait for `turn`. */
  get isHeldUp(): boolean {
    return this.#alone !== undefined
  }

  /** Ends when nothing holds up new work any more, in the order of the calls. */
  async turn(): Promise<void> {
    while (this.#alone) await this.#alone
  }

  /** Work that has begun. */
  track<T>(running: T | Promise<T>): Promise<T> {
    const promise = Promise.resolve(running)
    this.#running.add(promise)
    const forget = () => this.#running.delete(promise)
    promise.then(forget, forget)
    return promise
  }

  /** Does work once it is its turn and everything that runs has ended. */
  async alone<T>(work: () => Promise<T>): Promise<T> {
    while (this.#alone) await this.#alone
    const outcome = Promise.allSettled(this.#running).then(work)
    const end = () => {
      this.#alone = undefined
    }
    this.#alone = outcome.then(end, end)
    return outcome
  }
}
