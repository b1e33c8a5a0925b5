// A head's calls in their order: what waits, what runs, and whether the head is still there.

import { MarginSoftmaxError } from '../errors'
import { copyBack, omitUndefined, stagingArrays } from '../outputs'
import { abortable, until } from './abort'
import { copyOf, type FloatArray, newArray } from './check'
import type { HeadMemory } from './head-memory'
import { WorkOrder } from './head-order'
import {
  copyOfStep,
  type RowsRequest,
  resultOf,
  rowsGiven,
  type StepArguments,
  signalOf,
  stepRequest,
} from './head-requests'
import type { SignalOptions, StepResult } from './head-settings'
import { type NativeResult, native, succeeded, watched } from './native'

export class HeadWork {
  memory: HeadMemory
  readonly #order = new WorkOrder()
  #disposed = false

  constructor(memory: HeadMemory) {
    this.memory = memory
  }

  get isDisposed(): boolean {
    return this.#disposed || native().headDisposed(this.memory.native)
  }

  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    native().headDispose(this.memory.native)
  }

  /** @throws MarginSoftmaxError `ERR_DISPOSED` */
  alive(): void {
    if (this.isDisposed)
      throw new MarginSoftmaxError('ERR_DISPOSED', 'Expected a head in use but it was disposed of')
  }

  /** Synchronous work would overtake asynchronous work that is still to run. */
  idle(name: string): void {
    this.alive()
    if (this.memory.group && name.endsWith('Sync'))
      throw new MarginSoftmaxError(
        'ERR_UNAVAILABLE',
        `Expected ${name.slice(0, -4)} in place of ${name} for a sharded head: the ranks wait for one another`
      )
    this.#order.assertIdle(name)
  }

  /** A step, or an evaluation. */
  async step(...called: StepArguments): Promise<StepResult> {
    this.alive()
    const argumentsNow = this.#order.givenNow(called, () => copyOfStep(...called))
    return this.#order.inTurn(async () => {
      this.alive()
      let prepared: ReturnType<typeof stepRequest>
      try {
        prepared = stepRequest(this.memory, ...argumentsNow())
      } catch (error) {
        return this.#decline(error, false)
      }
      const { request, outputs, checkedOptions } = prepared
      const staging = stagingArrays(outputs, checkedOptions)
      Object.assign(request, staging, { asynchronous: true })
      const running = native().headStep(this.memory.native, request)
      const result = succeeded(await watched(running), this.#rowsName())
      return resultOf(result, copyBack(staging, outputs), this.memory.settings.margin)
    })
  }

  stepSync(...called: StepArguments): StepResult {
    this.alive()
    const { request, outputs } = stepRequest(this.memory, ...called)
    const [, , , train] = called
    this.idle(train ? 'stepSync' : 'evaluateSync')
    const result = succeeded(native().headStep(this.memory.native, request) as NativeResult, this.#rowsName())
    return resultOf(result, omitUndefined(outputs), this.memory.settings.margin)
  }

  /** Computes something of rows without changing the head, in turn, and gives up where the signal is aborted. */
  async read<Outputs>(
    name: 'topK' | 'embed',
    array: FloatArray,
    signalGiven: SignalOptions | undefined,
    prepare: (memory: HeadMemory, rows: FloatArray) => RowsRequest<Outputs>
  ): Promise<Outputs> {
    this.alive()
    const together = name !== 'embed' // else a rank of a sharded head does it alone
    const signal = signalOf(together ? this.memory : {}, signalGiven, name)
    const rows = this.#order.givenNow(array, () => copyOf(array, this.#rowsName()))
    const working = this.#order.inTurn(async () => {
      this.alive()
      let prepared: RowsRequest<Outputs>
      try {
        prepared = prepare(this.memory, rows())
      } catch (error) {
        if (together) return this.#decline(error, true)
        throw error
      }
      const { call, request, outputs } = prepared
      const begin = (ticket: number) =>
        watched(native()[call](this.memory.native, Object.assign(request, { asynchronous: true, ticket })))
      succeeded(await abortable(signal, begin))
      return outputs
    })
    return until(working, signal)
  }

  readSync<Outputs>(name: string, prepare: (memory: HeadMemory) => RowsRequest<Outputs>): Outputs {
    this.alive()
    const { call, request, outputs } = prepare(this.memory)
    this.idle(name)
    succeeded(native()[call](this.memory.native, request))
    return outputs
  }

  /** Saves or changes the head, as `WorkOrder.alone`: between what was called before and what is called after. */
  alone<T>(work: (memory: HeadMemory) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.#order.alone(async () => {
      this.alive()
      return work(this.memory)
    }, signal)
  }

  /** Copies an array of the head. */
  copy(name: string, length: number): Float32Array {
    this.idle(name === 'weight' ? 'weights' : name)
    const copy = newArray(Float32Array, length, name)
    succeeded(native().headRead(this.memory.native, name, 0, copy))
    return copy
  }

  /** Frees the old arrays. */
  replace(memory: HeadMemory): void {
    const disposed = this.isDisposed // meanwhile
    native().headDispose(this.memory.native)
    this.memory = memory
    if (!disposed) return
    native().headDispose(memory.native)
    this.alive()
  }

  /** Fails as this call did. The other ranks of a sharded head would wait for it: theirs fail, too, and say why. */
  async #decline(error: unknown, topK: boolean): Promise<never> {
    if (this.memory.group) {
      const reason = error instanceof Error ? error.message : String(error)
      await watched(native().headDecline(this.memory.native, reason, topK))
    }
    throw error
  }

  #rowsName(): string {
    return rowsGiven(this.memory.settings).name
  }
}
