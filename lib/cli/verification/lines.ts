/** Lists as text, of fields that need not be numbers: trials and scores. */
import { reasonOf } from '../../internal/file-error'
import { withFile } from '../../internal/read-file'
import { wholeFieldsOf } from '../data/fields'
import { textOf } from '../data/text'
import { Failure } from '../terminal'

export interface Lines {
  from: string
  /** The fields of each line that is not blank. */
  fields: string[][]
  /** The number of a line, as an editor counts. */
  place: (line: number) => string
}

/**
 * Fields are parted by tabs, commas or semicolons, whichever of these the file's first lines have, else by spaces.
 * @param what names it in messages
 */
export async function readLines(path: string, what: string, encoding: string | undefined): Promise<Lines> {
  try {
    return await withFile(path, async (file) => {
      const lines: { number: number; text: string }[] = []
      let number = 0
      for await (const part of textOf(file, encoding, () => number)) {
        const texts = part.toString('utf8').split(/\r\n|\n|\r/)
        if (texts.at(-1) === '') texts.pop() // parts end where lines end
        for (const text of texts) {
          number++
          if (text.trim() !== '') lines.push({ number, text })
        }
      }
      if (lines.length === 0) throw new Error('it has no lines')
      // The second line as well: the first one may be a header with fewer fields.
      const begin = lines.slice(0, 2)
      const separator = ['\t', ',', ';'].find((sign) => begin.some(({ text }) => text.includes(sign)))
      const fields = lines.map((line) =>
        separator === undefined
          ? line.text.trim().split(/\s+/)
          : wholeFieldsOf(line, separator).map((field) => field.trim())
      )
      return { from: path, fields, place: (line: number) => `line ${lines[line]?.number} of ${path}` }
    })
  } catch (cause) {
    if (cause instanceof Failure) throw cause
    throw new Failure(`Expected ${what} in ${path} but: ${reasonOf(cause)}`, { cause })
  }
}
