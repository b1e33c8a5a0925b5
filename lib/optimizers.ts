import { wrongType } from './errors'
import { boolean, checkOptions, numberInRange, oneOf, type ParametersOf } from './internal/check'
import { isRecord } from './internal/intrinsics'

/** Says how a `MarginHead` updates its class weights: a plain, serialisable value made by `sgd` or `adamW`. */
export type Optimizer = SgdOptimizer | AdamWOptimizer

/** Made by `sgd()`. Its state is one array [C,D] where there is momentum. */
export interface SgdOptimizer {
  /** Tells the optimizers apart. */
  readonly name: 'sgd'
  /** ≥ 0; a step may be given another. */
  readonly learningRate: number
  /** Share of the last step's direction that is kept, from 0 to 1. */
  readonly momentum: number
  /** Whether the gradient is taken at the point to which the momentum leads (Nesterov). */
  readonly nesterov: boolean
  /** ≥ 0. weightDecay·weight is added to the gradient. A bias decays, too. */
  readonly weightDecay: number
}

/** Made by `adamW()`. Its state is two arrays [C,D]. */
export interface AdamWOptimizer {
  /** Tells the optimizers apart. */
  readonly name: 'adamw'
  /** ≥ 0; a step may be given another. */
  readonly learningRate: number
  /** Decay of the running mean of the gradients, from 0 to below 1. */
  readonly beta1: number
  /** Decay of the running mean of their squares, from 0 to below 1. */
  readonly beta2: number
  /** Added to the square root of that mean, ≥ 0. */
  readonly epsilon: number
  /** ≥ 0. Each step takes learningRate·weightDecay of every weight away. */
  readonly weightDecay: number
}

/**
 * Stochastic gradient descent, with the arithmetic of torch.optim.SGD at dampening 0.
 * @param parameters `learningRate` ≥ 0, default 0.1; `momentum` from 0 to 1, default 0; `nesterov`, default false;
 *   `weightDecay` ≥ 0, default 0
 */
export function sgd(parameters?: ParametersOf<SgdOptimizer>): SgdOptimizer {
  const parsed = checkOptions(parameters, 'sgd', ['learningRate', 'momentum', 'nesterov', 'weightDecay'])
  const { learningRate = 0.1, momentum = 0, nesterov = false, weightDecay = 0 } = parsed
  return {
    name: 'sgd',
    learningRate: numberInRange(learningRate, 'learningRate', 0),
    momentum: numberInRange(momentum, 'momentum', 0, 1),
    nesterov: boolean(nesterov, 'nesterov'),
    weightDecay: numberInRange(weightDecay, 'weightDecay', 0),
  }
}

/**
 * Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101), with the arithmetic of torch.optim.AdamW.
 * @param parameters `learningRate` ≥ 0, default 0.001; `beta1`, default 0.9, and `beta2`, default 0.999, from 0 to below 1;
 *   `epsilon` ≥ 0, default 1e-8; `weightDecay` ≥ 0, default 0.01
 */
export function adamW(parameters?: ParametersOf<AdamWOptimizer>): AdamWOptimizer {
  const parsed = checkOptions(parameters, 'adamW', [
    'learningRate',
    'beta1',
    'beta2',
    'epsilon',
    'weightDecay',
  ])
  const { learningRate = 0.001, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0.01 } = parsed
  const belowOne = 1 - 2 ** -24 // the largest single-precision number below 1
  return {
    name: 'adamw',
    learningRate: numberInRange(learningRate, 'learningRate', 0),
    beta1: numberInRange(beta1, 'beta1', 0, belowOne),
    beta2: numberInRange(beta2, 'beta2', 0, belowOne),
    epsilon: numberInRange(epsilon, 'epsilon', 0),
    weightDecay: numberInRange(weightDecay, 'weightDecay', 0),
  }
}

const factories = { sgd, adamw: adamW }

/** Puts an optimizer, perhaps one read from a file, through its factory. */
export function checkOptimizer(value: unknown): Optimizer {
  if (!isRecord(value)) throw wrongType('an optimizer such as sgd()', 'optimizer', value)
  const { name, ...parameters } = value as Optimizer
  const make = factories[oneOf(name, 'optimizer.name', ['sgd', 'adamw'])] as (parameters: object) => Optimizer
  return make(parameters)
}
