// Writing safetensors files: the header, then one tensor after the other in parts, and the checksums of all of them in the
// metadata (safetensors.ts).

import { bytesOf } from './read-file'
import { elementBytes, elementsOf, partLength, sha256 } from './safetensors'
import { replaceFile } from './write-file'

/** A tensor on its way to a file. Its elements come in parts, as floats; those of a BF16 tensor have no more than its bits. */
export interface FloatTensor {
  shape: number[]
  /** Default F32. */
  dtype?: 'F32' | 'BF16'
  /** Fills `part` with the elements from `offset` on. */
  fill(offset: number, part: Float32Array): void
}

/** A tensor whose bytes are small enough to be in memory at once. */
export interface ByteTensor {
  shape: [number]
  dtype: 'U8' | 'I32'
  bytes: Uint8Array
}

type WrittenTensor = FloatTensor | ByteTensor

const digestLength = 64 // hexadecimal digits

/**
 * Writes a safetensors file as `replaceFile` does, with a checksum of each tensor.
 * @param alsoChecked texts of the metadata that have a checksum, too
 * @throws MarginSoftmaxError `ERR_FILE`
 */
export async function writeSafetensors(
  path: string,
  tensors: Record<string, WrittenTensor>,
  metadata: Record<string, string>,
  alsoChecked: string[] = []
): Promise<void> {
  // The header comes first but the digests are known last: room is left for them, all of one length.
  const digests = Object.fromEntries(Object.keys(tensors).map((name) => [name, '0'.repeat(digestLength)]))
  for (const name of alsoChecked)
    digests[name] = sha256()
      .update(metadata[name] as string)
      .digest('hex')
  const header = () => headerBytes(tensors, { ...metadata, sha256: JSON.stringify(digests) })
  await replaceFile(path, async (write) => {
    let position = header().length
    for (const [name, tensor] of Object.entries(tensors)) {
      const hash = sha256()
      await forParts(tensor, async (bytes) => {
        const writing = write(bytes, position)
        hash.update(bytes) // while the system writes
        await writing
        position += bytes.length
      })
      digests[name] = hash.digest('hex')
    }
    await write(header(), 0)
  })
}

function headerBytes(tensors: Record<string, WrittenTensor>, metadata: Record<string, string>): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: metadata }
  let end = 0
  for (const [name, { shape, dtype = 'F32' }] of Object.entries(tensors)) {
    const begin = end
    end += elementsOf(shape) * elementBytes[dtype]
    header[name] = { dtype, shape, data_offsets: [begin, end] }
  }
  const json = Buffer.from(JSON.stringify(header))
  const padding = (8 - (json.length % 8)) % 8 // tensors begin at a multiple of 8 bytes
  const bytes = Buffer.alloc(8 + json.length + padding, ' ')
  bytes.writeBigUInt64LE(BigInt(json.length + padding))
  json.copy(bytes, 8)
  return bytes
}

/** Calls `body` with the bytes of one part after the other. */
async function forParts(tensor: WrittenTensor, body: (bytes: Uint8Array) => Promise<void>): Promise<void> {
  if ('bytes' in tensor) return body(tensor.bytes)
  const length = elementsOf(tensor.shape)
  const buffer = new Float32Array(Math.min(length, partLength))
  for (let offset = 0; offset < length; offset += partLength) {
    const part = buffer.subarray(0, Math.min(partLength, length - offset))
    tensor.fill(offset, part)
    await body(bytesOf(tensor.dtype === 'BF16' ? upperHalves(part) : part))
  }
}

/** A bfloat16 is the upper half of a float, which lies second: the format, as every processor here, is little-endian. */
function upperHalves(part: Float32Array): Uint16Array {
  const words = new Uint16Array(part.buffer, part.byteOffset, part.length * 2)
  const halves = new Uint16Array(part.length)
  for (let i = 0; i < halves.length; i++) halves[i] = words[2 * i + 1] as number
  return halves
}
