/** The figures of the report of `identify`. */
import type { PositionFieldDef } from 'vega-lite/types_unstable/channeldef.js'
import type { IdentificationResult, OpenSetPoint } from '../index.js'
import { draw, lowestRate, rateAxis, sameColour, shareAxis } from './plots.mjs'

/** Rank-k accuracy over k, with its interval. */
export function matchCurve({ cumulativeMatch, intervals }: IdentificationResult): Promise<string> {
  const values = Array.from(cumulativeMatch, (found, i) => ({
    rank: i + 1,
    found,
    lower: intervals?.cumulativeMatch.lower[i] ?? found,
    upper: intervals?.cumulativeMatch.upper[i] ?? found,
  }))
  const x = {
    field: 'rank',
    type: 'quantitative',
    title: 'rank k',
    scale: { domain: [1, Math.max(2, values.length)], nice: false },
    axis: { grid: false, format: 'd', tickCount: Math.min(values.length, 8) },
  } satisfies PositionFieldDef<string>
  return draw('Share of known probes found within each rank', {
    width: 360,
    height: 250,
    data: { values },
    layer: [
      {
        mark: { type: 'area', color: sameColour, fillOpacity: 0.2 },
        encoding: { x, y: shareAxis('lower', 'found within rank k'), y2: { field: 'upper' } },
      },
      {
        mark: {
          type: 'line',
          strokeWidth: 2.2,
          color: sameColour,
          point: { filled: true, color: sameColour, size: 24 },
        },
        encoding: { x, y: shareAxis('found', 'found within rank k') },
      },
    ],
  })
}

/** Detection rate over the false alarm rate, the latter on a logarithmic axis. */
export function detectionCurve(curve: OpenSetPoint[], unknown: number): Promise<string> {
  const lowest = lowestRate(unknown, 1e-4)
  return draw('Detection rate over false alarm rate', {
    width: 360,
    height: 250,
    data: { values: curve.filter(({ limit }) => limit >= lowest * 0.999) },
    mark: { type: 'line', strokeWidth: 2.2, interpolate: 'step-after', color: sameColour },
    encoding: {
      x: rateAxis('limit', 'false alarm rate', lowest),
      y: shareAxis('detectionRate', 'detection rate'),
    },
  })
}
