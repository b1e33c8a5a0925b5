/** The training of a head on embeddings that are given: what `train` runs, and how it goes on after an interruption. */
import { createHash } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { integerFrom, number, options } from '../check'
import { parseJson, propertiesOf, reasonOf, shown } from '../file-error'
import { checkSettings, settingNames } from '../head-settings'
import { MarginHead, type MarginHeadOptions } from '../index'
import { removeLeftovers } from '../leftovers'
import { readText } from '../read-file'
import { replaceText, targetOf } from '../write-file'
import { seededRandom, shuffled } from './random'
import { Failure } from './terminal'

/** What decides the bits of a training. */
export interface TrainingSettings {
  head: Omit<MarginHeadOptions, 'device' | 'threads'>
  batch: number
  epochs: number
  learningRate: number
  schedule: 'cosine' | 'constant'
  /** Share of the rows that are kept back. */
  validation: number
  /** Epochs without a better validation accuracy after which the training ends; 0: never. */
  patience: number
  seed: number
}

/** What a setting is where it is not given, on the command line or in the file of a training before it had the option. */
export const trainingDefaults = {
  batch: 256,
  epochs: 20,
  schedule: 'cosine',
  validation: 0.1,
  patience: 5,
  seed: 0,
} as const

export interface TrainingData {
  embeddings: Float32Array
  labels: Int32Array
  dim: number
}

interface Sums {
  /** The head's at the time. */
  iteration: number
  /** Of the steps since the epoch began. */
  loss: number
  accuracy: number
}

export interface Epoch {
  /** The head's at the epoch's end. */
  iteration: number
  loss: number
  accuracy: number
  validation?: { loss: number; accuracy: number }
}

/** The file beside the head's. Written before a checkpoint, it says of both the last one and of this what belongs to it. */
interface Log {
  format: string
  settings: TrainingSettings
  /** Of embeddings and labels. */
  data: string
  epochs: Epoch[]
  sums: Sums[]
  finished: boolean
}

const logFormat = 'margin-softmax training 1'

export interface Files {
  head: string
  checkpoint: string
  log: string
}

export function filesOf(head: string): Files {
  const stem = head.replace(/\.safetensors$/, '')
  return { head, checkpoint: `${stem}.checkpoint.safetensors`, log: `${stem}.training.json` }
}

export interface Step {
  epoch: number
  step: number
  steps: number
  loss: number
  accuracy: number
}

export class Training {
  readonly steps: number
  readonly epochSteps: number
  readonly #validationRows: Uint32Array
  readonly #trainingRows: Uint32Array
  #order: Uint32Array = new Uint32Array(0)
  #orderEpoch = -1

  private constructor(
    readonly head: MarginHead,
    readonly settings: TrainingSettings,
    readonly files: Files,
    private readonly data: TrainingData,
    private readonly log: Log
  ) {
    const rows = shuffled(data.labels.length, seededRandom(settings.seed))
    const kept = Math.round(rows.length * settings.validation)
    this.#validationRows = rows.subarray(0, kept)
    this.#trainingRows = rows.subarray(kept)
    this.epochSteps = Math.max(1, Math.floor(this.#trainingRows.length / settings.batch))
    this.steps = this.epochSteps * settings.epochs
  }

  static async start(
    settings: TrainingSettings,
    data: TrainingData,
    files: Files,
    where: Pick<MarginHeadOptions, 'device' | 'threads'>
  ): Promise<Training> {
    const log = {
      format: logFormat,
      settings,
      data: fingerprint(data),
      epochs: [],
      sums: [],
      finished: false,
    }
    return new Training(await MarginHead.create({ ...settings.head, ...where }), settings, files, data, log)
  }

  /** From the checkpoint that an interrupted training left; with the same settings and data it gives the same bits. */
  static async resume(
    settings: TrainingSettings,
    data: TrainingData,
    files: Files,
    where: Pick<MarginHeadOptions, 'device' | 'threads'>
  ): Promise<Training> {
    const log = await readLog(files.log)
    const [before, now] = [flat(complete(log.settings)), flat(complete(settings))]
    for (const name of Object.keys({ ...before, ...now }))
      if (now[name] !== before[name])
        throw new Failure(
          `Expected ${before[name]} for ${name}, as in the training to be resumed, but received ${now[name]}`
        )
    if (log.data !== fingerprint(data))
      throw new Failure(`Expected the embeddings and labels of ${files.log} but received others`)
    const { precision } = settings.head
    const head = await MarginHead.load(log.finished ? files.head : files.checkpoint, { ...where, precision })
    if (!log.finished) log.epochs = log.epochs.filter(({ iteration }) => iteration <= head.iteration)
    return new Training(head, settings, files, data, log)
  }

  get epochs(): readonly Epoch[] {
    return this.log.epochs
  }

  get finished(): boolean {
    return this.log.finished
  }

  get trainingRows(): number {
    return this.#trainingRows.length
  }

  get validationRows(): number {
    return this.#validationRows.length
  }

  /** The epoch whose head was kept: of the best validation accuracy, the first of equals; without validation the last. */
  get best(): Epoch | undefined {
    if (!this.validationRows) return this.log.epochs.at(-1)
    return this.log.epochs.reduce<Epoch | undefined>(
      (best, epoch) => (accuracyOf(epoch) > (best ? accuracyOf(best) : -1) ? epoch : best),
      undefined
    )
  }

  get #patienceIsOver(): boolean {
    const { patience } = this.settings
    if (!patience || !this.validationRows || !this.best) return false
    return this.log.epochs.length - 1 - this.log.epochs.indexOf(this.best) >= patience
  }

  /**
   * Trains to the end, or until `stop` says so, after the step that runs; then there is a checkpoint.
   * @param checkpointSteps steps between checkpoints, besides those at the end of each epoch
   */
  async run(checkpointSteps: number, stop: () => boolean, report: (step: Step) => void): Promise<void> {
    let sums = this.log.sums.find(({ iteration }) => iteration === this.head.iteration) ?? this.#newSums()
    while (!this.finished) {
      if (this.head.iteration >= this.steps || this.#patienceIsOver) return await this.#finish()
      if (stop()) return this.#checkpoint(sums)
      const epoch = Math.floor(this.head.iteration / this.epochSteps)
      const { loss, stats } = await this.#step(epoch)
      const { iteration } = this.head
      sums = { iteration, loss: sums.loss + loss, accuracy: sums.accuracy + stats.accuracy }
      const inEpoch = iteration - epoch * this.epochSteps
      report({
        epoch: epoch + 1,
        step: iteration,
        steps: this.steps,
        loss: sums.loss / inEpoch,
        accuracy: sums.accuracy / inEpoch,
      })
      if (inEpoch === this.epochSteps) {
        await this.#endEpoch(sums)
        sums = this.#newSums()
        await this.#checkpoint(sums)
      } else if (iteration % checkpointSteps === 0) await this.#checkpoint(sums)
    }
    await this.#removeRest() // it was killed after its end
  }

  #newSums(): Sums {
    return { iteration: this.head.iteration, loss: 0, accuracy: 0 }
  }

  async #step(epoch: number) {
    const { batch, learningRate, schedule, seed } = this.settings
    if (this.#orderEpoch !== epoch) {
      this.#order = shuffled(this.#trainingRows.length, seededRandom(seed * 65_537 + epoch + 1))
      this.#orderEpoch = epoch
    }
    const first = (this.head.iteration % this.epochSteps) * batch
    const rows = this.#order.subarray(first, first + batch).map((i) => this.#trainingRows[i] as number)
    const { embeddings, labels } = this.#rows(rows)
    const done = this.head.iteration / this.steps
    const rate = schedule === 'cosine' ? (learningRate * (1 + Math.cos(Math.PI * done))) / 2 : learningRate
    return this.head.step(embeddings, labels, { learningRate: rate, gradInput: false })
  }

  #rows(rows: Uint32Array): { embeddings: Float32Array; labels: Int32Array } {
    const { dim } = this.data
    const embeddings = new Float32Array(rows.length * dim)
    rows.forEach((row, i) => {
      embeddings.set(this.data.embeddings.subarray(row * dim, (row + 1) * dim), i * dim)
    })
    return { embeddings, labels: Int32Array.from(rows, (row) => this.data.labels[row] as number) }
  }

  async #endEpoch(sums: Sums): Promise<void> {
    const validation = this.validationRows ? await this.#validate() : undefined
    const { iteration, loss, accuracy } = sums
    const steps = this.epochSteps
    const epoch = {
      iteration,
      loss: loss / steps,
      accuracy: accuracy / steps,
      ...(validation && { validation }),
    }
    this.log.epochs.push(epoch)
    if (this.best === epoch) await this.head.save(this.files.head)
  }

  async #validate(): Promise<{ loss: number; accuracy: number }> {
    let [loss, accuracy] = [0, 0]
    const most = 512
    for (let first = 0; first < this.validationRows; first += most) {
      const { embeddings, labels } = this.#rows(this.#validationRows.subarray(first, first + most))
      const part = await this.head.evaluate(embeddings, labels)
      loss += (part.loss * labels.length) / this.validationRows
      accuracy += (part.stats.accuracy * labels.length) / this.validationRows
    }
    return { loss, accuracy }
  }

  /** The log first: killed between the two, the old checkpoint still finds its sums in it. */
  async #checkpoint(sums: Sums): Promise<void> {
    const known = this.log.sums.filter(({ iteration }) => iteration !== sums.iteration)
    this.log.sums = [...known.slice(-1), sums]
    await this.#writeLog()
    await this.head.save(this.files.checkpoint)
  }

  async #finish(): Promise<void> {
    this.log.finished = true
    await this.#writeLog()
    await this.#removeRest()
  }

  async #removeRest(): Promise<void> {
    // Nothing is saved under these names any more, which would remove what saves left that were killed.
    for (const file of Object.values(this.files)) await removeLeftovers((await targetOf(file)).path)
    await rm(this.files.checkpoint, { force: true })
  }

  #writeLog(): Promise<void> {
    return replaceText(this.files.log, `${JSON.stringify(this.log, undefined, 1)}\n`)
  }
}

function accuracyOf({ validation }: Epoch): number {
  return validation?.accuracy ?? Number.NaN
}

const largestLog = 100e6 // bytes: half a million epochs

async function readLog(file: string): Promise<Log> {
  try {
    return checkLog(parseJson(await readText(file, largestLog), 'content'))
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT'
    const reason = missing ? 'there is none' : reasonOf(cause)
    throw new Failure(`Expected a training to be resumed in ${file} but ${missing ? '' : ': '}${reason}`, {
      cause,
    })
  }
}

/** Everything that is computed with. Throws an Error that says what is wrong. */
function checkLog(content: unknown): Log {
  const log = propertiesOf(content, 'content')
  if (log.format !== logFormat) throw new Error(`its format is ${shown(log.format)}, not ${logFormat}`)
  propertiesOf(propertiesOf(log.settings, 'settings').head, 'settings.head')
  if (typeof log.data !== 'string') throw new Error(`its data is ${shown(log.data)}, not a string`)
  if (typeof log.finished !== 'boolean') throw new Error(`its finished is ${shown(log.finished)}`)
  for (const part of ['epochs', 'sums'] as const) {
    const entries = log[part]
    if (!Array.isArray(entries)) throw new Error(`its ${part} are ${shown(entries)}, not an array`)
    entries.forEach((entry, i) => {
      const { iteration, loss, accuracy, validation } = propertiesOf(entry, `${part}[${i}]`)
      integerFrom(iteration, `${part}[${i}].iteration`, 0)
      checkFigures({ loss, accuracy }, `${part}[${i}]`)
      if (validation !== undefined)
        checkFigures(propertiesOf(validation, `${part}[${i}].validation`), `${part}[${i}].validation`)
    })
  }
  return log as unknown as Log
}

function checkFigures({ loss, accuracy }: Record<string, unknown>, where: string): void {
  number(loss, `${where}.loss`)
  number(accuracy, `${where}.accuracy`)
}

/** Settings with the defaults filled in, so that those of a training before an option was there compare with today's. */
function complete({ head, ...settings }: TrainingSettings): object {
  const { precision = 'float32', ...given } = head
  try {
    return {
      head: { ...checkSettings(options(given, 'head', settingNames) as typeof given), precision },
      ...trainingDefaults,
      ...settings,
    }
  } catch (cause) {
    throw new Failure(`Expected the settings of a training but: ${reasonOf(cause)}`, { cause })
  }
}

/** Settings by their paths, for comparing and naming them. */
function flat(value: object, prefix = ''): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, part]) =>
      part === undefined
        ? []
        : typeof part === 'object' && part !== null
          ? Object.entries(flat(part, `${prefix}${key}.`))
          : [[`${prefix}${key}`, part]]
    )
  )
}

function fingerprint({ embeddings, labels }: TrainingData): string {
  const hash = createHash('sha256')
  // In parts that are copied: a hash takes no shared memory.
  const part = 2 ** 26
  for (const array of [embeddings, labels])
    for (let at = 0; at < array.byteLength; at += part)
      hash.update(
        new Uint8Array(array.buffer, array.byteOffset + at, Math.min(part, array.byteLength - at)).slice()
      )
  return hash.digest('hex')
}
