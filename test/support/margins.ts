// THE TABLE: one row per margin, from which the suites are generated. A new margin needs a row here; margins.test.ts
// demands that the names equal those of the native addon, so a forgotten row fails by name.
import type { Margin } from '../../lib/index'
import {
  arcface,
  combined,
  cosface,
  curricularface,
  mvsoftmax,
  normface,
  softmaxMargin,
  sphereface,
} from '../../lib/index'
import type { MarginValue, OracleMargin } from './reference'

export type Parameters = Record<string, number | string | boolean>

export interface MarginRow {
  name: string
  make: (parameters?: Parameters) => Margin // the factory under test
  defaults: Parameters // what the factory's value must hold when nothing is given
  cases: Parameters[] // every combination of parameters that takes another path
  raw?: boolean // raw dot products instead of cosines
  /** The oracle's ψ and ψ', in float64, for complete parameters. */
  psi: (p: Parameters, cosine: number) => MarginValue
  /** The oracle's φ and φ' of a negative, where the margin transforms them, in a row with this cosine of the target. */
  negative?: (p: Parameters, cosine: number, targetCosine: number) => MarginValue
  /** The parameters at a fraction of the margin's warm-up; the same parameters where nothing warms up. */
  warm: (p: Parameters, fraction: number) => Parameters
}

export interface MarginCase {
  title: string
  margin: Margin
  row: MarginRow
  parameters: Parameters // complete
  oracle: OracleMargin
}

const num = (p: Parameters, name: string) => p[name] as number
const sine = (cosine: number) => Math.max(Math.sqrt((1 - cosine) * (1 + cosine)), 1e-7)
const towards = (p: Parameters, name: string, neutral: number, fraction: number) =>
  neutral + (num(p, name) - neutral) * fraction

/** Chebyshev's T_m and its derivative, written out. */
const chebyshev: ((c: number) => [number, number])[] = [
  () => [1, 0],
  (c) => [c, 1],
  (c) => [2 * c ** 2 - 1, 4 * c],
  (c) => [4 * c ** 3 - 3 * c, 12 * c ** 2 - 3],
  (c) => [8 * c ** 4 - 8 * c ** 2 + 1, 32 * c ** 3 - 16 * c],
  (c) => [16 * c ** 5 - 20 * c ** 3 + 5 * c, 80 * c ** 4 - 60 * c ** 2 + 5],
]

function sphereLambda(p: Parameters): number {
  if (p.lambda !== undefined) return num(p, 'lambda')
  const annealed = num(p, 'base') * (1 + num(p, 'gamma') * num(p, 'iteration')) ** -num(p, 'power')
  return Math.max(num(p, 'lambdaMin'), annealed)
}

export const table: MarginRow[] = [
  {
    name: 'softmax',
    make: softmaxMargin,
    defaults: {},
    cases: [{}],
    raw: true,
    psi: (_, score) => ({ value: score, slope: 1 }),
    warm: (p) => p,
  },
  {
    name: 'normface',
    make: normface,
    defaults: { scale: 30 },
    cases: [{}, { scale: 1 }, { scale: 16 }, { scale: 64 }],
    psi: (_, c) => ({ value: c, slope: 1 }),
    warm: (p) => p,
  },
  {
    name: 'cosface',
    make: cosface,
    defaults: { scale: 64, margin: 0.35 },
    cases: [{}, { margin: 0 }, { scale: 30, margin: 0.2 }, { scale: 8, margin: 1.5 }],
    psi: (p, c) => ({ value: c - num(p, 'margin'), slope: 1 }),
    warm: (p, fraction) => ({ ...p, margin: towards(p, 'margin', 0, fraction) }),
  },
  {
    name: 'arcface',
    make: arcface,
    defaults: { scale: 64, margin: 0.5, easyMargin: false },
    cases: [
      {},
      { margin: 0 },
      { easyMargin: true },
      { scale: 30, margin: 0.3, easyMargin: true },
      { scale: 10, margin: 1.2 },
      { scale: 1, margin: 0.05 },
    ],
    psi: (p, c) => {
      const m = num(p, 'margin')
      if (c > (p.easyMargin ? 0 : Math.cos(Math.PI - m))) {
        const exactSine = Math.sqrt((1 - c) * (1 + c))
        return {
          value: c * Math.cos(m) - exactSine * Math.sin(m),
          slope: Math.cos(m) + (Math.sin(m) * c) / sine(c),
        }
      }
      return { value: p.easyMargin ? c : c - m * Math.sin(Math.PI - m), slope: 1 }
    },
    warm: (p, fraction) => ({ ...p, margin: towards(p, 'margin', 0, fraction) }),
  },
  {
    name: 'combined',
    make: combined,
    defaults: { scale: 64, m1: 1, m2: 0.3, m3: 0.2 },
    cases: [
      {},
      { m2: 0, m3: 0 },
      { scale: 32, m1: 0.9, m2: 0.4, m3: 0.15 },
      { scale: 16, m1: 1.35, m2: 0, m3: 0 },
      { scale: 8, m1: 2, m2: 0.1, m3: 0.05 },
      { scale: 30, m1: 1, m2: 0, m3: 0.4 },
      { scale: 30, m1: 1, m2: 0.5, m3: 0 },
    ],
    psi: (p, c) => {
      const angle = num(p, 'm1') * Math.acos(c) + num(p, 'm2')
      return { value: Math.cos(angle) - num(p, 'm3'), slope: (num(p, 'm1') * Math.sin(angle)) / sine(c) }
    },
    warm: (p, fraction) => ({
      ...p,
      m1: towards(p, 'm1', 1, fraction),
      m2: towards(p, 'm2', 0, fraction),
      m3: towards(p, 'm3', 0, fraction),
    }),
  },
  {
    name: 'sphereface',
    make: sphereface,
    defaults: { m: 4, scale: 'norm', iteration: 0, base: 1000, gamma: 0.12, power: 1, lambdaMin: 5 },
    cases: [
      {},
      ...[0, 1, 2, 3, 4, 5].flatMap((m): Parameters[] => [
        { m, lambda: 0 },
        { m, lambda: 5, scale: 30 },
      ]),
      { iteration: 1 },
      { m: 3, iteration: 40 },
      { m: 2, iteration: 1e6 },
      { m: 4, scale: 12, iteration: 100, base: 500, gamma: 0.05, power: 2, lambdaMin: 0.5 },
    ],
    psi: (p, c) => {
      const m = num(p, 'm')
      const k = Math.min(Math.floor((m * Math.acos(c)) / Math.PI), Math.max(m - 1, 0))
      const sign = k % 2 === 0 ? 1 : -1
      const [t, derivative] = (chebyshev[m] as (typeof chebyshev)[number])(c)
      const share = 1 / (1 + sphereLambda(p))
      return { value: c + (sign * t - 2 * k - c) * share, slope: 1 + (sign * derivative - 1) * share }
    },
    warm: (p) => p,
  },
  {
    name: 'mvsoftmax',
    make: mvsoftmax,
    defaults: { kind: 'cos', scale: 32, margin: 0.35, t: 0.2, adaptive: true, easyMargin: true },
    cases: [
      {},
      { t: 0 },
      { adaptive: false },
      { easyMargin: false, scale: 16 },
      { scale: 10, margin: 0.8, t: 0.5, adaptive: false, easyMargin: false },
      { kind: 'arc' },
      { kind: 'arc', margin: 1.2, t: 0.3, easyMargin: false, scale: 8 },
      { kind: 'arc', margin: 0.5, t: 0.1, adaptive: false, scale: 64 },
    ],
    psi: (p, c) => (p.easyMargin && c <= 0 ? { value: c, slope: 1 } : hardestOf(p, c)),
    negative: (p, c, target) => {
      const [t, slope] = [num(p, 't'), p.adaptive ? 1 + num(p, 't') : 1]
      return c > hardestOf(p, target).value ? { value: slope * c + t, slope } : { value: c, slope: 1 }
    },
    warm: (p, fraction) => ({
      ...p,
      margin: towards(p, 'margin', 0, fraction),
      t: towards(p, 't', 0, fraction),
    }),
  },
  {
    name: 'curricularface',
    make: curricularface,
    defaults: { scale: 64, margin: 0.5, t: 0 },
    cases: [{}, { t: 0.4 }, { scale: 16, margin: 0.9, t: 0.8 }, { scale: 8, margin: 0.2, t: -0.3 }],
    psi: (p, c) => rowOf('arcface').psi({ ...p, easyMargin: false }, c),
    negative: (p, c, target) => {
      const t = num(p, 't')
      return c > Math.cos(Math.acos(target) + num(p, 'margin'))
        ? { value: c * (t + c), slope: t + 2 * c }
        : { value: c, slope: 1 }
    },
    warm: (p, fraction) => ({ ...p, margin: towards(p, 'margin', 0, fraction) }),
  },
]

/** The target of MV-Softmax with its margin, which the hard negatives exceed. */
function hardestOf(p: Parameters, c: number): MarginValue {
  const m = num(p, 'margin')
  if (p.kind === 'cos') return { value: c - m, slope: 1 }
  return {
    value: Math.cos(Math.acos(c) + m),
    slope: Math.cos(m) + (Math.sin(m) * c) / sine(c),
  }
}

export function rowOf(name: string): MarginRow {
  const row = table.find((candidate) => candidate.name === name)
  if (!row) throw new Error(`THE TABLE in test/support/margins.ts has no row for ${name}`)
  return row
}

export function marginCase(name: string, given: Parameters = {}): MarginCase {
  const row = rowOf(name)
  const parameters = { ...row.defaults, ...given }
  const words = Object.entries(given).map(([key, value]) => `${key} ${value}`)
  return {
    title: [name, ...words].join(' '),
    margin: row.make(given),
    row,
    parameters,
    oracle: oracleOf(row, parameters),
  }
}

export function oracleOf(row: MarginRow, parameters: Parameters): OracleMargin {
  const scale = row.raw ? 1 : (parameters.scale as number | 'norm')
  const { negative } = row
  return {
    raw: row.raw === true,
    scale,
    psi: (cosine) => row.psi(parameters, cosine),
    negative: negative && ((cosine, target) => negative(parameters, cosine, target)),
  }
}

/** The margin that a head applies at a step: warmed up, and annealed where it depends on the iteration. */
export function oracleAt(margin: MarginCase, iteration: number, warmupSteps: number): OracleMargin {
  const fraction = warmupSteps > 0 ? Math.min(1, iteration / warmupSteps) : 1
  const warm = margin.row.warm(margin.parameters, fraction)
  if (warm.iteration === undefined) return oracleOf(margin.row, warm)
  return oracleOf(margin.row, { ...warm, iteration: num(warm, 'iteration') + iteration })
}

/** Every row of THE TABLE with every one of its cases. */
export const marginCases: MarginCase[] = table.flatMap((row) =>
  row.cases.map((given) => marginCase(row.name, given))
)

/** The first of these cases of each margin. */
export const oneOfEach = (cases: readonly MarginCase[] = marginCases) =>
  cases.filter(({ row }, i) => cases.findIndex((other) => other.row === row) === i)
