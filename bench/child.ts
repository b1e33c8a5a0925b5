// The benchmark's end of a contender's process.

import { type ChildProcess, fork } from 'node:child_process'
import path from 'node:path'
import type { Answer, FirstStep, Memory, Question, Started } from './process'

/** The reason why a contender has no time: a word or three for its cell, and the whole story for the console. */
export class NoTime extends Error {
  constructor(
    readonly cell: string,
    detail = cell
  ) {
    super(detail)
  }
}

const outOfMemory = /memory|allocat|out of bounds|invalid typed array length|bad_alloc/i

export class Child {
  readonly #process: ChildProcess
  #output = ''

  constructor() {
    // The output of the libraries is kept for the case of an end without an answer.
    this.#process = fork(path.join(__dirname, 'process.ts'), {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: { ...process.env, MARGIN_SOFTMAX_DEVICE: 'cpu' }, // as the rivals; bench/gpu.sh is for GPUs
    })
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.on('data', (text) => {
        this.#output = (this.#output + text).slice(-4000)
      })
    }
  }

  start(contender: string, caseName: string, threads: number): Promise<Started> {
    return this.#ask<Started>({ ask: 'start', contender, case: caseName, threads })
  }

  first(folder: string, limit: number): Promise<FirstStep> {
    return this.#ask<FirstStep>({ ask: 'first', folder }, limit)
  }

  times(milliseconds: number): Promise<number[]> {
    return this.#ask<number[]>({ ask: 'times', milliseconds })
  }

  memory(): Promise<Memory> {
    return this.#ask<Memory>({ ask: 'memory' })
  }

  stop(): Promise<void> {
    const child = this.#process
    if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve()
    return new Promise((resolve) => {
      child.once('exit', () => resolve())
      child.kill('SIGKILL')
    })
  }

  #ask<T>(question: Question, limit?: number): Promise<T> {
    return new Promise((resolve, reject) => {
      const child = this.#process
      const finish = () => {
        clearTimeout(timer)
        child.off('message', onMessage)
        child.off('exit', onExit)
      }
      const onMessage = (answer: Answer) => {
        finish()
        if (answer.ok) resolve(answer.value as T)
        else if (answer.notInstalled) reject(new NoTime('not installed'))
        else reject(this.#failure(answer.message))
      }
      const onExit = (code: number | null, signal: string | null) => {
        finish()
        // The system's killer of processes that take too much memory leaves no message.
        if (signal === 'SIGKILL') reject(new NoTime('out of memory', 'killed by the system'))
        else reject(this.#failure(`ended with ${signal ?? code}: ${this.#output}`))
      }
      const timer = limit
        ? setTimeout(() => {
            finish()
            reject(new NoTime(`over ${Math.round(limit / 1000)} s`))
          }, limit)
        : undefined
      child.on('message', onMessage)
      child.on('exit', onExit)
      child.send(question, (error) => {
        if (!error) return
        finish()
        reject(this.#failure(`${error.message} ${this.#output}`))
      })
    })
  }

  #failure(detail: string): NoTime {
    return new NoTime(outOfMemory.test(detail) ? 'out of memory' : 'failed', detail)
  }
}
