// Names the machine that the figures were measured on.

import os from 'node:os'
import { machinePeak } from '../lib/execution'

export interface Machine {
  cpu: string
  cores: number
  memoryGiB: number
  node: string
  system: string
  date: string
}

export function machine(): Machine {
  return {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown processor',
    cores: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    node: process.version,
    system: `${os.platform()} ${os.arch()}`,
    date: new Date().toISOString().slice(0, 10),
  }
}

/** The fused multiply-adds in single precision that the cores reach, in GFLOP/s. */
export function measuredPeak(threads: number): number {
  return machinePeak({ threads })
}
