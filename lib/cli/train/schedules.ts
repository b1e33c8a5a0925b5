/** The learning rate of each step: a warm-up in a straight line, then a schedule over the steps that remain. */

export const scheduleNames = ['cosine', 'constant', 'polynomial', 'step'] as const

export interface Schedule {
  /** The rate after the warm-up. */
  learningRate: number
  /**
   * `cosine`: to 0 along half a wave. `polynomial`: to 0 as (1 − p)^power, p being the share of the steps after the warm-up
   * that are done. `step`: times gamma at the beginning of each milestone. `constant`: as it is.
   */
  schedule: (typeof scheduleNames)[number]
  power: number
  /** Epochs that are done when the rate is multiplied, in ascending order; as torch.optim.lr_scheduler.MultiStepLR. */
  milestones: readonly number[]
  gamma: number
  /** Steps over which the rate grows: step k of w has the share (k + 1)/w. */
  rateWarmupSteps: number
}

/** @param step from 0, of `steps`; `epochSteps` of them are an epoch */
export function learningRateAt(schedule: Schedule, step: number, steps: number, epochSteps: number): number {
  const { learningRate, power, milestones, gamma, rateWarmupSteps } = schedule
  if (step < rateWarmupSteps) return (learningRate * (step + 1)) / rateWarmupSteps
  const done = (step - rateWarmupSteps) / (steps - rateWarmupSteps)
  switch (schedule.schedule) {
    case 'constant':
      return learningRate
    case 'cosine':
      return (learningRate * (1 + Math.cos(Math.PI * done))) / 2
    case 'polynomial':
      return learningRate * (1 - done) ** power
    case 'step': {
      const epoch = Math.floor(step / epochSteps)
      return learningRate * gamma ** milestones.filter((milestone) => milestone <= epoch).length
    }
  }
}
