// Makes a head, from options or from a file.

import { wrongType } from '../errors'
import { execution, executionOptions } from '../execution'
import { boolean, floats, lossWeights, newArray, options } from './check'
import { changed, changeNames } from './head-changes'
import { openHeadTogether, readClassNames, readClassWeights } from './head-file'
import { groupOf, type HeadMemory, loadedHead, newHead } from './head-memory'
import { checkClassNames } from './head-names'
import {
  checkSettings,
  checkWeightStorage,
  headOptions,
  type LoadOptions,
  type MarginHeadOptions,
} from './head-settings'

/** A head as `MarginHead.create` is asked for it. */
export async function headFromOptions(given: MarginHeadOptions): Promise<HeadMemory> {
  const known = options(given ?? null, 'options', headOptions) as MarginHeadOptions
  const settings = checkSettings(known)
  const { classes, dim } = settings
  const classNames =
    known.classNames === undefined ? undefined : checkClassNames(known.classNames, 'classNames', classes)
  const weighted = lossWeights(known.classWeights, 'classWeights', classes)
  const classWeights = weighted && newArray(Float32Array, weighted, 'classWeights')
  const weights = known.weights === undefined ? undefined : floats(known.weights, 'weights', classes * dim)
  const start = { iteration: 0, optimizerStart: 0, classNames, classWeights }
  return newHead({ settings, execution: execution(known), group: groupOf(known), ...start }, weights)
}

/** A head as `MarginHead.load` is asked for it. */
export async function headFromFile(path: string, given: LoadOptions | undefined): Promise<HeadMemory> {
  if (typeof path !== 'string' || path === '') throw wrongType('a file name', 'path', path)
  const known = options(given, 'options', [
    ...changeNames,
    ...['group', 'weightStorage', 'checksums'],
    ...executionOptions,
  ])
  const run = execution(known)
  const asked =
    known.weightStorage === undefined ? {} : { weightStorage: checkWeightStorage(known.weightStorage) }
  const { checksums = true } = known
  const group = groupOf(known)
  boolean(checksums, 'checksums')
  const file = await openHeadTogether(path, group)
  try {
    const { iteration } = file
    const classNames = await readClassNames(file, checksums, group)
    const next = changed({ ...file, classNames }, known, iteration)
    const settings = { ...next.settings, ...asked }
    const classWeights = await readClassWeights(file, checksums, group)
    const plan = { ...next, settings, execution: run, group, iteration, classWeights }
    return await loadedHead(plan, file, checksums)
  } finally {
    await file.close()
  }
}
