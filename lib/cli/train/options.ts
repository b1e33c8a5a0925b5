/** The options that decide the bits of a training run: one table, and the conversions between options and settings. */
import { InvalidArgumentError, Option } from 'commander'
import { precisions } from '../../devices'
import { adamW, type Optimizer, sgd } from '../../index'
import { fits, type HeadRow, type Settings, settingRows, type TypedName } from '../../internal/head-options'
import type { Projection } from '../../internal/projection'
import { parseAnyNumber, parseInteger, parseNumber, parseNumberAbove, parseNumberFrom } from '../options'
import { Failure, Misuse } from '../terminal'
import { type LossOptions, losses } from './losses'
import { checkProjectionChoice, type ProjectionChoice, projectionOf } from './projected'
import type { Balance } from './sampler'
import { type Schedule, scheduleNames } from './schedules'
import { byPath, complete, type TrainingSettings, trainingDefaults } from './settings'

/** As the options give them, before the data say how many classes and dimensions there are. */
export interface SettingOptions
  extends LossOptions,
    ProjectionChoice,
    Omit<Schedule, 'learningRate'>,
    Balance,
    Partial<Pick<Settings, TypedName>> {
  loss: string
  precision: string
  optimizer: 'sgd' | 'adamw'
  learningRate?: number
  momentum: number
  weightDecay: number
  epochs: number
  batch: number
  validation: number
  patience: number
  seed: number
}

/** An option, and where in the settings its value is. */
interface SettingOption {
  option: Option
  at: string[]
  /** Other names under which it is known elsewhere. */
  aliases: string[]
}

interface Details {
  parse?: (text: string) => unknown
  choices?: readonly string[]
  default?: unknown
  aliases?: string[]
}

function setting(flags: string, text: string, at: string | string[], details: Details = {}): SettingOption {
  const option = new Option(flags, text)
  if (details.choices) option.choices(details.choices)
  if (details.parse) option.argParser(details.parse)
  if (details.default !== undefined) option.default(details.default)
  return { option, at: [at].flat(), aliases: details.aliases ?? [] }
}

const usualRates = { sgd: 0.1, adamw: 1e-3 }

/** A head's settings that are options here, from their table. */
const typedRows = settingRows.flatMap(([name, row]) =>
  row.typed ? [{ name: name as TypedName, row, typed: row.typed }] : []
)

const headSettingOptions = typedRows.map(({ name, row, typed }) =>
  setting(`${flagFor(name)}${typed.argument ? ` <${typed.argument}>` : ''}`, typed.text, `head.${name}`, {
    ...parserOf(row),
    aliases: typed.aliases,
  })
)

/** `marginWarmupSteps` as `--margin-warmup-steps`. */
function flagFor(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
}

/** Makes the parser of a row's texts. A default is shown unless it depends on the loss. */
function parserOf({ form, only, default: usual }: HeadRow<unknown>): Details {
  if (!form || form.kind === 'flag') return {}
  const shown = only ? {} : { default: usual }
  if (form.kind === 'choice') return { ...shown, choices: form.choices }
  const { min, max } = form
  const parse =
    form.kind === 'integer'
      ? parseInteger(min, Math.min(max, 2 ** 31 - 1))
      : form.kind === 'number'
        ? parseNumber(min, max)
        : parseNumberAbove(min, max)
  return { ...shown, parse }
}

/** In the order of the help. */
export const settingOptions: SettingOption[] = [
  setting('--loss <name>', 'the margin', 'head.margin.name', {
    choices: Object.keys(losses),
    default: 'arcface',
  }),
  setting('--scale <number>', "of the logits (default: the loss's own)", 'head.margin.scale', {
    parse: parseNumberAbove(0),
  }),
  setting(
    '--margin <number>',
    'its size: of arcface, cosface, sphereface, mvsoftmax, curricularface (default: 0.5, 0.35, 4, 0.35, 0.5)',
    ['head.margin.margin', 'head.margin.m'],
    { parse: parseNumber(0) }
  ),
  setting('--m1 <number>', 'of combined, cos(m1 θ + m2) − m3 (default: 1)', 'head.margin.m1', {
    parse: parseNumber(0),
  }),
  setting('--m2 <number>', 'of combined (default: 0.3)', 'head.margin.m2', { parse: parseAnyNumber }),
  setting('--m3 <number>', 'of combined (default: 0.2)', 'head.margin.m3', { parse: parseAnyNumber }),
  setting(
    '--t <number>',
    'of mvsoftmax and curricularface: how much hard negatives count (default: 0.2, 0)',
    'head.margin.t',
    { parse: parseAnyNumber }
  ),
  ...headSettingOptions,
  setting(
    '--project <number>',
    'train a projection of the rows to embeddings of so many numbers, below the head',
    'head.projection.to',
    { parse: parseInteger(1) }
  ),
  setting(
    '--project-layers <number>',
    'of the projection: 2 are linear, GELU, linear',
    projectionAt('layers'),
    {
      parse: parseInteger(1, 2),
      default: 1,
    }
  ),
  setting(
    '--project-hidden <number>',
    'length between two layers (default: that of a row)',
    projectionAt('hidden'),
    { parse: parseInteger(1) }
  ),
  setting('--batch-norm', 'behind the first layer of the projection', projectionAt('batchNorm')),
  setting('--dropout <share>', "of the last layer's inputs that a step drops", projectionAt('dropout'), {
    parse: parseNumberFrom(0, 1),
    default: 0,
  }),
  setting('--optimizer <name>', 'of the weights', 'head.optimizer.name', {
    choices: Object.keys(usualRates),
    default: 'sgd',
  }),
  setting('--learning-rate <number>', 'at first (default: 0.1 for sgd, 0.001 for adamw)', 'learningRate', {
    parse: parseNumber(0),
    aliases: ['--lr'],
  }),
  setting('--momentum <number>', 'of sgd', 'head.optimizer.momentum', {
    parse: parseNumber(0, 1),
    default: 0.9,
  }),
  setting('--weight-decay <number>', 'of either', 'head.optimizer.weightDecay', {
    parse: parseNumber(0),
    default: 5e-4,
    aliases: ['--wd'],
  }),
  setting(
    '--schedule <name>',
    'of the learning rate: to 0 along half a cosine wave or as (1 − p)^power, in steps, or constant',
    'schedule',
    {
      choices: scheduleNames,
      default: trainingDefaults.schedule,
      aliases: ['--lr-schedule', '--lr-scheduler', '--scheduler'],
    }
  ),
  setting('--power <number>', 'of the polynomial schedule', 'power', {
    parse: parseNumberAbove(0),
    default: trainingDefaults.power,
  }),
  setting('--milestones <epochs>', 'of the step schedule, after which the rate falls: 10,16', 'milestones', {
    parse: ascendingIntegers,
    aliases: ['--lr-milestones', '--lr-steps'],
  }),
  setting('--gamma <number>', 'by which the rate is multiplied at each milestone', 'gamma', {
    parse: parseNumber(0, 1),
    default: trainingDefaults.gamma,
    aliases: ['--lr-gamma'],
  }),
  setting(
    '--rate-warmup-steps <number>',
    'over which the learning rate grows to its size',
    'rateWarmupSteps',
    {
      parse: parseInteger(0),
      default: trainingDefaults.rateWarmupSteps,
      aliases: ['--lr-warmup-steps'],
    }
  ),
  setting('--epochs <number>', 'passes over the rows', 'epochs', {
    parse: parseInteger(1),
    default: trainingDefaults.epochs,
    aliases: ['--num-epochs', '--max-epochs'],
  }),
  setting('--batch <number>', 'rows of a step', 'batch', {
    parse: parseInteger(1),
    default: trainingDefaults.batch,
    aliases: ['--batch-size', '--bs'],
  }),
  setting(
    '--classes-per-batch <number>',
    'classes in each batch, with --rows-per-class rows of each, in place of --batch',
    'classesPerBatch',
    { parse: parseInteger(1) }
  ),
  setting('--rows-per-class <number>', 'rows of each class of a batch', 'rowsPerClass', {
    parse: parseInteger(1),
  }),
  setting('--validation <share>', 'of the rows kept back to judge by', 'validation', {
    parse: parseNumber(0, 0.9),
    default: trainingDefaults.validation,
    aliases: ['--validation-split', '--val-split'],
  }),
  setting(
    '--validation-classes <number>',
    'kept back with all their rows: their EER judges a projection, in place of --validation',
    'validationClasses',
    { parse: parseInteger(0), default: trainingDefaults.validationClasses }
  ),
  setting('--patience <epochs>', 'without a better validation before it ends; 0: never', 'patience', {
    parse: parseInteger(0),
    default: trainingDefaults.patience,
  }),
  setting('--seed <number>', 'of the weights, the validation rows and the order', ['seed', 'head.seed'], {
    parse: parseInteger(0),
    default: trainingDefaults.seed,
  }),
  setting('--precision <name>', 'of the matrix products', 'head.precision', {
    choices: precisions,
    default: 'float32',
  }),
]

function projectionAt(name: keyof Projection): string {
  return `head.projection.${name}`
}

function ascendingIntegers(text: string): number[] {
  const values = text.split(',').map(Number)
  if (!/^\d+(,\d+)*$/.test(text) || values.some((value, i) => value <= (i ? (values[i - 1] as number) : 0)))
    throw new InvalidArgumentError('Expected epochs from 1 in ascending order such as 10,16.')
  return values
}

const flagOf = new Map(settingOptions.flatMap(({ option, at }) => at.map((path) => [path, option.long])))
const optionNamed = (name: string) =>
  settingOptions.find(({ option }) => option.attributeName() === name)?.option.long

/** Options that belong to one choice of another option. With any other choice they are refused rather than ignored. */
const belongsTo: { to: keyof SettingOptions; of: Partial<Record<keyof SettingOptions, string>> }[] = [
  { to: 'optimizer', of: { momentum: 'sgd' } },
  { to: 'schedule', of: { power: 'polynomial', milestones: 'step', gamma: 'step' } },
]

/**
 * Refuses options that do not go together.
 * @param given those that were typed, not defaults
 */
export function checkTogether(all: SettingOptions, given: Partial<SettingOptions>): void {
  const refuse = (name: keyof SettingOptions, beside: unknown) => {
    if (given[name] !== undefined)
      throw new Misuse(`Expected no ${optionNamed(name)} with ${beside} but received ${given[name]}`)
  }
  const { takes, make } = losses[all.loss] as (typeof losses)[string]
  for (const name of ['scale', 'margin', 'm1', 'm2', 'm3', 't'] as const)
    if (!takes.includes(name)) refuse(name, all.loss)
  for (const { name, row } of typedRows) if (!fits(row, make({}))) refuse(name, all.loss)
  for (const { to, of } of belongsTo)
    for (const [name, choice] of Object.entries(of))
      if (all[to] !== choice) refuse(name as keyof SettingOptions, all[to])
  checkProjectionChoice(all, given, optionNamed)
  if (all.schedule === 'step' && !all.milestones?.length)
    throw new Misuse('Expected --milestones with the step schedule but received none')
  const { classesPerBatch, rowsPerClass } = all
  if (Boolean(classesPerBatch) !== Boolean(rowsPerClass))
    throw new Misuse('Expected --classes-per-batch and --rows-per-class together but received one of them')
  const rows = classesPerBatch * rowsPerClass
  if (rows && given.batch !== undefined && given.batch !== rows)
    throw new Misuse(
      `Expected ${rows} for --batch, ${classesPerBatch} classes of ${rowsPerClass} rows, but received ${given.batch}`
    )
}

export function settingsOf(from: SettingOptions, dim: number, classes: number): TrainingSettings {
  const { momentum, weightDecay, loss } = from
  const learningRate = from.learningRate ?? usualRates[from.optimizer]
  const optimizer: Optimizer =
    from.optimizer === 'sgd'
      ? sgd({ learningRate, momentum, weightDecay })
      : adamW({ learningRate, weightDecay })
  const { classesPerBatch = 0, rowsPerClass = 0 } = from
  return {
    head: {
      classes,
      ...projectionOf(from, dim),
      margin: (losses[loss] as (typeof losses)[string]).make(from),
      optimizer,
      ...Object.fromEntries(typedRows.map(({ name, row }) => [name, from[name] ?? row.default])),
      precision: from.precision as 'float32',
      seed: from.seed,
    },
    batch: classesPerBatch * rowsPerClass || from.batch,
    epochs: from.epochs,
    learningRate,
    schedule: from.schedule,
    power: from.power,
    milestones: from.milestones ?? [],
    gamma: from.gamma,
    rateWarmupSteps: from.rateWarmupSteps,
    classesPerBatch,
    rowsPerClass,
    validation: from.validationClasses ? 0 : from.validation,
    validationClasses: from.validationClasses,
    patience: from.patience,
    seed: from.seed,
  }
}

/** The command line's options for these settings. */
export function optionsOf(settings: TrainingSettings): Partial<SettingOptions> {
  const values = byPath(complete(settings))
  if (values.get(projectionAt('layers')) === 1) values.delete(projectionAt('hidden')) // nothing is hidden
  return Object.fromEntries(
    settingOptions.flatMap(({ option, at }) => {
      const path = at.find((each) => values.has(each))
      return path ? [[option.attributeName(), values.get(path)]] : []
    })
  )
}

/** Settings as a command line: their options with what each is set to. */
export function spoken(settings: TrainingSettings): [flag: string, value: string][] {
  const known: Record<string, unknown> = optionsOf(settings)
  return settingOptions.flatMap(({ option }): [string, string][] => {
    const value = known[option.attributeName()]
    const isSaid = value !== undefined && value !== false && String(value) !== ''
    return isSaid ? [[option.long as string, value === true ? '' : String(value)]] : []
  })
}

/** Settings that may be others when a training goes on: they say when it ends. */
const mayChange = ['epochs', 'patience']

/** @throws Failure that names the first setting which is another than in the training to be resumed */
export function checkSame(before: TrainingSettings, now: TrainingSettings): void {
  const [old, asked] = [byPath(complete(before)), byPath(complete(now))]
  for (const path of new Set([...old.keys(), ...asked.keys()])) {
    if (mayChange.includes(path) || String(old.get(path)) === String(asked.get(path))) continue
    throw new Failure(
      `Expected ${old.get(path)} for ${flagOf.get(path) ?? path}, as in the training to be resumed, but received ${asked.get(path)}`
    )
  }
  if (now.epochs < before.epochs)
    throw new Failure(
      `Expected at least ${before.epochs} for --epochs, as in the training to be resumed, but received ${now.epochs}`
    )
}
