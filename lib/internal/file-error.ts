// This module words the errors of files: in one shape, without a character that could steer a terminal.
import os from 'node:os'
import { MarginSoftmaxError } from '../errors'

/**
 * A text from outside (names, metadata, labels, system messages) for a message or a terminal: control characters, line
 * ends among them, and signs that turn the direction of writing become `\u…` escapes.
 */
export function printable(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  )
}

/** A value of a file's JSON in a few words. What is in an object is not looked at: it may be nested to any depth. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(brief(value))
  if (typeof value !== 'object' || value === null) return String(value)
  return Array.isArray(value) ? 'an array' : 'an object'
}

/** The beginning of a name: those in a file may have any length. */
export function brief(name: string): string {
  return name.length > 80 ? `${name.slice(0, 80)}…` : name
}

/** Why a call to the system failed. Node.js has no name for every error: a full quota would be "Unknown system error -122". */
export function reasonOf(cause: unknown): string {
  const { message = String(cause), errno } = (cause ?? {}) as NodeJS.ErrnoException
  if (!message.startsWith('Unknown system error') || errno === undefined) return message
  const name = Object.entries(os.constants.errno).find(([, number]) => number === -errno)?.[0]
  if (!name) return message
  const words = name === 'EDQUOT' ? 'the disk quota is used up' : 'an error of the system'
  return message.replace(/^(Unknown system error -\d+(: )?)+/, `${name}: ${words}`)
}

/** @param expected as in `Expected to write head.safetensors` */
export function fileError(expected: string, cause: unknown): MarginSoftmaxError {
  if (cause instanceof MarginSoftmaxError) return cause
  return new MarginSoftmaxError('ERR_FILE', printable(`${expected} but: ${reasonOf(cause)}`), { cause })
}

/** Parses JSON that a file must hold as its `what`. Throws a plain Error that says what is wrong. */
export function parseJson(text: unknown, what: string): unknown {
  if (typeof text !== 'string') throw new Error(`it has no ${what}`)
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new Error(`its ${what} is no JSON: ${(cause as Error).message}`, { cause })
  }
}

/** The properties of an object in a file's JSON. */
export function propertiesOf(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`its ${what} is ${shown(value)}, not an object`)
  return value as Record<string, unknown>
}
