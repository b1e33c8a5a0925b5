// Identification by brute force: every probe's whole ranking, in float64, and every threshold tried.
import { cosine64 } from './verification-reference'

export interface Gallery {
  values: ArrayLike<number>
  labels: ArrayLike<number>
}

interface Candidate {
  row: number
  score: number
  mate: boolean
}

/** Every row of the gallery that probe i is compared with, nearest first; of equal ones the rows of other classes first. */
function ranking(gallery: Gallery, probes: Gallery, i: number, dim: number, itself: boolean): Candidate[] {
  return Array.from(gallery.labels, (label, row) => ({
    row,
    score: cosine64(probes.values, i, gallery.values, row, dim),
    mate: label === probes.labels[i],
  }))
    .filter(({ row }) => !itself || row !== i)
    .sort((a, b) => b.score - a.score || Number(a.mate) - Number(b.mate) || a.row - b.row)
}

const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length

export function referenceIdentification(
  gallery: Gallery,
  probes: Gallery | undefined,
  dim: number,
  { maxRank, rates, detectionRank = 1 }: { maxRank: number; rates: number[]; detectionRank?: number }
) {
  const judged = probes ?? gallery
  const rankings = Array.from(judged.labels, (_, i) => ranking(gallery, judged, i, dim, probes === undefined))
  const isKnown = (list: Candidate[]) => list.some(({ mate }) => mate)
  const known = rankings.filter(isKnown)
  const unknown = rankings.filter((list) => !isKnown(list))
  const firstMate = (list: Candidate[]) => list.findIndex(({ mate }) => mate)
  const share = (list: Candidate[], k: number) => list.slice(0, k).filter(({ mate }) => mate).length / k
  const matesOf = (list: Candidate[]) => list.filter(({ mate }) => mate).length
  const ranks = Array.from({ length: maxRank }, (_, i) => i + 1)

  const detectedAt = (list: Candidate[]) => {
    const at = firstMate(list)
    return at < detectionRank ? (list[at] as Candidate).score : -Infinity
  }
  const mistakenAt = (list: Candidate[]) => (list[0]?.mate ? -Infinity : (list[0] as Candidate).score)
  const topOf = (list: Candidate[]) => (list[0] as Candidate).score
  const thresholds = [Infinity, ...unknown.map(topOf), ...known.map(detectedAt)]
    .filter((score) => score > -Infinity)
    .sort((a, b) => b - a)
  const rate = (scores: number[], threshold: number) =>
    scores.filter((score) => score >= threshold).length / scores.length
  const openSet = rates.map((limit) => {
    const threshold = thresholds.filter((t) => rate(unknown.map(topOf), t) <= limit).pop() as number
    return {
      limit,
      falseAlarmRate: rate(unknown.map(topOf), threshold),
      detectionRate: rate(known.map(detectedAt), threshold),
      misidentificationRate: rate(known.map(mistakenAt), threshold),
      threshold,
    }
  })
  return {
    probes: { known: known.length, unknown: unknown.length },
    cumulativeMatch: ranks.map((k) => mean(known.map((list) => Number(firstMate(list) < k)))),
    precision: ranks.map((k) => mean(known.map((list) => share(list, k)))),
    meanAveragePrecisionAtR: mean(
      known.map((list) => {
        const mates = matesOf(list)
        const terms = list.slice(0, mates).map(({ mate }, i) => (mate ? share(list, i + 1) : 0))
        return terms.reduce((sum, term) => sum + term, 0) / mates
      })
    ),
    rPrecision: mean(known.map((list) => share(list, matesOf(list)))),
    ...(unknown.length > 0 && { openSet }),
    ranks: rankings.map((list) => (firstMate(list) < maxRank ? firstMate(list) + 1 : 0)),
    indices: rankings.flatMap((list) => list.slice(0, maxRank).map(({ row }) => row)),
    scores: rankings.flatMap((list) => list.slice(0, maxRank).map(({ score }) => score)),
  }
}
