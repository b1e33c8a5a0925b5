/** Prints the progress of `train` and its summary. */
import type { Reading } from '../data/options'
import { counted, duration, Progress, percent, print, printJson, printList } from '../terminal'
import type { Epoch } from './log'
import type { Step, Training } from './training'

/** A bar in a terminal; in a pipe a line an epoch. */
export class TrainingProgress {
  readonly #bar = new Progress()
  readonly #begin = performance.now()
  #first = 0
  #epochBegin = this.#begin
  #judged: Pick<Epoch, 'validation' | 'verification'> = {}

  start({ plan, head, epochs }: Training): void {
    this.#first = head.iteration
    this.#judged = epochs.at(-1) ?? {}
    this.#bar.start('Training', plan.steps, this.#first)
  }

  step({ epoch, step, steps, loss, accuracy }: Step): void {
    const left = (this.seconds / (step - this.#first)) * (steps - step)
    const parts = [`epoch ${epoch}`, `loss ${loss.toFixed(3)}`, `${percent(accuracy, 1)} right`]
    const { validation, verification } = this.#judged
    if (validation) parts.push(`validation ${percent(validation.accuracy, 1)}`)
    if (verification) parts.push(`EER ${percent(verification.equalErrorRate, 1)}`)
    this.#bar.update(step, ...parts, `${duration(left)} left`)
  }

  /** @returns how long the epoch took, in seconds */
  epoch(number: number, of: number, epoch: Epoch): number {
    const now = performance.now()
    const seconds = (now - this.#epochBegin) / 1000
    this.#epochBegin = now
    this.#judged = epoch
    if (!process.stderr.isTTY) process.stderr.write(`${epochLine(number, of, epoch)}, ${duration(seconds)}\n`)
    return seconds
  }

  stop(): void {
    this.#bar.stop()
  }

  get seconds(): number {
    return (performance.now() - this.#begin) / 1000
  }
}

/** `Epoch 3 of 20: loss 4.1208, 93.17 % right, validation 90.00 %, loss 4.5033, rate 0.0976` */
function epochLine(number: number, of: number, epoch: Epoch): string {
  const { loss, accuracy, validation, verification, learningRate } = epoch
  const parts = [`loss ${loss.toFixed(4)}`, `${percent(accuracy)} right`]
  if (validation) parts.push(`validation ${percent(validation.accuracy)}, loss ${validation.loss.toFixed(4)}`)
  if (verification) parts.push(`EER of other classes ${percent(verification.equalErrorRate)}`)
  if (learningRate !== undefined) parts.push(`rate ${Number(learningRate.toPrecision(4))}`)
  return `Epoch ${number} of ${of}: ${parts.join(', ')}`
}

/** An epoch as a line of JSON, for `--log`. */
export function logLine({ started }: Training, number: number, epoch: Epoch, seconds: number): string {
  return `${JSON.stringify({ started, epoch: number, ...epoch, seconds: Number(seconds.toFixed(3)), time: new Date().toISOString() })}\n`
}

export function showResult(
  training: Training,
  seconds: number,
  { json, report }: { json?: boolean; report?: string },
  read: Reading
): void {
  const { best, epochs, head, files, plan } = training
  const [trained, kept] = [plan.trainingRows.length, plan.validationRows.length]
  if (json) {
    printJson({
      head: files.head,
      classes: head.classes,
      dim: head.dim,
      projection: head.projection,
      device: head.device,
      read,
      rows: { training: trained, validation: kept },
      best,
      epochs,
      seconds,
    })
    return
  }
  const { patience, epochs: asked } = plan.settings
  const early = epochs.length < asked ? ` of ${asked}, the last ${patience} no better,` : ''
  const width = head.projection ? `${head.projection.from} → ${head.dim}` : head.dim
  print(
    `${counted(trained + kept, 'row')} × ${width}, ${counted(head.classes, 'class', 'classes')}; ${counted(epochs.length, 'epoch')}${early} on ${head.device} (${duration(seconds)})\n`
  )
  const entries: [string, string][] = [
    ['Loss', best?.loss.toFixed(4) ?? '–'],
    ['Accuracy', best ? percent(best.accuracy) : '–'],
  ]
  if (best?.validation)
    entries.push([
      'Validation',
      `${percent(best.validation.accuracy)}, loss ${best.validation.loss.toFixed(4)} (${counted(kept, 'row')})`,
    ])
  if (best?.verification) {
    const { equalErrorRate, areaUnderCurve } = best.verification
    const { validationClasses } = plan.settings
    entries.push([
      'Validation',
      `EER ${percent(equalErrorRate)}, AUC ${areaUnderCurve.toFixed(4)} (${counted(validationClasses, 'other class', 'other classes')}, ${counted(kept, 'row')})`,
    ])
  }
  entries.push(
    ['Head', `${files.head}, of epoch ${best && epochs.indexOf(best) + 1}`],
    ['Figures', files.log]
  )
  if (report !== undefined) entries.push(['Report', report])
  printList(entries)
}
