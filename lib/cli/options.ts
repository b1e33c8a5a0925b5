/** Options that several commands share, and what their arguments may be. */
import { type Command, InvalidArgumentError, Option } from 'commander'

/** What follows the options in a command's help: how it works, as wide as the terminal is, and what to type. */
export function explain(command: Command, examples: string[], notes: string[] = []): void {
  command.addHelpText('after', ({ error }) => {
    const { getErrHelpWidth, getOutHelpWidth } = command.configureOutput()
    const width = (error ? getErrHelpWidth : getOutHelpWidth)?.() ?? 80
    return [
      ...notes.map((note) => `\n${command.createHelp().boxWrap(note, width)}`),
      `\nExample${examples.length > 1 ? 's' : ''}:`,
      ...examples.map((example) => `  $ npx margin-softmax ${example}`),
    ].join('\n')
  })
}

/** An option under another name, which the help does not show. */
class Alias extends Option {
  constructor(
    flags: string,
    private readonly of: Option
  ) {
    super(flags, of.description)
    this.hideHelp()
    this.parseArg = of.parseArg
  }

  override attributeName(): string {
    return this.of.attributeName()
  }
}

/** Adds an option that is also understood by the names that other programs have for it. */
export function addWithAliases(command: Command, option: Option, aliases: string[]): void {
  command.addOption(option)
  const argument = option.flags.replace(/^\S+/, '')
  for (const alias of aliases) command.addOption(new Alias(alias + argument, option))
}

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

/** Both bounds excluded. */
export function numberBetween(low: number, high: number): (text: string) => number {
  return numberThat((value) => value > low && value < high, `above ${low} and below ${high}`)
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
