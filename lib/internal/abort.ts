// AbortSignals: of this realm or another, as jsdom's are under Jest.
import { wrongType } from '../errors'
import { isRecord } from './intrinsics'
import { type NativeResult, native } from './native'

/** The `signal` of a call's options. */
export function checkSignal(value: unknown): AbortSignal | undefined {
  if (value === undefined) return undefined
  if (!isRecord(value) || !('aborted' in value) || !('addEventListener' in value))
    throw wrongType('an AbortSignal', 'signal', value)
  return value as AbortSignal
}

/** Throws the reason of a signal that has been aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw reasonOf(signal)
}

let lastTicket = 0

/**
 * Asynchronous native work that a signal ends: not begun where it is aborted already, taken back where it waits for its
 * turn, told to stop where it runs. Rejects with the signal's reason, once no thread is at it any more.
 * @param begin hands its ticket to the addon as the request's `ticket`
 */
export async function abortable<Result extends Partial<Pick<NativeResult, 'failure'>>>(
  signal: AbortSignal | undefined,
  begin: (ticket: number) => Result | Promise<Result>
): Promise<Result> {
  if (!signal) return begin(0)
  throwIfAborted(signal)
  const ticket = ++lastTicket
  const cancel = () => native().cancel(ticket)
  signal.addEventListener('abort', cancel)
  try {
    const result = await begin(ticket)
    if (result.failure === 'ERR_CANCELLED') throw reasonOf(signal)
    return result
  } finally {
    signal.removeEventListener('abort', cancel)
  }
}

/** Ends as a promise does, or at once with the reason where the signal is aborted before. */
export function until<T>(awaited: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return awaited
  return new Promise((resolve, reject) => {
    const abort = () => reject(reasonOf(signal))
    const forget = () => signal.removeEventListener('abort', abort)
    if (signal.aborted) abort()
    else signal.addEventListener('abort', abort)
    awaited.then(resolve, reject).finally(forget)
  })
}

function reasonOf({ reason }: AbortSignal): unknown {
  return reason === undefined ? new DOMException('This operation was aborted', 'AbortError') : reason
}
