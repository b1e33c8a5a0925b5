/** The reports' figures by Vega-Lite, each as one SVG string that takes its text colour from the page around it. */
import * as vega from 'vega'
import { type Config, compile, type TopLevelSpec } from 'vega-lite'
import type { PositionFieldDef } from 'vega-lite/types_unstable/channeldef.js'
import type { OperatingPoint } from '../index.js'

/** Of what belongs together, and of what does not. */
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

/** True against false accept rate, the latter on a logarithmic axis from `least` on. */
export function rocCurve(curve: OperatingPoint[], least: number, equalErrorRate: number): Promise<string> {
  const values = curve
    .filter(({ limit }) => limit >= least)
    .map(({ limit, trueAcceptRate }) => ({ falseAccepts: limit, trueAccepts: trueAcceptRate }))
  const powers = Array.from({ length: 1 - Math.round(Math.log10(least)) }, (_, i) => 10 ** -i)
  const x = {
    field: 'falseAccepts',
    type: 'quantitative',
    title: 'false accept rate',
    scale: { type: 'log', domain: [least, 1], nice: false },
    axis: { format: '~%', values: powers },
  } satisfies PositionFieldDef<string>
  const y = {
    field: 'trueAccepts',
    type: 'quantitative',
    title: 'true accept rate',
    scale: { domain: [0, 1] },
    axis: { format: '.0%', tickCount: 5 },
  } satisfies PositionFieldDef<string>
  const chance = values.map(({ falseAccepts }) => ({ falseAccepts, trueAccepts: falseAccepts }))
  return draw('ROC curve', {
    width: 360,
    height: 250,
    layer: [
      {
        data: { values: chance },
        mark: { type: 'line', strokeDash: [3, 4], strokeWidth: 1, color: 'currentColor', opacity: 0.5 },
        encoding: { x, y },
      },
      {
        data: { values },
        mark: { type: 'line', strokeWidth: 2.2, interpolate: 'step-after', color: sameColour },
        encoding: { x, y },
      },
      ...(equalErrorRate >= least
        ? [
            {
              data: { values: [{ falseAccepts: equalErrorRate, trueAccepts: 1 - equalErrorRate }] },
              mark: { type: 'point', filled: true, size: 70, color: differentColour, opacity: 1 },
              encoding: { x, y },
            } satisfies Layer,
          ]
        : []),
    ],
  })
}

/** How the scores of either kind of pairs are distributed, as shares of each kind, with a threshold drawn in. */
export function scoreHistogram(
  histogram: { same: Float64Array; different: Float64Array },
  threshold: number
): Promise<string> {
  const width = 2 / histogram.same.length
  const values = (['same', 'different'] as const).flatMap((kind) => {
    const total = histogram[kind].reduce((sum, count) => sum + count, 0)
    return Array.from(histogram[kind], (count, i) => ({ from: -1 + i * width, share: count / total, kind }))
  })
  const filled = values.filter(({ share }) => share > 0).map(({ from }) => from)
  const domain = [
    Math.max(-1, Math.floor((Math.min(...filled) - 0.02) * 10) / 10),
    Math.min(1, Math.ceil((Math.max(...filled) + width + 0.02) * 10) / 10),
  ]
  const x = {
    field: 'from',
    type: 'quantitative',
    title: 'score (cosine)',
    scale: { domain, nice: false },
    axis: { grid: false, tickCount: 7, format: '.1f' },
  } satisfies PositionFieldDef<string>
  const rule = {
    data: { values: Number.isFinite(threshold) ? [{ from: threshold }] : [] },
    mark: { type: 'rule', strokeDash: [6, 4], strokeWidth: 1.2, color: 'currentColor', opacity: 0.7 },
    encoding: { x },
  } satisfies Layer
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
        mark: {
          type: 'area',
          interpolate: 'step-after',
          clip: true,
          fillOpacity: 0.35,
          line: { strokeWidth: 1.5 },
        },
        encoding: {
          x,
          y: {
            field: 'share',
            type: 'quantitative',
            title: 'share of the pairs of a kind',
            stack: null,
            axis: { format: '~%', tickCount: 4 },
          },
          color: {
            field: 'kind',
            type: 'nominal',
            legend: null,
            scale: { domain: ['same', 'different'], range: [sameColour, differentColour] },
          },
        },
      },
      rule,
    ],
  })
}
