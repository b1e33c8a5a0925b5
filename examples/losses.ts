/** The five losses and the settings with which the demo trains each. */
import { arcface, cosface, type MarginHead, normface, softmaxMargin, sphereface } from '../lib/index'

type Margin = NonNullable<Parameters<typeof MarginHead.create>[0]['margin']>

export interface LossSetting {
  name: string
  title: string
  /** one sentence for the report */
  idea: string
  /** with `dim` dimensions: two need smaller margins, eight classes fill a circle */
  margin(dim: number): Margin
  /** share of the training over which the margin grows from 0 to its full size */
  warmup: number
}

export const losses: LossSetting[] = [
  {
    name: 'softmax',
    title: 'Softmax',
    idea: 'The ordinary classifier: dot products, no normalisation, no margin.',
    margin: () => softmaxMargin(),
    warmup: 0,
  },
  {
    name: 'normface',
    title: 'NormFace',
    idea: 'Only angles count: embeddings and class centres are put on the unit sphere first.',
    margin: () => normface({ scale: 16 }),
    warmup: 0,
  },
  {
    name: 'sphereface',
    title: 'SphereFace',
    idea: 'The angle to the own centre is multiplied, fading in from plain softmax as training goes on.',
    margin: (dim) => sphereface({ m: dim === 2 ? 4 : 4, gamma: 1 }),
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
    idea: 'The angle to the own centre must win by a fixed amount: the same margin everywhere on the sphere.',
    margin: (dim) => arcface({ scale: 16, margin: dim === 2 ? 0.3 : 0.5 }),
    warmup: 0.3,
  },
]
