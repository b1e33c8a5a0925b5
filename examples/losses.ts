/** The five losses and the settings with which the demo trains each. */
import { arcface, cosface, type Margin, normface, softmaxMargin, sphereface } from '../lib/index'

export interface LossSetting {
  name: string
  title: string
  /** one sentence for the report */
  idea: string
  /**
   * The margin for embeddings of `dim` dimensions. The defaults of the library are those of the papers, made for thousands
   * of faces in 512 dimensions. Eight digits need a smaller scale, and in two dimensions a smaller margin: eight centres
   * on a circle are 45° apart, so the borders between neighbours lie 22.5° (0.39 radians) from either.
   */
  margin(dim: number): Margin
  /** share of the training over which the margin grows from nothing to its full size */
  warmup: number
}

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
    margin: (dim) => normface({ scale: dim === 2 ? 8 : 16 }),
    warmup: 0,
  },
  {
    name: 'sphereface',
    title: 'SphereFace',
    idea: 'The angle to the own centre counts several times over; the effect fades in as the training goes on.',
    margin: () => sphereface({ m: 4, gamma: 1 }),
    warmup: 0,
  },
  {
    name: 'cosface',
    title: 'CosFace',
    idea: 'The cosine to the own centre must win by a fixed amount.',
    margin: (dim) => cosface({ scale: 16, margin: dim === 2 ? 0.2 : 0.35 }),
    warmup: 0.3,
  },
  {
    name: 'arcface',
    title: 'ArcFace',
    idea: 'The angle to the own centre must win by a fixed amount, the same wherever on the sphere.',
    margin: (dim) => arcface({ scale: 16, margin: dim === 2 ? 0.35 : 0.5 }),
    warmup: 0.3,
  },
]
