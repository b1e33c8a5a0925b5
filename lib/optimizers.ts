import { boolean, numberFrom, oneOf, options } from './check'
import { wrongType } from './errors'

/** How a `MarginHead` updates its class weights: a plain, serialisable value made by `sgd` or `adamW`. */
export type Optimizer = SgdOptimizer | AdamWOptimizer

export interface SgdOptimizer {
  readonly name: 'sgd'
  readonly learningRate: number
  readonly momentum: number
  readonly nesterov: boolean
  readonly weightDecay: number
}

export interface AdamWOptimizer {
  readonly name: 'adamw'
  readonly learningRate: number
  readonly beta1: number
  readonly beta2: number
  readonly epsilon: number
  readonly weightDecay: number
}

type Parameters<O extends Optimizer> = Partial<Omit<O, 'name'>>

/**
 * Stochastic gradient descent; arithmetic of torch.optim.SGD with dampening 0.
 * @param parameters `learningRate` ≥ 0, default 0.1; `momentum` from 0 to 1, default 0; `nesterov`, default false;
 *   `weightDecay` ≥ 0, default 0
 */
export function sgd(parameters?: Parameters<SgdOptimizer>): SgdOptimizer {
  const known = options(parameters, 'sgd', ['learningRate', 'momentum', 'nesterov', 'weightDecay'])
  const { learningRate = 0.1, momentum = 0, nesterov = false, weightDecay = 0 } = known
  return {
    name: 'sgd',
    learningRate: numberFrom(learningRate, 'learningRate', 0),
    momentum: numberFrom(momentum, 'momentum', 0, 1),
    nesterov: boolean(nesterov, 'nesterov'),
    weightDecay: numberFrom(weightDecay, 'weightDecay', 0),
  }
}

/**
 * Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101); arithmetic of torch.optim.AdamW.
 * @param parameters `learningRate` ≥ 0, default 0.001; `beta1`, default 0.9, and `beta2`, default 0.999, from 0 to below 1;
 *   `epsilon` ≥ 0, default 1e-8; `weightDecay` ≥ 0, default 0.01
 */
export function adamW(parameters?: Parameters<AdamWOptimizer>): AdamWOptimizer {
  const known = options(parameters, 'adamW', ['learningRate', 'beta1', 'beta2', 'epsilon', 'weightDecay'])
  const { learningRate = 0.001, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0.01 } = known
  const belowOne = 1 - 2 ** -24 // the largest single-precision number below 1
  return {
    name: 'adamw',
    learningRate: numberFrom(learningRate, 'learningRate', 0),
    beta1: numberFrom(beta1, 'beta1', 0, belowOne),
    beta2: numberFrom(beta2, 'beta2', 0, belowOne),
    epsilon: numberFrom(epsilon, 'epsilon', 0),
    weightDecay: numberFrom(weightDecay, 'weightDecay', 0),
  }
}

const factories = { sgd, adamw: adamW }

/** Puts an optimizer, perhaps one read from a file, through its factory. */
export function checkOptimizer(value: unknown): Optimizer {
  if (typeof value !== 'object' || value === null)
    throw wrongType('an optimizer such as sgd()', 'optimizer', value)
  const { name, ...parameters } = value as Optimizer
  const make = factories[oneOf(name, 'optimizer.name', ['sgd', 'adamw'])] as (parameters: object) => Optimizer
  return make(parameters)
}
