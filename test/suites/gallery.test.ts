// Gallery: searches against brute force, rows that come and go meanwhile, and its file.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Gallery, MarginSoftmaxError } from '../../lib/index'
import { inFolder } from '../support/cli-support'
import { integer, normals, random, rejectsLike, throwsLike, within } from '../support/support'
import { cosine64, exactRows } from '../support/verification-reference'

const test = suite('gallery')

interface Row {
  label: string | number
  values: Float32Array
}

/** Identities by their best row, in float64; of equal ones the first enrolled comes first. */
function best(rows: Row[], probe: Float32Array, k: number) {
  const scores = new Map<string | number, number>()
  for (const { label, values } of rows) {
    const score = cosine64(probe, 0, values, 0, probe.length)
    if (score > (scores.get(label) ?? -Infinity)) scores.set(label, score)
  }
  const firstRow = (label: string | number) =>
    rows.findIndex(
      (row) => row.label === label && cosine64(probe, 0, row.values, 0, probe.length) === scores.get(label)
    )
  return [...scores].sort(([a, x], [b, y]) => y - x || firstRow(a) - firstRow(b)).slice(0, k)
}

function check(gallery: Gallery, rows: Row[], probes: Float32Array, k: number, what: string) {
  const { dim } = gallery
  const result = gallery.searchSync(probes, { k })
  assert.is(gallery.rows, rows.length, what)
  assert.equal(gallery.labels, [...new Set(rows.map(({ label }) => label))], what)
  for (let i = 0; i < probes.length / dim; i++) {
    const expected = best(rows, probes.subarray(i * dim, (i + 1) * dim), k)
    for (let j = 0; j < k; j++) {
      const [label, score] = expected[j] ?? [undefined, -Infinity]
      assert.is(result.labels[i * k + j], label, `${what}: probe ${i}, rank ${j + 1}`)
      assert.is(result.scores[i * k + j], score, `${what}: score`)
    }
  }
}

test('enrolments, removals and searches in any order equal brute force', () => {
  for (const seed of [1, 2, 3, 4]) {
    const next = random(seed)
    const dim = [1, 4, 16, 33][seed % 4] as number
    const named = seed % 2 === 1
    const gallery = new Gallery({ dim })
    let rows: Row[] = []
    for (let round = 0; round < 25; round++) {
      if (next() < 0.7) {
        const count = integer(next, 1, 12)
        const values = exactRows(1000 * seed + round, count, dim)
        const labels = Array.from({ length: count }, () => integer(next, 0, 9) ** 2)
        const given = named ? labels.map((label) => `person ${label}`) : labels
        gallery.enrol(values, given as string[])
        for (const [i, label] of given.entries())
          rows.push({ label, values: values.slice(i * dim, (i + 1) * dim) })
      } else {
        const numbers = Array.from({ length: integer(next, 0, 2) }, () => integer(next, 0, 9) ** 2)
        const gone: (string | number)[] = named ? numbers.map((label) => `person ${label}`) : numbers
        const kept = rows.filter(({ label }) => !gone.includes(label))
        assert.is(gallery.remove(gone as string[]), rows.length - kept.length)
        rows = kept
      }
      const probes = exactRows(5000 * seed + round, 3, dim)
      check(gallery, rows, probes, integer(next, 1, 12), `seed ${seed}, round ${round}`)
    }
  }
})

test('one label for all rows; has; labels are a copy', () => {
  const gallery = new Gallery<string>({ dim: 2 })
  gallery.enrol(Float64Array.of(1, 0, 0.9, 0.1), 'Ada')
  gallery.enrol(Float32Array.of(0, 1), 'Grace')
  gallery.labels.push('nobody')
  assert.equal(gallery.labels, ['Ada', 'Grace'])
  assert.equal([gallery.rows, gallery.has('Ada'), gallery.has('ada')], [3, true, false])
  assert.is(gallery.remove('Ada'), 2)
  assert.is(gallery.remove('Ada'), 0)
  const numbers = new Gallery<number>({ dim: 1 })
  numbers.enrol(Float32Array.of(1, -1), Uint8Array.of(7, 9))
  assert.equal(numbers.searchSync(Float32Array.of(-3)).labels, [9])
  assert.is(numbers.remove(7), 1)
})

test('below the threshold nobody is named, and an empty gallery knows nobody', async () => {
  const gallery = new Gallery({ dim: 2 })
  const probes = Float32Array.of(1, 0, 3, 4)
  const nobody = { labels: [undefined, undefined], scores: Float32Array.of(-Infinity, -Infinity) }
  assert.equal(gallery.searchSync(probes), nobody)
  gallery.enrol(Float32Array.of(2, 0), 'Ada')
  const { labels, scores } = await gallery.search(probes, { threshold: 0.75 })
  assert.equal(labels, ['Ada', undefined])
  within(Math.abs((scores[1] as number) - 0.6), 1e-6, 'the score below the threshold')
  assert.equal(gallery.searchSync(probes, { threshold: 1 }).labels, ['Ada', undefined], 'at the threshold')
})

test('a search finds what was there when it was called', async () => {
  const dim = 24
  const rows = normals(random(7), 5000 * dim)
  const labels = Int32Array.from({ length: 5000 }, (_, i) => i % 1000)
  const gallery = new Gallery({ dim })
  gallery.enrol(rows, labels)
  const probes = normals(random(8), 300 * dim)
  const expected = gallery.searchSync(probes, { k: 3 })
  const given = probes.slice()
  const searches = [gallery.search(given, { k: 3 })]
  given.fill(0)
  gallery.remove(Int32Array.from({ length: 500 }, (_, i) => i))
  const fewer = gallery.searchSync(probes, { k: 3 })
  gallery.enrol(probes, 0)
  gallery.remove(999)
  gallery.enrol(rows, labels)
  assert.equal(await searches[0], expected)
  assert.not.equal(fewer, expected)
  assert.ok(fewer.labels.every((label) => (label as number) >= 500))
})

test('a signal ends a search', async () => {
  const gallery = new Gallery({ dim: 1 })
  gallery.enrol(Float32Array.of(1), 'Ada')
  const signal = AbortSignal.abort(new Error('enough'))
  await rejectsLike(gallery.search(Float32Array.of(1), { signal }), Error, /^enough$/)
})

test('bad input is refused and changes nothing', async () => {
  const gallery = new Gallery({ dim: 2 })
  const one = Float32Array.of(1, 2)
  gallery.enrol(one, 'Ada')
  const before = gallery.searchSync(one)
  const refuse = (run: () => unknown, kind: new (...parameters: never[]) => Error, pattern: RegExp) =>
    throwsLike(run, kind, pattern)
  refuse(() => new Gallery({} as never), TypeError, /for dim but received undefined/)
  refuse(() => new Gallery({ dim: 2, size: 3 } as never), TypeError, /for options but received "size"/)
  refuse(() => gallery.enrol([1, 2] as never, 'B'), TypeError, /for embeddings but received/)
  refuse(() => gallery.enrol(Float32Array.of(1), 'B'), RangeError, /for embeddings but received/)
  refuse(() => gallery.enrol(one, ['B', 'C']), RangeError, /^Expected 1 elements for labels/)
  refuse(
    () => gallery.enrol(Float32Array.of(1, 2, 3, 4), ['B', 3]),
    TypeError,
    /for labels\[1\] but received 3/
  )
  refuse(
    () => gallery.enrol(one, 3),
    TypeError,
    /^Expected names, as the gallery has, for labels but received 3/
  )
  refuse(() => gallery.enrol(one, -1), RangeError, /for labels\[0\] but received -1/)
  refuse(() => gallery.enrol(one, {} as never), TypeError, /for labels but received an object/)
  refuse(
    () => gallery.enrol(Float32Array.of(1, 2, 0, 0), 'B'),
    RangeError,
    /for row 1 of embeddings but received 0/
  )
  refuse(
    () => gallery.enrol(Float32Array.of(1, NaN), 'B'),
    MarginSoftmaxError,
    /finite numbers for embeddings .*row 0/
  )
  refuse(() => gallery.remove({} as never), TypeError, /for labels but received an object/)
  refuse(() => gallery.searchSync(Float32Array.of(0, 0)), RangeError, /for row 0 of probes/)
  refuse(() => gallery.searchSync(one, { k: 0 }), RangeError, /for k but received 0/)
  refuse(() => gallery.searchSync(one, { threshold: NaN }), RangeError, /for threshold but received NaN/)
  refuse(() => gallery.searchSync(one, { signal: undefined } as never), TypeError, /"signal"/)
  refuse(() => gallery.searchSync.call({} as never, one), TypeError, /^Expected a Gallery for this/)
  await rejectsLike(gallery.search(Float32Array.of(1)), RangeError, /for probes but received/)
  await rejectsLike(gallery.save('' as never), TypeError, /for path but received ""/)
  assert.equal(gallery.searchSync(one), before)
  assert.equal([gallery.rows, gallery.labels], [1, ['Ada']])
})

test('a file brings back rows, labels and their order', () =>
  inFolder(async (folder) => {
    const file = path.join(folder, 'gallery.safetensors')
    const probes = normals(random(3), 5 * 3)
    for (const labels of [['Ada', 'Bä"r\n', 'Ada', '', 'Cid'], Int32Array.of(7, 0, 7, 2 ** 31 - 2, 3)]) {
      const gallery = new Gallery({ dim: 3 })
      gallery.enrol(normals(random(2), 15), labels as string[])
      gallery.remove('Cid')
      await gallery.save(file)
      const again = await Gallery.load(file)
      assert.equal([again.dim, again.rows, again.labels], [3, gallery.rows, gallery.labels])
      assert.equal(again.searchSync(probes, { k: 3 }), gallery.searchSync(probes, { k: 3 }))
      again.enrol(probes, labels as string[])
      assert.is(again.rows, gallery.rows + 5)
    }
    await new Gallery({ dim: 3 }).save(file)
    assert.is((await Gallery.load(file)).rows, 0)
  }))

test('a file that is no whole gallery is refused', () =>
  inFolder(async (folder) => {
    const file = path.join(folder, 'gallery.safetensors')
    const gallery = new Gallery({ dim: 2 })
    gallery.enrol(Float32Array.of(1, 2, 3, 4), ['Ada', 'Grace'])
    await gallery.save(file)
    const whole = fs.readFileSync(file)
    const text = whole.toString('latin1')
    const refused = async (bytes: Buffer, why: RegExp) => {
      fs.writeFileSync(file, bytes)
      await rejectsLike(Gallery.load(file), MarginSoftmaxError, why)
    }
    await refused(
      whole.subarray(0, whole.length - 1),
      /^Expected a whole safetensors file of a gallery in .* but:/
    )
    const damaged = Buffer.from(whole)
    damaged[text.length - 1] = 0
    await refused(damaged, /does not have the checksum/)
    await refused(
      Buffer.from(text.replace('gallery 1', 'gallery 9'), 'latin1'),
      /its format is "margin-softmax gallery 9"/
    )
    await refused(
      Buffer.from(text.replace('"labels"', '"lebals"'), 'latin1'),
      /no labels of type I32 and shape \[2\]/
    )
    await rejectsLike(Gallery.load(path.join(folder, 'none')), MarginSoftmaxError, /ENOENT/)
  }))

test.run()
