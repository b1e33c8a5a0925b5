/** The figures of a training's report: curves over its epochs. */
import type { Epoch } from '../cli/train/log.js'
import { differentColour, draw, ruleAt, sameColour } from './plots.mjs'

/** The rows that a curve describes: those trained on, those kept back, or neither. */
export const curveColours = { training: sameColour, validation: differentColour } as const

type Kind = keyof typeof curveColours

interface Point {
  epoch: number
  value: number
  kind: Kind
}

/** Curves of a figure of each epoch, with a line through the epoch whose head was kept. */
function curves(description: string, points: Point[], kept: number, y: object): Promise<string> {
  const x = {
    field: 'epoch',
    type: 'quantitative',
    title: 'epoch',
    axis: { grid: false, tickMinStep: 1, format: 'd' },
    scale: { nice: false },
  } as const
  const kinds = Object.keys(curveColours) as Kind[]
  const mark = { strokeWidth: 1.8, strokeJoin: 'round' } as const
  return draw(description, {
    width: 330,
    height: 190,
    layer: [
      {
        data: { values: points },
        mark: { type: 'line', ...mark, point: points.length < 60 ? { size: 14 } : false },
        encoding: {
          x,
          y: { field: 'value', type: 'quantitative', ...y },
          color: {
            field: 'kind',
            type: 'nominal',
            legend: null,
            scale: { domain: kinds, range: kinds.map((kind) => curveColours[kind]) },
          },
        },
      },
      ruleAt(kept, x),
    ],
  })
}

const pointsOf = (
  epochs: readonly Epoch[],
  of: Partial<Record<Kind, (epoch: Epoch) => number | undefined>>
): Point[] =>
  epochs.flatMap((epoch, i) =>
    (Object.keys(of) as Kind[]).flatMap((kind) => {
      const value = of[kind]?.(epoch)
      return value === undefined ? [] : [{ epoch: i + 1, value, kind }]
    })
  )

export function lossCurves(epochs: readonly Epoch[], kept: number): Promise<string> {
  const points = pointsOf(epochs, {
    training: ({ loss }) => loss,
    validation: ({ validation }) => validation?.loss,
  })
  // A logarithm has no place for zero.
  const log = points.every(({ value }) => value > 0)
  return curves('Loss of each epoch', points, kept, {
    title: 'loss in nats',
    scale: log ? { type: 'log', nice: true } : { zero: true },
    axis: { format: '~g', tickCount: 5 },
  })
}

export function accuracyCurves(epochs: readonly Epoch[], kept: number): Promise<string> {
  const points = pointsOf(epochs, {
    training: ({ accuracy }) => accuracy,
    validation: ({ validation }) => validation?.accuracy,
  })
  return curves('Accuracy of each epoch', points, kept, {
    title: 'accuracy',
    scale: { zero: false, nice: true },
    axis: { format: '~%', tickCount: 5 },
  })
}

/** The curve of the classes that were kept back. */
export function errorRateCurve(epochs: readonly Epoch[], kept: number): Promise<string> {
  const points = pointsOf(epochs, { validation: ({ verification }) => verification?.equalErrorRate })
  return curves('Equal error rate of other classes at each epoch', points, kept, {
    title: 'equal error rate',
    scale: { zero: true, nice: true },
    axis: { format: '~%', tickCount: 5 },
  })
}

export function rateCurve(epochs: readonly Epoch[], kept: number): Promise<string> {
  return curves(
    "Learning rate at each epoch's end",
    pointsOf(epochs, { training: ({ learningRate }) => learningRate }),
    kept,
    { title: 'learning rate', scale: { zero: true }, axis: { format: '~g', tickCount: 5 } }
  )
}
