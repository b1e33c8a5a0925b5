// Hostile calls: arguments of the wrong kind, objects that lie or change while they are read, arrays that go away. Each
// call may succeed or fail with an error of the documented shape; an error of the caller's own traps passes through.
import { executionOptions } from '../../lib/execution'
import * as library from '../../lib/index'
import { changeNames } from '../../lib/internal/head-changes'
import { headOptions } from '../../lib/internal/head-start'
import { lossOptions } from '../../lib/loss'
import { crossEntropyOptions } from '../../lib/probability'
import { anyCall, anyShape, anyValues, tamper } from './batches'
import type { Dice } from './campaign'
import { faultOf } from './errors'
import { hostileValues, trap, trapMessage } from './hostile-values'

const { MarginHead } = library
const makers = Object.values(hostileValues)

/** Values that have a meaning somewhere: as arguments of the wrong place. */
const meant: ((dice: Dice, length: number) => unknown)[] = [
  (_, length) => new Float32Array(length).fill(0.5),
  (dice, length) => Float32Array.from({ length }, () => dice.pick([Number.NaN, Infinity, 1e-45, 3e38, -0])),
  (dice, length) => Float64Array.from({ length }, () => dice.pick([1e300, 5e-324, 1])),
  (dice, length) => Int32Array.from({ length }, () => dice.pick([-1, 0, 5, 2 ** 31 - 1, -(2 ** 31)])),
  (_, length) => new Uint8Array(length),
  (dice) =>
    dice.pick([
      library.arcface(),
      library.softmaxMargin(),
      { name: 'arcface', x: 1 },
      { name: 'toString' },
      { name: 'cosface', scale: 1e308 },
    ]),
  (dice) =>
    dice.pick([
      library.sgd(),
      library.adamW(),
      { name: 'sgd', momentum: 2 },
      { name: 'adamw', epsilon: null },
    ]),
  (dice) => dice.pick(['cpu', 'auto', 'cuda:0', 'float32', 'none', 'portable', 'bfloat16']),
  // No size of a head that the machine might just hold.
  (dice) => dice.pick([1, 3, 0.5, 1000, 2 ** 32 - 1, -0, 5e-324]),
]

/** Once chosen by its place, so that a call can be repeated. */
export function anything(dice: Dice, length = dice.pick([0, 1, 3, 12, 20])): unknown {
  return dice.chance(0.75)
    ? (dice.pick(makers) as (n: number) => unknown)(length)
    : dice.pick(meant)(dice, length)
}

/** One or two of an object's properties made hostile: another value, or a getter that throws, changes or takes away. */
function spoiled<T extends object>(dice: Dice, object: T, names: readonly string[], arrays: object = {}): T {
  for (let n = dice.integer(1, 2); n > 0; n--) {
    const name = dice.pick(names)
    const honest = Object.getOwnPropertyDescriptor(object, name)?.value
    const value = dice.chance(0.1) ? honest : anything(dice)
    const way = dice.integer(0, 9)
    let readings = dice.integer(0, 2)
    const properties: PropertyDescriptor[] = [
      { get: trap },
      { get: () => (readings-- > 0 ? honest : value) },
      { get: () => (readings-- > 0 ? value : honest) },
      {
        get() {
          if (readings-- === 0) tamper(arrays)
          return honest
        },
      },
    ]
    Object.defineProperty(object, name, {
      enumerable: true,
      configurable: true,
      ...(properties[way] ?? { value, writable: true }),
    })
  }
  return dice.chance(0.05) ? new Proxy(object, {}) : object
}

/** Native code's words for its request; lib/ shows the value: `but received Float32Array(3)`. */
const leftToNative =
  /^Expected (another element type|a typed array for|a size for|sizes for|indices in range for|whole rows of|arrays that stay|an array for|the head.s sizes|\d+ elements for \w+ but received \d+$)/

/** Fails where a call ends in a way that is not documented. */
export async function judged(work: () => unknown): Promise<undefined> {
  try {
    await work()
  } catch (error) {
    if ((error as Error)?.message === trapMessage) return
    const fault = faultOf(error)
    if (fault !== undefined) throw new Error(`an error of another shape: ${fault}`, { cause: error })
    // Messages of native code tell of defects of lib/, which has to find the mistake before.
    const { message } = error as Error
    if (leftToNative.test(message)) throw new Error(`left to native code: ${message}`)
  }
}
const batchNames = ['input', 'weight', 'labels', 'dim', 'bias']
/** The options of a call, and a name that is none. */
const named = (options: readonly string[]) => [...options, 'unknown']

const factories = [
  ...[library.softmaxMargin, library.normface, library.cosface, library.arcface, library.combined],
  ...[library.sphereface, library.sgd, library.adamW],
]

const call = <T>(work: T) => work as unknown as (...words: unknown[]) => unknown

/** The batch or the options (or both, or neither) made hostile. */
function spoiledPair(
  dice: Dice,
  batch: object,
  options: object,
  names: [string[], string[]]
): [unknown, unknown] {
  const arrays = { ...batch, ...options }
  if (dice.chance(0.04)) return [anything(dice), anything(dice)]
  return [
    dice.chance(0.6) ? spoiled(dice, batch, names[0], arrays) : batch,
    dice.chance(0.6) ? spoiled(dice, options, names[1], arrays) : options,
  ]
}

export const hostileKinds: Record<string, (dice: Dice) => Promise<undefined>> = {
  loss(dice) {
    const { batch, options } = anyCall(dice)
    const [given, how] = spoiledPair(dice, batch, options, [batchNames, named(lossOptions)])
    const work = call(dice.pick([library.marginLoss, library.marginLossSync]))
    const [arrays, gone] = [
      Object.values(Object.getOwnPropertyDescriptors(batch)).map(({ value }) => value),
      dice.chance(0.5),
    ]
    return judged(() => {
      const running = work(given, how)
      if (gone) tamper(arrays)
      return running
    })
  },
  best(dice) {
    const { batch, options, classes } = anyCall(dice)
    const { labels: _, ...rest } = batch
    const asked = { k: dice.integer(1, classes), margin: options.margin }
    const [given, how] = spoiledPair(dice, rest, asked, [
      batchNames,
      named(['k', 'margin', ...executionOptions]),
    ])
    return judged(() => call(dice.pick([library.topK, library.topKSync]))(given, how))
  },
  measure(dice) {
    const one = dice.pick([library.softmax, library.logSoftmax, library.entropy, library.informationContent])
    const two = dice.pick([library.crossEntropy, library.klDivergence])
    const names = ['classes', 'out', 'device', 'threads', 'instructionSet', 'unknown']
    const how = dice.chance(0.8)
      ? spoiled(dice, { classes: dice.pick([1, 3, 4]), threads: 1 }, names)
      : anything(dice)
    const value = () => (dice.chance(0.5) ? anyValues(dice, 12) : anything(dice))
    return judged(() => (dice.chance(0.6) ? call(one)(value(), how) : call(two)(value(), value(), how)))
  },
  logitsLoss(dice) {
    const [rows, classes] = [dice.integer(1, 5), dice.integer(1, 6)]
    const logits = dice.chance(0.7) ? anyValues(dice, rows * classes) : anything(dice)
    const target = dice.chance(0.5) ? anything(dice, rows) : new Array(rows).fill(0)
    const how = spoiled(dice, { classes }, named(crossEntropyOptions), { logits })
    return judged(() => call(library.crossEntropyLoss)(logits, target, how))
  },
  pairs(dice) {
    const [rows, dim] = [2 * dice.integer(2, 8), dice.integer(1, 6)]
    const how = spoiled(dice, { dim, threads: 1 }, [
      'dim',
      'falseAcceptRates',
      'folds',
      'threads',
      'instructionSet',
    ])
    const indices = Int32Array.from({ length: rows }, () => dice.integer(0, rows - 1))
    const list = spoiled(dice, { pairs: indices, same: new Array(rows / 2).fill(1) }, ['pairs', 'same'])
    const embeddings = dice.chance(0.7) ? anyValues(dice, rows * dim) : anything(dice)
    const answers = dice.pick([
      list,
      list,
      anything(dice),
      Int32Array.from({ length: rows }, () => dice.integer(-1, 3)),
    ])
    return judged(() =>
      call(dice.pick([library.verification, library.verificationSync]))(embeddings, answers, how)
    )
  },
  create(dice) {
    const { classes, dim } = anyShape(dice)
    const settings = { classes, dim, optimizer: dice.pick([library.sgd({ momentum: 0.9 }), library.adamW()]) }
    const given = dice.chance(0.97) ? spoiled(dice, settings, named(headOptions)) : anything(dice)
    return judged(async () => {
      const head = (await call(MarginHead.create)(given)) as library.MarginHead
      if (dice.chance(0.7)) head.dispose()
    })
  },
  // Products beyond 2^31, 2^32 and 2^53: refused, or far too large for the machine.
  huge(dice) {
    const sizes = [2 ** 31 - 1, 2 ** 30, 3 * 2 ** 28, 2 ** 31 - 65536]
    const [classes, dim] = [dice.pick(sizes), dice.pick(sizes)]
    const { batch, options } = anyCall(dice)
    const { labels, ...rest } = batch
    return judged(async () => {
      const way = dice.integer(0, 3)
      if (way === 0) (await MarginHead.create({ classes, dim, optimizer: library.adamW() })).dispose()
      if (way === 0) throw new Error(`a head of ${classes} × ${dim} was made`)
      if (way === 1) return library.marginLossSync({ ...batch, dim }, options)
      if (way === 2) return library.topKSync(rest, { k: classes, margin: options.margin })
      return library.verificationSync(rest.input, labels, { dim })
    })
  },
  async step(dice) {
    const projection = { from: 4, to: 3, layers: dice.pick([1, 2] as const), batchNorm: dice.chance(0.5) }
    const head = await MarginHead.create({
      classes: 9,
      ...(dice.chance(0.3) ? { dim: 3, projection } : { dim: 4 }),
      optimizer: library.sgd({ momentum: 0.9 }),
      seed: 1,
    })
    const embeddings = dice.chance(0.5) ? anyValues(dice, 4 * dice.integer(1, 6)) : anything(dice)
    const labels = dice.chance(0.5)
      ? Array.from({ length: dice.integer(1, 6) }, () => dice.integer(0, 8))
      : anything(dice)
    const names = ['learningRate', 'gradInput', 'sampleWeights', 'unknown']
    const how = spoiled(dice, { learningRate: 0 }, names, { embeddings, labels })
    const method = dice.pick([
      'step',
      'stepSync',
      'evaluate',
      'evaluateSync',
      'topK',
      'topKSync',
      'embed',
      'embedSync',
      'weights',
      'bias',
      'save',
    ] as const)
    const second = method.startsWith('topK') && dice.chance(0.5) ? 2 : labels
    const receiver = dice.chance(0.9) ? head : anything(dice)
    await judged(() => {
      const running = call(MarginHead.prototype[method]).call(
        receiver,
        method === 'save' ? notAFile(dice) : embeddings,
        second,
        how
      )
      if (dice.chance(0.3)) tamper({ embeddings, labels })
      return running
    })
    if (dice.chance(0.5)) head.dispose()
    return undefined
  },
  async change(dice) {
    const classWeights = dice.chance(0.5) ? new Float32Array(9).fill(1) : undefined
    const head = await MarginHead.create({ classes: 9, dim: 4, classWeights })
    const added = { weights: new Float32Array(8), classWeights: new Float32Array(2), classNames: ['a', 'b'] }
    const removed = dice.chance(0.3) ? [dice.integer(0, 8)] : anything(dice)
    const settings = { margin: library.cosface(), labelSmoothing: 0.1, optimizer: library.adamW() }
    const names = Object.keys(added)
    const arrays = { ...added, removed }
    await judged(async () => {
      const method = dice.pick(['set', 'addClasses', 'removeClasses'] as const)
      const running =
        method === 'set'
          ? call(head.set).call(head, spoiled(dice, settings, named(changeNames), settings))
          : method === 'addClasses'
            ? call(head.addClasses).call(
                head,
                dice.chance(0.8) ? 2 : anything(dice),
                dice.chance(0.8) ? spoiled(dice, added, named(names), arrays) : anything(dice)
              )
            : call(head.removeClasses).call(head, removed)
      if (dice.chance(0.3)) tamper(arrays)
      return running
    })
    // Whatever came of it, the head goes on.
    await judged(() => head.evaluateSync(new Float32Array(4), [0]))
    head.dispose()
    return undefined
  },
  means(dice) {
    const { rows, dim, classes } = anyShape(dice)
    const how = spoiled(dice, { classes, dim }, ['classes', 'dim', 'ignoreIndex', 'seed', 'unknown'])
    const labels = dice.chance(0.5) ? new Array(rows).fill(0) : anything(dice, rows)
    const embeddings = dice.chance(0.5) ? anyValues(dice, rows * dim) : anything(dice, rows * dim)
    return judged(() => call(library.classMeans)(embeddings, labels, how))
  },
  factory(dice) {
    const make = dice.pick(factories)
    const names = [
      ...[
        'scale',
        'margin',
        'easyMargin',
        'm1',
        'm2',
        'm3',
        'm',
        'lambda',
        'base',
        'gamma',
        'power',
        'lambdaMin',
      ],
      ...['iteration', 'learningRate', 'momentum', 'beta1', 'epsilon', 'weightDecay', 'nesterov', 'x'],
    ]
    return judged(() => call(make)(spoiled(dice, {}, names)))
  },
  load(dice) {
    const path = dice.pick([notAFile(dice), __dirname, '/nowhere/head', __filename])
    return judged(() => call(MarginHead.load)(path, dice.chance(0.5) ? undefined : anything(dice)))
  },
}

/** No name of a file that could be written: words stay out of the way of the working folder. */
function notAFile(dice: Dice): unknown {
  const value = anything(dice)
  return typeof value === 'string' ? '\0' : value
}
