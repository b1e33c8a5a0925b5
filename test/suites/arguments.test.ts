// Every option of every public function with values that it can not mean: an error of the one shape, never of another
// kind.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import * as library from '../../lib/index'
import { faultOf } from '../fuzz/errors'
import { hostileValues } from '../fuzz/hostile-values'
import {
  anyNumber,
  type Call,
  lyingArrays,
  type Options,
  rateLists,
  refuseHostileValues,
  split,
} from '../support/hostile-arguments'
import { makeBatch } from '../support/support'

const test = suite('arguments')
const { MarginHead, marginLoss, marginLossSync, softmaxMargin } = library

const [rows, dim, classes] = [6, 4, 9]
const batch = makeBatch(1, { rows, dim, classes })
const bias = new Float32Array(classes)
const listed = { pairs: [0, 1, 2, 3, 4, 5, 0, 2], same: [1, 0, 0, 1] }

const execution = {
  threads: [],
  device: [],
  precision: [],
  workspace: ['2³¹'],
  instructionSet: [],
}
const { precision: _, workspace: __, ...rowExecution } = execution
const truth = ['true', 'false']
const lossNames = {
  ...execution,
  margin: [],
  reduction: [],
  ignoreIndex: ['0', '−1', '2³¹'],
  labelSmoothing: ['0'],
  classWeights: [],
  sampleWeights: [],
  negligible: ['0'],
  gradOutput: anyNumber,
  losses: [],
  gradInput: truth,
  gradWeight: truth,
  gradBias: truth,
}
const batchNames = { input: [], weight: [], labels: [], dim: [], bias: [] }

const sound = () => ({ ...structuredClone(batch), bias })

function onBatch(call: (batch: never, options: never) => unknown, names: object) {
  return (changes: Options) => {
    const [inBatch, others] = split(changes, names)
    return call({ ...sound(), ...inBatch } as never, { margin: softmaxMargin(), ...others } as never)
  }
}

const { labels: ___, ...topKBatchNames } = batchNames
const topKNames = { ...execution, k: [], margin: [] }
const onTopK = (call: (batch: never, options: never) => unknown) => (changes: Options) => {
  const [inBatch, others] = split(changes, topKBatchNames)
  const { labels: _labels, ...rest } = sound()
  return call({ ...rest, ...inBatch } as never, { margin: softmaxMargin(), ...others } as never)
}

const logits = new Float32Array(12).fill(0.25)
const perRow = { p: [], classes: [], out: [], ...rowExecution }
const measure = (call: (p: never, options: never) => unknown): Call => ({
  names: perRow,
  run: ({ p = logits, ...options }) => call(p as never, { classes: 3, ...options } as never),
})
const measure2 = (call: (p: never, q: never, options: never) => unknown): Call => ({
  names: { ...perRow, q: [] },
  run: ({ p = logits, q = logits, ...options }) =>
    call(p as never, q as never, { classes: 3, ...options } as never),
})

const verified = (call: (embeddings: never, pairs: never, options: never) => unknown): Call => ({
  names: {
    embeddings: [],
    pairs: [],
    same: [],
    dim: [],
    falseAcceptRates: rateLists,
    folds: ['0'],
    threads: [],
    instructionSet: [],
  },
  run: ({ embeddings = batch.input, pairs = listed.pairs, same = listed.same, ...options }) =>
    call(embeddings as never, { pairs, same } as never, { dim, ...options } as never),
})

const head = () => MarginHead.create({ classes, dim, device: 'cpu' })
const stepNames = {
  embeddings: [],
  labels: [],
  learningRate: ['0', '1.5', '2³¹', '2⁵³', '1e308'],
  gradInput: truth,
  sampleWeights: [],
}
const { margin: _margin, losses: _losses, gradInput: _gradInput, ...others } = lossNames
const headNames = {
  ...execution,
  classes: [],
  dim: [],
  margin: [],
  bias: truth,
  optimizer: [],
  marginWarmupSteps: ['0', '2³¹'],
  labelSmoothing: others.labelSmoothing,
  classWeights: others.classWeights,
  ignoreIndex: others.ignoreIndex,
  sampleRate: [],
  sampleCorrection: truth,
  interclassFilter: [],
  negligible: others.negligible,
  weightStorage: [],
  seed: ['0', '2³¹'],
  weights: [],
  group: [],
}

const factory = (make: (options: never) => unknown, names: Call['names']): Call => ({
  names,
  run: (changes) => make(changes as never),
})
const [positive, atLeast0] = [
  ['1.5', '2³¹', '2⁵³', '1e308'],
  ['0', '1.5', '2³¹', '2⁵³', '1e308'],
]

const calls: Record<string, Call> = {
  marginLossSync: {
    names: { ...batchNames, ...lossNames },
    run: onBatch(marginLossSync as never, batchNames),
  },
  marginLoss: { names: { ...batchNames, ...lossNames }, run: onBatch(marginLoss as never, batchNames) },
  topKSync: { names: { ...topKBatchNames, ...topKNames }, run: onTopK(library.topKSync as never) },
  topK: { names: { ...topKBatchNames, ...topKNames }, run: onTopK(library.topK as never) },
  softmax: measure(library.softmax as never),
  logSoftmax: measure(library.logSoftmax as never),
  entropy: measure(library.entropy as never),
  informationContent: {
    // Any length is one of rows of one element.
    names: {
      p: lyingArrays,
      out: [],
      ...rowExecution,
    },
    run: ({ p = logits, ...options }) => library.informationContent(p as never, options as never),
  },
  crossEntropy: measure2(library.crossEntropy as never),
  klDivergence: measure2(library.klDivergence as never),
  crossEntropyLoss: {
    names: {
      ...rowExecution,
      logits: [],
      target: [],
      classes: [],
      reduction: [],
      ignoreIndex: ['0', '−1', '2³¹'],
      labelSmoothing: ['0'],
      classWeights: [],
      gradOutput: anyNumber,
      gradLogits: truth,
      losses: [],
    },
    run: ({ logits: given = logits, target = [0, 1, 2, 0], ...options }) =>
      library.crossEntropyLoss(given as never, target as never, { classes: 3, ...options } as never),
  },
  verification: verified(library.verification as never),
  verificationSync: verified(library.verificationSync as never),
  'MarginHead.create': {
    names: headNames,
    run: async (changes) =>
      (await MarginHead.create({ classes, dim, margin: softmaxMargin(), ...changes } as never)).dispose(),
  },
  'head.step': {
    names: stepNames,
    run: async ({ embeddings = batch.input, labels = batch.labels, ...options }) =>
      (await head()).step(embeddings as never, labels as never, options as never),
  },
  'head.stepSync': {
    names: stepNames,
    run: async ({ embeddings = batch.input, labels = batch.labels, ...options }) =>
      (await head()).stepSync(embeddings as never, labels as never, options as never),
  },
  'head.evaluate': {
    names: { embeddings: [], labels: [] },
    run: async ({ embeddings = batch.input, labels = batch.labels }) =>
      (await head()).evaluate(embeddings as never, labels as never),
  },
  'head.topK': {
    names: { embeddings: [], k: [] },
    run: async ({ embeddings = batch.input, k = 1 }) => (await head()).topK(embeddings as never, k as never),
  },
  'head.save': {
    names: { path: ['a word', 'a long string', 'a name of Object.prototype'] },
    run: async ({ path }) => (await head()).save(path as never),
  },
  normface: factory(library.normface, { scale: positive }),
  cosface: factory(library.cosface, { scale: positive, margin: anyNumber }),
  arcface: factory(library.arcface, { scale: positive, margin: ['0', '1.5'], easyMargin: truth }),
  combined: factory(library.combined, { scale: positive, m1: atLeast0, m2: anyNumber, m3: anyNumber }),
  sphereface: factory(library.sphereface, {
    scale: positive,
    m: ['0'],
    lambda: atLeast0,
    base: atLeast0,
    gamma: atLeast0,
    power: atLeast0,
    lambdaMin: atLeast0,
    iteration: ['0', '2³¹'],
  }),
  mvsoftmax: factory(library.mvsoftmax, {
    kind: [],
    scale: positive,
    margin: atLeast0,
    t: atLeast0,
    adaptive: truth,
    easyMargin: truth,
  }),
  curricularface: factory(library.curricularface, { scale: positive, margin: ['0', '1.5'], t: ['0', '−1'] }),
  sgd: factory(library.sgd, {
    learningRate: atLeast0,
    momentum: ['0'],
    nesterov: truth,
    weightDecay: atLeast0,
  }),
  adamW: factory(library.adamW, {
    learningRate: atLeast0,
    beta1: ['0'],
    beta2: ['0'],
    epsilon: atLeast0,
    weightDecay: atLeast0,
  }),
}

refuseHostileValues(test, calls, rows)

for (const what of [
  'null',
  'a BigInt',
  'a Symbol',
  'a word',
  'a function',
  'a revoked Proxy',
  'an Int16Array',
])
  for (const [name, run] of Object.entries({
    'a batch': (value: unknown) => marginLossSync(value as never),
    options: (value: unknown) => marginLossSync(sound(), value as never),
    'options of a factory': (value: unknown) => library.arcface(value as never),
    'options of a head': (value: unknown) => MarginHead.create(value as never),
    'options of a step': async (value: unknown) =>
      (await head()).step(batch.input, batch.labels, value as never),
    'options of a load': (value: unknown) => MarginHead.load('no.safetensors', value as never),
    pairsOf: (value: unknown) => library.verificationSync(batch.input, value as never),
  }))
    test(`${what} is refused as ${name}`, async () => {
      const [outcome] = await Promise.allSettled([(async () => run(hostileValues[what]?.(rows)))()])
      assert.is(outcome.status, 'rejected')
      assert.is(faultOf((outcome as PromiseRejectedResult).reason), undefined)
    })

test.run()
