/** Whether a pair belongs together, in the words that lists of trials use. */
import { shown } from '../../internal/file-error'
import { Failure } from '../terminal'

/** The pairs of words with which a list answers. A list uses the words of one pair. */
const vocabularies = [
  ['1', '0'],
  ['1', '-1'],
  ['same', 'different'],
  ['true', 'false'],
  ['target', 'nontarget'],
  ['genuine', 'impostor'],
] as const

/** For messages and the help. */
export const answerWords = vocabularies.map(([yes, no]) => `${yes} or ${no}`).join(', ')

const sameWords = new Set<string>(vocabularies.map(([yes]) => yes))
const words = new Set<string>(vocabularies.flat())

/** One of the words; undefined for anything else. Numbers may be written in any way: 1.0, +1, 1e0. */
function wordOf(value: string | number): string | undefined {
  const text = typeof value === 'number' ? String(value) : value.trim().toLowerCase()
  if (words.has(text)) return text
  const number = text === '' ? Number.NaN : Number(text)
  return words.has(String(number)) ? String(number) : undefined
}

const headings = /^(score|same|issame|is_same|label|answer|match|y)$/i

/** Whether a field of the first line names its column. One above a field of its own words is an answer, too: same, different. */
export function isHeading(field = '', below = ''): boolean {
  const [word, next] = [wordOf(field), wordOf(below)]
  const goesOn = vocabularies.some((pair) => [word, next].every((one) => pair.some((other) => other === one)))
  return headings.test(field) && !goesOn
}

/** One column of a list. */
export interface Column {
  count: number
  valueAt: (p: number) => string | number
  /** The place of pair p in its file, as a reader counts. */
  place: (p: number) => string
}

interface Read {
  same: Uint8Array
  /** The first pair whose answer is none, or of other words than those before; undefined: all are answers. */
  wrong?: number
  /** Whether there are both answers. */
  both: boolean
}

function read({ count, valueAt }: Column): Read {
  const same = new Uint8Array(count)
  const seen = new Set<string>()
  for (let p = 0; p < count; p++) {
    const word = wordOf(valueAt(p))
    if (word === undefined) return { same, wrong: p, both: false }
    if (!seen.has(word)) {
      seen.add(word)
      if (!vocabularies.some((pair) => [...seen].every((one) => pair.some((other) => other === one))))
        return { same, wrong: p, both: false }
    }
    same[p] = Number(sameWords.has(word))
  }
  return { same, both: seen.size === 2 }
}

/** @throws Failure that names the first place whose answer is none */
export function answersOf(column: Column): Uint8Array {
  const { same, wrong } = read(column)
  if (wrong === undefined) return same
  throw new Failure(
    `Expected an answer (${answerWords}; the same two words throughout) in ${column.place(wrong)} but received ${shown(column.valueAt(wrong))}`
  )
}

export type AnswerSide = 'first' | 'last'

/**
 * The column that answers: the first one, as in VoxCeleb's lists, or the last one, as in Kaldi's. Where both could, nothing
 * is guessed.
 * @param requested what `--answer` says
 */
export function chooseAnswers(
  columns: Record<AnswerSide, Column>,
  from: string,
  requested?: AnswerSide
): { side: AnswerSide; same: Uint8Array } {
  if (requested) return { side: requested, same: answersOf(columns[requested]) }
  const [first, last] = [read(columns.first), read(columns.last)]
  const answers = (of: Read) => of.wrong === undefined
  if (answers(first) && answers(last) && first.both === last.both)
    throw new Failure(
      `Expected --answer first or --answer last for ${from} but received neither: its first and its last column both hold answers only`
    )
  const side = answers(first) && (first.both || !answers(last)) ? 'first' : 'last'
  const chosen = side === 'first' ? first : last
  if (answers(chosen)) return { side, same: chosen.same }
  // The column that answers longest is the one that is meant.
  return {
    side,
    same: answersOf((first.wrong as number) > (last.wrong as number) ? columns.first : columns.last),
  }
}
