// The options that say what a head is and how it trains, a row for each. A new one is a row here and a property with its
// doc comment in `MarginHeadOptions`. From the rows follow: the names that `create`, `set` and `load` take, the checks, the
// defaults, the type `Settings`, what a file and native code are told, and the options of the command line.
import { wrongValue } from '../errors'
import { arcface, encodeMargin, isNormalized, type Margin } from '../margins'
import { checkOptimizer, sgd } from '../optimizers'
import { size } from './check'
import {
  choiceRow,
  type Form,
  flag,
  ignoreIndexRow,
  integerRow,
  labelSmoothingRow,
  namesIn,
  negligibleRow,
  numberAboveRow,
  numberRow,
  type OptionRow,
  seedRow,
  type ValuesOf,
  valuesOf,
} from './option-table'
import { checkProjection } from './projection'

/** The type that a head's class weights are stored in: 4 or 2 bytes each. */
export type WeightStorage = 'float32' | 'bfloat16'

export const weightStorages: readonly WeightStorage[] = ['float32', 'bfloat16']

/** The flag of `train` that stands for an option, by the option's name. */
export interface TypedOption {
  /** The help. */
  text: string
  /** The flag's argument, for the help; without it the flag takes none. */
  argument?: string
  /** Other names under which it is known elsewhere. */
  aliases?: string[]
}

export interface HeadRow<Value> extends OptionRow<Value> {
  /** The calls that may change it on an existing head. Default: `set` and `load`. */
  change?: 'never' | 'load'
  /** For margins on cosines, or for scores without: with others only the default will do. */
  only?: 'cosines' | 'scores'
  form?: Form
  typed?: TypedOption
}

/** In the order of files and of the help. */
export const headSettings = {
  classes: { check: size, change: 'never' },
  dim: { check: size, change: 'never' },
  projection: { check: checkProjection, change: 'never' },
  margin: { check: (value: unknown) => encodeMargin(value).margin, default: arcface() },
  bias: {
    ...flag(false),
    change: 'never',
    only: 'scores',
    typed: { text: 'a bias of each class, for softmax' },
  },
  optimizer: { check: (value: unknown) => checkOptimizer(value), default: sgd() },
  marginWarmupSteps: {
    ...integerRow(0, 0),
    typed: {
      text: 'over which the margin grows to its size',
      argument: 'number',
      aliases: ['--warmup-steps'],
    },
  },
  labelSmoothing: {
    ...labelSmoothingRow,
    typed: { text: 'of the target that goes to all classes', argument: 'share' },
  },
  ignoreIndex: ignoreIndexRow,
  sampleRate: {
    ...numberAboveRow(1, 0, 1),
    typed: {
      text: 'of the classes that take part in a step, for very many of them (Partial FC)',
      argument: 'share',
    },
  },
  sampleCorrection: {
    ...flag(false),
    typed: { text: 'each class of a sample stands for all that it was drawn from' },
  },
  interclassFilter: {
    ...numberRow(1, -1, 1),
    only: 'cosines',
    typed: {
      text: 'leave out other classes nearer than this: the same identity twice (default: 1, none)',
      argument: 'cosine',
    },
  },
  negligible: {
    ...negligibleRow(1e-7),
    typed: { text: "of a gradient's norm that a step may leave out; 0: nothing", argument: 'share' },
  },
  maxGradientNorm: {
    ...numberRow(0, 0),
    typed: {
      text: "to which the weights' gradient is clipped, all of it together; 0: not at all",
      argument: 'number',
      aliases: ['--max-grad-norm', '--clip-grad-norm', '--gradient-clip'],
    },
  },
  weightStorage: {
    ...choiceRow('float32', weightStorages),
    change: 'load',
    typed: { text: 'what the weights are stored in', argument: 'name' },
  },
  seed: seedRow,
} satisfies Record<string, HeadRow<unknown>>

/** A head's settings, everything but its numbers: the metadata of a checkpoint. */
export type Settings = ValuesOf<typeof headSettings>

type NamesWith<Row> = {
  [Name in keyof Settings]: (typeof headSettings)[Name] extends Row ? Name : never
}[keyof Settings]

/** Settings that only `load` changes. */
export type LoadedName = NamesWith<{ change: 'load' }>
/** Settings that are options of `train`, each by its own name. */
export type TypedName = NamesWith<{ typed: TypedOption }>

/** The rows as what they have in common. */
export const settingRows = Object.entries(headSettings) as [keyof Settings, HeadRow<unknown>][]
export const settingNames = namesIn(headSettings)

/** The settings that may change in this way. */
export const settingsThatChange = (how: HeadRow<unknown>['change']) =>
  settingRows.filter(([, row]) => row.change === how).map(([name]) => name)

/** Whether a row's option may be another than its default with a margin. */
export const fits = ({ only }: HeadRow<unknown>, margin: Margin) =>
  only === undefined || (only === 'cosines') === isNormalized(margin)

/** Checks settings that have been read, perhaps from a file, and against each other. */
export function checkSettings(values: Partial<Record<keyof Settings, unknown>>): Settings {
  const projected = checkProjection(values.projection, 'projection')?.to
  const settings = valuesOf(headSettings, { ...values, dim: values.dim ?? projected })
  const { margin, labelSmoothing, interclassFilter, dim } = settings
  if (dim !== (projected ?? dim)) throw wrongValue(`${projected} as projection.to`, 'dim', dim)
  for (const [name, row] of settingRows)
    if (settings[name] !== row.default && !fits(row, margin))
      throw wrongValue(
        `${row.default} with ${margin.name}, which ${isNormalized(margin) ? 'works on' : 'has no'} cosines,`,
        name,
        settings[name]
      )
  if (labelSmoothing && interclassFilter < 1)
    throw wrongValue('1 with labelSmoothing', 'interclassFilter', interclassFilter)
  return settings
}
