// Makes the native requests of a step, an evaluation or a topK from the caller's arguments.

import { isNormalized, type Margin } from '../margins'
import { outputArray } from '../outputs'
import { topKArrays } from '../topk'
import {
  copyOf,
  type FloatArray,
  floats,
  integerInRange,
  type LabelArray,
  labels,
  lossWeights,
  newArrayToFill,
  numberInRange,
  options,
  rejectOverlap,
  rowsOf,
} from './check'
import type { HeadMemory } from './head-memory'
import type { StepOptions, StepResult } from './head-settings'
import type { NativeResult } from './native'
import { namesOf } from './option-table'

export type StepArguments = [
  embeddings: FloatArray,
  labels: LabelArray,
  given: StepOptions | undefined,
  train: boolean,
]

const stepOptions = namesOf<StepOptions>({ learningRate: true, gradInput: true, sampleWeights: true })

/** Copies the arguments of a step that must wait its turn, since the caller may change them meanwhile. */
export function copyOfStep(...[embeddings, labels, given, train]: StepArguments): StepArguments {
  const known = options(given, 'options', stepOptions)
  const sampleWeights = copyOf(known.sampleWeights, 'sampleWeights')
  return [copyOf(embeddings, 'embeddings'), copyOf(labels, 'labels'), { ...known, sampleWeights }, train]
}

export function stepRequest(
  { settings, execution }: HeadMemory,
  ...[embeddings, labelsGiven, given, train]: StepArguments
) {
  const { dim, classes, ignoreIndex, optimizer } = settings
  const known = options(given, 'options', stepOptions)
  const taken = floats(embeddings, 'embeddings')
  const rows = rowsOf(taken, 'embeddings', dim, 'dim')
  const checked = labels(labelsGiven, 'labels', rows, classes, ignoreIndex)
  // As they are after the labels, which may be a list with getters.
  const input = floats(taken, 'embeddings', rows * dim)
  const { learningRate = optimizer.learningRate } = known
  const outputs = {
    losses: newArrayToFill(Float32Array, rows, 'losses'),
    gradInput: outputArray(known.gradInput, 'gradInput', rows * dim, true),
  }
  const sampleWeights = lossWeights(known.sampleWeights, 'sampleWeights', rows)
  if (outputs.gradInput)
    rejectOverlap(outputs.gradInput, 'gradInput', { embeddings: input, labels: checked, sampleWeights })
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
  return { request, outputs, known }
}

export function topKRequest({ settings, execution }: HeadMemory, embeddings: FloatArray, k: number) {
  const { dim, classes } = settings
  const input = floats(embeddings, 'embeddings')
  const rows = rowsOf(input, 'embeddings', dim, 'dim')
  const outputs = topKArrays(rows, integerInRange(k, 'k', 1, classes))
  const request = {
    __proto__: null,
    input,
    rows,
    dim,
    classes,
    k,
    ...execution,
    ...outputs,
    asynchronous: false,
    ticket: 0,
  }
  return { request, outputs }
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
