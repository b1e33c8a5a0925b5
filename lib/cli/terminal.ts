/** Output of the commands: results go to stdout, progress and complaints to stderr, progress only in a terminal. */
import { constants, readFileSync, statSync } from 'node:fs'
import { access, mkdir } from 'node:fs/promises'
import path from 'node:path'
import { Presets, SingleBar } from 'cli-progress'
import { printable, reasonOf } from '../internal/file-error'
import { notRegular } from '../internal/read-file'
import { isStream, targetOf } from '../internal/write-file'

/** A command that could not do its work: exit code 1, with this message alone. */
export class Failure extends Error {}

/** Options that do not go together: exit code 2. */
export class Misuse extends Error {}

/** `signalled` and the signal's number: 130 after Ctrl-C. */
export const exitCodes = { success: 0, failure: 1, misuse: 2, signalled: 128 } as const

/** A line, or several. What came from files cannot steer the terminal. */
export function print(text = ''): void {
  printStyled(printableLines(text))
}

/** As `printable`, of a text with line ends of ours. */
export const printableLines = (text: string) => text.split('\n').map(printable).join('\n')

function printStyled(line: string): void {
  process.stdout.write(`${line}\n`)
}

/** A message on stderr. */
export function complain(text: string): void {
  process.stderr.write(`${printableLines(text)}\n`)
}

/** As JSON; numbers that JSON has no word for become null. */
export function printJson(value: unknown): void {
  const plain = (_: string, part: unknown) =>
    ArrayBuffer.isView(part) ? [...(part as unknown as number[])] : part
  print(JSON.stringify(value, plain, 2)) // what JSON leaves as it is and `print` escapes are escapes of JSON, too
}

/** Bold or dim in a terminal that wants colour. */
export function styled(style: 'bold' | 'dim', text: string): string {
  if (!process.stdout.isTTY || process.env.NO_COLOR || process.env.TERM === 'dumb') return text
  return style === 'bold' ? `\x1b[1m${text}\x1b[22m` : `\x1b[2m${text}\x1b[22m`
}

/** Names and what belongs to them, one a line. */
export function printList(entries: [string, string][]): void {
  const rows = entries.map((entry) => entry.map(printable) as typeof entry)
  const width = longest(rows.map(([name]) => name))
  for (const [name, value] of rows) printStyled(`${styled('dim', name.padEnd(width))}  ${value}`)
}

/** The first column to the left, the others to the right; the first row is the head. */
export function printTable(cells: string[][]): void {
  const rows = cells.map((row) => row.map(printable))
  const widths = rows[0]?.map((_, column) => longest(rows.map((row) => row[column] ?? ''))) ?? []
  rows.forEach((row, i) => {
    const cells = row.map((cell, j) =>
      j === 0 ? cell.padEnd(widths[j] as number) : cell.padStart(widths[j] as number)
    )
    const line = cells.join('   ').trimEnd()
    printStyled(i === 0 ? styled('dim', line) : line)
  })
}

/** Not by spreading arguments: there may be any number. */
const longest = (texts: string[]) => texts.reduce((soFar, { length }) => Math.max(soFar, length), 0)

/** A bar on stderr where that is a terminal, else nothing. It is gone when the work is done. */
export class Progress {
  #bar: SingleBar | undefined
  /** Columns that are left for words. */
  #room = 0

  start(title: string, total: number, at = 0): void {
    if (!process.stderr.isTTY) return
    const columns = process.stderr.columns || 80
    const barsize = Math.max(8, Math.min(24, columns - 64))
    this.#room = columns - title.length - barsize - ' '.length - ' 100 %  '.length
    const format = '{title} {bar} {percentage} %  {summary}'
    this.#bar = new SingleBar(
      { format, barsize, fps: 8, stream: process.stderr, clearOnComplete: true },
      Presets.shades_classic
    )
    this.#bar.start(total, at, { title, summary: '' })
  }

  /** @param parts what there is to say; those in the middle go where there is no room, the last one stays longest */
  update(at: number, ...parts: string[]): void {
    const fitting = [...parts]
    while (fitting.length > 1 && fitting.join('  ').length > this.#room) fitting.splice(-2, 1)
    this.#bar?.update(at, { summary: fitting.join('  ') })
  }

  /** Ends the bar and gives the terminal back as it was. */
  stop(): void {
    this.#bar?.stop()
    this.#bar = undefined
  }
}

/** 0.4 s, 12 s, 2 min 05 s */
export function duration(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, '0')} s`
}

export function percent(share: number, decimals = 2): string {
  return `${(share * 100).toFixed(decimals)} %`
}

export function megabytes(bytes: number): string {
  if (bytes >= 2 ** 30) return `${(bytes / 2 ** 30).toFixed(1)} GiB`
  return bytes >= 2 ** 20 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${(bytes / 2 ** 10).toFixed(1)} KiB`
}

export const counted = (count: number, one: string, many = `${one}s`) =>
  `${count.toLocaleString('en')} ${count === 1 ? one : many}`

/**
 * Better to hear now than after the work that its result cannot be written.
 * @param streams whether it may be a pipe, a terminal or another device, which `writeReport` writes through
 */
export async function checkTarget(file: string, option: string, streams = false): Promise<void> {
  try {
    await mkdir(path.dirname(file), { recursive: true })
    const target = await targetOf(file)
    if (target.info?.isDirectory())
      throw new Misuse(`Expected a file name for ${option} but received the folder ${file}`)
    if (streams && isStream(target)) return
    if (target.info && !target.info.isFile()) throw notRegular(target.info)
    await access(path.dirname(target.path), constants.W_OK)
  } catch (cause) {
    if (cause instanceof Misuse) throw cause
    throw new Failure(
      `Expected a file name in a folder that can be written to for ${option} but: ${reasonOf(cause)}`
    )
  }
}

export interface Manifest {
  version: string
  devDependencies: Record<string, string>
}

const root = path.join(__dirname, '..', '..')

export function manifest(): Manifest {
  return JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
}

/** Refuses work for which optional packages are missing, with the line that installs them. */
export function needPackages(names: string[], purpose: string): void {
  const missing = names.filter((name) => !findPackage(name))
  if (missing.length === 0) return
  throw new Failure(
    `Expected the package${missing.length > 1 ? 's' : ''} ${missing.join(', ')} for ${purpose} but received none. Install beside margin-softmax:\n  npm install ${missing.map(toInstall).join(' ')}`
  )
}

/** The same of `--report`, if it is asked for: what draws its plots, and its file. */
export async function checkReport(file: string | undefined): Promise<void> {
  if (file === undefined) return
  needPackages(['vega', 'vega-lite'], '--report')
  await checkTarget(file, '--report', true)
}

/** A companion package with the major version that this one was developed with: `vega@6`. */
export function toInstall(name: string): string {
  const major = /\d+/.exec(manifest().devDependencies[name] ?? '')
  return major ? `${name}@${major}` : name
}

/** The file of a package's description, where it is installed in a folder above one of these. */
export function findPackage(name: string, from: string[] = [__dirname]): string | undefined {
  for (let folder of from)
    for (; ; folder = path.dirname(folder)) {
      const file = path.join(folder, 'node_modules', name, 'package.json')
      if (statSync(file, { throwIfNoEntry: false })) return file
      if (folder === path.dirname(folder)) break
    }
  return undefined
}
