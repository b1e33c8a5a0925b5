/** `inspect`: what a head's file, or any safetensors file, holds. */
import { open } from 'node:fs/promises'
import path from 'node:path'
import type { Command } from 'commander'
import { fileFormat, type HeadFile, indexFormat, isIndex, openHead, readHead } from '../head-file'
import type { Settings } from '../head-settings'
import { elementsOf, readHeader } from '../safetensors'
import { explain } from './options'
import { counted, Failure, megabytes, percent, print, printJson, printList, printTable } from './terminal'

interface Tensor {
  name: string
  dtype: string
  shape: number[]
  bytes: number
}

interface Contents {
  file: string
  format: string
  bytes: number
  tensors: Tensor[]
  metadata: Record<string, string>
  head?: Settings & { iteration: number; norms: { least: number; mean: number; most: number } }
}

export function addInspect(all: Command): void {
  const command = all
    .command('inspect')
    .description(
      "a head's file: margin, optimizer, progress, weights; or the tensors of any safetensors file"
    )
    .argument('<file>', 'a .safetensors file')
    .option('--json', 'as JSON')
    .action(async (file: string, { json }: { json?: boolean }) => {
      const contents = await inspect(file)
      if (json) printJson(contents)
      else show(contents)
    })
  explain(command, ['inspect head.safetensors'])
}

async function inspect(file: string): Promise<Contents> {
  const sharded = await isIndex(file).catch(() => false) // what cannot be read: readContents says so
  const contents = sharded ? await readShards(file) : await readContents(file)
  if (![fileFormat, indexFormat].includes(contents.format) || contents.metadata.shard) return contents
  const opened = await openHead(file)
  const { settings, iteration } = opened
  return { ...contents, head: { ...settings, iteration, norms: await normsOf(file, opened) } }
}

/** Whether it is the index of a sharded head, which is JSON; other files begin with the length of their header. */
async function readShards(file: string): Promise<Contents> {
  const { shards } = await openHead(file)
  const parts = await Promise.all(
    shards.map((shard) => readContents(path.join(path.dirname(file), shard.file)))
  )
  return {
    file,
    format: indexFormat,
    bytes: parts.reduce((sum, part) => sum + part.bytes, 0),
    tensors: parts.flatMap(({ tensors }, i) =>
      tensors.map((tensor) => ({ ...tensor, name: `${i + 1}: ${tensor.name}` }))
    ),
    metadata: {},
  }
}

async function readContents(file: string): Promise<Contents> {
  try {
    const handle = await open(file)
    try {
      const { metadata, entries, end } = await readHeader(handle)
      const tensors = [...entries].map(
        ([
          name,
          {
            dtype,
            shape,
            data_offsets: [begin, close],
          },
        ]) => ({
          name,
          dtype,
          shape,
          bytes: close - begin,
        })
      )
      return { file, format: metadata.format ?? 'safetensors', bytes: end, tensors, metadata }
    } finally {
      await handle.close()
    }
  } catch (cause) {
    throw new Failure(`Expected a whole safetensors file in ${file} but: ${(cause as Error).message}`, {
      cause,
    })
  }
}

/** Of the classes' weights, which are read in parts. */
async function normsOf(
  file: string,
  opened: HeadFile
): Promise<{ least: number; mean: number; most: number }> {
  const { classes, dim } = opened.settings
  const squares = new Float64Array(classes)
  await readHead(file, opened, { first: 0, count: classes }, (name, offset, part) => {
    if (name !== 'weight') return
    for (let i = 0; i < part.length; i++)
      squares[Math.floor((offset + i) / dim)] =
        (squares[Math.floor((offset + i) / dim)] as number) + (part[i] as number) ** 2
  })
  const norms = squares.map(Math.sqrt)
  const mean = norms.reduce((sum, norm) => sum + norm, 0) / classes
  return { least: norms.reduce((a, b) => Math.min(a, b)), mean, most: norms.reduce((a, b) => Math.max(a, b)) }
}

function show({ file, format, bytes, tensors, metadata, head }: Contents): void {
  print(`${file}: ${format}, ${megabytes(bytes)}\n`)
  if (head) {
    const { least, mean, most } = head.norms
    printList([
      ['Classes', `${head.classes.toLocaleString('en')} × ${head.dim} dimensions`],
      ['Margin', asCode(head.margin)],
      ['Optimizer', asCode(head.optimizer)],
      ['Progress', counted(head.iteration, 'step')],
      ...(head.marginWarmupSteps
        ? [['Warm-up', `of the margin over ${counted(head.marginWarmupSteps, 'step')}`] as [string, string]]
        : []),
      ...(head.sampleRate < 1
        ? [
            [
              'Sampling',
              `${percent(head.sampleRate)} of the classes in a step${head.sampleCorrection ? ', corrected' : ''}`,
            ] as [string, string],
          ]
        : []),
      ...(head.interclassFilter < 1
        ? [['Filter', `other classes above a cosine of ${head.interclassFilter}`] as [string, string]]
        : []),
      ...(head.labelSmoothing ? [['Smoothing', String(head.labelSmoothing)] as [string, string]] : []),
      [
        'Weights',
        `${head.weightStorage}, norms from ${least.toPrecision(4)} to ${most.toPrecision(4)}, mean ${mean.toPrecision(4)}`,
      ],
    ])
    print()
  }
  printTable([
    ['tensor', 'type', 'shape', 'size'],
    ...tensors.map(({ name, dtype, shape, bytes }) => [
      name,
      dtype,
      `[${shape.join(', ')}]`,
      megabytes(bytes),
    ]),
  ])
  const numbers = tensors.reduce((sum, { shape }) => sum + elementsOf(shape), 0)
  print(`\n${counted(tensors.length, 'tensor')}, ${counted(numbers, 'number')}`)
  if (!head && Object.keys(metadata).length) printList(Object.entries(metadata))
}

/** { name: 'arcface', scale: 64 } as arcface({ scale: 64 }). */
export function asCode({ name, ...parameters }: { name: string }): string {
  const inside = Object.entries(parameters).map(([key, value]) => `${key}: ${JSON.stringify(value)}`)
  return `${name}(${inside.length ? `{ ${inside.join(', ')} }` : ''})`
}
