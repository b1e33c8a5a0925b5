/** `identify`: how well the nearest rows of a gallery say who a probe is. */
import type { Command } from 'commander'
import { type IdentificationResult, identify } from '../index'
import { writeReport } from '../internal/write-file'
import {
  type FileArray,
  filesNote,
  holdsLabels,
  type Matrix,
  parseSource,
  type TextOptions,
} from './data/files'
import { addTextOptions, checkTextOptions, sentenceOf } from './data/options'
import { throughHead } from './embed'
import { show, warningsOf } from './identification/figures'
import {
  checkSameDim,
  type LabelledRows,
  nobodyKnown,
  numberTogether,
  readRows,
} from './identification/inputs'
import { shownProbes } from './identification/neighbours'
import { cleanUp } from './interrupt'
import { explain, parseInteger, parseNumberBetween, threadsOption } from './options'
import { checkReport, complain, counted, duration, Misuse, Progress, print, printJson } from './terminal'

interface Options extends TextOptions {
  gallery?: string
  galleryLabels?: string
  galleryPictures?: string
  probes?: string
  head?: string
  probeLabels?: string
  probePictures?: string
  maxRank?: number
  replicates: number
  confidence: number
  seed: number
  report?: string
  threads?: number
  json?: boolean
}

/** The false alarm rates of the table, and of the report's curve: 1e-4 to 1, 20 a decade. */
const tableRates = [1e-1, 1e-2, 1e-3]
const curveRates = Array.from({ length: 81 }, (_, i) => 10 ** (-4 + i / 20))

export function addIdentify(all: Command): void {
  const command = all
    .command('identify')
    .description('rank-k accuracy (CMC), precision@k, MAP@R and open-set detection rates, over a gallery')
    .option('--gallery <file>', 'rows of numbers: .npy, .npz, .safetensors, .csv, .tsv')
    .option('--gallery-labels <file>', "each row's class (default: the gallery's own file)")
    .option('--probes <file>', 'rows to look up (default: each row of the gallery, among its others)')
    .option('--probe-labels <file>', "each probe's class (default: the probes' own file)")
    .option('--gallery-pictures <file>', "for --report: a picture's path for each row, relative to this file")
    .option('--probe-pictures <file>', 'the same of the probes')
    .option('--head <file>', 'whose projection makes embeddings of all rows first, as embed does')
    .option('--max-rank <number>', 'the highest rank (default: 20)', parseInteger(1))
    .option(
      '--replicates <number>',
      'draws of the bootstrap for intervals, 0 for none',
      parseInteger(0, 1e6),
      0
    )
    .option('--confidence <number>', 'of the intervals', parseNumberBetween(0, 1), 0.95)
    .option('--seed <number>', 'of the draws', parseInteger(0), 0)
    .option('--report <file>', 'write an HTML report with curves and nearest neighbours')
    .addOption(threadsOption())
    .option('--json', 'as JSON')
    .action(run)
  addTextOptions(command)
  explain(
    command,
    [
      'identify --gallery enrolled.npz --probes visitors.npz --report visitors.html',
      'identify --gallery birds.npy --gallery-labels species.npy   # each among the others',
      'identify --gallery enrolled.npz --probes visitors.npz --head head.safetensors',
      'identify --gallery a.csv --probes b.csv --replicates 1000 --json',
    ],
    [
      'Scores are cosines, of every probe with every row. A probe whose label no row of the gallery has is unknown: with such probes there are detection rates at false alarm rates. Equal scores count against the probe.',
      filesNote,
    ]
  )
}

async function run(options: Options): Promise<void> {
  checkOptions(options)
  const { report, threads, maxRank, replicates, confidence, seed } = options
  await checkReport(report)
  const progress = new Progress()
  cleanUp(() => progress.stop())
  const start = performance.now()
  progress.start('Reading', 1)
  const { gallery, probes, labels, nameOf } = await readInputs(options, progress)
  progress.stop()
  progress.start('Comparing', 1)
  const { embeddings, dim } = gallery
  const found = await identify(
    {
      gallery: embeddings,
      galleryLabels: gallery.labels,
      dim,
      ...(probes && { probes: probes.embeddings, probeLabels: labels }),
    },
    {
      threads,
      maxRank,
      replicates,
      confidence,
      seed,
      falseAlarmRates: report === undefined ? tableRates : [...tableRates, ...curveRates],
    }
  ).finally(() => progress.stop())
  const seconds = (performance.now() - start) / 1000
  for (const rows of [gallery, probes]) if (rows) complain(sentenceOf(rows.read))
  const warnings = warningsOf(found)
  for (const warning of warnings) complain(`margin-softmax: ${warning}`)
  const result = withRates(found, 0, tableRates.length)
  if (report !== undefined) {
    const { renderIdentificationReport } = await import('../report/identification.js')
    const judged = { labels, nameOf, pictures: (probes ?? gallery).pictures }
    await writeReport(
      report,
      await renderIdentificationReport({
        result,
        curve: withRates(found, tableRates.length).openSet ?? [],
        shown: await shownProbes(result, gallery, judged, probes === undefined),
        files: {
          gallery: options.gallery,
          'gallery labels': options.galleryLabels,
          probes: options.probes,
          'probe labels': options.probeLabels,
        },
        rows: gallery.rows,
        classes: new Set(gallery.labels).size,
        dim,
        confidence,
        replicates,
        leaveOneOut: probes === undefined,
        seconds,
        warnings,
      })
    )
  }
  if (options.json) {
    const { ranks: _, indices: __, scores: ___, ...figures } = result
    const read = { gallery: gallery.read, ...(probes && { probes: probes.read }) }
    printJson({ rows: gallery.rows, dim, read, ...figures, ...(warnings.length > 0 && { warnings }) })
  } else {
    const { known, unknown } = result.probes
    const strangers = unknown > 0 ? `, ${counted(unknown, 'unknown one')}` : ''
    show(
      result,
      `${counted(known, 'known probe')}${strangers} in a gallery of ${counted(gallery.rows, 'row')} × ${dim} (${duration(seconds)})`
    )
    if (report !== undefined) print(`\nReport: ${report}`)
  }
}

function checkOptions(options: Options): void {
  const { gallery, galleryLabels, galleryPictures, probes, probeLabels, probePictures, report } = options
  if (gallery === undefined) throw new Misuse('Expected --gallery but received none')
  for (const [name, value] of Object.entries({
    'probe-labels': probeLabels,
    'probe-pictures': probePictures,
  }))
    if (value !== undefined && probes === undefined) throw new Misuse(`Expected --probes with --${name}`)
  for (const [name, value] of Object.entries({ gallery: galleryPictures, probe: probePictures }))
    if (value !== undefined && report === undefined)
      throw new Misuse(`Expected --report with --${name}-pictures`)
  for (const [name, file, labels] of [
    ['gallery', gallery, galleryLabels],
    ['probe', probes, probeLabels],
  ] as const)
    if (file !== undefined && labels === undefined && !holdsLabels(parseSource(file).path))
      throw new Misuse(`Expected --${name}-labels beside ${file}, which holds no labels`)
  checkTextOptions(
    options,
    [gallery, probes],
    [galleryLabels ?? gallery, probeLabels ?? probes],
    [galleryPictures, probePictures]
  )
}

/** @returns also the probes' labels, by the gallery's numbers, and the text of each number */
async function readInputs(
  options: Options,
  progress: Progress
): Promise<{
  gallery: LabelledRows
  probes?: LabelledRows
  labels: Int32Array
  nameOf: (label: number) => string
}> {
  const embedded = (matrix: Matrix, array: FileArray) =>
    throughHead(options.head, matrix, array, options.threads, progress)
  const gallery = await readRows(
    {
      embeddings: options.gallery as string,
      labels: options.galleryLabels,
      pictures: options.galleryPictures,
    },
    options,
    embedded
  )
  if (options.probes === undefined) return { gallery, labels: gallery.labels, nameOf: gallery.nameOf }
  const probes = await readRows(
    { embeddings: options.probes, labels: options.probeLabels, pictures: options.probePictures },
    options,
    embedded
  )
  const files: [string, string] = [options.gallery as string, options.probes]
  checkSameDim(gallery, probes, files)
  const together = numberTogether(gallery, probes)
  const known = new Set(gallery.labels)
  if (!together.labels.some((label) => known.has(label))) throw nobodyKnown(probes, gallery, files)
  return { gallery, probes, ...together }
}

/** A result with some of its open-set rates. */
function withRates(result: IdentificationResult, first: number, end?: number): IdentificationResult {
  const { openSet, intervals } = result
  const rates = intervals?.detectionRates
  return {
    ...result,
    ...(openSet && { openSet: openSet.slice(first, end) }),
    ...(intervals &&
      rates && {
        intervals: {
          ...intervals,
          detectionRates: { lower: rates.lower.slice(first, end), upper: rates.upper.slice(first, end) },
        },
      }),
  }
}
