/** The order of an epoch's rows. It depends on seed and epoch alone, so a resumed training run has the same order. */
import { seededRandom, shuffled } from '../../internal/random'

/** As many classes in each batch, with as many rows of each. */
export interface Balance {
  classesPerBatch: number
  rowsPerClass: number
}

/** @returns every one of `rows` once, in random order */
export function shuffledEpoch(rows: Uint32Array, seed: number, epoch: number): Uint32Array {
  return shuffled(rows.length, randomOf(seed, epoch)).map((i) => rows[i] as number)
}

/**
 * Batches of P classes with K rows each (PK sampling: Hermans et al. 2017, arXiv:1703.07737). Each class comes up again
 * only after all others, and so does each row of a class within the epoch: a class of fewer than K rows repeats them.
 * @param labels the class of every row
 * @param rows those that may be drawn, of at least P classes
 * @returns batches · P · K rows; a batch's rows of one class are side by side
 */
export function balancedEpoch(
  labels: Int32Array,
  rows: Uint32Array,
  { classesPerBatch, rowsPerClass }: Balance,
  batches: number,
  seed: number,
  epoch: number
): Uint32Array {
  const random = randomOf(seed, epoch)
  const byClass = new Map<number, number[]>()
  for (const row of rows) {
    const label = labels[row] as number
    const rows = byClass.get(label)
    if (rows) rows.push(row)
    else byClass.set(label, [row])
  }
  const rounds = new Rounds([...byClass.keys()], random)
  const rowsOf = new Map([...byClass].map(([label, rowsOfClass]) => [label, new Rounds(rowsOfClass, random)]))
  const order = new Uint32Array(batches * classesPerBatch * rowsPerClass)
  let at = 0
  for (let batch = 0; batch < batches; batch++)
    for (const label of rounds.take(classesPerBatch)) {
      const rowsOfClass = rowsOf.get(label) as Rounds
      for (let i = 0; i < rowsPerClass; i++) order[at++] = rowsOfClass.next()
    }
  return order
}

function randomOf(seed: number, epoch: number): () => number {
  return seededRandom(seed * 65_537 + epoch + 1)
}

/** Goes through values in random order, then in another one, … */
class Rounds {
  /** This round's values that are left; they are taken from the end. */
  #left: number[] = []

  constructor(
    private readonly values: number[],
    private readonly random: () => number
  ) {}

  next(): number {
    if (this.#left.length === 0) this.#left = this.#round()
    return this.#left.pop() as number
  }

  /** Different values, at most as many as there are: at a round's end, those of the next that are not among them. */
  take(count: number): number[] {
    const taken = this.#left.splice(-count).reverse()
    if (taken.length === count) return taken
    const among = new Set(taken)
    const round = this.#round()
    const later: number[] = []
    while (taken.length < count) {
      const value = round.pop() as number
      if (among.has(value)) later.push(value)
      else taken.push(value)
    }
    this.#left = [...round, ...later.reverse()]
    return taken
  }

  #round(): number[] {
    return Array.from(shuffled(this.values.length, this.random), (i) => this.values[i] as number)
  }
}
