/** `verify`: how well embeddings tell pairs of one class from pairs of different ones. */
import { type Command, Option } from 'commander'
import {
  type CalibrationCost,
  calibrationCost,
  type VerificationResult,
  verification,
  verificationFromScores,
} from '../index'
import { writeReport } from '../internal/write-file'
import {
  asMatrix,
  checkCount,
  filesNote,
  holdsLabels,
  labelsAreBeside,
  parseSource,
  readArray,
  readBoth,
  type TextOptions,
} from './data/files'
import { asLabels, type ClassLabels } from './data/labels'
import { addTextOptions, checkTextOptions, type Reading, readingOf, sentenceOf } from './data/options'
import { throughHead } from './embed'
import { cleanUp } from './interrupt'
import { explain, parseInteger, parseNumberAbove, parseNumberBetween, threadsOption } from './options'
import {
  checkReport,
  complain,
  counted,
  duration,
  Failure,
  Misuse,
  Progress,
  print,
  printJson,
} from './terminal'
import { type AnswerSide, answerWords } from './verification/answers'
import { show, warningsOf } from './verification/figures'
import { readScores } from './verification/scores'
import { readTrials, type Trials } from './verification/trials'

interface Options extends TextOptions {
  embeddings?: string
  scores?: string
  head?: string
  labels?: string
  pairs?: string
  same?: string
  names?: string
  answer?: AnswerSide
  folds?: number
  pTarget: number
  cMiss: number
  cFalseAlarm: number
  report?: string
  threads?: number
  json?: boolean
}

/** A description of what was judged, besides the figures. */
interface Judged {
  result: VerificationResult
  /** Rows and columns of the embeddings, where there are any. */
  rows?: number
  dim?: number
  /** A summary of what was read: in parts, and in one line for people. */
  read: Partial<Reading> & { pairs?: string; scores?: string }
  sentence: string
  warnings: string[]
  /** The calibration of scores from a file, which may be log-likelihood ratios. */
  calibration?: CalibrationCost
}

/** The false accept rates of the table, and of the report's curve: 1e-6 to 1, 40 a decade. */
const tableRates = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
const curveRates = Array.from({ length: 241 }, (_, i) => 10 ** (-6 + i / 40))

export function addVerify(all: Command): void {
  const command = all
    .command('verify')
    .description(
      'ROC AUC, EER, minDCF, TAR at FAR, best thresholds, accuracy over folds, of all pairs or of a list'
    )
    .option('--embeddings <file>', 'rows of numbers: .npy, .npz, .safetensors, .csv, .tsv')
    .option('--scores <file>', 'in place of embeddings: a score and an answer a row, higher for the same')
    .option('--head <file>', 'whose projection makes embeddings of the rows first, as embed does')
    .option('--labels <file>', "each row's class: all pairs are judged (default: the embeddings' own file)")
    .option('--pairs <file>', "two rows (from 0) or names and an answer, first or last; or LFW's pairs.txt")
    .option('--names <file>', 'what --pairs calls each row of the embeddings')
    .option('--same <file>', 'an answer for each pair; without --pairs, for rows 0 and 1, 2 and 3, …')
    .addOption(
      new Option('--answer <side>', 'where a list has its answers, if both sides could be').choices([
        'first',
        'last',
      ])
    )
    .option(
      '--folds <number>',
      'for lists: accuracy over so many runs of the list, 0 for none (default: 10)',
      parseInteger(0)
    )
    .option(
      '--p-target <number>',
      'of minDCF: how likely a pair belongs together',
      parseNumberBetween(0, 1),
      0.01
    )
    .option('--c-miss <number>', 'of minDCF: what it costs to reject such a pair', parseNumberAbove(0), 1)
    .option('--c-false-alarm <number>', 'of minDCF: what it costs to accept another', parseNumberAbove(0), 1)
    .option('--report <file>', 'write an HTML report with ROC curve and histograms')
    .addOption(threadsOption())
    .option('--json', 'as JSON')
    .action(verify)
  addTextOptions(command)
  explain(
    command,
    [
      'verify --embeddings faces.npy --labels people.npy',
      'verify --embeddings faces.csv --report faces.html',
      'verify --embeddings lfw.npz:features --pairs pairs.csv --json',
      'verify --embeddings vox.npy --names utterances.txt --pairs veri_test.txt',
      'verify --embeddings lfw.npy --same issame.npy   # rows 2p and 2p + 1 are pair p',
      'verify --embeddings features.npy --labels people.npy --head head.safetensors',
      'verify --scores scores.csv --p-target 0.05',
    ],
    [`Scores are cosines. Every figure is exact: nothing is sampled. Answers are ${answerWords}.`, filesNote]
  )
}

async function verify(options: Options): Promise<void> {
  checkOptions(options)
  const { embeddings, scores, labels, pairs, same, names, report } = options
  await checkReport(report)
  const progress = new Progress()
  cleanUp(() => progress.stop())
  const start = performance.now()
  const { result, rows, dim, read, sentence, warnings, calibration } = await (embeddings === undefined
    ? judgeScores(options, progress)
    : judgeEmbeddings(options, progress))
  const seconds = (performance.now() - start) / 1000
  complain(sentence)
  for (const warning of warnings) complain(`margin-softmax: ${warning}`)
  const table = { ...result, operatingPoints: result.operatingPoints.slice(0, tableRates.length) }
  if (report !== undefined) {
    const { renderVerificationReport } = await import('../report/verification.js')
    await writeReport(
      report,
      await renderVerificationReport({
        result: table,
        curve: result.operatingPoints.slice(tableRates.length),
        files: { embeddings, scores, head: options.head, labels, pairs, names, same },
        rows,
        dim,
        seconds,
        costs: costsText(options),
        warnings,
      })
    )
  }
  if (options.json) {
    const { scores: _, ...rest } = table
    printJson({ rows, dim, read, ...rest, ...calibration, ...(warnings.length > 0 && { warnings }) })
  } else {
    const judged = rows === undefined ? 'Scores' : `${counted(rows, 'row')} × ${dim}`
    show(table, costsText(options), `${judged}: … (${duration(seconds)})`, calibration)
    if (report !== undefined) print(`\nReport: ${report}`)
  }
}

function checkOptions(options: Options): void {
  const { embeddings, scores, head, labels, pairs, same, names, answer } = options
  if ((embeddings === undefined) === (scores === undefined))
    throw new Misuse(
      `Expected either --embeddings or --scores but received ${scores === undefined ? 'neither' : 'both'}`
    )
  if (scores !== undefined) {
    const other = Object.entries({ labels, pairs, names }).find(([, file]) => file !== undefined)
    if (other)
      throw new Misuse(`Expected no --${other[0]} with --scores: answers stand beside them or in --same`)
    if (head !== undefined) throw new Misuse('Expected no --head with --scores: nothing is embedded')
    checkTextOptions(options, scores, undefined, [same])
    return
  }
  if (labels !== undefined && (pairs ?? same) !== undefined)
    throw new Misuse('Expected either --labels or a list of pairs (--pairs, --same) but received both')
  if ((pairs ?? same) === undefined && options.folds)
    throw new Misuse('Expected no --folds without a list of pairs: the order of a list makes the folds')
  for (const [name, value] of Object.entries({ names, answer }))
    if (value !== undefined && pairs === undefined) throw new Misuse(`Expected --pairs with --${name}`)
  const { path } = parseSource(embeddings as string)
  if ((pairs ?? same ?? labels) === undefined && !holdsLabels(path))
    throw new Misuse(`Expected --labels, --pairs or --same beside ${embeddings}, which holds no labels`)
  const labelled = (pairs ?? same) === undefined ? (labels ?? embeddings) : names
  checkTextOptions(options, embeddings as string, labelled, [pairs, same])
}

function judgement({ threads, pTarget, cMiss, cFalseAlarm, report }: Options) {
  const falseAcceptRates = report === undefined ? tableRates : [...tableRates, ...curveRates]
  return { threads, pTarget, cMiss, cFalseAlarm, falseAcceptRates }
}

async function judgeScores(options: Options, progress: Progress): Promise<Judged> {
  progress.start('Reading', 1)
  const { scores, same, summary } = await readScores(options.scores as string, options)
  progress.stop()
  const result = await verificationFromScores(scores, same, { ...judgement(options), folds: options.folds })
  const sentence = `Read ${summary}.`
  const calibration = calibrationCost(scores, same)
  return { result, read: { scores: summary }, sentence, warnings: warningsOf(result), calibration }
}

async function judgeEmbeddings(options: Options, progress: Progress): Promise<Judged> {
  const { labels, pairs, same } = options
  const source = parseSource(options.embeddings as string)
  const listed = (pairs ?? same) !== undefined
  const beside = !listed && labelsAreBeside(options.embeddings as string, labels)
  progress.start('Reading', 2)
  // Both at once: while the system reads gigabytes of embeddings, a list of pairs is taken apart here.
  const list = listed ? readTrials(options) : undefined
  const elsewhere =
    listed || beside ? undefined : readArray(parseSource(labels as string), 'labels', 'labels', options)
  for (const early of [list, elsewhere]) early?.catch(() => {}) // told below, unless the embeddings have failed before
  const both = beside ? await readBoth(source, options) : undefined
  const array = both?.embeddings ?? (await readArray(source, 'embeddings', 'numbers', options))
  const matrixRead = asMatrix(array)
  const { rows } = matrixRead
  progress.update(1, `${rows.toLocaleString('en')} × ${matrixRead.dim}`)
  const labelArray = both?.labels ?? (await elsewhere)
  const classLabels = labelArray && asLabels(labelArray)
  const trials = await list
  const read = readingOf(array, labelArray, classLabels)
  progress.stop()
  const matrix = await throughHead(options.head, matrixRead, array, options.threads, progress)
  const { dim } = matrix
  progress.start('Judging', 1)
  try {
    if (!trials) {
      const classes = (classLabels as ClassLabels).labels
      checkCount(classes.length, rows, 'label', labels ?? options.embeddings)
      const result = await verification(matrix.embeddings, classes, { ...judgement(options), dim })
      return { result, rows, dim, read, sentence: sentenceOf(read), warnings: warningsOf(result) }
    }
    const warnings = checkTrials(trials, rows, options)
    const result = await verification(
      matrix.embeddings,
      { pairs: trials.pairs, same: trials.same },
      { ...judgement(options), dim, folds: options.folds ?? trials.folds }
    )
    return {
      result,
      rows,
      dim,
      read: { ...read, pairs: trials.summary },
      sentence: `${sentenceOf(read).slice(0, -1)}; ${trials.summary}.`,
      warnings: [...warnings, ...warningsOf(result)],
    }
  } finally {
    progress.stop()
  }
}

/** Rows that there are, as many names and answers as the rows call for. Returns warnings of pairs that tell nothing. */
function checkTrials({ pairs, same, names, place }: Trials, rows: number, options: Options): string[] {
  if (names) checkCount(names.count, rows, 'name', names.from)
  if (!pairs) {
    if (same.length !== rows / 2)
      throw new Failure(
        `Expected one answer for every two of ${rows} rows in ${options.same} but received ${same.length}`
      )
    return []
  }
  let [alone, firstAlone] = [0, -1]
  for (let p = 0; p < same.length; p++) {
    const [a, b] = [pairs[2 * p] as number, pairs[2 * p + 1] as number]
    if (a >= rows || b >= rows)
      throw new Failure(`Expected rows from 0 to ${rows - 1} in ${place(p)} but received ${Math.max(a, b)}`)
    if (a === b && alone++ === 0) firstAlone = p
  }
  if (alone === 0) return []
  return [
    `${counted(alone, 'pair')} of ${options.pairs} ${alone === 1 ? 'is' : 'are'} of a row with itself, the first in ${place(firstAlone)}: such a pair scores 1 whatever the embeddings are`,
  ]
}

function costsText({ pTarget, cMiss, cFalseAlarm }: Options): string {
  return `P_target ${pTarget}, C_miss ${cMiss}, C_fa ${cFalseAlarm}`
}
