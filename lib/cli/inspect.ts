/** `inspect`: what a head's file, or any safetensors file, holds. */
import path from 'node:path'
import type { Command } from 'commander'
import { reasonOf } from '../internal/file-error'
import { type HeadFile, numbersOf, openHead, readClassNames } from '../internal/head-file'
import { type Settings, settingRows, type TypedName } from '../internal/head-options'
import { fileFormat, indexFormat, isIndex } from '../internal/head-shards'
import { type Leftover, leftoversOf } from '../internal/leftovers'
import type { Projection } from '../internal/projection'
import { elementsOf, SafetensorsFile, type SafetensorsHeader } from '../internal/safetensors'
import { targetOf } from '../internal/write-file'
import { explain } from './options'
import { counted, Failure, megabytes, percent, print, printJson, printList, printTable } from './terminal'

/** A person is shown so many class names, tensors and characters; --json has all. */
const mostNames = 8
const mostTensors = 100
const mostCharacters = 400

interface Tensor {
  name: string
  dtype: string
  shape: number[]
  bytes: number
}

/** The norms of the classes' weights. */
interface Norms {
  least: number
  mean: number
  most: number
}

interface Contents {
  file: string
  format: string
  bytes: number
  tensors: Tensor[]
  metadata: Record<string, string>
  head?: Settings & { iteration: number; norms: Norms; classNames?: readonly string[] }
  /** Whether the head's files have checksums. Those that they have were right. */
  checksums?: boolean
  /** Temporary files that unfinished saves of this path left behind. */
  leftovers: Leftover[]
}

export function addInspect(all: Command): void {
  const command = all
    .command('inspect')
    .description(
      "a head's file: margin, optimizer, progress, weights, checksums; or the tensors of any safetensors file"
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
  if (!sharded) {
    const contents = await readContents(file)
    if (contents.format !== fileFormat || contents.metadata.shard) return contents
  }
  const opened = await openHead(file)
  try {
    const { settings, iteration, shards } = opened
    const classNames = await readClassNames(opened, true)
    const norms = await normsOf(opened)
    return {
      file,
      format: sharded ? indexFormat : fileFormat,
      bytes: shards.reduce((sum, shard) => sum + shard.file.header.end, 0),
      tensors: shards.flatMap((shard, i) => tensorsOf(shard.file.header, sharded ? `${i + 1}: ` : '')),
      metadata: sharded ? {} : (shards[0]?.file.metadata ?? {}),
      head: { ...settings, iteration, norms, ...(classNames && { classNames }) },
      checksums: shards.every((shard) => shard.file.checksums),
      leftovers: await leftoversBeside(file),
    }
  } finally {
    await opened.close()
  }
}

async function leftoversBeside(file: string): Promise<Leftover[]> {
  return leftoversOf((await targetOf(file)).path)
}

const tensorsOf = ({ entries }: SafetensorsHeader, prefix = ''): Tensor[] =>
  [...entries].map(([name, { dtype, shape, data_offsets: offsets }]) => ({
    name: prefix + name,
    dtype,
    shape,
    bytes: offsets[1] - offsets[0],
  }))

async function readContents(file: string): Promise<Contents> {
  try {
    const header = await SafetensorsFile.headerOf(file)
    const { metadata, end } = header
    return {
      file,
      format: metadata.format ?? 'safetensors',
      bytes: end,
      tensors: tensorsOf(header),
      metadata,
      leftovers: await leftoversBeside(file),
    }
  } catch (cause) {
    throw new Failure(`Expected a whole safetensors file in ${file} but: ${reasonOf(cause)}`, { cause })
  }
}

/** The weights are read in parts. */
async function normsOf(opened: HeadFile): Promise<Norms> {
  const { classes, dim } = opened.settings
  const squares = new Float64Array(classes)
  for await (const { name, offset, values } of numbersOf(opened, { first: 0, count: classes })) {
    if (name !== 'weight') continue // the others are held against their checksums
    for (let i = 0; i < values.length; i++) {
      const j = Math.floor((offset + i) / dim)
      squares[j] = (squares[j] as number) + (values[i] as number) ** 2
    }
  }
  const norms = squares.map(Math.sqrt)
  const mean = norms.reduce((sum, norm) => sum + norm, 0) / classes
  return { least: norms.reduce((a, b) => Math.min(a, b)), mean, most: norms.reduce((a, b) => Math.max(a, b)) }
}

function show({ file, format, bytes, tensors, metadata, head, checksums, leftovers }: Contents): void {
  print(`${file}: ${format}, ${megabytes(bytes)}\n`)
  if (head) {
    const { least, mean, most } = head.norms
    printList([
      ['Classes', `${head.classes.toLocaleString('en')} × ${head.dim} dimensions`],
      ...(head.classNames ? [['Names', listed(head.classNames)] as [string, string]] : []),
      ...(head.projection ? [['Projection', projectionWords(head.projection)] as [string, string]] : []),
      ['Margin', asCode(head.margin)],
      ['Optimizer', asCode(head.optimizer)],
      ['Progress', counted(head.iteration, 'step')],
      ...optionsOf(head),
      [
        'Weights',
        `${head.weightStorage}, norms from ${least.toPrecision(4)} to ${most.toPrecision(4)}, mean ${mean.toPrecision(4)}`,
      ],
      ['Checksums', checksums ? 'right' : 'none in this file'],
    ])
    print()
  }
  printTable([
    ['tensor', 'type', 'shape', 'size'],
    ...tensors
      .slice(0, mostTensors)
      .map(({ name, dtype, shape, bytes }) => [
        short(name),
        dtype,
        short(`[${shape.join(', ')}]`),
        megabytes(bytes),
      ]),
  ])
  if (tensors.length > mostTensors)
    print(`and ${counted(tensors.length - mostTensors, 'more', 'more')}: --json names all`)
  const numbers = tensors.reduce((sum, { shape }) => sum + elementsOf(shape), 0)
  print(`\n${counted(tensors.length, 'tensor')}, ${counted(numbers, 'number')}`)
  if (!head && Object.keys(metadata).length)
    printList(
      Object.entries(metadata)
        .slice(0, mostTensors)
        .map(([name, value]) => [short(name), short(value)])
    )
  if (leftovers.length) print(`\nLeft by saves that did not end:`)
  for (const leftover of leftovers)
    print(`  ${path.basename(leftover.file)}, ${megabytes(leftover.bytes)}: ${fateOf(leftover)}`)
}

/** `768 → 300 → 128, batch norm, dropout 0.2` */
function projectionWords({ from, hidden, to, layers, batchNorm, dropout }: Projection): string {
  const lengths = layers === 2 ? [from, hidden, to] : [from, to]
  return [
    lengths.join(' → '),
    ...(batchNorm ? ['batch norm'] : []),
    ...(dropout ? [`dropout ${dropout}`] : []),
  ].join(', ')
}

/** Words for settings that are not their defaults; the others are told by their names. */
const wordings: Partial<Record<TypedName, (head: Settings) => [label: string, text: string] | undefined>> = {
  marginWarmupSteps: (head) => ['Warm-up', `of the margin over ${counted(head.marginWarmupSteps, 'step')}`],
  labelSmoothing: (head) => ['Smoothing', String(head.labelSmoothing)],
  sampleRate: ({ sampleRate, sampleCorrection }) => [
    'Sampling',
    `${percent(sampleRate)} of the classes in a step${sampleCorrection ? ', corrected' : ''}`,
  ],
  sampleCorrection: ({ sampleRate }) => (sampleRate < 1 ? undefined : ['Sampling', 'corrected']),
  interclassFilter: (head) => ['Filter', `other classes above a cosine of ${head.interclassFilter}`],
  bias: () => undefined, // a tensor
  weightStorage: () => undefined, // beside the weights' norms
}

function optionsOf(head: Settings): [string, string][] {
  const others: string[] = []
  const entries = settingRows.flatMap(([name, row]): [string, string][] => {
    if (!row.typed || head[name] === row.default) return []
    const worded = wordings[name as TypedName]
    if (!worded) others.push(`${name} ${head[name]}`)
    const entry = worded?.(head)
    return entry ? [entry] : []
  })
  return others.length ? [...entries, ['Options', others.join(', ')]] : entries
}

/** The first of the names, as JSON strings; --json has all. */
function listed(names: readonly string[]): string {
  const first = names.slice(0, mostNames).map((name) => short(JSON.stringify(name)))
  return `${first.join(', ')}${names.length > mostNames ? ', …' : ''}`
}

const short = (text: string) => (text.length > mostCharacters ? `${text.slice(0, mostCharacters)}…` : text)

function fateOf({ saver, abandoned }: Leftover): string {
  if (saver === 'running') return 'a save that is under way'
  return abandoned
    ? 'the next save of this path removes it'
    : 'of another machine, container or boot: removed once it is a day old'
}

/** { name: 'arcface', scale: 64 } as arcface({ scale: 64 }). */
export function asCode({ name, ...parameters }: { name: string }): string {
  const inside = Object.entries(parameters).map(([key, value]) => `${key}: ${JSON.stringify(value)}`)
  return `${name}(${inside.length ? `{ ${inside.join(', ')} }` : ''})`
}
