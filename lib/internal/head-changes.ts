// Changes of a head that exists: how it trains, by `set` and `load`, and which classes it has.

import { MarginSoftmaxError, wrongType, wrongValue } from '../errors'
import { assertSameOnAllRanks } from './agreement'
import { checkOptions, countOf, floats, integerInRange, isLabels, lossWeights, newArray, size } from './check'
import { changeMemory, type HeadMemory, resizedHead } from './head-memory'
import { checkClassNames, digestOfNames, indexOfAgain } from './head-names'
import { checkSettings, headSettings, type Settings, settingNames, settingsThatChange } from './head-options'
import { type AddedClasses, expectedShapes, type HeadChanges, type LoadOptions } from './head-settings'
import { isRecord } from './intrinsics'
import { namesOf } from './option-table'

/** Settings that no change of a head touches: they may be named if they stay what they are. */
const fixedNames = settingsThatChange('never')
/** The options of `set`. */
export const changeNames = [...fixedNames, ...settingsThatChange(undefined), 'classNames']

/** The head that a change is checked against: one in memory, or one in a file. */
export interface Changeable {
  settings: Settings
  /** Updates made when the optimizer's state was zero. */
  optimizerStart: number
  classNames?: readonly string[]
}

/** @param iteration where the state of an optimizer of another kind begins */
export function changed(
  { settings, optimizerStart, classNames }: Changeable,
  options: Partial<HeadChanges & LoadOptions>,
  iteration: number
): Changeable {
  const asked: Partial<Record<keyof Settings, unknown>> = {}
  for (const name of settingNames) {
    const value: unknown = options[name]
    if (value === undefined) continue
    if (fixedNames.includes(name) && !isSame(value, settings[name], name))
      throw wrongValue(`the head's own ${JSON.stringify(settings[name])}`, name, value)
    asked[name] = value
  }
  const next = checkSettings({ ...settings, ...asked })
  const names = options.classNames
  return {
    settings: next,
    optimizerStart: next.optimizer.name === settings.optimizer.name ? optimizerStart : iteration,
    classNames: names === undefined ? classNames : checkClassNames(names, 'classNames', settings.classes),
  }
}

/** Whether an option has a fixed setting's value. */
function isSame(value: unknown, setting: unknown, name: keyof Settings): boolean {
  if (!isRecord(value)) return value === setting
  return JSON.stringify(headSettings[name].check(value, name)) === JSON.stringify(setting)
}

/** Changes how a head trains, on every rank of its group or on none. */
export async function changeHead(head: HeadMemory, next: Changeable): Promise<HeadMemory> {
  const { settings, group } = head
  if (group) {
    const { classNames } = next
    await assertSameOnAllRanks(group, {
      ...next.settings,
      classNames: classNames && digestOfNames(classNames),
    })
    // A rank without memory for new state would leave the others with another optimizer.
    const arrays = (of: Settings) => Object.keys(expectedShapes(of)).join()
    if (arrays(next.settings) !== arrays(settings))
      throw unavailable('an optimizer with the same state', 'save it, then load it with the other optimizer')
  }
  return changeMemory({ ...head, ...next })
}

export function unavailable(what: string, instead: string): MarginSoftmaxError {
  return new MarginSoftmaxError('ERR_UNAVAILABLE', `Expected ${what} for a sharded head: ${instead}`)
}

const alone = (name: string) =>
  unavailable(`no ${name}`, `save it, load it without a group, call ${name}, save it, load it with the group`)

const addedOptions = namesOf<AddedClasses>({ weights: true, classNames: true, classWeights: true })

/** A head with `count` more classes after those that there are. */
export function withClasses(
  head: HeadMemory,
  count: unknown,
  options: AddedClasses | undefined
): Promise<HeadMemory> {
  if (head.group) throw alone('addClasses')
  const { dim, classes } = head.settings
  const checkedOptions = checkOptions(options, 'options', addedOptions)
  const added = size(count, 'count')
  size(classes + added, 'classes with those of count')
  const weights =
    checkedOptions.weights === undefined ? undefined : floats(checkedOptions.weights, 'weights', added * dim)
  const classNames = joinedNames(head.classNames, checkedOptions.classNames, added)
  const classWeights = joinedWeights(head.classWeights, checkedOptions.classWeights, added)
  const kept = newArray(Int32Array, classes, 'the classes')
  for (let j = 0; j < classes; j++) kept[j] = j
  return resizedHead(head, { kept, added, weights, classNames, classWeights })
}

/** Either all classes have names or none has. */
function joinedNames(before: readonly string[] | undefined, value: unknown, added: number) {
  if (value === undefined && !before) return undefined
  if (!before) throw wrongType('none, as the other classes have no names,', 'classNames', value)
  const names = checkClassNames(value, 'classNames', added)
  const joined = [...before, ...names]
  const again = indexOfAgain(joined)
  if (again >= 0)
    throw wrongValue('a name that no other class has', `classNames[${again - before.length}]`, joined[again])
  return Object.freeze(joined)
}

/** Either all classes have weights in the loss or none has. */
function joinedWeights(before: Float32Array | undefined, value: unknown, added: number) {
  if (value === undefined && !before) return undefined
  if (!before) throw wrongType('none, as the other classes have no weights,', 'classWeights', value)
  if (value === undefined) throw wrongType('one weight for each class', 'classWeights', value)
  const joined = newArray(Float32Array, before.length + added, 'classWeights')
  joined.set(before)
  joined.set(lossWeights(value, 'classWeights', added) as Float32Array, before.length)
  return joined
}

/** A head without some of its classes, and where each of those before is now: −1 where it was removed. */
export async function withoutClasses(
  head: HeadMemory,
  value: unknown
): Promise<{ memory: HeadMemory; places: Int32Array }> {
  if (head.group) throw alone('removeClasses')
  const { classes } = head.settings
  if (!isLabels(value))
    throw wrongType('an Int32Array, Uint32Array, Uint16Array, Uint8Array or number[]', 'classes', value)
  const places = newArray(Int32Array, classes, 'the places')
  const count = countOf(value)
  for (let i = 0; i < count; i++) {
    const removed = integerInRange(value[i], `classes[${i}]`, 0, classes - 1)
    if (places[removed]) throw wrongValue('a class that is not removed already', `classes[${i}]`, removed)
    places[removed] = -1
  }
  if (count >= classes) throw wrongValue(`fewer than all ${classes} classes`, 'classes', value)
  const kept = newArray(Int32Array, classes - count, 'the classes')
  let next = 0
  for (let j = 0; j < classes; j++) {
    if (places[j]) continue
    kept[next] = j
    places[j] = next++
  }
  const classNames = head.classNames?.filter((_, j) => (places[j] as number) >= 0)
  const memory = await resizedHead(head, {
    kept,
    added: 0,
    classWeights: head.classWeights?.filter((_, j) => (places[j] as number) >= 0),
    classNames: classNames && Object.freeze(classNames),
  })
  return { memory, places }
}
