/** `info`: reports what runs here, and what more would need. */
import os from 'node:os'
import type { Command } from 'commander'
import { type Device, devices, ncclState } from '../devices'
import { execution } from '../execution'
import { instructionSets, type NativeBfloat16, native, succeeded } from '../internal/native'
import { binaryFile } from '../internal/native-file'
import { explain } from './options'
import { counted, findPackage, manifest, megabytes, print, printJson, printList, toInstall } from './terminal'

const buildCommand = 'npx margin-softmax build'

/** Packages that widen what this one does, and what for. */
const companions = [
  ['@tensorflow/tfjs', 'training of networks with margin-softmax/tfjs, `demo`, a rival in `bench`'],
  ['vega', 'the pictures of reports: `verify --report`, `demo`'],
  ['vega-lite', 'the pictures of reports: `verify --report`, `demo`'],
] as const

interface Info {
  version: string
  node: string
  platform: string
  processor: string
  memoryBytes: number
  binary: { file: string; chosen: string } | null
  instructionSets: string[]
  /** The instruction set that serves `precision: 'bfloat16'` on the CPU, and whether it is at least as fast as float32. */
  bfloat16: NativeBfloat16 | null
  threads: number | null
  devices: Device[]
  /** For heads sharded over GPUs: its version, or why it is not used; null without a GPU. */
  nccl: { version?: string; reason?: string } | null
  packages: Record<string, boolean>
  missing: string[]
}

export function addInfo(all: Command): void {
  const command = all
    .command('info')
    .description('version, native binary, processor, GPUs, and what is missing')
    .option('--json', 'as JSON')
    .action(({ json }: { json?: boolean }) => {
      const info = collect()
      if (json) printJson(info)
      else show(info)
      if (!info.binary) process.exitCode = 1
    })
  explain(command, ['info', 'info --json'])
}

function collect(): Info {
  const info: Info = {
    version: manifest().version,
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    processor: `${os.cpus()[0]?.model.trim() ?? 'unknown'}, ${counted(os.availableParallelism(), 'core')}`,
    memoryBytes: os.totalmem(),
    binary: null,
    instructionSets: [],
    bfloat16: null,
    threads: null,
    devices: [],
    nccl: null,
    packages: Object.fromEntries(companions.map(([name]) => [name, findPackage(name) !== undefined])),
    missing: [],
  }
  try {
    info.instructionSets = instructionSets()
    info.bfloat16 = succeeded(native().bfloat16())
    info.binary = binaryFile()
    info.devices = devices()
    if (info.devices.some(({ device }) => device.startsWith('cuda:'))) info.nccl = ncclState()
    info.threads = execution({ device: 'cpu' }).threads
    execution({}) // what MARGIN_SOFTMAX_DEVICE says may be wrong
  } catch (error) {
    info.missing.push((error as Error).message)
  }
  const gpus = info.devices.filter(({ device }) => device !== 'cpu')
  for (const { device, reason, usable } of gpus)
    if (!usable)
      info.missing.push(
        /no CUDA/.test(reason ?? '')
          ? `${device}: this binary has no CUDA. Compile one where nvcc (CUDA 12.8 or newer) is installed: ${buildCommand}`
          : `${device}: ${reason}`
      )
  for (const [name, purpose] of companions)
    if (!info.packages[name]) info.missing.push(`${name}, for ${purpose}: npm install ${toInstall(name)}`)
  return info
}

function show(info: Info): void {
  print(`margin-softmax ${info.version}\n`)
  const [best, ...others] = info.instructionSets
  printList([
    ['Node.js', `${info.node}, ${info.platform}`],
    ['Processor', info.processor],
    ['Memory', megabytes(info.memoryBytes)],
    ['Binary', info.binary ? info.binary.file : 'none loads'],
    ['', info.binary ? info.binary.chosen : 'see below'],
    ['Instructions', best ? `${best}${others.length ? ` (also ${others.join(', ')})` : ''}` : '–'],
    ['bfloat16', info.bfloat16 ? describeBfloat16(info.bfloat16) : '–'],
    [
      'Threads',
      info.threads === null
        ? '–'
        : `${info.threads}${process.env.MARGIN_SOFTMAX_THREADS ? ' (MARGIN_SOFTMAX_THREADS)' : ''}`,
    ],
    ...info.devices
      .filter(({ device }) => device !== 'cpu')
      .map((gpu): [string, string] => ['GPU', describe(gpu)]),
    ...(info.nccl
      ? [['NCCL', info.nccl.version ?? `not used: this process ${info.nccl.reason}`] as [string, string]]
      : []),
  ])
  if (info.missing.length) print('\nWhat is missing:')
  for (const line of info.missing) print(`  • ${line.replaceAll('\n', '\n    ')}`)
}

function describeBfloat16({ instructionSet, fast, timesFloat32 }: NativeBfloat16): string {
  const rate = timesFloat32 ? `${timesFloat32.toFixed(2)} times float32's rate, measured` : 'in tiles'
  return `${instructionSet}: ${rate}${fast ? '' : ', so float32 is faster'}`
}

function describe(gpu: Device): string {
  const parts = [
    gpu.device,
    gpu.name,
    gpu.computeCapability && `compute capability ${gpu.computeCapability}`,
    gpu.driver && `driver for CUDA ${gpu.driver}`,
    gpu.memoryBytes &&
      (gpu.freeBytes === undefined
        ? megabytes(gpu.memoryBytes)
        : `${megabytes(gpu.freeBytes)} of ${megabytes(gpu.memoryBytes)} free`),
    gpu.usable ? `usable: ${gpu.precisions.join(', ')}` : 'not usable',
  ]
  return parts.filter(Boolean).join(', ')
}
