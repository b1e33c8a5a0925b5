/** The log file beside the head's file: settings of a training run, its progress, and the checkpoint that belongs to it. */
import { createHash } from 'node:crypto'
import path from 'node:path'
import { integerInRange, number } from '../../internal/check'
import { parseJson, propertiesOf, reasonOf, shown } from '../../internal/file-error'
import { readText } from '../../internal/read-file'
import { replaceText } from '../../internal/write-file'
import type { TextOptions } from '../data/files'
import { Failure } from '../terminal'
import type { TrainingData } from './data'
import type { TrainingSettings } from './settings'

export interface Files {
  head: string
  checkpoint: string
  log: string
  /** Holds the classes' names, where the labels are names. */
  names: string
}

export function filesOf(head: string): Files {
  const stem = head.replace(/\.safetensors$/, '')
  return {
    head,
    checkpoint: `${stem}.checkpoint.safetensors`,
    log: `${stem}.training.json`,
    names: `${stem}.classes.json`,
  }
}

export interface Sums {
  /** The head's at the time. */
  iteration: number
  /** `loss` and `accuracy` are sums over the steps since the epoch began. */
  loss: number
  accuracy: number
}

export interface Epoch {
  /** The head's at the epoch's end. */
  iteration: number
  loss: number
  accuracy: number
  /** The rate of the epoch's last step; files of older versions lack it. */
  learningRate?: number
  validation?: { loss: number; accuracy: number }
  /** The figures of all pairs of the rows of classes that were kept back. */
  verification?: { equalErrorRate: number; areaUnderCurve: number }
}

/** Written before a checkpoint, it says of both the last one and of this what belongs to it. */
export interface Log {
  format: string
  /** When the training began, as ISO 8601. */
  started?: string
  settings: TrainingSettings
  /** Files as the options named them, relative to this file's folder unless absolute. */
  sources?: Record<string, string>
  /** The value of `--classes`, if it was given: it decides how labels are numbered. */
  classesGiven?: number
  /** The options with which text files were read. */
  text?: TextOptions
  /** `balanced`, or their file as in `sources`; the numbers are in the head's file. */
  classWeights?: string
  /** SHA-256 of embeddings and labels. */
  data: string
  epochs: Epoch[]
  sums: Sums[]
  /** Epochs that were made when more were asked for: patience counts from there. */
  patienceFrom?: number
  finished: boolean
}

export const logFormat = 'margin-softmax training 1'
const largestLog = 100e6 // bytes: half a million epochs

export function writeLog(file: string, log: Log): Promise<void> {
  return replaceText(file, `${JSON.stringify(log, undefined, 1)}\n`)
}

export async function readLog(file: string): Promise<Log> {
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

/** Everything that is computed with, but for the settings (settings.ts). Throws an Error that says what is wrong. */
function checkLog(content: unknown): Log {
  const log = propertiesOf(content, 'content')
  if (log.format !== logFormat) throw new Error(`its format is ${shown(log.format)}, not ${logFormat}`)
  propertiesOf(propertiesOf(log.settings, 'settings').head, 'settings.head')
  if (typeof log.data !== 'string') throw new Error(`its data is ${shown(log.data)}, not a string`)
  if (typeof log.finished !== 'boolean') throw new Error(`its finished is ${shown(log.finished)}`)
  if (log.classesGiven !== undefined) integerInRange(log.classesGiven, 'classesGiven', 1)
  if (log.patienceFrom !== undefined) integerInRange(log.patienceFrom, 'patienceFrom', 0)
  for (const part of ['sources', 'text'] as const)
    for (const [name, value] of Object.entries(propertiesOf(log[part] ?? {}, part)))
      if (typeof value !== 'string') throw new Error(`its ${part}.${name} is ${shown(value)}, not a string`)
  if (log.classWeights !== undefined && typeof log.classWeights !== 'string')
    throw new Error(`its classWeights is ${shown(log.classWeights)}, not a string`)
  for (const part of ['epochs', 'sums'] as const) {
    const entries = log[part]
    if (!Array.isArray(entries)) throw new Error(`its ${part} are ${shown(entries)}, not an array`)
    entries.forEach((entry, i) => {
      const where = `${part}[${i}]`
      const { iteration, loss, accuracy, learningRate, ...judged } = propertiesOf(entry, where)
      integerInRange(iteration, `${where}.iteration`, 0)
      checkFigures({ loss, accuracy }, where, ['loss', 'accuracy'])
      if (learningRate !== undefined) number(learningRate, `${where}.learningRate`)
      for (const [name, figures] of Object.entries(judgements))
        if (judged[name] !== undefined)
          checkFigures(propertiesOf(judged[name], `${where}.${name}`), `${where}.${name}`, figures)
    })
  }
  return log as unknown as Log
}

const judgements = {
  validation: ['loss', 'accuracy'],
  verification: ['equalErrorRate', 'areaUnderCurve'],
}

function checkFigures(figures: Record<string, unknown>, where: string, names: string[]): void {
  for (const name of names) number(figures[name], `${where}.${name}`)
}

/** A file's name as it goes into the log, and back: a folder that is moved as a whole still finds its files. */
export function toSource(log: string, file: string): string {
  return path.isAbsolute(file) ? file : path.relative(path.dirname(log), file)
}
export function fromSource(log: string, source: string): string {
  return path.isAbsolute(source) ? source : path.join(path.dirname(log), source)
}

export function fingerprint({ embeddings, labels }: TrainingData): string {
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
