// `identify`: the library's figures from files, labels of two files numbered together, and the report's pictures.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { identifySync } from '../../lib/index'
import { cli, inFolder, writeNpy, writeTensors } from '../support/cli-support'
import { integer, normals, random } from '../support/support'

const test = suite('identify')
const dim = 8
const next = random(5)
const centres = normals(next, 40 * dim)

function makeRows(count: number, classes: number) {
  const labels = Int32Array.from({ length: count }, (_, i) => (i < 2 ? 0 : integer(next, 0, classes - 1)))
  const noise = normals(next, count * dim, 0.9)
  const values = noise.map(
    (x, i) => x + (centres[(labels[Math.floor(i / dim)] as number) * dim + (i % dim)] as number)
  )
  return { values, labels }
}

const gallery = makeRows(150, 20)
const probes = makeRows(70, 30) // classes 20 to 29 are unknown
const batch = {
  gallery: gallery.values,
  galleryLabels: gallery.labels,
  probes: probes.values,
  probeLabels: probes.labels,
  dim,
}
/** As JSON has it. */
function plain(options: Parameters<typeof identifySync>[1], of: Parameters<typeof identifySync>[0] = batch) {
  const { ranks: _, indices: __, scores: ___, ...figures } = identifySync(of, options)
  return JSON.parse(
    JSON.stringify(figures, (_, part) => (ArrayBuffer.isView(part) ? [...(part as Float64Array)] : part))
  )
}

async function figures(args: string[], cwd: string) {
  const { code, stdout, stderr } = await cli(['identify', '--json', ...args], { cwd })
  assert.is(code, 0, stderr)
  const { read, rows, dim: columns, ...result } = JSON.parse(stdout)
  assert.equal([rows, columns, read.gallery.embeddings.rows], [150, dim, 150])
  return result
}

const csv = ({ values, labels }: typeof gallery, name: (label: number) => string) =>
  `label,${Array.from({ length: dim }, (_, d) => `f${d}`).join(',')}\n${Array.from(
    labels,
    (label, i) => `${name(label)},${values.subarray(i * dim, (i + 1) * dim).join(',')}\n`
  ).join('')}`

function writeFiles(folder: string) {
  const at = (name: string) => path.join(folder, name)
  writeNpy(at('g.npy'), '<f4', [150, dim], gallery.values)
  writeNpy(at('gl.npy'), '<i4', [150], gallery.labels)
  writeTensors(at('p.safetensors'), {
    embeddings: { dtype: 'F32', shape: [70, dim], values: probes.values },
    labels: { dtype: 'I32', shape: [70], values: probes.labels },
  })
  // In an order that sorts otherwise, so that either file numbers its names in a way of its own.
  fs.writeFileSync(
    at('g.csv'),
    csv(gallery, (label) => `person ${(label * 7) % 31}`)
  )
  fs.writeFileSync(
    at('p.csv'),
    csv(probes, (label) => `person ${(label * 7) % 31}`)
  )
}

test('the figures of the library, whatever the files and their labels', () =>
  inFolder(async (folder) => {
    writeFiles(folder)
    const numbers = ['--gallery', 'g.npy', '--gallery-labels', 'gl.npy', '--probes', 'p.safetensors']
    const expected = plain({})
    assert.equal(await figures(numbers, folder), expected)
    assert.equal(await figures(['--gallery', 'g.csv', '--probes', 'p.csv'], folder), expected)
    const more = [
      '--max-rank',
      '3',
      '--replicates',
      '40',
      '--confidence',
      '0.8',
      '--seed',
      '2',
      '--threads',
      '1',
    ]
    const asked = { maxRank: 3, replicates: 40, confidence: 0.8, seed: 2 }
    assert.equal(await figures([...numbers, ...more], folder), plain(asked))
    assert.equal(
      await figures(['--gallery', 'g.csv'], folder),
      plain({}, { gallery: gallery.values, galleryLabels: gallery.labels, dim })
    )
  }))

test('tables for people', () =>
  inFolder(async (folder) => {
    writeFiles(folder)
    const args = ['identify', '--gallery', 'g.csv', '--probes', 'p.csv', '--replicates', '20']
    const { code, stdout, stderr } = await cli(args, { cwd: folder })
    assert.is(code, 0, stderr)
    const { probes: counts, cumulativeMatch, openSet } = identifySync(batch)
    const share = (value: number | undefined) => `${((value as number) * 100).toFixed(2)} %`
    assert.match(
      stdout,
      `${counts.known} known probes, ${counts.unknown} unknown ones in a gallery of 150 rows × 8`
    )
    assert.match(stdout, new RegExp(`Rank-1 +${share(cumulativeMatch[0])} \\(.* to .*\\)`))
    assert.match(
      stdout,
      new RegExp(`1e-1 +${share(openSet?.[0]?.detectionRate)} .*${openSet?.[0]?.threshold.toFixed(4)}`)
    )
    assert.match(stderr, /^Read g\.csv: 150 rows × 8 numbers.*\nRead p\.csv: 70 rows × 8 numbers/)
  }))

/** A picture of one dot. */
const dot = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

test('the report has the pictures of the probes that it shows, and those of their neighbours', () =>
  inFolder(async (folder) => {
    writeFiles(folder)
    const at = (name: string) => path.join(folder, name)
    fs.mkdirSync(at('pictures'))
    fs.writeFileSync(at('pictures/one <b>.png'), Buffer.from(dot, 'base64'))
    const list = (rows: number) => `label\n${'one <b>.png\n'.repeat(rows)}`
    fs.writeFileSync(at('pictures/g.csv'), list(150))
    fs.writeFileSync(at('pictures/p.csv'), list(70))
    const args = ['identify', '--gallery', 'g.csv', '--probes', 'p.csv', '--report', 'r.html']
    const pictures = ['--gallery-pictures', 'pictures/g.csv', '--probe-pictures', 'pictures/p.csv']
    const { code, stdout, stderr } = await cli([...args, ...pictures], { cwd: folder })
    assert.is(code, 0, stderr)
    assert.match(stdout, /Report: r\.html/)
    const page = fs.readFileSync(at('r.html'), 'utf8')
    const { cumulativeMatch, ranks, probes: counts } = identifySync(batch)
    const mistaken = Math.min(12, Math.round(counts.known * (1 - (cumulativeMatch[0] as number))))
    assert.ok(mistaken > 0 && ranks.length === 70)
    const shown = mistaken + Math.min(12, counts.unknown)
    assert.is(page.split(`src="data:image/png;base64,${dot}"`).length - 1, shown * 6)
    fs.rmSync(at('pictures/one <b>.png'))
    const gone = await cli([...args, ...pictures], { cwd: folder })
    assert.is(gone.code, 1)
    assert.match(gone.stderr, /Expected a picture in .*one <b>\.png but: ENOENT/)
  }))

test('what cannot be is refused with the name of the option or the file', () =>
  inFolder(async (folder) => {
    writeFiles(folder)
    const at = (name: string) => path.join(folder, name)
    writeNpy(at('wide.npy'), '<f4', [2, 9], new Float32Array(18).fill(1))
    fs.writeFileSync(at('two.csv'), 'label\nperson 0\nperson 7\n')
    fs.writeFileSync(
      at('strange.csv'),
      csv(probes, (label) => `nobody ${label}`)
    )
    for (const [args, code, pattern] of [
      [[], 2, /^margin-softmax: Expected --gallery but received none/],
      [['--gallery', 'g.npy'], 2, /Expected --gallery-labels beside g\.npy, which holds no labels/],
      [['--gallery', 'g.csv', '--probe-labels', 'two.csv'], 2, /Expected --probes with --probe-labels/],
      [['--gallery', 'g.csv', '--probes', 'wide.npy'], 2, /Expected --probe-labels beside wide\.npy/],
      [
        ['--gallery', 'g.csv', '--gallery-pictures', 'two.csv'],
        2,
        /Expected --report with --gallery-pictures/,
      ],
      [['--gallery', 'g.npy', '--gallery-labels', 'gl.npy', '--columns', 'a'], 2, /no --columns with g\.npy/],
      [['--gallery', 'g.csv', '--confidence', '1'], 2, /above 0 and below 1/],
      [['--gallery', 'g.csv', '--max-rank', '150'], 1, /from 1 to 149 for maxRank but received 150/],
      [
        ['--gallery', 'g.csv', '--gallery-labels', 'two.csv'],
        1,
        /Expected 150 labels in two\.csv.* but received 2/,
      ],
      [
        ['--gallery', 'g.csv', '--probes', 'wide.npy', '--probe-labels', 'two.csv'],
        1,
        /Expected 8 numbers a row in wide\.npy, as in g\.csv, but received 9/,
      ],
      [
        ['--gallery', 'g.csv', '--probes', 'strange.csv'],
        1,
        /such as "person 0", among those of strange\.csv/,
      ],
    ] as [string[], number, RegExp][]) {
      const ended = await cli(['identify', ...args], { cwd: folder })
      assert.is(ended.code, code, `${args}: ${ended.stderr}`)
      assert.match(ended.stderr, pattern)
    }
  }))

test.run()
