// The golden vectors: cases computed by another framework's automatic differentiation, in safetensors files.
import fs from 'node:fs'
import path from 'node:path'

export interface Tensor {
  dtype: string
  shape: number[]
  data: Float64Array | Float32Array | Int32Array // I64 is narrowed: the files hold labels and counters only
}

export interface SafetensorsFile {
  metadata: Record<string, string>
  tensors: Record<string, Tensor>
}

export interface GoldenCase {
  title: string
  margin: string
  parameters: Record<string, number | boolean | string>
  reduction: 'mean' | 'sum' | 'none'
  labelSmoothing: number
  input: Float64Array // [B, D]
  weight: Float64Array // [C, D]
  labels: Int32Array // [B]
  dim: number
  bias?: Float64Array // [C]
  gradOutput?: Float64Array // [B]
  loss?: number // absent for reduction 'none'
  logits: Float64Array // [B, C]
  losses: Float64Array // [B]
  gradInput: Float64Array // [B, D]
  gradWeight: Float64Array // [C, D]
  gradBias?: Float64Array // [C]
  /** The number of negatives that each stands for in a row's sum; 1 but in the vectors of the family. */
  othersWeight: number
  /** 1e-5, or 1e-4 where the angles are so small or so large that float32 inputs allow no more. */
  tolerance: number
}

/** A strict reader: eight bytes of header length, a JSON header, then the tensors without gaps. */
export function readSafetensors(file: string): SafetensorsFile {
  const bytes = fs.readFileSync(file)
  const headerLength = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.subarray(8, 8 + headerLength).toString('utf8')) as Record<string, unknown>
  const start = 8 + headerLength
  const tensors: Record<string, Tensor> = {}
  let covered = 0
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const { dtype, shape, data_offsets } = entry as { dtype: string; shape: number[]; data_offsets: number[] }
    const [from, to] = data_offsets as [number, number]
    const content = new Uint8Array(bytes.subarray(start + from, start + to)).buffer // a copy, hence aligned
    const data = decode(dtype, content)
    const length = shape.reduce((product, size) => product * size, 1)
    if (data.length !== length) throw new Error(`${name} has ${data.length} elements for the shape ${shape}`)
    covered += to - from
    tensors[name] = { dtype, shape, data }
  }
  if (start + covered !== bytes.length)
    throw new Error(`${file} holds ${bytes.length - start - covered} stray bytes`)
  return { metadata: (header.__metadata__ ?? {}) as Record<string, string>, tensors }
}

function decode(dtype: string, content: ArrayBuffer): Tensor['data'] {
  if (dtype === 'F64') return new Float64Array(content)
  if (dtype === 'F32') return new Float32Array(content)
  if (dtype === 'BF16')
    return new Float32Array(Uint32Array.from(new Uint16Array(content), (half) => half << 16).buffer)
  if (dtype === 'I64') return Int32Array.from(new BigInt64Array(content), Number)
  if (dtype === 'U8') return Int32Array.from(new Uint8Array(content))
  throw new Error(`Expected F64, F32, BF16, I64 or U8 for dtype but received ${dtype}`)
}

/** A case as the batch and the options of marginLoss; its numbers are exact in float32. */
export function goldenArguments(golden: GoldenCase) {
  const { labels, dim, reduction, labelSmoothing, bias, gradOutput } = golden
  return {
    batch: {
      input: Float32Array.from(golden.input),
      weight: Float32Array.from(golden.weight),
      labels,
      dim,
      ...(bias && { bias: Float32Array.from(bias) }),
    },
    options: {
      reduction,
      labelSmoothing,
      ...(gradOutput && { gradOutput: Float32Array.from(gradOutput) }),
    },
  }
}

/** The folder of the vectors. */
export const goldenFolder =
  process.env.MARGIN_SOFTMAX_GOLDEN ?? path.join(__dirname, '..', '..', '..', 'shared', 'golden')

/** The vectors of losses beyond the first six, beside the others. */
export const familyFolder = `${goldenFolder}-family`

/** Every case of a folder's index.json whose title fits; undefined when the folder is not there. */
export function goldenCases(folder = goldenFolder, titles = /./): GoldenCase[] | undefined {
  const index = path.join(folder, 'index.json')
  if (!fs.existsSync(index)) return undefined
  const all = JSON.parse(fs.readFileSync(index, 'utf8')) as string[]
  return all.filter((title) => titles.test(title)).map((title) => readCase(folder, title))
}

function readCase(folder: string, title: string): GoldenCase {
  const { metadata, tensors } = readSafetensors(path.join(folder, `${title}.safetensors`))
  const described = JSON.parse(metadata.case as string)
  // What moves during the training is given as it was in the pass.
  const { momentum, ...parameters } = { ...described.params, ...described.stateAfter }
  const array = (name: string) => tensors[name]?.data as Float64Array
  return {
    title,
    margin: described.loss,
    parameters,
    reduction: described.reduction,
    labelSmoothing: described.labelSmoothing ?? 0,
    othersWeight: described.othersWeight ?? 1,
    input: array('input'),
    weight: array('weight'),
    labels: tensors.labels?.data as Int32Array,
    dim: described.D,
    bias: array('bias'),
    gradOutput: array('gradOutput'),
    loss: array('loss')?.[0],
    logits: array('logits'),
    losses: array('losses'),
    gradInput: array('gradInput'),
    gradWeight: array('gradWeight'),
    gradBias: array('gradBias'),
    // 066 is the *far* case: two dimensions, a target almost opposite to its centre.
    tolerance:
      described.near || title.startsWith('066') || /near|close|far/.test(described.data) ? 1e-4 : 1e-5,
  }
}
