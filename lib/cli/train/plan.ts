/** Plans a training run: works out and checks all of it before any memory is taken for a head. */
import { complain, counted, Failure, percent } from '../terminal'
import type { TrainingData } from './data'
import { balancedEpoch, shuffledEpoch } from './sampler'
import { learningRateAt } from './schedules'
import type { TrainingSettings } from './settings'
import { type Census, censusOf, splitClasses, splitRows } from './split'

export interface Plan {
  settings: TrainingSettings
  census: Census
  trainingRows: Uint32Array
  validationRows: Uint32Array
  /** Steps of an epoch. What is left of the rows is less than a batch, and another rest in each epoch. */
  epochSteps: number
  /** Steps of all epochs. */
  steps: number
  /** @returns the rows of an epoch in the order in which they are trained on, batch after batch */
  orderOf(epoch: number): Uint32Array
  learningRateAt(step: number): number
}

export function planOf(settings: TrainingSettings, { labels }: TrainingData): Plan {
  const { batch, epochs, seed, classesPerBatch, rateWarmupSteps, milestones } = settings
  const census = censusOf(labels, settings.head.classes)
  const { training: rows, validation } = settings.validationClasses
    ? splitClasses(labels, settings.head.classes)
    : splitRows(labels, census, settings.validation, seed)
  const epochSteps = Math.max(1, Math.floor(rows.length / batch))
  const steps = epochSteps * epochs
  if (rateWarmupSteps >= steps)
    throw new Failure(
      `Expected fewer than the ${steps} steps of ${epochs} epochs for --rate-warmup-steps but received ${rateWarmupSteps}`
    )
  const late = milestones.find((milestone) => milestone >= epochs)
  if (late !== undefined)
    throw new Failure(`Expected fewer than the ${epochs} epochs for --milestones but received ${late}`)
  if (classesPerBatch > census.present)
    throw new Failure(
      `Expected at most ${census.present}, the classes that have rows, for --classes-per-batch but received ${classesPerBatch}`
    )
  return {
    settings,
    census,
    trainingRows: rows,
    validationRows: validation,
    epochSteps,
    steps,
    orderOf: (epoch) =>
      classesPerBatch
        ? balancedEpoch(labels, rows, settings, epochSteps, seed, epoch)
        : shuffledEpoch(rows, seed, epoch),
    learningRateAt: (step) => learningRateAt(settings, step, steps, epochSteps),
  }
}

/**
 * Says where fewer rows can be kept back than were asked for.
 * @param given the share, where it was given
 * @throws Failure where that leaves none
 */
export function checkValidation(
  { settings: { validation }, census: { present, single }, trainingRows, validationRows }: Plan,
  given: number | undefined
): void {
  const rows = trainingRows.length + validationRows.length
  const wanted = Math.round(rows * validation)
  if (validation === 0 || (validationRows.length === wanted && wanted > 0)) return
  const why =
    wanted === 0
      ? `${percent(validation)} of ${counted(rows, 'row')} is less than one`
      : `each class keeps a row to be trained on, and ${single.toLocaleString('en')} of ${counted(present, 'class', 'classes')} ${single === 1 ? 'has' : 'have'} no other`
  if (validationRows.length > 0)
    complain(
      `${counted(validationRows.length, 'row')} kept back to judge by, not ${wanted.toLocaleString('en')}: ${why}.`
    )
  else if (given === undefined)
    complain(`No row is kept back to judge by: ${why}. The last epoch's head is kept.`)
  else
    throw new Failure(
      `Expected a share that keeps a row back for --validation but received ${validation}: ${why}. --validation 0 trains without`
    )
}
