/** Options that several commands share, and what their arguments may be. */
import { InvalidArgumentError } from 'commander'

export function integerFrom(least: number, most = 2 ** 31 - 1): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < least || value > most)
      throw new InvalidArgumentError(
        most === 2 ** 31 - 1
          ? `Expected an integer of at least ${least}.`
          : `Expected an integer from ${least} to ${most}.`
      )
    return value
  }
}

export function numberFrom(least: number, most = Number.POSITIVE_INFINITY): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (text.trim() === '' || !(value >= least && value <= most) || !Number.isFinite(value))
      throw new InvalidArgumentError(
        most === Number.POSITIVE_INFINITY
          ? `Expected a number of at least ${least}.`
          : `Expected a number from ${least} to ${most}.`
      )
    return value
  }
}
