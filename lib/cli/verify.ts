/** `verify`: how well embeddings tell pairs of one class from pairs of different ones. */
import type { Command } from 'commander'
import { type PairList, verification } from '../index'
import { writeReport } from '../write-file'
import {
  asIntegers,
  asMatrix,
  filesNote,
  holdsLabels,
  parseSource,
  readArray,
  readBoth,
  type TextOptions,
} from './data/files'
import { asLabels } from './data/labels'
import { addTextOptions, checkTextOptions, readingOf, sentenceOf } from './data/options'
import { cleanUp } from './interrupt'
import { explain, integerFrom, numberAbove, numberBetween } from './options'
import {
  checkTarget,
  complain,
  counted,
  duration,
  Failure,
  Misuse,
  needPackages,
  Progress,
  print,
  printJson,
} from './terminal'
import { show, warningsOf } from './verification/figures'

interface Options extends TextOptions {
  embeddings: string
  labels?: string
  pairs?: string
  same?: string
  folds?: number
  pTarget: number
  cMiss: number
  cFalseAlarm: number
  report?: string
  threads?: number
  json?: boolean
}

/** What the table shows, and the report's curve: 1e-6 to 1, 40 a decade. */
const tableRates = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
const curveRates = Array.from({ length: 241 }, (_, i) => 10 ** (-6 + i / 40))

export function addVerify(all: Command): void {
  const command = all
    .command('verify')
    .description(
      'ROC AUC, EER, minDCF, TAR at FAR, best thresholds, accuracy over folds, of all pairs or of a list'
    )
    .requiredOption('--embeddings <file>', 'rows of numbers: .npy, .npz, .safetensors, .csv, .tsv')
    .option('--labels <file>', "each row's class: all pairs are judged (default: the embeddings' own file)")
    .option('--pairs <file>', 'rows of pairs from 0, with same (1) or not (0) as a third column or in --same')
    .option('--same <file>', '1 or 0 for each pair; without --pairs, for rows 0 and 1, 2 and 3, …')
    .option(
      '--folds <number>',
      'for lists: accuracy over so many runs of the list, 0 for none (default: 10)',
      integerFrom(0)
    )
    .option('--p-target <number>', 'of minDCF: how likely a pair belongs together', numberBetween(0, 1), 0.01)
    .option('--c-miss <number>', 'of minDCF: what it costs to reject such a pair', numberAbove(0), 1)
    .option('--c-false-alarm <number>', 'of minDCF: what it costs to accept another', numberAbove(0), 1)
    .option('--report <file>', 'write an HTML report with ROC curve and histograms')
    .option('--threads <number>', 'of the processor (default: all)', integerFrom(1, 1023))
    .option('--json', 'as JSON')
    .action(verify)
  addTextOptions(command)
  explain(
    command,
    [
      'verify --embeddings faces.npy --labels people.npy',
      'verify --embeddings faces.csv --report faces.html',
      'verify --embeddings lfw.npz:features --pairs pairs.csv --json',
      'verify --embeddings lfw.npy --same issame.npy   # rows 2p and 2p + 1 are pair p',
    ],
    [`Scores are cosines. Every figure is exact: nothing is sampled.`, filesNote]
  )
}

async function verify(options: Options): Promise<void> {
  const { embeddings, labels, pairs, same, report } = options
  if (labels !== undefined && (pairs ?? same) !== undefined)
    throw new Misuse('Expected either --labels or a list of pairs (--pairs, --same) but received both')
  const listed = (pairs ?? same) !== undefined
  if (!listed && options.folds)
    throw new Misuse('Expected no --folds without a list of pairs: the order of a list makes the folds')
  const source = parseSource(embeddings)
  if (!listed && labels === undefined && !holdsLabels(source.path))
    throw new Misuse(`Expected --labels, --pairs or --same beside ${embeddings}, which holds no labels`)
  checkTextOptions(options, embeddings, listed ? undefined : (labels ?? embeddings), [pairs, same])
  if (report !== undefined) {
    needPackages(['vega', 'vega-lite'], '--report')
    await checkTarget(report, '--report', true)
  }
  const progress = new Progress()
  cleanUp(() => progress.stop())
  const start = performance.now()
  progress.start('Reading', 2)
  const beside = !listed && (labels === undefined || labels === embeddings)
  // Both at once: while the system reads gigabytes of embeddings, a list of pairs is taken apart here.
  const list = listed ? readPairs(pairs, same, { encoding: options.encoding }) : undefined
  const elsewhere =
    listed || beside ? undefined : readArray(parseSource(labels as string), 'labels', 'labels', options)
  for (const early of [list, elsewhere]) early?.catch(() => {}) // told below, unless the embeddings have failed before
  const both = beside ? await readBoth(source, options) : undefined
  const array = both?.embeddings ?? (await readArray(source, 'embeddings', 'numbers', options))
  const matrix = asMatrix(array)
  progress.update(1, `${matrix.rows.toLocaleString('en')} × ${matrix.dim}`)
  const labelArray = both?.labels ?? (await elsewhere)
  const classLabels = labelArray && asLabels(labelArray)
  const pairsOf = classLabels?.labels ?? ((await list) as PairList)
  checkRows(pairsOf, matrix.rows, options)
  const reading = readingOf(array, labelArray, classLabels)
  progress.stop()
  complain(sentenceOf(reading))
  progress.start('Judging', 1)
  const result = await verification(matrix.embeddings, pairsOf, {
    dim: matrix.dim,
    threads: options.threads,
    folds: listed ? options.folds : undefined,
    pTarget: options.pTarget,
    cMiss: options.cMiss,
    cFalseAlarm: options.cFalseAlarm,
    falseAcceptRates: report === undefined ? tableRates : [...tableRates, ...curveRates],
  })
  progress.stop()
  const seconds = (performance.now() - start) / 1000
  const warnings = warningsOf(result)
  for (const warning of warnings) complain(`margin-softmax: ${warning}`)
  const table = { ...result, operatingPoints: result.operatingPoints.slice(0, tableRates.length) }
  if (report !== undefined) {
    const { renderVerificationReport } = await import('../report/verification.js')
    await writeReport(
      report,
      await renderVerificationReport({
        result: table,
        curve: result.operatingPoints.slice(tableRates.length),
        files: { embeddings, labels, pairs, same },
        rows: matrix.rows,
        dim: matrix.dim,
        seconds,
        costs: costsText(options),
        warnings,
      })
    )
  }
  if (options.json) {
    const { scores: _, ...rest } = table
    const warned = warnings.length > 0 && { warnings }
    printJson({ rows: matrix.rows, dim: matrix.dim, read: reading, ...rest, ...warned })
  } else {
    show(
      table,
      costsText(options),
      `${counted(matrix.rows, 'row')} × ${matrix.dim}: … (${duration(seconds)})`
    )
    if (report !== undefined) print(`\nReport: ${report}`)
  }
}

async function readPairs(
  pairsFile: string | undefined,
  sameFile: string | undefined,
  text: TextOptions
): Promise<PairList> {
  const read = (file: string, what: string) => readArray(parseSource(file), what, 'numbers', text)
  const same = sameFile === undefined ? undefined : asIntegers(await read(sameFile, 'same'))
  if (pairsFile === undefined) return { same: same as Int32Array }
  const array = await read(pairsFile, 'pairs')
  const [count = 0, columns = 0] = array.shape
  const wanted = same ? 2 : 3
  if (array.shape.length !== 2 || columns !== wanted)
    throw new Failure(
      `Expected ${wanted} columns in ${pairsFile}${same ? '' : ' (two rows, then 1 or 0), or --same,'} but received an array of shape [${array.shape}]`
    )
  const numbers = asIntegers(array)
  if (same) return { pairs: numbers, same }
  const list = { pairs: new Int32Array(2 * count), same: new Int32Array(count) }
  for (let p = 0; p < count; p++) {
    list.pairs[2 * p] = numbers[3 * p] as number
    list.pairs[2 * p + 1] = numbers[3 * p + 1] as number
    list.same[p] = numbers[3 * p + 2] as number
  }
  return list
}

/** Labels, or answers without a list of rows, are as many as the embeddings' rows call for. */
function checkRows(
  pairsOf: Int32Array | PairList,
  rows: number,
  { embeddings, labels, same }: Options
): void {
  if (ArrayBuffer.isView(pairsOf)) {
    if (pairsOf.length !== rows)
      throw new Failure(
        `Expected ${counted(rows, 'label')} in ${labels ?? embeddings} but received ${pairsOf.length}`
      )
  } else if (!pairsOf.pairs && pairsOf.same.length !== rows / 2)
    throw new Failure(
      `Expected one answer for every two of ${rows} rows in ${same} but received ${pairsOf.same.length}`
    )
}

function costsText({ pTarget, cMiss, cFalseAlarm }: Options): string {
  return `P_target ${pTarget}, C_miss ${cMiss}, C_fa ${cFalseAlarm}`
}
