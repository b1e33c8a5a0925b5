// A gallery in a safetensors file: `embeddings` [N,D], `labels` [N] and, where rows have names, `class_names`, in which labels
// are places then. So the file is also one of embeddings with labels for other programs.
import { newSharedArray } from './check'
import { fileError, shown } from './file-error'
import { GalleryRows, type GalleryView, type Label } from './gallery-rows'
import { decodeNames, encodeNames, indexOfAgain, largestNames, namesTensor } from './head-names'
import { checkedZeroRows } from './nearest-rows'
import { bytesOf } from './read-file'
import { SafetensorsFile } from './safetensors'
import { writeSafetensors } from './safetensors-write'

const fileFormat = 'margin-softmax gallery 1'

/** @throws MarginSoftmaxError `ERR_FILE` */
export async function saveGallery(
  { values, identities, labels }: GalleryView,
  dim: number,
  path: string
): Promise<void> {
  const rows = identities.length
  const names = typeof labels[0] === 'string' ? encodeNames(labels as readonly string[]) : undefined
  const numbers = names ? identities : identities.map((identity) => labels[identity] as number)
  await writeSafetensors(
    path,
    {
      embeddings: {
        shape: [rows, dim],
        fill: (offset, part) => part.set(values.subarray(offset, offset + part.length)),
      },
      labels: { dtype: 'I32', shape: [rows], bytes: bytesOf(numbers) },
      ...(names && {
        [namesTensor]: { dtype: 'U8' as const, shape: [names.length] as [number], bytes: names },
      }),
    },
    { format: fileFormat }
  )
}

/** @throws MarginSoftmaxError `ERR_FILE` */
export async function loadGallery(path: string): Promise<GalleryRows> {
  let file: SafetensorsFile | undefined
  try {
    file = await SafetensorsFile.open(path, { types: ['F32', 'I32', 'U8'], checksums: true })
    return await rowsOf(file)
  } catch (cause) {
    throw fileError(`Expected a whole safetensors file of a gallery in ${path}`, cause)
  } finally {
    await file?.close()
  }
}

async function rowsOf(file: SafetensorsFile): Promise<GalleryRows> {
  const { metadata, entries } = file
  if (metadata.format !== fileFormat)
    throw new Error(`its format is ${shown(metadata.format ?? 'not named')}, not ${fileFormat}`)
  const [embeddings, labels] = [entries.get('embeddings'), entries.get('labels')]
  const [rows = -1, dim = 0] = embeddings?.shape ?? []
  if (embeddings?.dtype !== 'F32' || embeddings.shape.length !== 2 || dim < 1 || dim >= 2 ** 31)
    throw new Error('it has no embeddings of type F32 and shape [rows,dim]')
  if (labels?.dtype !== 'I32' || labels.shape.join() !== `${rows}`)
    throw new Error(`it has no labels of type I32 and shape [${rows}]`)
  if (rows === 0) return new GalleryRows(dim)
  const values = newSharedArray(rows * dim, 'the gallery')
  await file.read('embeddings', values)
  checkedZeroRows(values, dim, 'embeddings', 'refused')
  const bytes = await file.bytes('labels', 4 * rows)
  const numbers = new Int32Array(bytes.buffer, bytes.byteOffset, rows)
  const negative = numbers.findIndex((number) => number < 0)
  if (negative >= 0) throw new Error(`its label of row ${negative} is ${numbers[negative]}`)
  return new GalleryRows(dim, values, entries.has(namesTensor) ? await namesOf(file, numbers) : numbers)
}

async function namesOf(file: SafetensorsFile, places: Int32Array): Promise<readonly Label[]> {
  const most = places.reduce((largest, place) => Math.max(largest, place), 0) + 1
  const names = decodeNames(await file.bytes(namesTensor, largestNames), most)
  const again = indexOfAgain(names)
  if (again >= 0) throw new Error(`two of its classes are named ${shown(names[again])}`)
  return Array.from(places, (place) => names[place] as string)
}
