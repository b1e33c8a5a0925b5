import { wrongType, wrongValue } from './errors'
import {
  boolean,
  checkOptions,
  integerInRange,
  number,
  numberInRange,
  oneOf,
  type ParametersOf,
  positiveNumber,
} from './internal/check'
import { isRecord } from './internal/intrinsics'
import { native, succeeded } from './internal/native'

/**
 * A margin changes the target's cosine before the softmax. It is a plain, serialisable value made by a factory such as
 * `arcface()`. θ is the angle between an embedding and its class's weights; ψ(θ) takes the place of cos θ. `mvsoftmax()` and
 * `curricularface()` also change the cosines of negatives.
 */
export type Margin =
  | SoftmaxMargin
  | NormFaceMargin
  | CosFaceMargin
  | ArcFaceMargin
  | CombinedMargin
  | SphereFaceMargin
  | MVSoftmaxMargin
  | CurricularFaceMargin

/** Made by `softmaxMargin()`. */
export interface SoftmaxMargin {
  /** Tells the margins apart. */
  readonly name: 'softmax'
}
/** Made by `normface()`. */
export interface NormFaceMargin {
  /** Tells the margins apart. */
  readonly name: 'normface'
  /** s > 0, the factor of every cosine. */
  readonly scale: number
}
/** Made by `cosface()`. */
export interface CosFaceMargin {
  /** Tells the margins apart. */
  readonly name: 'cosface'
  /** s > 0, the factor of every cosine. */
  readonly scale: number
  /** Subtracted from the target's cosine. */
  readonly margin: number
}
/** Made by `arcface()`. */
export interface ArcFaceMargin {
  /** Tells the margins apart. */
  readonly name: 'arcface'
  /** s > 0, the factor of every cosine. */
  readonly scale: number
  /** Added to the target's angle, in radians from 0 to π. */
  readonly margin: number
  /** Whether targets more than π/2 away have no margin, in place of the line cos θ − margin·sin(margin) beyond π − margin. */
  readonly easyMargin: boolean
}
/** Made by `combined()`. */
export interface CombinedMargin {
  /** Tells the margins apart. */
  readonly name: 'combined'
  /** s > 0, the factor of every cosine. */
  readonly scale: number
  /** Factor of the target's angle, ≥ 0. */
  readonly m1: number
  /** Added to the target's angle, in radians. */
  readonly m2: number
  /** Subtracted from the target's cosine. */
  readonly m3: number
}
/** Made by `sphereface()`. */
export interface SphereFaceMargin {
  /** Tells the margins apart. */
  readonly name: 'sphereface'
  /** s > 0, the factor of every cosine; or `'norm'`: row i has the scale ‖x_i‖, and the gradient flows through it, too. */
  readonly scale: number | 'norm'
  /** Factor of the target's angle, an integer from 0 to 5. */
  readonly m: number
  /** λ before the first step, ≥ 0, unless `lambdaMin` is larger. */
  readonly base: number
  /** The speed at which λ falls, ≥ 0 per step. */
  readonly gamma: number
  /** Exponent of 1/(1 + gamma·iteration) in λ, ≥ 0. */
  readonly power: number
  /** λ falls no lower than this, ≥ 0. */
  readonly lambdaMin: number
  /** For how many steps λ has been falling already, an integer from 0. */
  readonly iteration: number
}

/** Made by `mvsoftmax()`. */
export interface MVSoftmaxMargin {
  /** Tells the margins apart. */
  readonly name: 'mvsoftmax'
  /** Whether the target's margin is CosFace's (`'cos'`) or is added to the angle (`'arc'`). */
  readonly kind: 'cos' | 'arc'
  /** s > 0, the factor of every cosine. */
  readonly scale: number
  /** The margin m: subtracted from the target's cosine (`'cos'`, ≥ 0) or added to its angle (`'arc'`, radians, 0 to π). */
  readonly margin: number
  /** The extra weight of hard negatives, ≥ 0. */
  readonly t: number
  /** Whether the harder of the hard negatives count even more: (1 + t)·cos θ + t in place of cos θ + t. */
  readonly adaptive: boolean
  /** Whether targets more than π/2 away have no margin. */
  readonly easyMargin: boolean
}

/** Made by `curricularface()`. */
export interface CurricularFaceMargin {
  /** Tells the margins apart. */
  readonly name: 'curricularface'
  /** s > 0, the factor of every cosine. */
  readonly scale: number
  /** The margin m, added to the target's angle, in radians from 0 to π. */
  readonly margin: number
  /** The progress of the training run, from −1 to 1: the larger, the more hard negatives count. */
  readonly t: number
}

/** Softmax cross-entropy on raw dot products, with a bias where one is given: no normalisation, no margin. */
export function softmaxMargin(parameters?: ParametersOf<SoftmaxMargin>): SoftmaxMargin {
  checkOptions(parameters, 'softmaxMargin', [])
  return { name: 'softmax' }
}

/**
 * NormFace, "modified softmax": scaled cosines (Wang et al. 2017, arXiv:1704.06369). ψ = cos θ.
 * @param parameters `scale` > 0, default 30
 */
export function normface(parameters?: ParametersOf<NormFaceMargin>): NormFaceMargin {
  const { scale = 30 } = checkOptions(parameters, 'normface', ['scale'])
  return { name: 'normface', scale: positiveNumber(scale, 'scale') }
}

/**
 * CosFace, AM-softmax (Wang et al. 2018, arXiv:1801.09414). ψ = cos θ − margin.
 * @param parameters `scale` > 0, default 64; `margin`, default 0.35
 */
export function cosface(parameters?: ParametersOf<CosFaceMargin>): CosFaceMargin {
  const { scale = 64, margin = 0.35 } = checkOptions(parameters, 'cosface', ['scale', 'margin'])
  return { name: 'cosface', scale: positiveNumber(scale, 'scale'), margin: number(margin, 'margin') }
}

/**
 * ArcFace (Deng et al. 2019, arXiv:1801.07698). ψ = cos(θ + margin) while that falls with θ, then the line
 * cos θ − margin·sin(margin); with `easyMargin` cos(θ + margin) only where cos θ > 0, else cos θ.
 * @param parameters `scale` > 0, default 64; `margin` in radians from 0 to π, default 0.5; `easyMargin`, default false
 */
export function arcface(parameters?: ParametersOf<ArcFaceMargin>): ArcFaceMargin {
  const names = ['scale', 'margin', 'easyMargin']
  const { scale = 64, margin = 0.5, easyMargin = false } = checkOptions(parameters, 'arcface', names)
  return {
    name: 'arcface',
    scale: positiveNumber(scale, 'scale'),
    margin: numberInRange(margin, 'margin', 0, Math.PI),
    easyMargin: boolean(easyMargin, 'easyMargin'),
  }
}

/**
 * The combined margin of the ArcFace paper. ψ = cos(m1·θ + m2) − m3.
 * @param parameters `scale` > 0, default 64; `m1` ≥ 0, default 1; `m2` in radians, default 0.3; `m3`, default 0.2
 */
export function combined(parameters?: ParametersOf<CombinedMargin>): CombinedMargin {
  const {
    scale = 64,
    m1 = 1,
    m2 = 0.3,
    m3 = 0.2,
  } = checkOptions(parameters, 'combined', ['scale', 'm1', 'm2', 'm3'])
  return {
    name: 'combined',
    scale: positiveNumber(scale, 'scale'),
    m1: numberInRange(m1, 'm1', 0),
    m2: number(m2, 'm2'),
    m3: number(m3, 'm3'),
  }
}

/**
 * SphereFace, A-softmax (Liu et al. 2017, arXiv:1704.08063). ψ = cos θ + ((−1)^k·cos(mθ) − 2k − cos θ)/(1 + λ) with
 * k = ⌊mθ/π⌋, and λ = max(lambdaMin, base·(1 + gamma·iteration)^(−power)): the margin grows as λ falls.
 * A `MarginHead` counts the iteration itself, from the one given here on.
 * @param parameters `m` from 0 to 5, default 4; `scale` > 0 or `'norm'` (the embedding's own norm), default `'norm'`;
 *   `lambda` ≥ 0 fixes λ, otherwise `base` 1000, `gamma` 0.12, `power` 1, `lambdaMin` 5 and `iteration` 0 give it
 */
export function sphereface(
  parameters?: ParametersOf<SphereFaceMargin> & { lambda?: number | undefined }
): SphereFaceMargin {
  const annealing = ['base', 'gamma', 'power', 'lambdaMin', 'iteration']
  const parsed = checkOptions(parameters, 'sphereface', ['m', 'scale', 'lambda', ...annealing])
  const { m = 4, scale = 'norm', lambda, iteration = 0 } = parsed
  const { base = 1000, gamma = 0.12, power = 1, lambdaMin = 5 } = parsed
  if (lambda !== undefined) {
    for (const name of annealing)
      if (parsed[name as keyof typeof parsed] !== undefined)
        throw wrongValue(`only one of lambda and ${name}`, 'sphereface', name)
    numberInRange(lambda, 'lambda', 0)
  }
  return {
    name: 'sphereface',
    scale: scale === 'norm' ? scale : positiveNumber(scale, 'scale'),
    m: integerInRange(m, 'm', 0, 5),
    base: lambda ?? numberInRange(base, 'base', 0),
    gamma: lambda === undefined ? numberInRange(gamma, 'gamma', 0) : 0,
    power: numberInRange(power, 'power', 0),
    lambdaMin: lambda ?? numberInRange(lambdaMin, 'lambdaMin', 0),
    iteration: integerInRange(iteration, 'iteration', 0),
  }
}

/**
 * MV-Softmax (Wang et al. 2020, arXiv:1912.00833): CosFace or ArcFace whose rows weigh hard negatives more. ψ = cos θ − margin
 * (`kind: 'cos'`) or cos(θ + margin) (`'arc'`). A negative is hard where its cosine exceeds ψ; it then enters the softmax as
 * (1 + t)·cos θ + t, or with `adaptive: false` as cos θ + t. With `easyMargin` ψ is cos θ where that is not above 0, while
 * what is hard stays the same.
 * @param parameters `kind`, default `'cos'`; `scale` > 0, default 32; `margin` ≥ 0, default 0.35, of `'arc'` in radians up to π;
 *   `t` ≥ 0, default 0.2; `adaptive`, default true; `easyMargin`, default true
 */
export function mvsoftmax(parameters?: ParametersOf<MVSoftmaxMargin>): MVSoftmaxMargin {
  const names = ['kind', 'scale', 'margin', 't', 'adaptive', 'easyMargin']
  const parsed = checkOptions(parameters, 'mvsoftmax', names)
  const { kind = 'cos', scale = 32, margin = 0.35, t = 0.2, adaptive = true, easyMargin = true } = parsed
  oneOf(kind, 'kind', ['cos', 'arc'])
  return {
    name: 'mvsoftmax',
    kind,
    scale: positiveNumber(scale, 'scale'),
    margin: numberInRange(margin, 'margin', 0, kind === 'arc' ? Math.PI : Infinity),
    t: numberInRange(t, 't', 0),
    adaptive: boolean(adaptive, 'adaptive'),
    easyMargin: boolean(easyMargin, 'easyMargin'),
  }
}

/**
 * CurricularFace (Huang et al. 2020, arXiv:2004.00288). ψ is ArcFace's. A negative is hard where its cosine exceeds
 * cos(θ + margin); it then enters the softmax as cos θ·(t + cos θ). In the paper t begins at 0 and follows the mean of the
 * targets' cosines, which a head reports after each step: docs/losses.md shows how to hand it on. Here t stays as it is given.
 * @param parameters `scale` > 0, default 64; `margin` in radians from 0 to π, default 0.5; `t` from −1 to 1, default 0
 */
export function curricularface(parameters?: ParametersOf<CurricularFaceMargin>): CurricularFaceMargin {
  const names = ['scale', 'margin', 't']
  const { scale = 64, margin = 0.5, t = 0 } = checkOptions(parameters, 'curricularface', names)
  return {
    name: 'curricularface',
    scale: positiveNumber(scale, 'scale'),
    margin: numberInRange(margin, 'margin', 0, Math.PI),
    t: numberInRange(t, 't', -1, 1),
  }
}

/** Makes each margin from its parameters: the TypeScript side of the list in native/formulas/margin.h, in the same order. */
const factories = {
  softmax: softmaxMargin,
  normface,
  cosface,
  arcface,
  combined,
  sphereface,
  mvsoftmax,
  curricularface,
} as const

/** The names of all margins. */
export const marginNames = Object.keys(factories) as Margin['name'][]

/** The words among the parameters, as native/formulas/margin.h has them. */
const words: Record<string, number> = { norm: 0, cos: 0, arc: 1 }

/** Checks a margin and encodes it for native code: its kind, and its parameters in the order of native/formulas/margin.h. */
export function encodeMargin(value: unknown): {
  margin: Margin
  marginKind: number
  marginParameters: Float64Array
} {
  const margin = checkMargin(value)
  nativeMargins ??= succeeded(native().margins())
  const marginKind = nativeMargins.findIndex(({ name }) => name === margin.name)
  const values = margin as unknown as Record<string, number | boolean | string>
  const marginParameters = Float64Array.from(nativeMargins[marginKind].parameters, (parameter) =>
    Number(words[String(values[parameter])] ?? values[parameter])
  )
  return { margin, marginKind, marginParameters }
}

/** Whether a margin works on cosines, which have no bias, rather than on raw dot products. */
export function isNormalized(margin: Margin): boolean {
  return margin.name !== 'softmax'
}

let nativeMargins: { name: string; parameters: string[] }[] | undefined

/** Puts a margin, perhaps one read from JSON or written by hand, through its factory. */
function checkMargin(value: unknown): Margin {
  if (!isRecord(value)) throw wrongType('a margin such as arcface()', 'margin', value)
  const { name, ...parameters } = value as Margin
  const marginName = oneOf(name, 'margin.name', marginNames)
  return (factories[marginName] as (parameters: object) => Margin)(parameters)
}
