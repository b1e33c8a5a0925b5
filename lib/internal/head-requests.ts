// Makes the native requests of a step, an evaluation or a topK from the caller's arguments.

import { MarginSoftmaxError, wrongValue } from '../errors'
import { isNormalized, type Margin } from '../margins'
import { outputArray } from '../outputs'
import { type TopKResult, topKArrays } from '../topk'
import { checkSignal, throwIfAborted } from './abort'
import {
  checkOptions,
  copyOf,
  type FloatArray,
  floats,
  integerInRange,
  type LabelArray,
  labels,
  lossWeights,
  newArrayToFill,
  numberInRange,
  rejectOverlap,
  rowsOf,
} from './check'
import { unavailable } from './head-changes'
import type { HeadMemory } from './head-memory'
import type { Settings } from './head-options'
import type { SignalOptions, StepOptions, StepResult } from './head-settings'
import type { NativeResult } from './native'
import { namesOf } from './option-table'

export type StepArguments = [
  embeddings: FloatArray,
  labels: LabelArray,
  options: StepOptions | undefined,
  train: boolean,
]

const stepOptions = namesOf<StepOptions>({ learningRate: true, gradInput: true, sampleWeights: true })

/** Copies the arguments of a step that must wait its turn, since the caller may change them meanwhile. */
export function copyOfStep(...[embeddings, labels, options, train]: StepArguments): StepArguments {
  const checkedOptions = checkOptions(options, 'options', stepOptions)
  const sampleWeights = copyOf(checkedOptions.sampleWeights, 'sampleWeights')
  return [
    copyOf(embeddings, 'embeddings'),
    copyOf(labels, 'labels'),
    { ...checkedOptions, sampleWeights },
    train,
  ]
}

/** The name and length of a row that a head is given: one of features where the head has a projection. */
export function rowsGiven({ dim, projection }: Settings): { name: string; width: number; widthName: string } {
  return projection
    ? { name: 'features', width: projection.from, widthName: 'projection.from' }
    : { name: 'embeddings', width: dim, widthName: 'dim' }
}

export function stepRequest(
  { settings, execution }: HeadMemory,
  ...[embeddings, labelsGiven, options, train]: StepArguments
) {
  const { classes, ignoreIndex, optimizer, projection } = settings
  const { name, width, widthName } = rowsGiven(settings)
  const checkedOptions = checkOptions(options, 'options', stepOptions)
  const taken = floats(embeddings, name)
  const rows = rowsOf(taken, name, width, widthName)
  if (train && rows < 2 && projection?.batchNorm)
    throw wrongValue('at least 2 rows, whose moments batch norm takes,', name, embeddings)
  const checked = labels(labelsGiven, 'labels', rows, classes, ignoreIndex)
  // As they are after the labels, which may be a list with getters.
  const input = floats(taken, name, rows * width)
  const { learningRate = optimizer.learningRate } = checkedOptions
  const outputs = {
    losses: newArrayToFill(Float32Array, rows, 'losses'),
    gradInput: outputArray(checkedOptions.gradInput, 'gradInput', rows * width, true),
  }
  const sampleWeights = lossWeights(checkedOptions.sampleWeights, 'sampleWeights', rows)
  if (outputs.gradInput)
    rejectOverlap(outputs.gradInput, 'gradInput', { [name]: input, labels: checked, sampleWeights })
  const request = {
    __proto__: null,
    input,
    labels: checked,
    rows,
    sampleWeights,
    gradOutput: undefined,
    reduction: 0,
    gradScale: 1,
    learningRate: numberInRange(learningRate, 'learningRate', 0),
    train,
    ...execution,
    ...outputs,
    asynchronous: false,
  }
  return { request, outputs, checkedOptions }
}

/** The `signal` of a call of this name. The ranks of a sharded head would wait for one that gives up. */
export function signalOf(
  { group }: Pick<HeadMemory, 'group'>,
  options: SignalOptions | undefined,
  name: string
) {
  const signal = checkSignal(checkOptions(options, 'options', ['signal']).signal)
  throwIfAborted(signal)
  if (signal && group) throw unavailable(`no signal for ${name}`, 'its ranks work together')
  return signal
}

/** Work on rows that changes nothing: the native call, its request, and what that fills. */
export interface RowsRequest<Outputs> {
  call: 'headTopK' | 'headEmbed'
  request: object
  outputs: Outputs
}

export function topKRequest(
  { settings, execution }: HeadMemory,
  embeddings: FloatArray,
  k: number
): RowsRequest<TopKResult> {
  const { classes } = settings
  const { name, width, widthName } = rowsGiven(settings)
  const input = floats(embeddings, name)
  const rows = rowsOf(input, name, width, widthName)
  const outputs = topKArrays(rows, integerInRange(k, 'k', 1, classes))
  const request = {
    __proto__: null,
    input,
    rows,
    dim: width,
    classes,
    k,
    ...execution,
    ...outputs,
    asynchronous: false,
    ticket: 0,
  }
  return { call: 'headTopK', request, outputs }
}

/** @throws MarginSoftmaxError `ERR_UNAVAILABLE` for a head without a projection */
export function embedRequest(
  { settings, execution }: HeadMemory,
  features: FloatArray
): RowsRequest<{ embeddings: Float32Array }> {
  const { dim, projection } = settings
  if (!projection)
    throw new MarginSoftmaxError(
      'ERR_UNAVAILABLE',
      'Expected a head with a projection for embed: this one is given embeddings itself'
    )
  const { name, width, widthName } = rowsGiven(settings)
  const input = floats(features, name)
  const rows = rowsOf(input, name, width, widthName)
  const outputs = { embeddings: newArrayToFill(Float32Array, rows * dim, 'embeddings') }
  const request = { __proto__: null, input, rows, ...execution, ...outputs, asynchronous: false, ticket: 0 }
  return { call: 'headEmbed', request, outputs }
}

export function resultOf(
  result: NativeResult,
  outputs: Pick<StepResult, 'losses' | 'gradInput'>,
  margin: Margin
): StepResult {
  const cosines = isNormalized(margin)
  return {
    loss: result.loss,
    ...outputs,
    stats: {
      accuracy: result.accuracy,
      meanTargetCosine: cosines ? result.targetCosine : null,
      meanLargestOtherCosine: cosines ? result.largestOtherCosine : null,
      gradientNorm: result.gradientNorm,
      gradInputNorm: result.gradInputNorm,
      leftOut: result.leftOut,
    },
  }
}
