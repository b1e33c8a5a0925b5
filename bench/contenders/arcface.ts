// Computes ArcFace at the target cosine in double precision, for the rivals' closed forms. It is needed for one
// value per row, so every rival computes it here rather than with kernels over tiny tensors (measured faster).

import { margin, scale } from '../cases'

const cosine = Math.cos(margin)
const sine = Math.sin(margin)
const threshold = Math.cos(Math.PI - margin)

/** ψ(c): the target's cosine with the angular margin. */
export function arcfaceValue(c: number): number {
  if (c <= threshold) return c - margin * sine
  return c * cosine - Math.sqrt(Math.max(0, 1 - c * c)) * sine
}

/** ψ'(c). */
export function arcfaceSlope(c: number): number {
  if (c <= threshold) return 1
  return cosine + (sine * c) / Math.sqrt(Math.max(1e-12, 1 - c * c))
}

/** The target logits s·ψ(c_i), from the plain ones s·c_i. */
export function targetLogits(plain: ArrayLike<number>): Float32Array {
  return Float32Array.from(plain, (logit) => scale * arcfaceValue(logit / scale))
}

/** (P_iy − 1)·ψ'(c_i): the target entries of ∂loss/∂logit, from the plain target logits and log-sum-exp. */
export function targetSlopes(
  plain: ArrayLike<number>,
  logits: ArrayLike<number>,
  logSumExp: ArrayLike<number>
): Float32Array {
  return Float32Array.from(
    plain,
    (logit, row) =>
      Math.expm1((logits[row] as number) - (logSumExp[row] as number)) * arcfaceSlope(logit / scale)
  )
}

/** mean_i (lse_i − z_iy). */
export function meanLoss(logits: ArrayLike<number>, logSumExp: ArrayLike<number>): number {
  let sum = 0
  for (let row = 0; row < logits.length; row++) sum += (logSumExp[row] as number) - (logits[row] as number)
  return sum / logits.length
}
