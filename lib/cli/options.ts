/** Options that several commands share, and what their arguments may be. */
import { type Command, InvalidArgumentError, Option } from 'commander'

/** Adds notes, wrapped to the terminal's width, and examples behind the options in a command's help. */
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

export function parseInteger(min: number, max = 2 ** 31 - 1): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < min || value > max)
      throw new InvalidArgumentError(
        max === 2 ** 31 - 1
          ? `Expected an integer of at least ${min}.`
          : `Expected an integer from ${min} to ${max}.`
      )
    return value
  }
}

/** `--threads`, as each command that computes takes it. */
export function threadsOption(): Option {
  return new Option('--threads <number>', 'of the processor (default: all)').argParser(parseInteger(1, 1023))
}

export function parseNumber(min: number, max = Number.POSITIVE_INFINITY): (text: string) => number {
  const range = max === Number.POSITIVE_INFINITY ? `of at least ${min}` : `from ${min} to ${max}`
  return parserOf((value) => value >= min && value <= max, range)
}

export function parseNumberAbove(bound: number, max = Number.POSITIVE_INFINITY): (text: string) => number {
  const range = max === Number.POSITIVE_INFINITY ? `above ${bound}` : `above ${bound}, at most ${max}`
  return parserOf((value) => value > bound && value <= max, range)
}

/** The upper bound excluded. */
export function parseNumberFrom(min: number, bound: number): (text: string) => number {
  return parserOf((value) => value >= min && value < bound, `from ${min} to below ${bound}`)
}

/** Both bounds excluded. */
export function parseNumberBetween(min: number, max: number): (text: string) => number {
  return parserOf((value) => value > min && value < max, `above ${min} and below ${max}`)
}

export const parseAnyNumber = parserOf(() => true, 'such as -0.5')

function parserOf(suits: (value: number) => boolean, range: string): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (text.trim() === '' || !Number.isFinite(value) || !suits(value))
      throw new InvalidArgumentError(`Expected a number ${range}.`)
    return value
  }
}
