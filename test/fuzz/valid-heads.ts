// Heads: made, stepped, evaluated, searched, changed, saved, loaded and disposed of in any order, beside the oracle's step.
import fs from 'node:fs'
import path from 'node:path'
import * as assert from 'uvu/assert'
import { MarginHead, MarginSoftmaxError, sgd } from '../../lib/index'
import { marginCases, oracleAt } from '../support/margins'
import { type OracleResult, reference } from '../support/reference'
import { distance, norm, normals, quickFolder, sameBits, within } from '../support/support'
import { OracleHead } from '../support/trainer'
import { anyLabels, anyLossWeights, anyShape, anyValues, inAnyForm, tamper } from './batches'
import type { Dice } from './campaign'
import { compare } from './judge'
import { anyChange, anyFirstWeights, anyTraining, type Known, namesOf } from './valid-changes'
import { boundOf, checkBest } from './valid-losses'

let folder: string | undefined

/** A folder of this process for heads. */
function temporary(): string {
  if (folder) return folder
  const made = fs.mkdtempSync(path.join(quickFolder, 'fuzz-heads-'))
  process.on('exit', () => fs.rmSync(made, { recursive: true, force: true }))
  folder = made
  return made
}

/** A head to be made, and what is then known of it. */
function anyHead(dice: Dice): Known {
  const { classes, dim } = anyShape(dice)
  const margin = dice.pick(marginCases)
  const settings: Known['settings'] = {
    classes,
    dim,
    margin: margin.margin,
    optimizer: sgd(),
    threads: dice.integer(1, 2),
    seed: dice.integer(0, 99),
  }
  const known: Known = { settings, margin, named: 0 }
  Object.assign(settings, anyTraining(dice, known, 0.25))
  if (margin.row.raw && dice.chance(0.5)) settings.bias = true
  if (dice.chance(0.1)) settings.weightStorage = 'bfloat16'
  if (dice.chance(0.2)) settings.classNames = namesOf(known, classes)
  if (dice.chance(0.3)) known.classWeights = anyLossWeights(dice, classes)
  return known
}

export async function life(dice: Dice): Promise<number> {
  const known = anyHead(dice)
  const { dim } = known.settings
  const weights = dice.chance(0.7) ? anyFirstWeights(dice, known.settings.classes, dim) : undefined
  let head = await MarginHead.create({
    ...known.settings,
    weights: weights && inAnyForm(dice, weights.slice()),
    classWeights: known.classWeights && inAnyForm(dice, known.classWeights.slice()),
  })
  let calls = 1
  if (weights && head.weightStorage === 'float32') sameBits(head.weights(), weights, 'weights of a new head')
  const running: Promise<unknown>[] = []
  for (let steps = dice.integer(1, 5); steps > 0; steps--, calls++) {
    const isIdle = running.length === 0
    if (dice.chance(0.25)) {
      const change = anyChange(dice, head, known, isIdle ? head.weights() : undefined)
      running.push(change.running)
      if (!isIdle || dice.chance(0.3)) continue // nobody awaits it
      await running.pop()
      await change.check()
      continue
    }
    const { classes } = known.settings
    const rows = dice.integer(1, 8)
    const values = anyValues(dice, rows * dim)
    const list = Array.from({ length: rows }, () => (dice.chance(0.1) ? -1 : dice.integer(0, classes - 1)))
    const [embeddings, labels] = [inAnyForm(dice, values.slice()), anyLabels(dice, list)]
    const rowWeights = dice.chance(0.3) ? anyLossWeights(dice, rows) : undefined
    const sampleWeights = rowWeights && inAnyForm(dice, rowWeights.slice())
    const kind = dice.integer(0, 7)
    if (kind === 0)
      running.push(head.step(embeddings, labels, { gradInput: dice.chance(0.5), sampleWeights }))
    else if (kind === 1) running.push(head.topK(embeddings, dice.integer(1, classes)))
    else if (kind === 2) running.push(head.evaluate(embeddings, labels))
    else if (kind === 3) running.push(head.save(path.join(temporary(), 'unawaited.safetensors')))
    else if (isIdle)
      judgeSync(kind, head, known, { values, list, rowWeights, embeddings, labels, sampleWeights })
    if (dice.chance(0.3)) tamper({ embeddings, labels, sampleWeights })
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
  rowWeights: Float32Array | undefined
  /** The same in any form. */
  embeddings: Float32Array | Float64Array
  labels: number[] | Int32Array
  sampleWeights: Float32Array | Float64Array | undefined
}

/** Whether every class takes part in each row. */
const isPlain = ({ sampleRate = 1, interclassFilter = 1 }: Known['settings']) =>
  sampleRate === 1 && interclassFilter === 1

/** A synchronous call beside the oracle: topKSync (kind 4), evaluateSync (5) or stepSync. */
function judgeSync(kind: number, head: MarginHead, known: Known, rows: Rows): void {
  const { settings, margin, classWeights } = known
  const { values, list, embeddings, labels } = rows
  const { classes, dim, labelSmoothing = 0, marginWarmupSteps = 0, negligible = 1e-7 } = settings
  const problem = { input: values, weight: head.weights(), labels: list, dim, bias: head.bias() }
  const oracle = oracleAt(margin, head.iteration, marginWarmupSteps)
  if (kind === 4) {
    const best = head.topKSync(embeddings, 1)
    const free = reference({ ...problem, labels: new Array(list.length).fill(-1) }, margin.oracle)
    checkBest(best, free.scores, classes, 1, boundOf(problem, margin.oracle.raw))
  } else if (kind === 5) {
    const how = { labelSmoothing, classWeights }
    const actual = head.evaluateSync(embeddings, labels)
    const all = (settings.interclassFilter ?? 1) === 1
    if (all) compare(actual, reference(problem, oracle, how), problem, oracle, how)
  } else {
    const how = { labelSmoothing, classWeights, sampleWeights: rows.rowWeights }
    const { iteration } = head
    const actual = head.stepSync(embeddings, labels, { sampleWeights: rows.sampleWeights })
    assert.is(head.iteration, iteration + 1)
    if (!isPlain(settings)) return
    const expected = reference(problem, oracle, how)
    compare(actual, expected, problem, oracle, { ...how, negligible })
    judgeUpdate(head, known, problem, rows, { expected, iteration })
  }
}

/** The update of a head with SGD from the weights of `problem`, where no momentum is left of steps before. */
function judgeUpdate(
  head: MarginHead,
  { settings, margin, classWeights }: Known,
  { weight, bias }: { weight: Float32Array; bias: Float32Array | undefined },
  { values, list, rowWeights }: Rows,
  { expected, iteration }: { expected: OracleResult; iteration: number }
): void {
  const after = head.weights()
  const { optimizer } = settings
  if (optimizer.name !== 'sgd' || (iteration > 0 && optimizer.momentum)) return
  if (head.weightStorage !== 'float32') return
  const { dim, labelSmoothing, marginWarmupSteps, maxGradientNorm = 0 } = settings
  const model = new OracleHead({
    margin,
    optimizer: { ...optimizer, kind: 'sgd' },
    dim,
    weights: weight,
    bias: bias !== undefined,
    marginWarmupSteps,
    labelSmoothing,
    classWeights,
    maxGradientNorm,
  })
  model.iteration = iteration
  if (bias) model.bias?.values.set(bias)
  const { learningRate } = optimizer
  const { stats } = model.step(values, list, learningRate, rowWeights)
  // Terms that cancel in the gradient are off by more than the gradient, which clipping makes shorter.
  const factor = maxGradientNorm ? Math.min(1, maxGradientNorm / stats.gradientNorm) : 1
  const moved = learningRate * factor * (norm(expected.gradWeight) + expected.magnitudeWeight)
  within(distance(after, model.weight.values), 1e-3 * moved + 2 ** -22 * norm(weight), 'weights after a step')
}

/** What is loaded goes on with the same bits. */
async function savedAndLoaded(dice: Dice, head: MarginHead, dim: number): Promise<MarginHead> {
  const file = path.join(temporary(), 'head.safetensors')
  await head.save(file)
  const loaded = await MarginHead.load(file, { threads: dice.integer(1, 2) })
  sameBits(loaded.weights(), head.weights(), 'weights of the loaded head')
  for (const name of ['classes', 'classNames', 'classWeights', 'margin', 'optimizer', 'iteration'] as const)
    assert.equal(loaded[name], head[name], name)
  const embeddings = normals(dice, 2 * dim)
  const [one, other] = [head.stepSync(embeddings, [0, 0]), loaded.stepSync(embeddings, [0, 0])]
  if (!Object.is(one.loss, other.loss))
    throw new Error(`the loaded head has a loss of ${other.loss}, not ${one.loss}`)
  sameBits(loaded.weights(), head.weights(), 'weights after another step')
  head.dispose()
  return loaded
}
