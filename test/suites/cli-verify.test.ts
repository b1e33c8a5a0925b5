// `verify`: the library's figures, from files.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { verificationSync } from '../../lib/index'
import { cli, inFolder, writeNpy, writeTensors } from '../support/cli-support'
import { integer, normals, random } from '../support/support'

const test = suite('verify')
const [rows, dim, classes] = [300, 12, 15]
const next = random(6)
const labels = Int32Array.from({ length: rows }, () => integer(next, 0, classes - 1))
const centres = normals(next, classes * dim)
const embeddings = normals(next, rows * dim).map(
  (x, i) => 0.8 * x + (centres[(labels[Math.floor(i / dim)] as number) * dim + (i % dim)] as number)
)
const pairs = Int32Array.from(
  Array.from({ length: 200 }).flatMap(() => {
    const row = integer(next, 0, rows - 1)
    return [row, (row + integer(next, 1, rows - 1)) % rows]
  })
)
const same = Uint8Array.from({ length: 200 }, (_, p) =>
  Number(labels[pairs[2 * p] as number] === labels[pairs[2 * p + 1] as number])
)
pairs.set([0, labels.indexOf(labels[0] as number, 1)])
same[0] = 1

const plain = (value: unknown) =>
  JSON.parse(
    JSON.stringify(value, (_, part) => (ArrayBuffer.isView(part) ? [...(part as Float64Array)] : part))
  )
const expectedOfAll = { rows, dim, ...plain(verificationSync(embeddings, labels)) }
const { scores: _, ...ofList } = verificationSync(embeddings, { pairs, same }, { dim })
const expectedOfList = { rows, dim, ...plain(ofList) }

async function figures(args: string[], cwd: string) {
  const { code, stdout, stderr } = await cli(['verify', '--json', ...args], { cwd })
  assert.is(code, 0, stderr)
  const { read, ...result } = JSON.parse(stdout)
  assert.match(stderr, /^Read \S+: 300 rows × 12 numbers.*\.\n$/)
  assert.equal([read.embeddings.rows, read.embeddings.columns], [rows, dim])
  return result
}

test('all pairs, from every kind of file', () =>
  inFolder(async (folder) => {
    const at = (name: string) => path.join(folder, name)
    writeNpy(at('e.npy'), '<f4', [rows, dim], embeddings)
    writeNpy(at('l.npy'), '<i8', [rows], BigInt64Array.from(labels, BigInt))
    writeTensors(at('all.safetensors'), {
      embeddings: { dtype: 'F32', shape: [rows, dim], values: embeddings },
      labels: { dtype: 'I32', shape: [rows], values: labels },
    })
    const lines = Array.from(labels, (label, i) => [
      `class ${label}`,
      ...embeddings.subarray(i * dim, (i + 1) * dim),
    ])
    fs.writeFileSync(at('all.csv'), lines.map((line) => line.join(',')).join('\n'))
    for (const args of [
      ['e.npy', '--labels', 'l.npy'],
      ['all.safetensors'],
      ['all.csv'],
      ['e.npy', '--labels', 'all.safetensors:labels'],
    ])
      assert.equal(await figures(['--embeddings', ...args], folder), expectedOfAll, args.join(' '))
  }))

test('lists of pairs', () =>
  inFolder(async (folder) => {
    const at = (name: string) => path.join(folder, name)
    writeNpy(at('e.npy'), '<f8', [rows, dim], Float64Array.from(embeddings))
    writeNpy(at('pairs.npy'), '<i4', [200, 2], pairs)
    writeNpy(at('same.npy'), '|b1', [200], same)
    const lines = Array.from(same, (one, p) => `${pairs[2 * p]},${pairs[2 * p + 1]},${one}`)
    fs.writeFileSync(at('pairs.csv'), `a,b,same\n${lines.join('\n')}\n`)
    assert.equal(await figures(['--embeddings', 'e.npy', '--pairs', 'pairs.csv'], folder), expectedOfList)
    const two = ['--embeddings', 'e.npy', '--pairs', 'pairs.npy', '--same', 'same.npy']
    assert.equal(await figures(two, folder), expectedOfList)
    assert.not((await figures([...two, '--folds', '0'], folder)).folds)
    assert.is((await figures([...two, '--folds', '4'], folder)).folds.accuracies.length, 4)
    // Rows 2p and 2p + 1.
    writeNpy(at('half.npy'), '|u1', [150], same.subarray(0, 150))
    const { scores: __, ...interleaved } = verificationSync(embeddings, { same: same.subarray(0, 150) })
    assert.equal(await figures(['--embeddings', 'e.npy', '--same', 'half.npy'], folder), {
      rows,
      dim,
      ...plain(interleaved),
    })
  }))

test('a table for people: no colour, no progress in a pipe', () =>
  inFolder(async (folder) => {
    writeNpy(path.join(folder, 'e.npy'), '<f4', [rows, dim], embeddings)
    writeNpy(path.join(folder, 'l.npy'), '<i4', [rows], labels)
    const { code, stdout, stderr } = await cli(['verify', '--embeddings', 'e.npy', '--labels', 'l.npy'], {
      cwd: folder,
    })
    assert.is(code, 0)
    assert.is(stderr, 'Read e.npy: 300 rows × 12 numbers; labels in l.npy: 15 classes.\n')
    assert.not(stdout.includes('\x1b'))
    const { areaUnderCurve, minimumDetectionCost, bestBalancedAccuracy } = expectedOfAll
    assert.match(stdout, new RegExp(`ROC AUC +${areaUnderCurve.toFixed(6)}\\n`))
    assert.match(
      stdout,
      new RegExp(`minDCF +${minimumDetectionCost.toFixed(4)} at .+ \\(P_target 0\\.01, C_miss 1`)
    )
    assert.match(stdout, new RegExp(`Balanced accuracy +${(100 * bestBalancedAccuracy).toFixed(3)} % at`))
    assert.match(stdout, /Accuracy +\d+\.\d+ % at \S+ \(\d+\.\d+ % by always answering "different"\)/)
    assert.match(stdout, /FAR up to +TAR +threshold +false accepts/)
    assert.match(stdout, /1e-6 +\d/)
  }))

test('what does not fit together is refused', () =>
  inFolder(async (folder) => {
    const at = (name: string) => path.join(folder, name)
    writeNpy(at('e.npy'), '<f4', [rows, dim], embeddings)
    writeNpy(at('short.npy'), '<i4', [rows - 1], labels.subarray(1))
    writeNpy(at('one.npy'), '<i4', [rows], new Int32Array(rows))
    writeNpy(at('pairs.npy'), '<i4', [200, 2], pairs)
    fs.writeFileSync(at('far.csv'), `0,${rows},1\n0,1,0\n`)
    const nan = embeddings.slice()
    nan[dim * 7] = Number.NaN
    writeNpy(at('nan.npy'), '<f4', [rows, dim], nan)
    for (const [args, pattern] of [
      [['e.npy', '--labels', 'short.npy'], /Expected 300 labels in short\.npy but received 299/],
      [
        ['e.npy', '--labels', 'one.npy'],
        /Expected pairs of both kinds for verification but received 44850 of one/,
      ],
      [
        ['e.npy', '--pairs', 'pairs.npy'],
        /Expected 3 columns in pairs\.npy \(two rows and an answer, which is first or last\), or --same/,
      ],
      [['e.npy', '--pairs', 'far.csv'], /Expected rows from 0 to 299 in .+ of far\.csv but received 300/],
      [['e.npy', '--same', 'one.npy'], /one answer for every two of 300 rows in one\.npy but received 300/],
      [['nan.npy', '--labels', 'one.npy'], /one that is not finite in row 7/],
      [['e.npy', '--labels', 'e.npy'], /Expected one label a row in e\.npy but received an array of shape/],
    ] as [string[], RegExp][]) {
      const { code, stdout, stderr } = await cli(['verify', '--embeddings', ...args], { cwd: folder })
      assert.is(code, 1, args.join(' '))
      assert.is(stdout, '')
      assert.match(stderr, pattern)
    }
  }))

test.run()
