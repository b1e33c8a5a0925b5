/** The five losses and the settings with which the demo trains each. */
import { arcface, cosface, type Margin, normface, softmaxMargin, sphereface } from '../index'

export interface LossSetting {
  name: string
  title: string
  /** one sentence for the report */
  idea: string
  /**
   * The margin for embeddings of `dim` dimensions. The margins are the library's defaults, which are those of the papers.
   * The scales are smaller: the papers' tell apart thousands of faces in 512 dimensions. Eight directions in a plane are
   * only 45° apart, so a margin of 0.5 radians (29°) cannot be kept on both sides, and a large scale would insist on it.
   */
  margin(dim: number): Margin
  /** share of the training over which the margin grows from nothing to its full size */
  warmup: number
}

const scale = (dim: number) => (dim === 2 ? 8 : 16)

export const losses: LossSetting[] = [
  {
    name: 'softmax',
    title: 'Softmax',
    idea: 'The ordinary classifier: raw dot products, no normalisation, no margin.',
    margin: () => softmaxMargin(),
    warmup: 0,
  },
  {
    name: 'normface',
    title: 'NormFace',
    idea: 'Only angles count: embeddings and class centres are normalised first, then scaled.',
    margin: (dim) => normface({ scale: scale(dim) }),
    warmup: 0,
  },
  {
    name: 'sphereface',
    title: 'SphereFace',
    idea: 'The angle to the own centre counts several times over; the effect fades in as the training goes on.',
    margin: () => sphereface({ gamma: 1 }), // eight times the default, as the training is so much shorter
    warmup: 0,
  },
  {
    name: 'cosface',
    title: 'CosFace',
    idea: 'The cosine to the own centre must win by a fixed amount.',
    margin: (dim) => cosface({ scale: scale(dim), margin: 0.35 }),
    warmup: 0.3,
  },
  {
    name: 'arcface',
    title: 'ArcFace',
    idea: 'The angle to the own centre must win by a fixed amount, the same wherever on the sphere.',
    margin: (dim) => arcface({ scale: scale(dim), margin: 0.5 }),
    warmup: 0.3,
  },
]
