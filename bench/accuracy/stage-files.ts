// Stages of a training in a folder, for negligible.ts: head-NAME.safetensors, and batch-NAME.safetensors with the embeddings
// and labels of a batch. Written by stages.ts and by `bench/accuracy/glyphs.ts --snapshots`.

import { mkdirSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { MarginHead, sgd } from '../../lib/index'
import { elementsOf, SafetensorsFile } from '../../lib/internal/safetensors'
import { type FloatTensor, writeSafetensors } from '../../lib/internal/safetensors-write'

/** The optimizer of the training run in stages.ts, and of the steps that are measured. */
export const optimizer = sgd({ learningRate: 0.1, momentum: 0.9, weightDecay: 5e-4 })

const headFile = (folder: string, name: string) => path.join(folder, `head-${name}.safetensors`)
const batchFile = (folder: string, name: string) => path.join(folder, `batch-${name}.safetensors`)

function tensorOf(values: Float32Array, shape: number[]): FloatTensor {
  return {
    shape,
    fill: (offset, part) => part.set(values.subarray(offset, offset + part.length)),
  }
}

/** Writes a stage: the head, and labelled embeddings [labels.length, dim] of one batch. */
export async function saveStage(
  folder: string,
  name: string,
  head: MarginHead,
  embeddings: Float32Array,
  labels: Int32Array
): Promise<void> {
  mkdirSync(folder, { recursive: true })
  await head.save(headFile(folder, name))
  const tensors = {
    embeddings: tensorOf(embeddings, [labels.length, head.dim]),
    labels: tensorOf(Float32Array.from(labels), [labels.length]), // the file's writer knows floats only
  }
  await writeSafetensors(batchFile(folder, name), tensors, {})
}

/** The names of a folder's stages. */
export function stagesOf(folder: string): string[] {
  return readdirSync(folder)
    .map((file) => /^head-(.*)\.safetensors$/.exec(file)?.[1])
    .filter((name) => name !== undefined)
    .sort()
}

/** A stage's head, with another setting of `negligible` and SGD with momentum, and up to `rows` rows of its batch. */
export async function readStage(folder: string, name: string, negligible: number, rows: number) {
  const loaded = await MarginHead.load(headFile(folder, name), { device: 'cpu' })
  const weight = loaded.weights()
  const { classes, dim, margin } = loaded
  loaded.dispose()
  const head = await MarginHead.create({
    classes,
    dim,
    margin,
    weights: weight,
    negligible,
    device: 'cpu',
    optimizer,
  })
  const { embeddings, labels } = await readBatch(batchFile(folder, name))
  const batch = {
    input: embeddings.slice(0, rows * dim),
    weight,
    labels: Int32Array.from(labels.subarray(0, rows)),
    dim,
  }
  return { head, batch }
}

async function readBatch(file: string): Promise<{ embeddings: Float32Array; labels: Float32Array }> {
  const opened = await SafetensorsFile.open(file, { checksums: true })
  const arrayOf = async (name: string) => {
    const values = new Float32Array(elementsOf(opened.entries.get(name)?.shape ?? []))
    await opened.read(name, values)
    return values
  }
  try {
    return { embeddings: await arrayOf('embeddings'), labels: await arrayOf('labels') }
  } finally {
    await opened.close()
  }
}
