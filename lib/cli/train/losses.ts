/** The losses of the command line: which options each takes, and the margin that they make. */
import {
  arcface,
  combined,
  cosface,
  curricularface,
  type Margin,
  mvsoftmax,
  normface,
  softmaxMargin,
  sphereface,
} from '../../index'

/** Options that only some losses have. */
export interface LossOptions {
  scale?: number
  margin?: number
  m1?: number
  m2?: number
  m3?: number
  t?: number
}

interface Loss {
  takes: (keyof LossOptions)[]
  make(given: LossOptions): Margin
}

/** The options that each loss takes, and the margin that it makes. An undefined option stands for the loss's own default. */
export const losses: Record<string, Loss> = {
  arcface: {
    takes: ['scale', 'margin'],
    make: ({ scale, margin }) => arcface({ scale, margin }),
  },
  cosface: {
    takes: ['scale', 'margin'],
    make: ({ scale, margin }) => cosface({ scale, margin }),
  },
  combined: {
    takes: ['scale', 'm1', 'm2', 'm3'],
    make: ({ scale, m1, m2, m3 }) => combined({ scale, m1, m2, m3 }),
  },
  normface: { takes: ['scale'], make: ({ scale }) => normface({ scale }) },
  sphereface: {
    takes: ['scale', 'margin'],
    make: ({ scale, margin }) => sphereface({ scale, m: margin }),
  },
  mvsoftmax: {
    takes: ['scale', 'margin', 't'],
    make: ({ scale, margin, t }) => mvsoftmax({ scale, margin, t }),
  },
  curricularface: {
    takes: ['scale', 'margin', 't'],
    make: ({ scale, margin, t }) => curricularface({ scale, margin, t }),
  },
  softmax: { takes: [], make: () => softmaxMargin() },
}
