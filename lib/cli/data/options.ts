/** Options of the commands that read embeddings from files, and what they say of what was read. */
import { type Command, InvalidArgumentError } from 'commander'
import { counted, Misuse } from '../terminal'
import { type FileArray, isText, parseSource, type TextOptions } from './files'
import type { ClassLabels } from './labels'

export function addTextOptions(command: Command): Command {
  addColumns(command)
  command.option('--label-column <name>', 'of a text file that holds labels: a name or number as above')
  return addEncoding(command)
}

/** As `addTextOptions`, of a command that reads no labels. */
export const addColumnOptions = (command: Command) => addEncoding(addColumns(command))

function addColumns(command: Command): Command {
  return command.option(
    '--columns <list>',
    'of a text file that hold embeddings: names of its header or, where it has none, numbers from 1, such as f0:f127'
  )
}

function addEncoding(command: Command): Command {
  return command.option(
    '--encoding <name>',
    'of text files: utf-8, windows-1252, utf-16le, gbk, … (default: utf-8)',
    encoding
  )
}

function encoding(name: string): string {
  try {
    return new TextDecoder(name).encoding
  } catch {
    throw new InvalidArgumentError(
      'Expected a name that the Encoding Standard knows, such as utf-8, windows-1252, utf-16le or gbk.'
    )
  }
}

type Files = string | undefined | (string | undefined)[]

/**
 * Refuses an option that none of the files heeds.
 * @param others that only have an encoding
 */
export function checkTextOptions(
  options: TextOptions,
  embeddings: Files,
  labels: Files,
  others: (string | undefined)[] = []
): void {
  const uses: [string, string | undefined, (string | undefined)[]][] = [
    ['--columns', options.columns, [embeddings].flat()],
    ['--label-column', options.labelColumn, [labels].flat()],
    ['--encoding', options.encoding, [embeddings, labels, others].flat()],
  ]
  for (const [flag, value, files] of uses) {
    const dataFiles = files.filter((file) => file !== undefined)
    if (value === undefined || dataFiles.some((file) => isText(parseSource(file).path))) continue
    const why = dataFiles.length ? `with ${dataFiles.join(', ')}, no text file,` : 'without labels'
    throw new Misuse(`Expected no ${flag} ${why} but received ${value}`)
  }
}

/** A summary of what was read, for --json and, as a sentence, for stderr. */
export interface Reading {
  embeddings: { from: string; rows: number; columns: number; notes: string[] }
  labels?: { from: string; classes: number; numbering: ClassLabels['numbering']; notes: string[] }
}

export function readingOf(embeddings: FileArray, labels?: FileArray, classes?: ClassLabels): Reading {
  const [rows = 0, columns = 0] = embeddings.shape
  return {
    embeddings: { from: embeddings.from, rows, columns, notes: embeddings.notes ?? [] },
    ...(labels &&
      classes && {
        labels: {
          from: labels.from,
          classes: classes.classes,
          numbering: classes.numbering,
          notes: labels.notes ?? [],
        },
      }),
  }
}

const numberings: Record<ClassLabels['numbering'], [string, string]> = {
  names: ['name', 'names'],
  renumbered: ['number, renumbered', 'numbers, renumbered'],
  'as given': ['class', 'classes'],
}

/** @param more what else there is to say of the labels */
export function sentenceOf({ embeddings, labels }: Reading, ...more: string[]): string {
  const { from, rows, columns, notes } = embeddings
  const parts = [`Read ${from}: ${counted(rows, 'row')} × ${counted(columns, 'number')}`, ...notes]
  if (!labels) return `${parts.join(', ')}.`
  const [one, many] = numberings[labels.numbering]
  const place = [...(labels.from === from ? [] : [labels.from]), ...labels.notes].join(', ')
  const said = [counted(labels.classes, one, many), ...more].join(', ')
  return `${parts.join(', ')}; labels${place && ` in ${place}`}: ${said}.`
}
