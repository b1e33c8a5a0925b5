// The compiler knows of results which gradients are there, and which options may be undefined. This file never runs:
// `tsc` checks it here against lib/, package.test.ts against the published types, as a strict consumer does.
import {
  adamW,
  arcface,
  type CrossEntropyLossResult,
  crossEntropyLoss,
  type FloatArray,
  type LabelArray,
  MarginHead,
  type MarginLossOptions,
  type MarginLossResult,
  marginLoss,
  marginLossSync,
  type StepOptions,
  type StepResult,
  sgd,
  sphereface,
} from '../../lib/index'

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Compiles only where both types are the same. */
const same = <A, B>(..._: Same<A, B> extends true ? [] : ['the types differ']): void => {}

const array = new Float32Array(6)
const batch = { input: array, weight: array, labels: [0, 1], dim: 3 }
declare const choice: boolean
declare const maybe: true | undefined

export async function losses(): Promise<void> {
  const usual = marginLossSync(batch)
  same<typeof usual.gradInput, Float32Array>()
  same<typeof usual.gradWeight, Float32Array>()
  same<typeof usual.gradBias, Float32Array | undefined>() // only the batch tells whether there is a bias

  const none = marginLossSync(batch, { gradInput: false, gradWeight: false, gradBias: false })
  same<typeof none.gradInput, undefined>()
  same<typeof none.gradWeight, undefined>()
  same<typeof none.gradBias, undefined>()

  const some = await marginLoss(batch, {
    margin: arcface(),
    gradInput: array,
    gradWeight: choice,
    gradBias: true,
  })
  same<typeof some.gradInput, Float32Array>()
  same<typeof some.gradWeight, Float32Array | undefined>()
  same<typeof some.gradBias, Float32Array>()

  const defaults = await marginLoss(batch, { gradInput: undefined, gradWeight: maybe })
  same<typeof defaults.gradInput, Float32Array>()
  same<typeof defaults.gradWeight, Float32Array>()

  // Options of a type that says nothing of the gradients: the result may lack them.
  const options: MarginLossOptions = { reduction: 'sum' }
  const unknown = await marginLoss(batch, options)
  same<typeof unknown.gradInput, Float32Array | undefined>()
  const result: MarginLossResult = usual
  same<typeof result.gradInput, Float32Array | undefined>()

  const logits = crossEntropyLoss(array, [0, 1])
  same<typeof logits.gradLogits, Float32Array>()
  const value = crossEntropyLoss(array, [0, 1], { gradLogits: false })
  same<typeof value.gradLogits, undefined>()
  const either: CrossEntropyLossResult = crossEntropyLoss(array, [0, 1], { gradLogits: choice })
  same<typeof either.gradLogits, Float32Array | undefined>()

  // @ts-expect-error a name that is no option
  marginLossSync(batch, { gradInputs: false })
  // @ts-expect-error a gradient in double precision
  marginLossSync(batch, { gradInput: new Float64Array(6) })
  // @ts-expect-error null is not taken for absent
  crossEntropyLoss(array, [0, 1], { gradLogits: null })
}

export async function heads(head: MarginHead, rows: FloatArray, labels: LabelArray): Promise<void> {
  const step = await head.step(rows, labels)
  same<typeof step.gradInput, Float32Array>()
  const scheduled = head.stepSync(rows, labels, { learningRate: 0.1 })
  same<typeof scheduled.gradInput, Float32Array>()
  const filled = await head.step(rows, labels, { gradInput: array })
  same<typeof filled.gradInput, Float32Array>()
  const without = head.stepSync(rows, labels, { gradInput: false })
  same<typeof without.gradInput, undefined>()
  const options: StepOptions = {}
  const unknown: StepResult = await head.step(rows, labels, options)
  same<typeof unknown.gradInput, Float32Array | undefined>()
  const { loss, losses, ...others } = await head.evaluate(rows, labels)
  same<typeof loss, number>()
  same<typeof losses, Float32Array>()
  // @ts-expect-error an evaluation has no gradient
  others.gradInput
  // @ts-expect-error a name that is no option
  await head.step(rows, labels, { rate: 0.1 })
}

/** Under exactOptionalPropertyTypes an option that is passed on may be undefined. */
export async function undefinedOptions(threads: number | undefined, text: undefined): Promise<void> {
  const execution = { threads, device: text, precision: text, workspace: threads, instructionSet: text }
  const margin = sphereface({ m: threads, scale: undefined, lambda: undefined })
  await marginLoss(batch, { ...execution, margin, reduction: text, losses: undefined, gradOutput: undefined })
  marginLossSync({ ...batch, bias: undefined }, { ...execution, ignoreIndex: threads, negligible: threads })
  crossEntropyLoss(array, [0], { classes: threads, threads, classWeights: undefined, gradLogits: undefined })
  const head = await MarginHead.create({
    ...execution,
    classes: 3,
    dim: 2,
    margin: text,
    bias: undefined,
    optimizer: threads === undefined ? sgd({ momentum: threads }) : adamW({ beta1: threads }),
    marginWarmupSteps: threads,
    weights: undefined,
    classNames: undefined,
    group: undefined,
  })
  await head.step(array, [0], { learningRate: threads, gradInput: undefined })
  await head.set({ margin: text, optimizer: undefined, sampleRate: threads, classNames: undefined })
  await head.addClasses(2, { weights: undefined, classNames: undefined })
  await head.topK(array, threads, { signal: undefined })
  await head.save('head', { signal: undefined })
  await MarginHead.load('head', { ...execution, checksums: undefined, weightStorage: undefined })
}
