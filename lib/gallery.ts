import { wrongType } from './errors'
import type { ExecutionOptions } from './execution'
import { checkSignal } from './internal/abort'
import {
  checkOptions,
  type FloatArray,
  fileName,
  floats,
  integerInRange,
  type LabelArray,
  newSharedCopy,
  number,
  rowsOf,
  size,
} from './internal/check'
import { loadGallery, saveGallery } from './internal/gallery-file'
import { checkLabels, checkRemoved, GalleryRows, type GalleryView } from './internal/gallery-rows'
import { isObject } from './internal/intrinsics'
import {
  checkedZeroRows,
  nearestIdentities,
  searchAside,
  searchExecution,
  searchNow,
} from './internal/nearest-rows'
import { namesOf } from './internal/option-table'

/** Options of a new gallery. */
export interface GalleryOptions {
  /** D. */
  dim: number
}

/** Options of `search`. */
export interface SearchOptions extends Pick<ExecutionOptions, 'threads' | 'instructionSet'> {
  /** The number of identities wanted for each probe, from 1. Default 1. */
  k?: number | undefined
  /** The least score of an identity that is accepted; below it the label is undefined. Default: all are accepted. */
  threshold?: number | undefined
  /** Ends the work: the promise rejects with the signal's reason after the block of probes that runs. Asynchronous calls only. */
  signal?: AbortSignal | undefined
}

/** The best identities of each probe. */
export interface SearchResult<Of extends string | number = string | number> {
  /** Labels, best first [M,k]; undefined where the score is below the threshold, or the gallery has fewer than k identities. */
  labels: (Of | undefined)[]
  /** The cosine of the identity's nearest row [M,k], also below the threshold; −Infinity where there is no identity. */
  scores: Float32Array
}

const galleryOptions = namesOf<GalleryOptions>({ dim: true })
const searchOptions = namesOf<Omit<SearchOptions, 'signal'>>({
  k: true,
  threshold: true,
  threads: true,
  instructionSet: true,
})

/**
 * Known embeddings, each with the label of whom or what it shows, to search by cosine: exactly, over every row.
 *
 * Labels are names or integers from 0, of one kind in one gallery; an identity may have any number of rows and has the score
 * of the nearest one. The embeddings lie in memory in single precision, once, and searches on other threads read them in
 * place. Rows may be enrolled and removed while a search runs: it finds what was there when it was called.
 *
 * @example
 * const gallery = new Gallery({ dim: 512 })
 * gallery.enrol(embeddings, ['Ada', 'Ada', 'Grace'])
 * const { labels, scores } = await gallery.search(probe, { threshold: 0.35 }) // the threshold is from `identify`
 */
export class Gallery<Of extends string | number = string | number> {
  #rows: GalleryRows

  /** @throws TypeError, RangeError for options */
  constructor(options: GalleryOptions) {
    const checkedOptions = checkOptions(options ?? null, 'options', galleryOptions)
    this.#rows = new GalleryRows(size(checkedOptions.dim, 'dim'))
  }

  /** D. */
  get dim(): number {
    return Gallery.#of(this).dim
  }

  /** The number of rows. */
  get rows(): number {
    return Gallery.#of(this).count
  }

  /** A copy of the labels, each once, in the order in which they were enrolled first. */
  get labels(): Of[] {
    return Gallery.#of(this).labels.slice() as Of[]
  }

  /** Whether there are rows with this label. */
  has(label: Of): boolean {
    return Gallery.#of(this).has(label)
  }

  /**
   * Adds rows. They are copied. A label that is there already gets more rows. Bad input changes nothing.
   * @param embeddings [N,D]; a Float64Array is rounded to single precision
   * @param labels one for each row [N], or one for all rows
   * @throws TypeError, RangeError for arguments, also for a row of zeros; MarginSoftmaxError `ERR_NOT_FINITE`,
   *   `ERR_OUT_OF_MEMORY`
   */
  enrol(embeddings: FloatArray, labels: Of | readonly Of[] | LabelArray): void {
    const rows = Gallery.#of(this)
    const { dim } = rows
    const taken = floats(embeddings, 'embeddings')
    const count = rowsOf(taken, 'embeddings', dim, 'dim')
    const kind = rows.count > 0 ? typeof rows.labels[0] : undefined
    const checked = checkLabels(labels, count, kind)
    const sound = floats(taken, 'embeddings', count * dim) // as it is after the labels, which may be a list with getters
    checkedZeroRows(sound, dim, 'embeddings', 'refused')
    rows.append(sound, checked)
  }

  /**
   * Removes all rows with a label, or with one of several. Those that stay keep their order.
   * @returns how many rows were removed: 0 where there are none of these labels
   */
  remove(labels: Of | readonly Of[] | LabelArray): number {
    return Gallery.#of(this).remove(checkRemoved(labels))
  }

  /**
   * Finds the k best identities of each probe. Of equal scores the one enrolled first comes first.
   * @param probes [M,D], copied when it is called
   * @throws TypeError, RangeError for arguments, also for a row of zeros; MarginSoftmaxError `ERR_NOT_FINITE`,
   *   `ERR_OUT_OF_MEMORY`; the reason of an aborted `signal`
   */
  async search(probes: FloatArray, options?: SearchOptions): Promise<SearchResult<Of>> {
    const rows = Gallery.#of(this)
    const checkedOptions = checkOptions(options, 'options', [...searchOptions, 'signal'])
    const signal = checkSignal(checkedOptions.signal)
    const how = checkSearch(checkedOptions)
    const copy = newSharedCopy(checkProbes(probes, rows.dim), 'a copy of probes')
    return rows.read(async (view) => {
      const best = await searchAside(searching(view, copy, rows.dim, how), signal)
      return resultOf(best, view, how.threshold) as SearchResult<Of>
    })
  }

  /** As `search`, done before it returns. */
  searchSync(probes: FloatArray, options?: Omit<SearchOptions, 'signal'>): SearchResult<Of> {
    const rows = Gallery.#of(this)
    const how = checkSearch(checkOptions(options, 'options', searchOptions))
    const view = rows.view()
    const best = searchNow(searching(view, checkProbes(probes, rows.dim), rows.dim, how))
    return resultOf(best, view, how.threshold) as SearchResult<Of>
  }

  /**
   * Writes the gallery as it is now to a safetensors file, whole or not at all, with a checksum of each tensor: `embeddings`
   * [N,D], `labels` [N] and the names. Other programs read it as embeddings with labels.
   * @throws MarginSoftmaxError `ERR_FILE`
   */
  async save(path: string): Promise<void> {
    const rows = Gallery.#of(this)
    return rows.read((view) => saveGallery(view, rows.dim, fileName(path)))
  }

  /**
   * Reads a gallery that `save` wrote.
   * @throws MarginSoftmaxError `ERR_FILE` for a file that is missing, damaged, cut short or of another kind,
   *   `ERR_NOT_FINITE`, `ERR_OUT_OF_MEMORY`
   */
  static async load<Of extends string | number = string | number>(path: string): Promise<Gallery<Of>> {
    const rows = await loadGallery(fileName(path))
    const gallery = new Gallery<Of>({ dim: rows.dim })
    gallery.#rows = rows
    return gallery
  }

  /** The receiver of a method, which may have been taken off its gallery. */
  static #of(gallery: unknown): GalleryRows {
    if (!isObject(gallery) || !(#rows in gallery)) throw wrongType('a Gallery', 'this', gallery)
    return gallery.#rows
  }
}

function checkSearch({ k = 1, threshold, threads, instructionSet }: Partial<SearchOptions>) {
  const execution = searchExecution({ threads, instructionSet })
  return {
    k: integerInRange(k, 'k', 1, 2 ** 31 - 1),
    threshold: threshold === undefined ? -Infinity : number(threshold, 'threshold'),
    execution,
  }
}

type Asked = ReturnType<typeof checkSearch>

function checkProbes(value: FloatArray, dim: number): Float32Array {
  const probes = floats(value, 'probes')
  rowsOf(probes, 'probes', dim, 'dim')
  checkedZeroRows(probes, dim, 'probes', 'refused')
  return probes
}

function searching(view: GalleryView, probes: Float32Array, dim: number, { k, execution }: Asked) {
  const compared = { gallery: view.values, probes, dim, execution }
  return nearestIdentities(compared, { identities: view.identities, count: view.labels.length }, k)
}

function resultOf(
  { found, scores }: { found: Int32Array; scores: Float32Array },
  { labels }: GalleryView,
  threshold: number
): SearchResult {
  return {
    labels: Array.from(found, (identity, i) =>
      (scores[i] as number) >= threshold ? labels[identity] : undefined
    ),
    scores,
  }
}
