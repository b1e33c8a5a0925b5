/** `embed`: the embeddings that a head's projection makes of features. */
import type { Command } from 'commander'
import { type ExecutionOptions, MarginHead } from '../index'
import { newArray } from '../internal/check'
import { replaceFile } from '../internal/write-file'
import {
  asMatrix,
  type FileArray,
  filesNote,
  type Matrix,
  parseSource,
  readArray,
  type TextOptions,
} from './data/files'
import { npyHeader } from './data/npy'
import { addColumnOptions, checkTextOptions, readingOf, sentenceOf } from './data/options'
import { cleanUp } from './interrupt'
import { explain, threadsOption } from './options'
import {
  checkTarget,
  complain,
  counted,
  duration,
  Failure,
  Misuse,
  Progress,
  print,
  printJson,
} from './terminal'

interface Options extends TextOptions {
  head: string
  out: string
  threads?: number
  json?: boolean
}

/** Features that were read, and what names a row of them. */
type Features = Matrix & Pick<FileArray, 'from' | 'place'>

/** Rows between two looks at the progress. */
const rowsAtOnce = 16_384

export function addEmbed(all: Command): void {
  const command = all
    .command('embed')
    .description("the embeddings that a head's projection makes of features, as a .npy file")
    .argument('<features>', 'rows of numbers: .npy, .npz, .safetensors, .csv, .tsv')
    .requiredOption('--head <file>', 'a head with a projection, as train --project makes it')
    .requiredOption('--out <file>', 'where the embeddings go, a .npy file')
    .addOption(threadsOption())
    .option('--json', 'the result as JSON')
    .action(embed)
  addColumnOptions(command)
  explain(
    command,
    [
      'embed features.npy --head head.safetensors --out embeddings.npy',
      'embed features.npz:images --head head.safetensors --out embeddings.npy',
    ],
    ['The embeddings are not normalized: verify and topK compare directions.', filesNote]
  )
}

async function embed(file: string, options: Options): Promise<void> {
  const { head: headFile, out, threads, json } = options
  if (!out.endsWith('.npy'))
    throw new Misuse(`Expected a name that ends in .npy for --out but received ${out}`)
  checkTextOptions(options, file, undefined)
  await checkTarget(out, '--out')
  const array = await readArray(parseSource(file), 'embeddings', 'numbers', options)
  const { rows, ...matrix } = asMatrix(array)
  complain(sentenceOf(readingOf(array)))
  using head = await projectionIn(headFile, { threads })
  const progress = new Progress()
  cleanUp(() => progress.stop())
  const start = performance.now()
  await replaceFile(out, async (write) => {
    const header = npyHeader([rows, head.dim])
    await write(header, 0)
    const { from, place } = array
    await embedRows(head, { ...matrix, rows, from, place }, progress, (part, first) =>
      write(part, header.length + 4 * first * head.dim)
    )
  })
  const seconds = (performance.now() - start) / 1000
  if (json) printJson({ embeddings: out, rows, dim: head.dim, head: headFile, seconds })
  else print(`${counted(rows, 'row')} × ${matrix.dim} → ${head.dim}: ${out} (${duration(seconds)})`)
}

/** A head's projection computes on the CPU, and of the head nothing else is needed here. */
async function projectionIn(file: string, where: ExecutionOptions): Promise<MarginHead> {
  const head = await MarginHead.load(file, { ...where, device: 'cpu' })
  if (head.projection) return head
  head.dispose()
  throw new Failure(
    `Expected a head with a projection in ${file} but it has none: train --project makes one, and embeddings of others are given`
  )
}

/** Hands the embeddings on in parts, each with its first row. */
async function embedRows(
  head: MarginHead,
  { embeddings: features, rows, dim, from, place }: Features,
  progress: Progress,
  take: (part: Float32Array, first: number) => unknown
): Promise<void> {
  const width = head.projection?.from
  if (dim !== width)
    throw new Failure(
      `Expected rows of ${width} numbers, as the head's projection takes, in ${from} but received ${dim}`
    )
  progress.stop()
  progress.start('Embedding', rows)
  try {
    for (let first = 0; first < rows; first += rowsAtOnce) {
      const last = Math.min(rows, first + rowsAtOnce)
      const part = await head.embed(features.subarray(first * dim, last * dim))
      const wrong = part.findIndex((value) => !Number.isFinite(value))
      if (wrong >= 0)
        throw new Failure(
          `Expected finite numbers for features but received others, or far too large ones, in ${place(first + Math.floor(wrong / head.dim))}`
        )
      await take(part, first)
      progress.update(last, counted(last, 'row'))
    }
  } finally {
    progress.stop()
  }
}

/** Rows as they are or, where a head's file is given, what its projection makes of them. */
export async function throughHead(
  file: string | undefined,
  matrix: Matrix,
  { from, place }: FileArray,
  threads: number | undefined,
  progress: Progress
): Promise<Matrix> {
  if (file === undefined) return matrix
  using head = await projectionIn(file, { threads })
  const embeddings = newArray(Float32Array, matrix.rows * head.dim, 'the embeddings')
  await embedRows(head, { ...matrix, from, place }, progress, (part, first) =>
    embeddings.set(part, first * head.dim)
  )
  return { embeddings, rows: matrix.rows, dim: head.dim }
}
