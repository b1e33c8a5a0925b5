// Makes a head, from options or from a file.

import { type ExecutionOptions, execution, executionOptions } from '../execution'
import { boolean, checkOptions, fileName, floats, lossWeights, newArray } from './check'
import { changed, changeNames } from './head-changes'
import { openHeadTogether, readClassNames, readClassWeights } from './head-file'
import { checkGroup, type HeadMemory, loadedHead, newHead } from './head-memory'
import { checkClassNames } from './head-names'
import { checkSettings, type Settings, settingNames, settingsThatChange } from './head-options'
import type { LoadOptions, MarginHeadOptions, ProjectedHeadOptions } from './head-settings'
import { namesOf } from './option-table'

/**
 * Options of a new head beside its settings, a row for each with its check: arrays as large as the head, and the processes
 * that share it.
 */
const headData = {
  weights: (value: unknown, name: string, { classes, dim }: Settings) => floats(value, name, classes * dim),
  classNames: (value: unknown, name: string, { classes }: Settings) => checkClassNames(value, name, classes),
  classWeights: (value: unknown, name: string, { classes }: Settings) =>
    newArray(Float32Array, lossWeights(value, name, classes) as Float32Array, name),
  group: (value: unknown, name: string) => checkGroup(value, name),
} satisfies Record<
  Exclude<keyof MarginHeadOptions, keyof Settings | keyof ExecutionOptions>,
  (value: unknown, name: string, settings: Settings) => unknown
>

/** The options of `create`. */
export const headOptions = [...settingNames, ...Object.keys(headData), ...executionOptions]
/** The options of `load`. */
const loadOptions = [
  ...changeNames,
  ...settingsThatChange('load'),
  ...namesOf<Pick<LoadOptions, 'group' | 'checksums'>>({ group: true, checksums: true }),
  ...executionOptions,
]

/** The data of a new head; undefined where there are none. */
function dataOf(options: Partial<MarginHeadOptions>, settings: Settings) {
  const one = <Name extends keyof typeof headData>(name: Name) =>
    (options[name] === undefined ? undefined : headData[name](options[name], name, settings)) as
      | ReturnType<(typeof headData)[Name]>
      | undefined
  return {
    weights: one('weights'),
    classNames: one('classNames'),
    classWeights: one('classWeights'),
    group: one('group'),
  }
}

/** A head as `MarginHead.create` is asked for it. */
export async function headFromOptions(
  options: MarginHeadOptions | ProjectedHeadOptions
): Promise<HeadMemory> {
  const checkedOptions = checkOptions(options ?? null, 'options', headOptions) as MarginHeadOptions
  const settings = checkSettings(checkedOptions)
  const { weights, ...data } = dataOf(checkedOptions, settings)
  const start = { iteration: 0, optimizerStart: 0 }
  return newHead({ settings, execution: execution(checkedOptions), ...data, ...start }, weights)
}

/** A head as `MarginHead.load` is asked for it. */
export async function headFromFile(path: string, options: LoadOptions | undefined): Promise<HeadMemory> {
  const file = fileName(path)
  const checkedOptions = checkOptions(options, 'options', loadOptions)
  const run = execution(checkedOptions)
  const { checksums = true, group: shared } = checkedOptions
  const group = shared === undefined ? undefined : checkGroup(shared, 'group')
  boolean(checksums, 'checksums')
  const opened = await openHeadTogether(file, group)
  try {
    const { iteration } = opened
    const classNames = await readClassNames(opened, checksums, group)
    const next = changed({ ...opened, classNames }, checkedOptions, iteration)
    const classWeights = await readClassWeights(opened, checksums, group)
    const plan = { ...next, execution: run, group, iteration, classWeights }
    return await loadedHead(plan, opened, checksums)
  } finally {
    await opened.close()
  }
}
