// Heads: made, stepped, evaluated, searched, saved, loaded and disposed of in any order, beside the oracle's step.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { adamW, MarginHead, type MarginHeadOptions, MarginSoftmaxError, sgd } from '../../lib/index'
import { marginCases, oracleAt } from '../support/margins'
import { type OracleResult, reference } from '../support/reference'
import { distance, norm, normals, sameBits, within } from '../support/support'
import { OracleHead } from '../support/trainer'
import { anyLabels, anyShape, anyValues, inAnyForm, tamper } from './batches'
import type { Dice } from './campaign'
import { compare } from './judge'
import { boundOf, checkBest } from './valid-losses'

let folder: string | undefined

/** A folder of this process for heads, in memory where the system has such a place. */
function temporary(): string {
  if (folder) return folder
  const made = fs.mkdtempSync(path.join(fs.existsSync('/dev/shm') ? '/dev/shm' : os.tmpdir(), 'fuzz-heads-'))
  process.on('exit', () => fs.rmSync(made, { recursive: true, force: true }))
  folder = made
  return made
}

function anyHead(dice: Dice) {
  const { classes, dim } = anyShape(dice)
  const margin = dice.pick(marginCases)
  const optimizer = dice.chance(0.6)
    ? sgd({
        learningRate: dice.pick([0.1, 1e-3]),
        momentum: dice.pick([0, 0.9]),
        weightDecay: dice.pick([0, 0.01]),
      })
    : adamW({ learningRate: 1e-3 })
  const settings: MarginHeadOptions = {
    classes,
    dim,
    margin: margin.margin,
    optimizer,
    threads: dice.integer(1, 2),
    seed: dice.integer(0, 99),
  }
  if (margin.row.raw && dice.chance(0.5)) settings.bias = true
  if (dice.chance(0.3)) settings.marginWarmupSteps = dice.integer(1, 5)
  if (dice.chance(0.3)) settings.labelSmoothing = 0.1
  if (dice.chance(0.1)) settings.weightStorage = 'bfloat16'
  if (dice.chance(0.2)) settings.sampleRate = dice.pick([0.5, 1e-6])
  if (settings.sampleRate && dice.chance(0.3)) settings.sampleCorrection = true
  if (!margin.row.raw && !settings.labelSmoothing && dice.chance(0.1)) settings.interclassFilter = 0.5
  if (dice.chance(0.7)) settings.weights = inAnyForm(dice, normals(dice, classes * dim))
  return {
    settings,
    margin,
    optimizer,
    plain: !settings.sampleRate && settings.interclassFilter === undefined,
  }
}

export async function life(dice: Dice): Promise<number> {
  const made = anyHead(dice)
  const { settings } = made
  const { classes, dim } = settings
  let head = await MarginHead.create(settings)
  let calls = 1
  if (settings.weights && head.weightStorage === 'float32')
    sameBits(head.weights(), Float32Array.from(settings.weights), 'weights of a new head')
  const running: Promise<unknown>[] = []
  for (let steps = dice.integer(1, 4); steps > 0; steps--, calls++) {
    const rows = dice.integer(1, 8)
    const values = anyValues(dice, rows * dim)
    const list = Array.from({ length: rows }, () => (dice.chance(0.1) ? -1 : dice.integer(0, classes - 1)))
    const [embeddings, labels] = [inAnyForm(dice, values.slice()), anyLabels(dice, list)]
    const kind = dice.integer(0, 7)
    if (kind === 0) running.push(head.step(embeddings, labels, { gradInput: dice.chance(0.5) }))
    else if (kind === 1) running.push(head.topK(embeddings, dice.integer(1, classes)))
    else if (kind === 2) running.push(head.evaluate(embeddings, labels))
    else if (kind === 3) running.push(head.save(path.join(temporary(), 'unawaited.safetensors')))
    else if (running.length === 0) judgeSync(kind, head, made, { values, list, embeddings, labels })
    if (dice.chance(0.3)) tamper({ embeddings, labels })
  }
  if (running.length === 0 && dice.chance(0.1)) {
    head = await savedAndLoaded(dice, head, dim)
    calls += 2
  }
  const end = dice.integer(0, 3)
  if (end === 0) head.dispose() // amid its steps: each ends well or says so
  for (const outcome of await Promise.allSettled(running))
    if (outcome.status === 'rejected') {
      const { reason } = outcome
      if (!(reason instanceof MarginSoftmaxError && reason.code === 'ERR_DISPOSED')) throw reason
    }
  if (end === 1) head.dispose()
  return calls // else the garbage collector's
}

interface Rows {
  values: Float32Array
  list: number[]
  /** The same in any form. */
  embeddings: Float32Array | Float64Array
  labels: number[] | Int32Array
}

/** A synchronous call beside the oracle: topKSync (kind 4), evaluateSync (5) or stepSync. */
function judgeSync(kind: number, head: MarginHead, made: ReturnType<typeof anyHead>, rows: Rows): void {
  const { settings, margin } = made
  const { values, list, embeddings, labels } = rows
  const { classes, dim, labelSmoothing = 0, marginWarmupSteps = 0 } = settings
  const problem = { input: values, weight: head.weights(), labels: list, dim, bias: head.bias() }
  const oracle = oracleAt(margin, head.iteration, marginWarmupSteps)
  const expected = reference(problem, oracle, { labelSmoothing })
  if (kind === 4) {
    const best = head.topKSync(embeddings, 1)
    const free = reference({ ...problem, labels: new Array(list.length).fill(-1) }, margin.oracle)
    checkBest(best, free.scores, classes, 1, boundOf(problem, margin.oracle.raw))
  } else if (kind === 5) {
    const actual = head.evaluateSync(embeddings, labels)
    if (settings.interclassFilter === undefined)
      compare(actual, expected, problem, oracle, { labelSmoothing })
  } else {
    const { iteration } = head
    const actual = head.stepSync(embeddings, labels)
    if (made.plain) compare(actual, expected, problem, oracle, { labelSmoothing })
    if (head.iteration !== iteration + 1) throw new Error(`iteration ${head.iteration} after ${iteration}`)
    if (iteration === 0) judgeUpdate(head, made, problem.weight, rows, expected)
  }
}

/** The first update of a plain head with SGD, from the weights `before`. */
function judgeUpdate(
  head: MarginHead,
  { settings, margin, optimizer, plain }: ReturnType<typeof anyHead>,
  before: Float32Array,
  { values, list }: Rows,
  expected: OracleResult
): void {
  const after = head.weights()
  if (!plain || optimizer.name !== 'sgd' || head.weightStorage !== 'float32') return
  const { dim, labelSmoothing = 0, marginWarmupSteps = 0, bias = false } = settings
  const model = new OracleHead({
    margin,
    optimizer: { ...optimizer, kind: 'sgd' },
    dim,
    weights: before,
    bias,
    marginWarmupSteps,
    labelSmoothing,
  })
  model.step(values, list)
  const moved = optimizer.learningRate * (norm(expected.gradWeight) + expected.magnitudeWeight)
  within(distance(after, model.weight.values), 1e-3 * moved + 2 ** -22 * norm(before), 'weights after a step')
}

/** What is loaded goes on with the same bits. */
async function savedAndLoaded(dice: Dice, head: MarginHead, dim: number): Promise<MarginHead> {
  const file = path.join(temporary(), 'head.safetensors')
  await head.save(file)
  const loaded = await MarginHead.load(file, { threads: dice.integer(1, 2) })
  sameBits(loaded.weights(), head.weights(), 'weights of the loaded head')
  const embeddings = normals(dice, 2 * dim)
  const [one, other] = [head.stepSync(embeddings, [0, 0]), loaded.stepSync(embeddings, [0, 0])]
  if (!Object.is(one.loss, other.loss))
    throw new Error(`the loaded head has a loss of ${other.loss}, not ${one.loss}`)
  sameBits(loaded.weights(), head.weights(), 'weights after another step')
  head.dispose()
  return loaded
}
