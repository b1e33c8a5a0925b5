/** Trains a head on embeddings from files, writes checkpoints, and continues after an interruption. */
import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { MarginHead, type MarginHeadOptions, MarginSoftmaxError, verification } from '../../index'
import { removeLeftovers } from '../../internal/leftovers'
import { targetOf } from '../../internal/write-file'
import { Failure } from '../terminal'
import type { TrainingData } from './data'
import { type Epoch, type Files, fingerprint, type Log, logFormat, type Sums, writeLog } from './log'
import { checkSame } from './options'
import type { Plan } from './plan'

export interface Step {
  epoch: number
  step: number
  steps: number
  loss: number
  accuracy: number
}

/** Events that a training run reports. */
export interface Listener {
  step(step: Step): void
  /** After the epoch's checkpoint: what fails here loses nothing. @param number from 1 */
  epoch(number: number, epoch: Epoch): Promise<void>
}

type Where = Pick<MarginHeadOptions, 'device' | 'threads'>

export class Training {
  #order: Uint32Array = new Uint32Array(0)
  #orderEpoch = -1

  private constructor(
    readonly head: MarginHead,
    readonly plan: Plan,
    readonly files: Files,
    private readonly data: TrainingData,
    private readonly log: Log,
    private readonly threads: number | undefined
  ) {}

  /** @param first what the head is given besides its settings */
  static async start(
    plan: Plan,
    data: TrainingData,
    files: Files,
    where: Where,
    given: Pick<Log, 'sources' | 'classesGiven' | 'text' | 'classWeights'>,
    first: Pick<MarginHeadOptions, 'weights' | 'classNames' | 'classWeights'>
  ): Promise<Training> {
    const log = {
      format: logFormat,
      started: new Date().toISOString(),
      settings: plan.settings,
      ...given,
      data: fingerprint(data),
      epochs: [],
      sums: [],
      finished: false,
    }
    const head = await MarginHead.create({ ...plan.settings.head, ...where, ...first })
    return new Training(head, plan, files, data, log, where.threads)
  }

  /**
   * From the checkpoint that an interrupted training left; with the same settings and data it gives the same bits. More
   * epochs may be asked for. After the end they go on from the head that was kept: epochs after it are made again.
   */
  static async resume(
    log: Log,
    plan: Plan,
    data: TrainingData,
    files: Files,
    where: Where
  ): Promise<Training> {
    const { settings } = plan
    checkSame(log.settings, settings)
    if (log.data !== fingerprint(data))
      throw new Failure(`Expected the embeddings and labels of ${files.log} but received others`)
    const more = settings.epochs > log.settings.epochs
    const next = { ...log, settings, ...(more && { patienceFrom: log.epochs.length }) }
    if (!log.finished && !existsSync(files.checkpoint))
      throw new Failure(
        `Expected the checkpoint ${files.checkpoint} of the interrupted training but there is none: begin anew with --restart`
      )
    const { precision } = settings.head
    const head = await MarginHead.load(log.finished ? files.head : files.checkpoint, { ...where, precision })
    const training = new Training(head, plan, files, data, next, where.threads)
    if (log.finished && training.#isOver) return training
    next.epochs = log.epochs.filter(({ iteration }) => iteration <= head.iteration)
    if (log.finished) {
      next.finished = false
      next.sums = []
      await head.save(files.checkpoint) // before the log says that there is one
    }
    return training
  }

  get started(): string | undefined {
    return this.log.started
  }

  get epochs(): readonly Epoch[] {
    return this.log.epochs
  }

  get finished(): boolean {
    return this.log.finished
  }

  /** The epoch whose head was kept: of the best validation, the first of equals; without validation the last. */
  get best(): Epoch | undefined {
    if (!this.plan.validationRows.length) return this.log.epochs.at(-1)
    return this.log.epochs.reduce<Epoch | undefined>(
      (best, epoch) => (!best || judgedBetter(epoch, best) ? epoch : best),
      undefined
    )
  }

  /** Epochs count as better by their accuracy or EER alone; a loss may fall for ever. */
  get #patienceIsOver(): boolean {
    const { patience } = this.plan.settings
    if (!patience || !this.plan.validationRows.length) return false
    let [best, last]: [Epoch | undefined, number] = [undefined, 0]
    this.log.epochs.forEach((epoch, i) => {
      const first = best && judgementOf(best)?.[0]
      const stalled = first && judgementOf(epoch)?.[0] === first
      if (best && (stalled || !judgedBetter(epoch, best))) return
      best = epoch
      last = i + 1
    })
    return this.log.epochs.length - Math.max(last, this.log.patienceFrom ?? 0) >= patience
  }

  get #isOver(): boolean {
    return this.log.epochs.length >= this.plan.settings.epochs || this.#patienceIsOver
  }

  /**
   * Trains to the end, or until `stop` says so, after the step that runs; then there is a checkpoint.
   * @param checkpointSteps steps between checkpoints, besides those at the end of each epoch
   */
  async run(checkpointSteps: number, stop: () => boolean, listener: Listener): Promise<void> {
    const { epochSteps, steps } = this.plan
    let sums = this.log.sums.find(({ iteration }) => iteration === this.head.iteration) ?? this.#newSums()
    while (!this.finished) {
      if (this.head.iteration >= steps || this.#patienceIsOver) return await this.#finish()
      if (stop()) return this.#checkpoint(sums)
      const epoch = Math.floor(this.head.iteration / epochSteps)
      const { loss, stats } = await this.#step(epoch)
      const { iteration } = this.head
      sums = { iteration, loss: sums.loss + loss, accuracy: sums.accuracy + stats.accuracy }
      const inEpoch = iteration - epoch * epochSteps
      listener.step({
        epoch: epoch + 1,
        step: iteration,
        steps,
        loss: sums.loss / inEpoch,
        accuracy: sums.accuracy / inEpoch,
      })
      if (inEpoch === epochSteps) {
        const ended = await this.#endEpoch(sums)
        sums = this.#newSums()
        await this.#checkpoint(sums)
        await listener.epoch(epoch + 1, ended)
      } else if (iteration % checkpointSteps === 0) await this.#checkpoint(sums)
    }
    await this.#removeRest() // it was killed after its end
  }

  #newSums(): Sums {
    return { iteration: this.head.iteration, loss: 0, accuracy: 0 }
  }

  async #step(epoch: number) {
    const { epochSteps, settings } = this.plan
    if (this.#orderEpoch !== epoch) {
      this.#order = this.plan.orderOf(epoch)
      this.#orderEpoch = epoch
    }
    const first = (this.head.iteration % epochSteps) * settings.batch
    const { embeddings, labels } = this.#rows(this.#order.subarray(first, first + settings.batch))
    const { iteration } = this.head
    const learningRate = this.plan.learningRateAt(iteration)
    try {
      return await this.head.step(embeddings, labels, { learningRate, gradInput: false })
    } catch (cause) {
      if (!(cause instanceof MarginSoftmaxError && cause.code === 'ERR_NOT_FINITE')) throw cause
      // The embeddings were looked through; a row of the batch is no row of the file.
      throw new Failure(
        `Expected finite losses but received one that is not in step ${iteration + 1}, of epoch ${epoch + 1}, at a learning rate of ${learningRate}: the training diverges`,
        { cause }
      )
    }
  }

  #rows(rows: Uint32Array): { embeddings: Float32Array; labels: Int32Array } {
    const { dim } = this.data
    const embeddings = new Float32Array(rows.length * dim)
    rows.forEach((row, i) => {
      embeddings.set(this.data.embeddings.subarray(row * dim, (row + 1) * dim), i * dim)
    })
    return { embeddings, labels: Int32Array.from(rows, (row) => this.data.labels[row] as number) }
  }

  async #endEpoch(sums: Sums): Promise<Epoch> {
    const judged = this.plan.validationRows.length ? await this.#judge() : undefined
    const { iteration, loss, accuracy } = sums
    const steps = this.plan.epochSteps
    const epoch = {
      iteration,
      loss: loss / steps,
      accuracy: accuracy / steps,
      learningRate: this.plan.learningRateAt(iteration - 1),
      ...judged,
    }
    this.log.epochs.push(epoch)
    if (this.best === epoch) await this.head.save(this.files.head)
    return epoch
  }

  async #judge(): Promise<Pick<Epoch, 'validation' | 'verification'>> {
    return this.plan.settings.validationClasses
      ? { verification: await this.#verify() }
      : { validation: await this.#validate() }
  }

  /** Compares all pairs of the rows of the classes that were kept back. */
  async #verify(): Promise<Epoch['verification']> {
    const { embeddings, labels } = this.#rows(this.plan.validationRows)
    const { dim } = this.head
    const { equalErrorRate, areaUnderCurve } = await verification(await this.head.embed(embeddings), labels, {
      dim,
      threads: this.threads,
    })
    return { equalErrorRate, areaUnderCurve }
  }

  async #validate(): Promise<{ loss: number; accuracy: number }> {
    const { validationRows } = this.plan
    let [loss, accuracy] = [0, 0]
    const batch = 512
    for (let first = 0; first < validationRows.length; first += batch) {
      const { embeddings, labels } = this.#rows(validationRows.subarray(first, first + batch))
      const part = await this.head.evaluate(embeddings, labels)
      loss += (part.loss * labels.length) / validationRows.length
      accuracy += (part.stats.accuracy * labels.length) / validationRows.length
    }
    return { loss, accuracy }
  }

  /** The log first: killed between the two, the old checkpoint still finds its sums in it. */
  async #checkpoint(sums: Sums): Promise<void> {
    const earlier = this.log.sums.filter(({ iteration }) => iteration !== sums.iteration)
    this.log.sums = [...earlier.slice(-1), sums]
    await writeLog(this.files.log, this.log)
    await this.head.save(this.files.checkpoint)
  }

  async #finish(): Promise<void> {
    this.log.finished = true
    await writeLog(this.files.log, this.log)
    await this.#removeRest()
  }

  async #removeRest(): Promise<void> {
    // Nothing is saved under these names any more, which would remove what saves left that were killed.
    const { head, checkpoint, log } = this.files
    for (const file of [head, checkpoint, log]) await removeLeftovers((await targetOf(file)).path)
    await rm(checkpoint, { force: true })
  }
}

/** Figures that are higher for a better epoch; the second one decides among equals of the first. */
function judgementOf({ validation, verification }: Epoch): [number, number] | undefined {
  if (verification) return [-verification.equalErrorRate, verification.areaUnderCurve]
  return validation && [validation.accuracy, -validation.loss]
}

/** Among equals, the loss, or the area, tells which head has learnt more. */
function judgedBetter(epoch: Epoch, than: Epoch): boolean {
  const [judged, before] = [judgementOf(epoch), judgementOf(than)]
  if (!judged || !before) return before === undefined
  return judged[0] !== before[0] ? judged[0] > before[0] : judged[1] > before[1]
}
