/** The settings that decide the bits of a training run. */

import { wrongType } from '../../errors'
import type { MarginHeadOptions } from '../../index'
import { checkOptions, integerInRange, numberInRange, oneOf } from '../../internal/check'
import { reasonOf } from '../../internal/file-error'
import { checkSettings, settingNames } from '../../internal/head-options'
import { seedRow } from '../../internal/option-table'
import { Failure } from '../terminal'
import type { Balance } from './sampler'
import { type Schedule, scheduleNames } from './schedules'

export interface TrainingSettings extends Schedule, Balance {
  head: Omit<MarginHeadOptions, 'device' | 'threads' | 'group' | 'weights' | 'classNames' | 'classWeights'>
  batch: number
  epochs: number
  /** Share of the rows that are kept back. */
  validation: number
  /** Classes that are kept back with all their rows; 0: none. */
  validationClasses: number
  /** Epochs without a better validation after which the training ends; 0: never. */
  patience: number
  seed: number
}

/** Defaults, also for the log of a training run that was written before an option existed. */
export const trainingDefaults = {
  batch: 256,
  epochs: 20,
  schedule: 'cosine',
  power: 1,
  milestones: [],
  gamma: 0.1,
  rateWarmupSteps: 0,
  classesPerBatch: 0,
  rowsPerClass: 0,
  validation: 0.1,
  validationClasses: 0,
  patience: 5,
  seed: seedRow.default,
} as const

const wholeSettings = [
  'patience',
  'seed',
  'rateWarmupSteps',
  'classesPerBatch',
  'rowsPerClass',
  'validationClasses',
] as const

/** Settings with the defaults filled in, so that those of a training before an option was there compare with today's. */
export function complete({ head, ...settings }: TrainingSettings): TrainingSettings {
  const { precision = 'float32', ...given } = head
  const known = { ...trainingDefaults, ...settings }
  try {
    oneOf(known.schedule, 'schedule', scheduleNames)
    for (const name of ['batch', 'epochs'] as const) integerInRange(known[name], name, 1)
    for (const name of wholeSettings) integerInRange(known[name], name, 0)
    for (const name of ['learningRate', 'power', 'gamma', 'validation'] as const)
      numberInRange(known[name], name, 0)
    if (!Array.isArray(known.milestones)) throw wrongType('an array', 'milestones', known.milestones)
    for (const milestone of known.milestones) integerInRange(milestone, 'milestones', 1)
    return {
      head: { ...checkSettings(checkOptions(given, 'head', settingNames) as typeof given), precision },
      ...known,
    }
  } catch (cause) {
    throw new Failure(`Expected the settings of a training but: ${reasonOf(cause)}`, { cause })
  }
}

/** Values by their paths, such as `head.margin.scale`. A list is a value. */
export function byPath(value: object, prefix = ''): Map<string, unknown> {
  return new Map(
    Object.entries(value).flatMap(([key, part]): [string, unknown][] =>
      part === undefined
        ? []
        : typeof part === 'object' && part !== null && !Array.isArray(part)
          ? [...byPath(part, `${prefix}${key}.`)]
          : [[`${prefix}${key}`, part]]
    )
  )
}
