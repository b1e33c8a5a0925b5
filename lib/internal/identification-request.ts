// Checks the arguments of identification.
import { wrongType, wrongValue } from '../errors'
import type { ExecutionOptions } from '../execution'
import { checkSignal } from './abort'
import { bootstrapOptions } from './bootstrap'
import {
  checkOptions,
  classLabels,
  type FloatArray,
  floats,
  integerInRange,
  type LabelArray,
  labels,
  largestSize,
  rowsOf,
  size,
} from './check'
import { checkedZeroRows, inputNow, type Search, searchExecution } from './nearest-rows'
import { namesIn, namesOf, valuesOf } from './option-table'
import { ascendingRates } from './verification-request'

/** Rows whose classes are known, and rows to find among them. */
export interface IdentificationBatch {
  /** Embeddings of the gallery [N,D]. A Float64Array is rounded to single precision. */
  gallery: FloatArray
  /** The class of each [N], an integer from 0. */
  galleryLabels: LabelArray
  /**
   * Embeddings to look up [M,D]. Default: leave one out, as metric learning's benchmarks do: each row of the gallery is a probe,
   * compared with all its other rows.
   */
  probes?: FloatArray | undefined
  /** The class of each [M]. A class that no row of the gallery has, or −1, makes it an unknown one. Required with `probes`. */
  probeLabels?: LabelArray | undefined
  /** D. */
  dim: number
}

/** Options of `identify`. */
export interface IdentificationOptions extends Pick<ExecutionOptions, 'threads' | 'instructionSet'> {
  /** The number of nearest rows that are kept of each probe. Default 20, or all rows where there are fewer. */
  maxRank?: number | undefined
  /** The false alarm rates, from 0 to 1, at which detection rates are wanted. Default 1e-1, 1e-2, 1e-3. */
  falseAlarmRates?: ArrayLike<number> | undefined
  /** The rank within which a known probe must have a row of its class to be detected, up to `maxRank`. Default 1. */
  detectionRank?: number | undefined
  /** The number of draws that the bootstrap makes for `intervals`. Default 0: no intervals. 1000 are usual. */
  replicates?: number | undefined
  /** The confidence of the intervals, above 0 and below 1. Default 0.95. */
  confidence?: number | undefined
  /** Seeds the draws: an integer from 0. Default 0. */
  seed?: number | undefined
  /** Ends the work: the promise rejects with the signal's reason after the block of probes that runs. Asynchronous calls only. */
  signal?: AbortSignal | undefined
}

const batchNames = namesOf<IdentificationBatch>({
  gallery: true,
  galleryLabels: true,
  probes: true,
  probeLabels: true,
  dim: true,
})
const optionNames = [
  ...['maxRank', 'falseAlarmRates', 'detectionRank', 'threads', 'instructionSet'],
  ...namesIn(bootstrapOptions),
]
const usualRates = [1e-1, 1e-2, 1e-3]
const usualRank = 20

/** @param asynchronous whether there may be a signal, and the inputs must be copied */
export function identificationRequest(
  batch: IdentificationBatch,
  options: IdentificationOptions | undefined,
  asynchronous: boolean
) {
  const checkedOptions = checkOptions(options, 'options', [
    ...optionNames,
    ...(asynchronous ? ['signal'] : []),
  ])
  const checkedBatch = checkOptions(batch ?? null, 'batch', batchNames)
  const signal = checkSignal(checkedOptions.signal)
  const bootstrap = valuesOf(bootstrapOptions, checkedOptions)
  const { limits, order } = ascendingRates(checkedOptions.falseAlarmRates, 'falseAlarmRates', usualRates)
  const { search, ids, probeIds, zeroRows } = searchOf(
    checkedBatch,
    searchExecution(checkedOptions),
    asynchronous
  )
  const compared = search.galleryClasses.length - Number(search.leaveOneOut)
  const { maxRank = Math.min(usualRank, compared), detectionRank = 1 } = checkedOptions
  integerInRange(maxRank, 'maxRank', 1, compared)
  integerInRange(detectionRank, 'detectionRank', 1, maxRank)
  return { search, ids, probeIds, zeroRows, maxRank, detectionRank, limits, order, bootstrap, signal }
}

export type IdentificationRequest = ReturnType<typeof identificationRequest>

function searchOf(batch: Partial<IdentificationBatch>, how: Search['execution'], asynchronous: boolean) {
  const leaveOneOut = batch.probes === undefined
  if (leaveOneOut && batch.probeLabels !== undefined)
    throw wrongType('no probeLabels without probes', 'probeLabels', batch.probeLabels)
  const dim = size(batch.dim, 'dim')
  const gallery = floats(batch.gallery, 'gallery')
  const rows = rowsOf(gallery, 'gallery', dim, 'dim')
  const probes = leaveOneOut ? gallery : floats(batch.probes, 'probes')
  const probeRows = rowsOf(probes, 'probes', dim, 'dim')
  if (leaveOneOut && rows === 1) throw wrongValue('at least two rows without probes', 'gallery', gallery)
  const galleryLabels = classLabels(batch.galleryLabels, 'galleryLabels', rows)
  const { classes, ids } = numbered(galleryLabels)
  const probeIds = leaveOneOut
    ? galleryLabels
    : labels(batch.probeLabels, 'probeLabels', probeRows, largestSize, -1)
  const ownGallery = inputNow(gallery, 'gallery', rows * dim, asynchronous)
  const ownProbes = leaveOneOut ? ownGallery : inputNow(probes, 'probes', probeRows * dim, asynchronous)
  const zeroRows =
    checkedZeroRows(ownGallery, dim, 'gallery') +
    (leaveOneOut ? 0 : checkedZeroRows(ownProbes, dim, 'probes'))
  const search: Search = {
    gallery: ownGallery,
    galleryClasses: classes,
    probes: ownProbes,
    probeClasses: leaveOneOut ? classes : probeIds.map((id) => ids.get(id) ?? -1),
    dim,
    leaveOneOut,
    lengths: new Int32Array(probeRows),
    execution: how,
  }
  return { search, ids, probeIds: probeIds.slice(), zeroRows }
}

/** Labels numbered in the order of their first rows, and the number of each label. */
export function numbered(labelsOf: Int32Array) {
  const ids = new Map<number, number>()
  const classes = new Int32Array(labelsOf.length)
  for (let row = 0; row < labelsOf.length; row++) {
    const label = labelsOf[row] as number
    let number = ids.get(label)
    if (number === undefined) {
      number = ids.size
      ids.set(label, number)
    }
    classes[row] = number
  }
  return { classes, ids }
}
