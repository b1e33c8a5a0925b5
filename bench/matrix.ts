// One matrix product in plain JavaScript, for the plain contender and for the float64 reference: operands are packed
// in double precision, because a number of JavaScript is one (Math.fround costs half of the speed), and a 4×4
// block of the result is summed in registers. About 4 GFLOP/s on one core that reaches 110 with vectors.

export type Floats = Float32Array | Float64Array

/** A matrix over `values`: element (i, j) at start + i·row + j·column. */
export interface View {
  values: Floats
  start?: number
  row: number
  column: number
}

const depth = 256 // of the inner dimension at once: a panel pair stays in the first-level cache
const width = 128 // columns at once: their panels stay in the second-level cache

const left = new Float64Array(4 * depth)
const right = new Float64Array(width * depth)

/** Four lines of a matrix side by side: line l, element k at panel[4·k + l]; lines that do not exist are zeros. */
function pack(
  panel: Float64Array,
  at: number,
  { values, start = 0 }: View,
  lineStep: number,
  elementStep: number,
  lines: number,
  count: number,
  from: number
): void {
  for (let line = 0; line < 4; line++) {
    let source = start + from + line * lineStep
    let target = at + line
    for (let k = 0; k < count; k++) {
      panel[target] = line < lines ? (values[source] as number) : 0
      target += 4
      source += elementStep
    }
  }
}

const block = new Float64Array(16)

/** block = the 4×4 products of the left panel and the right panel at `at`. */
function multiplyPanels(a: Float64Array, b: Float64Array, at: number, count: number): void {
  let c00 = 0
  let c01 = 0
  let c02 = 0
  let c03 = 0
  let c10 = 0
  let c11 = 0
  let c12 = 0
  let c13 = 0
  let c20 = 0
  let c21 = 0
  let c22 = 0
  let c23 = 0
  let c30 = 0
  let c31 = 0
  let c32 = 0
  let c33 = 0
  for (let i = 0; i < 4 * count; i += 4) {
    const a0 = a[i] as number
    const a1 = a[i + 1] as number
    const a2 = a[i + 2] as number
    const a3 = a[i + 3] as number
    let y = b[at + i] as number
    c00 += a0 * y
    c10 += a1 * y
    c20 += a2 * y
    c30 += a3 * y
    y = b[at + i + 1] as number
    c01 += a0 * y
    c11 += a1 * y
    c21 += a2 * y
    c31 += a3 * y
    y = b[at + i + 2] as number
    c02 += a0 * y
    c12 += a1 * y
    c22 += a2 * y
    c32 += a3 * y
    y = b[at + i + 3] as number
    c03 += a0 * y
    c13 += a1 * y
    c23 += a2 * y
    c33 += a3 * y
  }
  block[0] = c00
  block[1] = c01
  block[2] = c02
  block[3] = c03
  block[4] = c10
  block[5] = c11
  block[6] = c12
  block[7] = c13
  block[8] = c20
  block[9] = c21
  block[10] = c22
  block[11] = c23
  block[12] = c30
  block[13] = c31
  block[14] = c32
  block[15] = c33
}

/** out += a·b, with a [rows, inner], b [inner, columns] and out [rows, columns] stored row after row. */
export function addProduct(
  out: Floats,
  rows: number,
  columns: number,
  inner: number,
  a: View,
  b: View
): void {
  for (let k0 = 0; k0 < inner; k0 += depth) {
    const count = Math.min(depth, inner - k0)
    for (let j0 = 0; j0 < columns; j0 += width) {
      const j1 = Math.min(columns, j0 + width)
      for (let j = j0; j < j1; j += 4) {
        pack(right, (j - j0) * depth, b, b.column, b.row, columns - j, count, j * b.column + k0 * b.row)
      }
      for (let i = 0; i < rows; i += 4) {
        pack(left, 0, a, a.row, a.column, rows - i, count, i * a.row + k0 * a.column)
        for (let j = j0; j < j1; j += 4) {
          multiplyPanels(left, right, (j - j0) * depth, count)
          const height = Math.min(4, rows - i)
          const across = Math.min(4, columns - j)
          for (let r = 0; r < height; r++) {
            for (let c = 0; c < across; c++) {
              const at = (i + r) * columns + j + c
              out[at] = (out[at] as number) + (block[4 * r + c] as number)
            }
          }
        }
      }
    }
  }
}

/** 1/‖row‖ of each row. */
export function inverseNorms(values: Floats, rows: number, dim: number): Float64Array {
  const norms = new Float64Array(rows)
  for (let row = 0; row < rows; row++) {
    let sum = 0
    for (let k = row * dim; k < (row + 1) * dim; k++) sum += (values[k] as number) ** 2
    norms[row] = 1 / Math.sqrt(sum)
  }
  return norms
}
