/** Text files as UTF-8 bytes in parts of whole lines, whatever their encoding. */
import { isUtf8 } from 'node:buffer'
import type { FileHandle } from 'node:fs/promises'

export const ascii = {
  newline: 0x0a,
  carriageReturn: 0x0d,
  quote: 0x22,
  minus: 0x2d,
  point: 0x2e,
  zero: 0x30,
} as const

/** A line of a million numbers is shorter. Its fields become strings, so a limit of the memory is a limit of the line. */
export const longestLine = 2 ** 24
const partBytes = 2 ** 20

/**
 * A file's text as UTF-8, in parts that end where lines end, without a byte order mark.
 * @param encoding of a file that is not UTF-8, as TextDecoder names it; a byte order mark of UTF-16 says it, too
 * @param lines how many lines whoever takes the parts has seen
 * @throws Error that says in which line the text is not of its encoding
 */
export async function* textOf(
  file: FileHandle,
  encoding: string | undefined,
  lines: () => number
): AsyncGenerator<Buffer> {
  const bytes: AsyncIterable<Buffer> = file.createReadStream({ highWaterMark: partBytes, autoClose: false })
  const { marked, parts } = await takeMark(bytes, encoding)
  const name = encoding ?? marked ?? 'utf-8'
  const isPlain = new TextDecoder(name).encoding === 'utf-8'
  for await (const part of wholeLines(isPlain ? parts : decoded(parts, name, lines), lines)) {
    rejectBytes(part, lines)
    yield part
  }
}

const marks: [string, number[]][] = [
  ['utf-8', [0xef, 0xbb, 0xbf]],
  ['utf-32le', [0xff, 0xfe, 0, 0]],
  ['utf-16le', [0xff, 0xfe]],
  ['utf-16be', [0xfe, 0xff]],
]

/** Takes a byte order mark away from the beginning. */
async function takeMark(
  bytes: AsyncIterable<Buffer>,
  encoding: string | undefined
): Promise<{ marked: string | undefined; parts: AsyncIterable<Buffer> }> {
  const iterator = bytes[Symbol.asyncIterator]()
  const { value: first = Buffer.alloc(0) } = await iterator.next()
  const found = marks.find(([, mark]) => mark.every((byte, i) => first[i] === byte))
  const [marked, mark = []] = found ?? []
  const isOther = marked && encoding && new TextDecoder(encoding).encoding !== marked
  if (isOther || marked === 'utf-32le') {
    await iterator.return?.()
    throw new Error(
      `it begins with a byte order mark of ${marked.toUpperCase()}, which is ${isOther ? `not ${encoding}` : 'not read: save it as UTF-8'}`
    )
  }
  async function* parts() {
    yield first.subarray(mark.length)
    yield* { [Symbol.asyncIterator]: () => iterator }
  }
  return { marked, parts: parts() }
}

/** Another encoding as UTF-8. What it has no character for is an error, never one and the same replacement. */
async function* decoded(
  parts: AsyncIterable<Buffer>,
  encoding: string,
  lines: () => number
): AsyncGenerator<Buffer> {
  const decoder = new TextDecoder(encoding)
  let unfinished = '' // the beginning of a line that nobody has counted yet
  const checked = (text: string) => {
    const wrong = text.indexOf('\ufffd')
    if (wrong >= 0) {
      const before = `${unfinished}${text.slice(0, wrong)}`
      const line = lines() + 1 + (before.match(/\r\n|\n|\r/g) ?? []).length
      throw new Error(`line ${line} is not ${encoding}`)
    }
    unfinished = `${unfinished}${text}`.slice(-longestLine)
    unfinished = unfinished.slice(Math.max(unfinished.lastIndexOf('\n'), unfinished.lastIndexOf('\r')) + 1)
    return Buffer.from(text)
  }
  for await (const part of parts) yield checked(decoder.decode(part, { stream: true }))
  yield checked(decoder.decode())
}

/** Bytes that are no text in UTF-8. */
function rejectBytes(part: Buffer, lines: () => number): void {
  const zero = part.indexOf(0)
  if (zero >= 0)
    throw new Error(
      `line ${lines() + 1 + lineEndsIn(part.subarray(0, zero))} has a zero byte: it is no text, or UTF-16 without a byte order mark, which --encoding utf-16le or utf-16be says`
    )
  if (isUtf8(part)) return
  // Halves of a character are no UTF-8 either: the search goes by whole lines.
  let line = lines() + 1
  for (let begin = 0; begin < part.length; line++) {
    const end = endOfLine(part, begin)
    if (!isUtf8(part.subarray(begin, end))) break
    begin = end
  }
  throw new Error(`line ${line} is not UTF-8: say what it is with --encoding, such as windows-1252 or gbk`)
}

/** Behind the end of the line that begins at `begin`. */
function endOfLine(bytes: Buffer, begin: number): number {
  let end = begin
  while (end < bytes.length && bytes[end] !== ascii.newline && bytes[end] !== ascii.carriageReturn) end++
  if (bytes[end] === ascii.carriageReturn && bytes[end + 1] === ascii.newline) end++
  return end + 1
}

function lineEndsIn(bytes: Buffer): number {
  return (bytes.toString('latin1').match(/\r\n|\n|\r/g) ?? []).length
}

/** Parts that end where lines end. */
async function* wholeLines(parts: AsyncIterable<Buffer>, lines: () => number): AsyncGenerator<Buffer> {
  let rest: Buffer[] = []
  let restBytes = 0
  for await (const part of parts) {
    // Shorter lines than a part need no limit.
    const lineEnd = part.findIndex((byte) => byte === ascii.newline || byte === ascii.carriageReturn)
    if (restBytes + (lineEnd < 0 ? part.length : lineEnd) > longestLine)
      throw new Error(`line ${lines() + 1} is longer than the limit of ${longestLine} bytes`)
    // A carriage return at a part's end may be half of a line's end.
    const end =
      part.lastIndexOf(ascii.newline) + 1 || part.subarray(0, -1).lastIndexOf(ascii.carriageReturn) + 1
    if (end > 0) {
      yield Buffer.concat([...rest, part.subarray(0, end)])
      rest = []
      restBytes = 0
    }
    rest.push(part.subarray(end))
    restBytes += part.length - end
  }
  yield Buffer.concat(rest)
}
