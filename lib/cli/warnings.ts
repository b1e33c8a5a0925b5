/** Warnings that verification and identification share. */
import { counted } from './terminal'

/** @returns a warning if rows of the embeddings are zeros, else none */
export function zeroRowWarnings(zeroRows: number): string[] {
  if (zeroRows === 0) return []
  return [
    `${counted(zeroRows, 'row')} of the embeddings ${zeroRows === 1 ? 'is' : 'are'} zeros: without a direction, ${zeroRows === 1 ? 'it scores' : 'they score'} 0 with every other row`,
  ]
}
