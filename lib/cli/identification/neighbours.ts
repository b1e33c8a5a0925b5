/** The probes that a report shows with their nearest rows, and their pictures. */
import path from 'node:path'
import type { IdentificationResult } from '../../index'
import { reasonOf } from '../../internal/file-error'
import { readWhole } from '../../internal/read-file'
import { Failure } from '../terminal'
import type { LabelledRows } from './inputs'

/** A row with what a report shows of it. */
export interface ShownRow {
  name: string
  /** The picture as a data: URL. */
  picture?: string
}

export interface ShownProbe extends ShownRow {
  row: number
  neighbours: (ShownRow & { row: number; score: number; right: boolean })[]
}

const probesShown = 12
const neighboursShown = 5

/** The probes that are shown: the mistakes that a threshold would let through last. */
export interface Shown {
  /** Known probes whose nearest row is of another class, those of the highest scores first. */
  misidentified: ShownProbe[]
  /** Unknown probes, those of the highest scores first. */
  unknown: ShownProbe[]
}

export async function shownProbes(
  result: IdentificationResult,
  gallery: LabelledRows,
  probes: Pick<LabelledRows, 'labels' | 'nameOf' | 'pictures'>,
  leaveOneOut: boolean
): Promise<Shown> {
  const maxRank = result.cumulativeMatch.length
  const counts = new Map<number, number>()
  for (const label of gallery.labels) counts.set(label, (counts.get(label) ?? 0) + 1)
  const isKnown = (probe: number) => (counts.get(probes.labels[probe] as number) ?? 0) > Number(leaveOneOut)
  const top = (probe: number) => result.scores[probe * maxRank] as number
  const best = (chosen: (probe: number) => boolean) =>
    Array.from(probes.labels.keys())
      .filter(chosen)
      .sort((a, b) => top(b) - top(a))
      .slice(0, probesShown)
  const read = new PictureReader()
  const show = async (probe: number): Promise<ShownProbe> => {
    const label = probes.labels[probe] as number
    const neighbours: ShownProbe['neighbours'] = []
    for (let j = 0; j < Math.min(maxRank, neighboursShown); j++) {
      const row = result.indices[probe * maxRank + j] as number
      const own = gallery.labels[row] as number
      const [name, score] = [probes.nameOf(own), result.scores[probe * maxRank + j] as number]
      neighbours.push({ row, name, score, right: own === label, ...(await read.of(gallery.pictures, row)) })
    }
    return { row: probe, name: probes.nameOf(label), ...(await read.of(probes.pictures, probe)), neighbours }
  }
  const showAll = async (chosen: number[]) => {
    const all: ShownProbe[] = []
    for (const probe of chosen) all.push(await show(probe))
    return all
  }
  return {
    misidentified: await showAll(best((probe) => isKnown(probe) && result.ranks[probe] !== 1)),
    unknown: await showAll(best((probe) => !isKnown(probe))),
  }
}

const types: Record<string, string> = {
  ...{ png: 'image/png', jpg: 'image/jpeg', jpeg: 'image/jpeg', webp: 'image/webp' },
  ...{ gif: 'image/gif', bmp: 'image/bmp', avif: 'image/avif' },
}
const largestPicture = 4 * 2 ** 20

/** Reads pictures into the page, which fetches nothing. */
class PictureReader {
  readonly #read = new Map<string, string>()

  async of(pictures: string[] | undefined, row: number): Promise<{ picture?: string }> {
    const file = pictures?.[row]
    if (file === undefined) return {}
    const known = this.#read.get(file)
    if (known !== undefined) return { picture: known }
    const type = types[path.extname(file).slice(1).toLowerCase()]
    if (!type)
      throw new Failure(
        `Expected a picture (${Object.keys(types).join(', ')}) for row ${row} but received ${file}`
      )
    const picture = `data:${type};base64,${(await readPicture(file)).toString('base64')}`
    this.#read.set(file, picture)
    return { picture }
  }
}

async function readPicture(file: string): Promise<Buffer> {
  try {
    return await readWhole(file, largestPicture)
  } catch (cause) {
    throw new Failure(`Expected a picture in ${file} but: ${reasonOf(cause)}`, { cause })
  }
}
