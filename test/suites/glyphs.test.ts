// The example's data, and a training small enough for a test: does it learn, is it the same twice, does sampling reach it?
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type * as Images from '../../bench/accuracy/glyph-images'
import type * as Network from '../../bench/accuracy/glyph-network'
import type * as Training from '../../bench/accuracy/glyph-training'
import { adamW, cosface, MarginHead } from '../../lib/index'
import { lacking } from '../support/support'

/** The number of the example's typefaces that these tests need: those of four Debian packages, which `.ci/run` installs. */
const typefacesUsed = 6

/** The example's modules and typefaces, or in words why not: canvas has no binary for every platform. */
function load() {
  try {
    const images = require('../../bench/accuracy/glyph-images') as typeof Images
    const network = require('../../bench/accuracy/glyph-network') as typeof Network
    const training = require('../../bench/accuracy/glyph-training') as typeof Training
    const used = images.installed(images.typefaces.train.slice(0, typefacesUsed))
    return { images, network, training, four: used.slice(0, 4) }
  } catch (error) {
    return (error as Error).message
  }
}

const loaded = load()

const glyphs = suite('glyphs')

if (typeof loaded === 'string') {
  lacking(glyphs, `the example does not load: ${loaded}`)
} else {
  const { four } = loaded
  const { patchesOf } = loaded.network
  const { train } = loaded.training
  const { draw, installed, kanji, pixels, side, typefaces } = loaded.images
  const characters = kanji()
  const glyph = (bytes: Uint8Array, row: number) => bytes.subarray(row * pixels, (row + 1) * pixels)

  glyphs('the standard’s kanji, in its order', () => {
    assert.is(characters.length, 2965 + 3390)
    assert.is(new Set(characters).size, characters.length)
    assert.equal([characters[0], characters[2964], characters[2965]], ['亜', '腕', '弌'])
  })

  glyphs('no typeface is on both sides', () => {
    const families = (side: Images.Typeface[]) => new Set(side.map(({ family }) => family))
    const train = families(typefaces.train)
    for (const family of families(typefaces.test)) assert.not(train.has(family), family)
  })

  glyphs('a missing typeface is named by its package', () => {
    const missing = { family: 'No Such Family', style: 'Regular', package: 'fonts-no-such' }
    assert.throws(
      () => installed([...typefaces.train.slice(0, 1), missing]),
      /^Expected 2 typefaces but 1 are missing\. On Debian or Ubuntu: apt-get install fontconfig fonts-no-such$/
    )
  })

  glyphs('a glyph is centred and fills 28 of 32 pixels', () => {
    const { bytes, labels, count } = draw(four, ['国', '一', '鬱'])
    assert.is(count, 12)
    assert.equal([...labels.subarray(0, 4)], [0, 1, 2, 0])
    for (let row = 0; row < count; row++) {
      const ink = [...glyph(bytes, row).entries()].filter(([, value]) => value > 64).map(([p]) => p)
      const [xs, ys] = [ink.map((p) => p % side), ink.map((p) => Math.floor(p / side))]
      const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)]
      const size = Math.max(right - left, bottom - top) + 1
      assert.ok(size >= 26 && size <= 30, `size ${size} of ${labels[row]}`)
      assert.ok(Math.abs(left + right - (side - 1)) <= 2 && Math.abs(top + bottom - (side - 1)) <= 2)
    }
  })

  glyphs('a character looks most like itself in another weight', () => {
    const some = characters.slice(0, 40)
    const { bytes } = draw(four.slice(1, 3), some) // Noto Serif, regular and bold
    const product = (a: Uint8Array, b: Uint8Array) => a.reduce((sum, value, p) => sum + value * b[p], 0)
    let right = 0
    for (let i = 0; i < some.length; i++) {
      const own = glyph(bytes, some.length + i)
      const scores = some.map((_, j) => product(own, glyph(bytes, j)) / Math.hypot(...glyph(bytes, j)))
      if (scores.indexOf(Math.max(...scores)) === i) right++
    }
    assert.is(right, some.length)
  })

  glyphs('characters that a typeface lacks are left out, not borrowed', () => {
    const [mplus] = installed(typefaces.train.filter(({ family }) => family === 'M PLUS 1'))
    const lacking = characters.filter((character) => !mplus.has(character.codePointAt(0) as number))
    assert.ok(lacking.length > 500)
    assert.is(draw([mplus], lacking.slice(0, 20)).count, 0)
    assert.equal([...draw([mplus], [lacking[0], '亜']).labels], [1])
  })

  glyphs('patches hold the image, moved by what was asked', () => {
    const one = {
      bytes: Uint8Array.from({ length: pixels }, (_, p) => p % 251),
      labels: new Int32Array(1),
      count: 1,
    }
    const patches = patchesOf(one, [0])
    const at = (values: Float32Array, cell: number, y: number, x: number) => values[cell * 64 + y * 8 + x]
    assert.is(patches.length, 64 * 64)
    assert.is(at(patches, 0, 0, 0), 0) // beyond the edge
    // Cell 9 is in the second row and column: its corner is pixel (2, 2).
    assert.is(at(patches, 9, 0, 0), Math.fround(((2 * side + 2) % 251) / 255))
    assert.is(at(patches, 9, 7, 7), Math.fround(((9 * side + 9) % 251) / 255))
    // The largest random number moves by the whole reach, down and right.
    const moved = patchesOf(one, [0], 2, () => 0.999)
    assert.is(at(moved, 9, 0, 0), Math.fround((0 % 251) / 255))
    assert.is(at(moved, 9, 7, 7), Math.fround(((7 * side + 7) % 251) / 255))
  })

  glyphs('a small training learns, with all classes and with a sample, and is the same twice', async () => {
    tf.enableProdMode()
    assert.ok(await tf.setBackend('wasm'))
    const known = characters.slice(0, 24)
    const data = {
      train: draw(four.slice(0, 3), known),
      test: draw(four.slice(3), known),
      unseen: draw(four, characters.slice(-12)),
      classes: known.length,
    }
    const folder = mkdtempSync(path.join(os.tmpdir(), 'glyphs-'))
    const settings: Training.GlyphSettings = {
      ...{
        sampleRate: 1,
        sampleCorrection: false,
        margin: cosface({ scale: 16, margin: 0.1 }),
        dim: 16,
        epochs: 30,
        batch: 8,
      },
      ...{ optimizer: adamW({ weightDecay: 0 }), headRate: 1 },
      ...{ learningRate: 0.002, warmup: 0.3, shift: 1, seed: 1, snapshots: folder },
    }
    try {
      let reports = 0
      const all = await train(data, settings, () => reports++)
      assert.is(reports, 60)
      assert.ok(all.testAccuracy > 0.8, `${all.testAccuracy} of the test with all classes`)
      assert.ok(all.unseen.areaUnderCurve > 0.8, `area ${all.unseen.areaUnderCurve}`)
      assert.equal(all.unseen.pairs, { same: 12 * 6, different: (12 * 11 * 16) / 2 })
      const { seconds: _, headSeconds: __, ...first } = all
      const { seconds: ___, headSeconds: ____, ...second } = await train(data, settings, () => {})
      assert.equal(second, first)
      using head = await MarginHead.load(path.join(folder, 'head-50.safetensors'))
      assert.equal([head.classes, head.dim], [24, 16])
      assert.ok(existsSync(path.join(folder, 'batch-50.safetensors')))
      const sampled = await train(
        data,
        { ...settings, sampleRate: 0.5, sampleCorrection: true, snapshots: undefined },
        () => {}
      )
      assert.ok(sampled.testAccuracy > 0.8, `${sampled.testAccuracy} of the test with a sample`)
      assert.is.not(sampled.unseen.areaUnderCurve, all.unseen.areaUnderCurve)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
}

glyphs.run()
