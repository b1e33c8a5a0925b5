// Options as tables, a row for each: what it may be, and what undefined stands for. Lists of names, defaults and the types
// of the values follow from the rows, so that none of them can be forgotten elsewhere.
import { wrongValue } from '../errors'
import { boolean, ignoreIndexRange, integerInRange, numberInRange, oneOf } from './check'

/** The texts that may be typed for an option. */
export type Form =
  | { kind: 'flag' }
  | { kind: 'integer' | 'number' | 'number above'; min: number; max: number }
  | { kind: 'choice'; choices: readonly string[] }

export interface OptionRow<Value> {
  /** @throws TypeError, RangeError */
  check(value: unknown, name: string): Value
  /** The value for undefined, before the check; without it the option must be given. */
  default?: unknown
}

/** An option that a text can say. */
export interface FormedRow<Value> extends OptionRow<Value> {
  default: Value
  form: Form
}

export function flag(usual: boolean): FormedRow<boolean> {
  return { check: boolean, default: usual, form: { kind: 'flag' } }
}

export function integerRow(usual: number, min: number, max = Number.MAX_SAFE_INTEGER): FormedRow<number> {
  const check = (value: unknown, name: string) => integerInRange(value, name, min, max)
  return { check, default: usual, form: { kind: 'integer', min, max } }
}

export function numberRow(usual: number, min: number, max = Number.POSITIVE_INFINITY): FormedRow<number> {
  const check = (value: unknown, name: string) => numberInRange(value, name, min, max)
  return { check, default: usual, form: { kind: 'number', min, max } }
}

/** A number above `bound`. */
export function numberAboveRow(
  usual: number,
  bound: number,
  max = Number.POSITIVE_INFINITY
): FormedRow<number> {
  const check = (value: unknown, name: string) => {
    if (numberInRange(value, name, bound, max) === bound)
      throw wrongValue(`a number above ${bound}`, name, value)
    return value as number
  }
  return { check, default: usual, form: { kind: 'number above', min: bound, max } }
}

export function choiceRow<Choice extends string>(
  usual: Choice,
  choices: readonly Choice[]
): FormedRow<Choice> {
  const check = (value: unknown, name: string) => oneOf(value, name, choices)
  return { check, default: usual, form: { kind: 'choice', choices } }
}

/** The label of rows that take no part in a loss. */
export const ignoreIndexRow = integerRow(-1, ...ignoreIndexRange)
/** ε of a loss. */
export const labelSmoothingRow = numberRow(0, 0, 1)
/** The error that a step may make in a gradient by skipping terms, as a multiple of its norm. */
export const negligibleRow = (usual: number) => numberRow(usual, 0, 1e-3)
/** The seed of random numbers. */
export const seedRow = integerRow(0, 0)

/** The values of a table's options. */
export type ValuesOf<Table> = {
  -readonly [Name in keyof Table]: Table[Name] extends { check(value: unknown, name: string): infer Value }
    ? Value
    : never
}

/**
 * Checks options that have been read (`checkOptions`). A default stands in for what was not given, never for null, which is a
 * mistake to be named as one.
 * @param within precedes each name in a message, for an option that is an object: `'projection.'`
 */
export function valuesOf<Table extends object>(table: Table, options: object, within = ''): ValuesOf<Table> {
  const values: Record<string, unknown> = {}
  for (const [name, row] of Object.entries(table) as [string, OptionRow<unknown>][]) {
    const value = (options as Record<string, unknown>)[name]
    values[name] = row.check(value === undefined ? row.default : value, within + name)
  }
  return values as ValuesOf<Table>
}

/** The names of a table. */
export const namesIn = <Table extends object>(table: Table) => Object.keys(table) as (keyof Table & string)[]

/** The names of a type of options, all of them: one too many or too few does not compile. */
export function namesOf<Options extends object>(names: Record<keyof Options, true>): string[] {
  return Object.keys(names)
}
