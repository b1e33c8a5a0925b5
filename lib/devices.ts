import { MarginSoftmaxError, wrongType, wrongValue } from './errors'
import { oneOf } from './internal/check'
import { instructionSets, type NativeDevice, native, succeeded } from './internal/native'

/** `'auto'` (the best there is), the CPU, the first usable GPU, or the GPU of that index. */
export type DeviceName = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`

/** The precision of the matrix products: 23, 10 or 7 bits of fraction. Sums are float32 or better in all of them. */
export type Precision = 'float32' | 'tf32' | 'bfloat16'

export const precisions: readonly Precision[] = ['float32', 'tf32', 'bfloat16']

/** The file of NCCL that sharded heads look for, or '' where `MARGIN_SOFTMAX_NCCL` is `off`. */
export function ncclLibrary(): string {
  const library = process.env.MARGIN_SOFTMAX_NCCL
  if (library === 'off') return ''
  return library && library !== 'auto' ? library : 'libnccl.so.2'
}

/** The version of NCCL, or why this process would not use it. */
export function ncclState(): { version?: string; reason?: string } {
  const { version, reason } = succeeded(native().nccl(ncclLibrary()))
  return reason ? { reason } : { version }
}

/** The index that stands for the CPU. */
export const cpu = -1

/** A device that a computation can run on, or the reason why it cannot. */
export interface Device {
  /** `'cpu'`, `'cuda:0'`, …; plain `'cuda'` where there is no GPU at all, to say why. */
  device: DeviceName
  /** The best instruction set, or the GPU's name. */
  name: string
  /** Whether a computation may be given it. */
  usable: boolean
  /** Why it is not usable. */
  reason?: string
  /** The values that `precision` may have on it; none if it is not usable. */
  precisions: Precision[]
  /**
   * The precisions that are at least as fast as `'float32'` on it where `dim` is 128 or more, the fastest first; none if it is
   * not usable. The CPU is measured when this is first asked for, which takes less than a millisecond. A GPU with tensor cores
   * has all of them.
   */
  fastPrecisions: Precision[]
  /** A GPU's compute capability, such as `'9.0'`. */
  computeCapability?: string
  /** A GPU's memory in bytes. */
  memoryBytes?: number
  /** The part of `memoryBytes` that is free at the moment of the call; undefined for a GPU that does not open. */
  freeBytes?: number
  /** The newest CUDA that the driver knows: `'13.0'`. */
  driver?: string
}

/** GPUs by index, as they were when first asked for; undefined where there is none. An entry never changes. */
const tried = new Map<number, NativeDevice | undefined>()

/** The GPU of this index, the only one that is opened and tried for it. */
function tryGpu(index: number): NativeDevice | undefined {
  if (!tried.has(index))
    tried.set(
      index,
      succeeded(native().cudaDevices(index)).find((gpu) => gpu.index === index)
    )
  return tried.get(index)
}

/** Tries GPUs in order until one is usable. */
function firstUsable(): NativeDevice | undefined {
  for (let index = 0; ; index++) {
    const gpu = tryGpu(index)
    if (!gpu || gpu.usable) return gpu
  }
}

/**
 * Lists the CPU and every GPU, each usable or with the reason why not.
 *
 * A GPU counts as usable only after a trial: the first call opens every GPU, runs two small steps on it and compares them
 * with the CPU's. That takes as long as the driver needs to open the GPUs, and about half a gigabyte of each GPU's memory
 * for as long as the process lives. If you need only one, ask for that one: `device: 'cuda:1'` opens no other, and `'auto'`
 * and `'cuda'` open GPUs in order until one is usable.
 */
export function devices(): Device[] {
  const gpus = succeeded(native().cudaDevices())
  for (const gpu of gpus) if (gpu.index >= 0) tried.set(gpu.index, gpu)
  return [
    {
      device: 'cpu',
      name: instructionSets()[0] as string,
      usable: true,
      precisions: ['float32', 'bfloat16'],
      fastPrecisions: succeeded(native().bfloat16()).fast ? ['bfloat16', 'float32'] : ['float32'],
    },
    ...gpus.map(describe),
  ]
}

function describe(gpu: NativeDevice): Device {
  return {
    device: gpu.index < 0 ? 'cuda' : `cuda:${gpu.index}`,
    name: gpu.name,
    usable: gpu.usable,
    ...(!gpu.usable && { reason: gpu.reason }),
    precisions: !gpu.usable ? [] : gpu.tensorCores ? [...precisions] : ['float32'],
    fastPrecisions: !gpu.usable ? [] : gpu.tensorCores ? [...precisions].reverse() : ['float32'],
    ...(gpu.computeCapability && {
      computeCapability: (gpu.computeCapability / 10).toFixed(1),
      memoryBytes: gpu.memoryBytes,
    }),
    ...(gpu.freeBytes && { freeBytes: gpu.freeBytes }),
    ...(gpu.driverVersion && {
      driver: `${Math.floor(gpu.driverVersion / 1000)}.${(gpu.driverVersion % 1000) / 10}`, // 13020 is 13.2
    }),
  }
}

/**
 * The index of a device by its name.
 * @param auto what `'auto'` means unless `MARGIN_SOFTMAX_DEVICE` says otherwise: the best device, or always the CPU
 */
export function deviceIndex(device: unknown, auto: 'best' | 'cpu'): number {
  if (device === undefined || device === 'auto') return usualDevice(auto)
  if (typeof device !== 'string') throw wrongType("'auto', 'cpu', 'cuda' or 'cuda:<index>'", 'device', device)
  if (device === 'cpu') return cpu
  const named = /^cuda(?::(\d+))?$/.exec(device)
  if (!named) throw wrongValue("'auto', 'cpu', 'cuda' or 'cuda:<index>'", 'device', device)
  const index = Number(named[1] ?? 0)
  const gpu = named[1] === undefined ? firstUsable() : tryGpu(index)
  if (gpu?.usable) return gpu.index
  const gpus = gpu
    ? [gpu]
    : succeeded(native().cudaDevices(index)).map((other) => tried.get(other.index) ?? other)
  const reasons = gpus.map(({ index, usable, reason }) =>
    index < 0 ? reason : `cuda:${index} is ${usable ? 'usable' : reason ? `not: ${reason}` : 'there'}`
  )
  throw new MarginSoftmaxError(
    'ERR_UNAVAILABLE',
    `Expected a usable GPU for device but received ${JSON.stringify(device)}: ${reasons.join('; ')}`
  )
}

function usualDevice(auto: 'best' | 'cpu'): number {
  const fromEnvironment = process.env.MARGIN_SOFTMAX_DEVICE
  if (fromEnvironment && fromEnvironment !== 'auto') return deviceIndex(fromEnvironment, 'cpu')
  return auto === 'cpu' ? cpu : (firstUsable()?.index ?? cpu)
}

export function deviceName(index: number): DeviceName {
  return index === cpu ? 'cpu' : `cuda:${index}`
}

/** The addon's number for a precision, which the device must have. */
export function precisionIndex(name: unknown, device: number): number {
  if (name === undefined) return 0
  const precision = oneOf(name, 'precision', precisions)
  if (precision === 'float32') return 0
  if (device === cpu) {
    if (precision === 'tf32') throw wrongValue("'float32' or 'bfloat16' on the CPU", 'precision', name)
    return precisions.indexOf(precision)
  }
  const gpu = tryGpu(device) as NativeDevice
  if (!gpu.tensorCores)
    throw wrongValue(
      `'float32' on a GPU of compute capability ${describe(gpu).computeCapability}`,
      'precision',
      name
    )
  return precisions.indexOf(precision)
}

export function precisionName(index: number): Precision {
  return precisions[index] as Precision
}
