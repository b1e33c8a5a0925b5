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
  const range = most === Number.POSITIVE_INFINITY ? `of at least ${least}` : `from ${least} to ${most}`
  return numberThat((value) => value >= least && value <= most, range)
}

export function numberAbove(bound: number, most = Number.POSITIVE_INFINITY): (text: string) => number {
  const range = most === Number.POSITIVE_INFINITY ? `above ${bound}` : `above ${bound}, at most ${most}`
  return numberThat((value) => value > bound && value <= most, range)
}

export const anyNumber = numberThat(() => true, 'such as -0.5')

function numberThat(suits: (value: number) => boolean, range: string): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (text.trim() === '' || !Number.isFinite(value) || !suits(value))
      throw new InvalidArgumentError(`Expected a number ${range}.`)
    return value
  }
}
