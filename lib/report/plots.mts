/** The reports' figures by Vega-Lite, each as one SVG string that takes its text colour from the page around it. */
import * as vega from 'vega'
import { type Config, compile, type TopLevelSpec } from 'vega-lite'
import type { PositionFieldDef } from 'vega-lite/types_unstable/channeldef.js'
import type { OperatingPoint, VerificationResult } from '../index.js'

/** The colours of pairs that belong together, and of pairs that do not. */
export const sameColour = '#4585f4'
export const differentColour = '#e0813a'

const config: Config = {
  background: 'transparent',
  font: 'system-ui, sans-serif',
  view: { stroke: null },
  axis: {
    ...{
      labelColor: 'currentColor',
      titleColor: 'currentColor',
      gridColor: 'currentColor',
      gridOpacity: 0.13,
    },
    ...{
      domain: false,
      ticks: false,
      labelPadding: 6,
      titlePadding: 8,
      labelFontSize: 12,
      titleFontSize: 12,
    },
    ...{ titleFontWeight: 'normal', labelFont: 'system-ui, sans-serif', titleFont: 'system-ui, sans-serif' },
  },
}

type Layer = Extract<TopLevelSpec, { layer: unknown }>['layer'][number]

export async function draw(description: string, spec: TopLevelSpec): Promise<string> {
  const compiled = compile({ ...spec, config }).spec
  const svg = await new vega.View(vega.parse(compiled), { renderer: 'none' }).toSVG()
  return svg
    .replace(/<svg[^>]*?(viewBox="[^"]*")[^>]*>/, `<svg role="img" aria-label="${description}" $1>`)
    .replace(/<[^>]*>/g, (tag) =>
      tag.replace(/-?\d+\.\d{3,}/g, (number) => String(Math.round(Number(number) * 100) / 100))
    )
}

/** The lowest rate above 0 that `count` comparisons can measure, as a power of ten from `least` to 0.1. */
export function lowestRate(count: number, least: number): number {
  return 10 ** Math.max(Math.log10(least), Math.min(-1, Math.ceil(Math.log10(1 / count))))
}

/** A logarithmic axis of rates, from `lowest`, a power of ten, to 1. */
export function rateAxis(field: string, title: string, lowest: number) {
  const powers = Array.from({ length: 1 - Math.round(Math.log10(lowest)) }, (_, i) => 10 ** -i)
  return {
    field,
    type: 'quantitative',
    title,
    scale: { type: 'log', domain: [lowest, 1], nice: false },
    axis: { format: '~%', values: powers },
  } satisfies PositionFieldDef<string>
}

/** An axis of shares, from 0 to 1. */
export function shareAxis(field: string, title: string) {
  return {
    field,
    type: 'quantitative',
    title,
    scale: { domain: [0, 1] },
    axis: { format: '.0%', tickCount: 5 },
  } satisfies PositionFieldDef<string>
}

/** Axes of a ROC curve: true against false accept rate, the latter logarithmic from `lowest`, a power of ten, on. */
export function rocAxes(lowest: number) {
  return {
    x: rateAxis('falseAccepts', 'false accept rate', lowest),
    y: shareAxis('trueAccepts', 'true accept rate'),
  }
}

/** The ROC curve of guessing, through these false accept rates. */
export function guessing(rates: ArrayLike<number>, axes: ReturnType<typeof rocAxes>): Layer {
  return {
    data: { values: Array.from(rates, (rate) => ({ falseAccepts: rate, trueAccepts: rate })) },
    mark: { type: 'line', strokeDash: [3, 4], strokeWidth: 1, color: 'currentColor', opacity: 0.5 },
    encoding: axes,
  }
}

/** A dashed line across, at a place of the axis. */
export function ruleAt<Axis extends PositionFieldDef<string>>(at: number, x: Axis): Layer {
  return {
    data: { values: [{ [x.field as string]: at }] },
    mark: { type: 'rule', strokeDash: [6, 4], strokeWidth: 1.2, color: 'currentColor', opacity: 0.6 },
    encoding: { x },
  }
}

/** Style of a histogram: bars without gaps, two kinds over each other in the two colours. */
export const histogramMark = {
  type: 'area',
  interpolate: 'step-after',
  clip: true,
  fillOpacity: 0.35,
  line: { strokeWidth: 1.5 },
} as const
export function kindColour(belonging: string, not: string) {
  return {
    field: 'kind',
    type: 'nominal',
    legend: null,
    scale: { domain: [belonging, not], range: [sameColour, differentColour] },
  } as const
}

/** True against false accept rate, the latter on a logarithmic axis from `lowest` on. */
export function rocCurve(curve: OperatingPoint[], lowest: number, equalErrorRate: number): Promise<string> {
  const values = curve
    .filter(({ limit }) => limit >= lowest)
    .map(({ limit, trueAcceptRate }) => ({ falseAccepts: limit, trueAccepts: trueAcceptRate }))
  const axes = rocAxes(lowest)
  return draw('ROC curve', {
    width: 360,
    height: 250,
    layer: [
      guessing(
        values.map(({ falseAccepts }) => falseAccepts),
        axes
      ),
      {
        data: { values },
        mark: { type: 'line', strokeWidth: 2.2, interpolate: 'step-after', color: sameColour },
        encoding: axes,
      },
      ...(equalErrorRate >= lowest
        ? [
            {
              data: { values: [{ falseAccepts: equalErrorRate, trueAccepts: 1 - equalErrorRate }] },
              mark: { type: 'point', filled: true, size: 70, color: differentColour, opacity: 1 },
              encoding: axes,
            } satisfies Layer,
          ]
        : []),
    ],
  })
}

/** Miss rate against false accept rate, both on axes of normal deviates (Martin 1997): near-normal scores draw straight lines. */
export function detCurve(curve: OperatingPoint[], lowest: number): Promise<string> {
  const values = curve
    .filter(({ falseAcceptRate: rate, trueAcceptRate }) => rate > 0 && rate < 1 && trueAcceptRate > 0)
    .map(({ falseAcceptRate, trueAcceptRate }) => ({
      falseAccepts: falseAcceptRate,
      misses: 1 - trueAcceptRate,
    }))
    .filter(({ misses }) => misses > 0)
  const ticks = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8].filter((rate) => rate >= lowest)
  const deviate = (rate: number) => ({ expr: `quantileNormal(${rate})` })
  const axis = (field: string, title: string) =>
    ({
      field,
      type: 'quantitative',
      title,
      scale: { domain: [deviate(ticks[0] as number), deviate(0.8)], nice: false, zero: false, clamp: false },
      axis: {
        values: { expr: `[${ticks.map((rate) => `quantileNormal(${rate})`)}]` },
        labelExpr: "format(cumulativeNormal(datum.value), '.3~%')",
      },
    }) satisfies PositionFieldDef<string>
  return draw('DET curve', {
    width: 360,
    height: 250,
    data: { values },
    transform: [
      { calculate: 'quantileNormal(datum.falseAccepts)', as: 'falseDeviate' },
      { calculate: 'quantileNormal(datum.misses)', as: 'missDeviate' },
    ],
    mark: { type: 'line', strokeWidth: 2.2, clip: true, color: sameColour },
    encoding: {
      x: axis('falseDeviate', 'false accept rate'),
      y: axis('missDeviate', 'miss rate'),
    },
  })
}

/** Draws the distribution of the scores of either kind of pairs, as shares of each kind, with a threshold. */
export function scoreHistogram(
  histogram: VerificationResult['histogram'],
  threshold: number
): Promise<string> {
  const { from: lowest, to: highest } = histogram
  const cosines = lowest === -1 && highest === 1
  const width = (highest - lowest) / histogram.same.length || 1
  const values = (['same', 'different'] as const).flatMap((kind) => {
    const total = histogram[kind].reduce((sum, count) => sum + count, 0)
    return Array.from(histogram[kind], (count, i) => ({
      from: lowest + i * width,
      share: count / total,
      kind,
    }))
  })
  const filled = values.filter(({ share }) => share > 0).map(({ from }) => from)
  const domain = cosines
    ? [
        Math.max(-1, Math.floor((Math.min(...filled) - 0.02) * 10) / 10),
        Math.min(1, Math.ceil((Math.max(...filled) + width + 0.02) * 10) / 10),
      ]
    : [lowest, lowest + histogram.same.length * width]
  const x = {
    field: 'from',
    type: 'quantitative',
    title: cosines ? 'score (cosine)' : 'score',
    scale: { domain, nice: false },
    axis: { grid: false, tickCount: cosines ? 7 : 4, ...(cosines && { format: '.1f' }) },
  } satisfies PositionFieldDef<string>
  return draw('Histogram of the scores of pairs of one class and of different classes', {
    width: 360,
    height: 250,
    layer: [
      {
        data: {
          values: values.filter(
            ({ from }) => from >= (domain[0] as number) - width && from < (domain[1] as number)
          ),
        },
        mark: histogramMark,
        encoding: {
          x,
          y: {
            field: 'share',
            type: 'quantitative',
            title: 'share of the pairs of a kind',
            stack: null,
            axis: { format: '~%', tickCount: 4 },
          },
          color: kindColour('same', 'different'),
        },
      },
      ...(Number.isFinite(threshold) ? [ruleAt(threshold, x)] : []),
    ],
  })
}
