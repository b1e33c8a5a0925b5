/**
 * Characters as identities: the 6,355 kanji of JIS X 0208, each drawn in many typefaces. The typefaces come from Debian's font
 * packages through fontconfig; drawing all that the example needs takes seconds, so no image is stored anywhere.
 */
import { execFileSync } from 'node:child_process'
import { createCanvas, GlobalFonts } from '@napi-rs/canvas'

export const side = 32
export const pixels = side * side
/** The larger of a glyph's width and height: sizes differ from typeface to typeface, and say nothing about the character. */
const glyphSize = 28

export interface Typeface {
  family: string
  style: string
  /** of Debian and its descendants */
  package: string
}

const faces = (debianPackage: string, ...names: [family: string, ...styles: string[]][]): Typeface[] =>
  names.flatMap(([family, ...styles]) => styles.map((style) => ({ family, style, package: debianPackage })))

/**
 * No design stands on both sides: not in another weight, nor under another name (Takao is IPA, VL Gothic and MigMix are
 * M PLUS), nor by the same hand. The nearest pair across, IPAex and BIZ UD Mincho, correlates by 0.82 pixel for pixel.
 */
export const typefaces: { train: Typeface[]; test: Typeface[] } = {
  train: [
    ...faces('fonts-noto-cjk', ['Noto Sans CJK JP', 'Regular'], ['Noto Serif CJK JP', 'Regular', 'Bold']),
    ...faces('fonts-ipaexfont-gothic', ['IPAexGothic', 'Regular']),
    ...faces('fonts-ipaexfont-mincho', ['IPAexMincho', 'Regular']),
    ...faces('fonts-mplus', ['M PLUS 1', 'Light']),
    ...faces('fonts-motoya-l-cedar', ['MotoyaLCedar', 'W3 mono']),
    ...faces('fonts-konatu', ['Konatu', 'Regular']),
    ...faces('fonts-kiloji', ['kiloji', 'Regular']),
    ...faces('fonts-dotgothic16', ['DotGothic16', 'Regular']),
    ...faces('fonts-hanazono', ['HanaMinA', 'Regular']),
    ...faces('fonts-wqy-zenhei', ['WenQuanYi Zen Hei', 'Regular']),
    ...faces('fonts-arphic-uming', ['AR PL UMing CN', 'Light']),
    ...faces('fonts-arphic-ukai', ['AR PL UKai CN', 'Book']),
    ...faces('fonts-kouzan-mouhitsu', ['KouzanBrushFont', 'Regular'], ['KouzanBrushFontGyousyo', 'Regular']),
  ],
  test: [
    ...faces('fonts-morisawa-bizud-gothic', ['BIZ UDGothic', 'Regular']),
    ...faces('fonts-morisawa-bizud-mincho', ['BIZ UDMincho', 'Regular']),
    ...faces('fonts-sawarabi-gothic', ['Sawarabi Gothic', 'Medium']),
    ...faces('fonts-sawarabi-mincho', ['Sawarabi Mincho', 'Medium']),
    ...faces('fonts-lxgw-wenkai', ['LXGW WenKai', 'Regular']),
    ...faces('fonts-dejima-mincho', ['Dejima', 'mincho']),
    ...faces('fonts-reggae', ['Reggae One', 'Regular']),
    ...faces('fonts-seto', ['SetoFont', 'Regular']),
  ],
}

/**
 * The kanji of JIS X 0208 in its order: 2,965 in daily use (rows 16 to 47 of the standard's table), then 3,390 others (rows
 * 48 to 84).
 */
export function kanji(): string[] {
  const decoder = new TextDecoder('euc-jp')
  const characters: string[] = []
  for (let row = 16; row <= 84; row++) {
    for (let cell = 1; cell <= 94; cell++) {
      const character = decoder.decode(Uint8Array.of(0xa0 + row, 0xa0 + cell))
      if (character.length === 1 && character !== '\ufffd') characters.push(character)
    }
  }
  return characters
}

export interface InstalledTypeface extends Typeface {
  file: string
  /** code points that it has a glyph for */
  has(codePoint: number): boolean
}

/**
 * The typefaces of `wanted` with their files.
 * @throws Error that names the packages to install where one is missing
 */
export function installed(wanted: readonly Typeface[]): InstalledTypeface[] {
  const known = new Map<string, InstalledTypeface>()
  for (const [file, index, family, style, charset] of fontconfig()) {
    // A collection's first face is the one that drawing takes from the file.
    if (index === '0')
      known.set(`${family}:${style}`, { file, family, style, package: '', has: coverage(charset) })
  }
  const found = wanted.map((typeface) => {
    const match = known.get(`${typeface.family}:${typeface.style}`)
    return match && { ...match, package: typeface.package }
  })
  const missing = wanted.filter((_, i) => !found[i]).map((typeface) => typeface.package)
  if (missing.length)
    throw new Error(
      `Expected ${wanted.length} typefaces but ${missing.length} are missing. On Debian or Ubuntu: apt-get install fontconfig ${[...new Set(missing)].join(' ')}`
    )
  return found as InstalledTypeface[]
}

/** Rows of file, index in the file, family, style, code points. */
function fontconfig(): string[][] {
  const format = '%{file}|%{index}|%{family[0]}|%{style[0]}|%{charset}\n'
  try {
    const text = execFileSync('fc-list', ['-f', format], { encoding: 'utf8', maxBuffer: 2 ** 28 })
    return text
      .trim()
      .split('\n')
      .map((line) => line.split('|'))
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw new Error(`Expected fontconfig's fc-list to run but: ${(cause as Error).message}`, { cause })
  }
}

/** fontconfig's "4e00-4e07 4e09 …" as a question. */
function coverage(charset: string): (codePoint: number) => boolean {
  let set: Set<number> | undefined
  return (codePoint) => {
    if (!set) {
      set = new Set()
      for (const range of charset.split(' ')) {
        const [first, last = first] = range.split('-').map((hexadecimal) => Number.parseInt(hexadecimal, 16))
        for (let code = first; code <= last; code++) set.add(code)
      }
    }
    return set.has(codePoint)
  }
}

export interface Glyphs {
  /** [count, 1024], one byte a pixel: 0 is paper, 255 is ink */
  bytes: Uint8Array
  /** [count], which of the characters */
  labels: Int32Array
  count: number
}

/** Every character in every typeface that has it, centred, `glyphSize` wide or high. `report` hears of each typeface done. */
export function draw(
  typefaces: readonly InstalledTypeface[],
  characters: readonly string[],
  report: (done: number) => void = () => {}
): Glyphs {
  const bytes = new Uint8Array(typefaces.length * characters.length * pixels)
  const labels = new Int32Array(typefaces.length * characters.length)
  let count = 0
  typefaces.forEach((typeface, i) => {
    const column = drawColumn(typeface, characters)
    for (let label = 0; label < characters.length; label++) {
      const glyph = column.subarray(label * pixels, (label + 1) * pixels)
      // Some typefaces have empty glyphs for characters that they lack.
      if (!glyph.some((ink) => ink > 0)) continue
      bytes.set(glyph, count * pixels)
      labels[count++] = label
    }
    report(i + 1)
  })
  return { bytes: bytes.subarray(0, count * pixels), labels: labels.subarray(0, count), count }
}

/** [characters.length, 1024]; blank where the typeface has no glyph. */
function drawColumn({ file, family, style, has }: InstalledTypeface, characters: readonly string[]) {
  const name = `glyphs ${family} ${style}` // of our own: a system's default must not stand in
  if (!GlobalFonts.has(name) && !GlobalFonts.registerFromPath(file, name))
    throw new Error(`Expected a font in ${file} but it could not be read`)
  const column = new Uint8Array(characters.length * pixels)
  const slice = 512 // glyphs on one canvas
  for (let first = 0; first < characters.length; first += slice) {
    const some = characters.slice(first, first + slice)
    const context = createCanvas(side, side * some.length).getContext('2d')
    context.font = `64px "${name}"`
    some.forEach((character, i) => {
      if (!has(character.codePointAt(0) as number)) return
      const box = context.measureText(character)
      const width = box.actualBoundingBoxRight + box.actualBoundingBoxLeft
      const height = box.actualBoundingBoxAscent + box.actualBoundingBoxDescent
      if (!(Math.max(width, height) > 0)) return
      const scale = glyphSize / Math.max(width, height)
      const x = side / 2 - (scale * (box.actualBoundingBoxRight - box.actualBoundingBoxLeft)) / 2
      const y = side * (i + 0.5) - (scale * (box.actualBoundingBoxDescent - box.actualBoundingBoxAscent)) / 2
      context.setTransform(scale, 0, 0, scale, x, y)
      context.fillText(character, 0, 0)
    })
    const { data } = context.getImageData(0, 0, side, side * some.length)
    for (let p = 0; p < some.length * pixels; p++) column[first * pixels + p] = data[4 * p + 3] // opacity
  }
  return column
}
