/** The demo's figures. */
import {
  differentColour,
  draw,
  guessing,
  histogramMark,
  kindColour,
  rocAxes,
  ruleAt,
  sameColour,
} from '../report/plots.mjs'
import { type CurvePoint, falseAcceptRates, type Outcome } from './experiment.js'

/** Ten colours that stand out on white and on near-black, by digit; digits left out of training are grey. */
export const digitColours = [
  ...['#4e8df5', '#e8a13a', '#e4575c', '#35b5aa', '#6bab3f'],
  ...['#a06be0', '#d9659f', '#a5744a', '#2f9fd0', '#c2b022'],
]
export const heldOutColour = '#8b929b'

export const lossColours: Record<string, string> = {
  softmax: '#8b929b',
  normface: '#2ba69b',
  sphereface: '#d98a1f',
  cosface: '#c45bb8',
  arcface: '#4585f4',
}
export const ownColour = sameColour
export const otherColour = differentColour

/** The two-dimensional embeddings of one loss, in the style of the papers, with the class centres as rays. */
export function embeddingScatter(
  outcome: Outcome,
  digits: number[],
  heldOut: number[],
  labels: Scattered
): Promise<string> {
  const trained = thinOut(outcome.testEmbeddings, labels.test, 900)
  const unseen = thinOut(outcome.unseenEmbeddings, labels.unseen, 160).map((point) => ({
    ...point,
    shape: point.digit === heldOut[0] ? 'M-.7,-.7L.7,.7M-.7,.7L.7,-.7' : 'circle',
  }))
  const norms = trained.map(({ x, y }) => Math.hypot(x, y)).sort((a, b) => a - b)
  const reach = norms[Math.floor(0.985 * norms.length)] * 1.05
  const inside = ({ x, y }: Point) => Math.hypot(x, y) <= reach
  const rays = digits.map((digit, j) => {
    const [x, y] = [outcome.centres[2 * j], outcome.centres[2 * j + 1]]
    return { digit, x: x * reach, y: y * reach, textX: x * reach * 1.1, textY: y * reach * 1.1, zero: 0 }
  })
  const scale = { domain: [-reach * 1.18, reach * 1.18], nice: false }
  const x = { field: 'x', type: 'quantitative', axis: null, scale } as const
  const y = { field: 'y', type: 'quantitative', axis: null, scale } as const
  const colour = {
    field: 'digit',
    type: 'nominal',
    legend: null,
    scale: { domain: digits, range: digits.map((digit) => digitColours[digit]) },
  } as const
  return draw(`Two-dimensional embeddings of the test images after training with ${outcome.setting.title}`, {
    width: 360,
    height: 360,
    padding: 0,
    layer: [
      {
        data: { values: rays },
        mark: { type: 'rule', strokeWidth: 1.2, opacity: 0.75 },
        encoding: {
          x: { ...x, field: 'zero' },
          y: { ...y, field: 'zero' },
          x2: { field: 'x' },
          y2: { field: 'y' },
          color: colour,
        },
      },
      {
        data: { values: trained.filter(inside) },
        mark: { type: 'point', shape: 'circle', filled: true, size: 9, opacity: 0.6 },
        encoding: { x, y, color: colour },
      },
      {
        data: { values: unseen.filter(inside) },
        mark: { type: 'point', filled: false, size: 16, opacity: 0.9, color: heldOutColour, strokeWidth: 1 },
        encoding: {
          x,
          y,
          shape: { field: 'shape', type: 'nominal', scale: null },
        },
      },
      {
        data: { values: rays },
        mark: { type: 'text', fontSize: 15, fontWeight: 'bold' },
        encoding: {
          x: { ...x, field: 'textX' },
          y: { ...y, field: 'textY' },
          text: { field: 'digit' },
          color: colour,
        },
      },
    ],
  })
}

/** The digits of the test images and of the images left out, in the order of the embeddings. */
export interface Scattered {
  test: Uint8Array
  unseen: Uint8Array
}
interface Point {
  x: number
  y: number
  digit: number
}

/** At most `limit` rows, evenly spread over the file, as points. */
function thinOut(embeddings: Float32Array, digits: Uint8Array, limit: number): Point[] {
  const stride = Math.max(1, digits.length / limit)
  const points: Point[] = []
  for (let i = 0; i < digits.length; i += stride) {
    const row = Math.floor(i)
    points.push({ x: embeddings[2 * row], y: embeddings[2 * row + 1], digit: digits[row] })
  }
  return points
}

/** Draws the distribution of the test images' angles to their own centre and to the nearest other one. */
export function angleHistogram({ angles, setting }: Outcome, largestShare: number): Promise<string> {
  const values = [
    ...binned(angles.own).map((bin) => ({ ...bin, kind: 'own' })),
    ...binned(angles.other).map((bin) => ({ ...bin, kind: 'other' })),
  ]
  return draw(`Histogram of the angles to the own and to the nearest other class centre: ${setting.title}`, {
    width: 300,
    height: 150,
    data: { values },
    mark: histogramMark,
    encoding: {
      x: {
        field: 'from',
        type: 'quantitative',
        title: 'angle in degrees',
        scale: { domain: [0, 120], nice: false },
        axis: { values: [0, 30, 60, 90, 120], grid: false },
      },
      y: {
        field: 'share',
        type: 'quantitative',
        title: 'share of images',
        stack: null,
        scale: { domain: [0, largestShare] },
        axis: { format: '.0%', tickCount: 3 },
      },
      color: kindColour('own', 'other'),
    },
  })
}

/** The highest bar of all histograms, so that they can share an axis. */
export function largestShareOf(outcomes: Outcome[]): number {
  return Math.max(
    ...outcomes.flatMap(({ angles }) =>
      [...binned(angles.own), ...binned(angles.other)].map(({ share }) => share)
    )
  )
}

function binned(angles: Float32Array): { from: number; share: number }[] {
  const width = 3
  const counts = new Array<number>(120 / width + 1).fill(0)
  for (const angle of angles) counts[Math.min(counts.length - 1, Math.floor(angle / width))]++
  return counts.map((count, i) => ({ from: i * width, share: count / angles.length }))
}

/** Training loss (on a logarithmic axis) or accuracy against the epochs, one line a loss. */
export function trainingCurves(outcomes: Outcome[], field: 'loss' | 'accuracy'): Promise<string> {
  const values = outcomes.flatMap(({ curve, setting }) =>
    curve.map((point: CurvePoint) => ({ epoch: point.epoch, value: point[field], name: setting.name }))
  )
  const isLoss = field === 'loss'
  return draw(`${isLoss ? 'Loss' : 'Accuracy'} in the course of training`, {
    width: 330,
    height: 190,
    data: { values: values.filter(({ value }) => !isLoss || value > 0) },
    mark: { type: 'line', strokeWidth: 1.8, strokeJoin: 'round' },
    encoding: {
      x: {
        field: 'epoch',
        type: 'quantitative',
        title: 'epochs',
        axis: { grid: false, tickMinStep: 1 },
        scale: { nice: false },
      },
      y: {
        field: 'value',
        type: 'quantitative',
        title: isLoss ? 'loss in nats' : 'accuracy',
        scale: isLoss ? { type: 'log', nice: true } : { zero: false, nice: true },
        axis: isLoss ? { format: '~g', tickCount: 5 } : { format: '.0%', tickCount: 5 },
      },
      color: lossColour(outcomes),
    },
  })
}

/** True against false accept rate for pairs of images of the digits left out. */
export function rocCurves(outcomes: Outcome[]): Promise<string> {
  const values = outcomes.flatMap(({ verification, setting }) =>
    verification.operatingPoints.map(({ limit, trueAcceptRate }) => ({
      falseAccepts: limit,
      trueAccepts: trueAcceptRate,
      name: setting.name,
    }))
  )
  const axes = rocAxes(0.001)
  return draw('ROC curves of the verification of digits left out of training', {
    width: 400,
    height: 270,
    layer: [
      guessing(falseAcceptRates, axes),
      ruleAt(0.01, axes.x),
      {
        data: { values },
        mark: { type: 'line', strokeWidth: 2 },
        encoding: { ...axes, color: lossColour(outcomes) },
      },
    ],
  })
}

function lossColour(outcomes: Outcome[]) {
  const names = outcomes.map(({ setting }) => setting.name)
  return {
    field: 'name',
    type: 'nominal',
    legend: null,
    scale: { domain: names, range: names.map((name) => lossColours[name]) },
  } as const
}
