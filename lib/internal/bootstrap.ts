// Confidence intervals by the bootstrap over identities: whole identities are drawn with replacement, because the rows of one
// identity resemble each other and tell less than as many rows of different ones.
import { numberBetween } from './check'
import { integerRow, type OptionRow, seedRow, type ValuesOf } from './option-table'
import { seededRandom } from './random'

/** The options of a bootstrap; without replicates there is none. */
export const bootstrapOptions = {
  replicates: integerRow(0, 0, 1e6),
  confidence: {
    check: (value: unknown, name: string) => numberBetween(value, name, 0, 1),
    default: 0.95,
  },
  seed: seedRow,
} satisfies Record<string, OptionRow<number>>

type Bootstrap = ValuesOf<typeof bootstrapOptions>

/**
 * Draws identities and computes figures of each draw, until there are as many as `replicates`.
 * @param strata the numbers of identities of each stratum: those of one are drawn from among themselves
 * @param figuresOf computes the figures from how often each identity was drawn, for each stratum; undefined where the draw
 *   lacks what they need, and does not count
 * @returns bounds of each figure, by percentiles; a generator that yields after each draw, for others to have their turn
 */
export function* intervals(
  { replicates, confidence, seed }: Bootstrap,
  strata: readonly number[],
  figuresOf: (counts: readonly Float64Array[]) => Float64Array | undefined
): Generator<undefined, { lower: Float64Array; upper: Float64Array }, unknown> {
  const random = seededRandom(seed)
  const counts = strata.map((identities) => new Float64Array(identities))
  const values: Float64Array[] = []
  for (let replicate = 0; replicate < replicates; replicate++) {
    for (const drawn of counts) {
      drawn.fill(0)
      for (let i = 0; i < drawn.length; i++) {
        const identity = Math.floor(random() * drawn.length)
        drawn[identity] = (drawn[identity] as number) + 1
      }
    }
    const figures = figuresOf(counts)
    if (figures) values.push(figures)
    yield
  }
  const count = values[0]?.length ?? 0
  const [lower, upper] = [new Float64Array(count), new Float64Array(count)]
  for (let figure = 0; figure < count; figure++) {
    const sorted = Float64Array.from(values, (of) => of[figure] as number).sort()
    lower[figure] = quantile(sorted, (1 - confidence) / 2)
    upper[figure] = quantile(sorted, (1 + confidence) / 2)
  }
  return { lower, upper }
}

/** On the straight line between the two nearest of the sorted values (type 7 of Hyndman and Fan 1996). */
function quantile(sorted: Float64Array, share: number): number {
  const place = share * (sorted.length - 1)
  const below = sorted[Math.floor(place)] as number
  const above = sorted[Math.ceil(place)] as number
  return below + (above - below) * (place - Math.floor(place))
}
