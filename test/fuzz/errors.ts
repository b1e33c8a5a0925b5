// Judges errors, whatever the call.
import { MarginSoftmaxError } from '../../lib/index'

/** `Expected <what> for <name> but received <value>`, or of memory, files and devices `… but …`. */
const shape = /^Expected .+ for .+ but received .+/s

/** Says what is wrong with an error of a hostile call: it must be of a documented kind, in its words. */
export function faultOf(error: unknown): string | undefined {
  if (error instanceof MarginSoftmaxError)
    return /^ERR_[A-Z_]+$/.test(error.code) && /^Expected .+/s.test(error.message)
      ? undefined
      : `MarginSoftmaxError ${error.code}: ${error.message}`
  if (!(error instanceof TypeError || error instanceof RangeError)) return String(error)
  if (!shape.test(error.message)) return `${error.name}: ${error.message}`
  return undefined
}
