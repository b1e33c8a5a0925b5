// `train --project`, `embed` and `verify --head`: frozen features in files.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { npyHeader, parseNpyHeader } from '../../lib/cli/data/npy'
import { Misuse } from '../../lib/cli/terminal'
import type { ReadData } from '../../lib/cli/train/data'
import { checkTogether, type SettingOptions, settingOptions } from '../../lib/cli/train/options'
import { keepClassesBack } from '../../lib/cli/train/unseen'
import { MarginHead, verificationSync } from '../../lib/index'
import { cli, inFolder, npyBytes, writeNpy } from '../support/cli-support'
import {
  classes,
  common,
  dim,
  good,
  logOf,
  read,
  rows,
  signalAtCheckpoint,
  writeData,
} from '../support/cli-train-support'
import { sameBits, throwsLike } from '../support/support'

const test = suite('train --project')

const project = ['--project', '5', '--optimizer', 'adamw', '--lr', '0.01']
const long = ['--epochs', '40', '--patience', '0', '--checkpoint-steps', '3']

test('a projection is trained, judged by classes that are kept back, and goes on with the same bits', () =>
  inFolder(async (folder) => {
    writeData(folder, 2, 1.2)
    const args = [
      ...project,
      '--project-layers',
      '2',
      '--project-hidden',
      '9',
      '--batch-norm',
      '--dropout',
      '0.1',
    ]
    const all = [...args, '--validation-classes', '4', ...long]
    const { stderr, stdout } = await good([...all, '--out', 'whole.safetensors', '--report', 'r.html'], {
      cwd: folder,
    })
    assert.match(stderr, /\nEpoch 40 of 40: loss [\d.]+, [\d.]+ % right, EER of other classes [\d.]+ %, rate/)
    assert.match(stdout, /600 rows × 16 → 5, 8 classes; 40 epochs on cpu/)
    assert.match(stdout, /Validation +EER [\d.]+ %, AUC [\d.]+ \(4 other classes, 200 rows\)/)
    assert.match(read(folder, 'r.html').toString(), /Equal error rate of other classes/)
    const { epochs, settings } = logOf(folder, 'whole')
    assert.equal([settings.validationClasses, settings.validation], [4, 0])
    const rates = epochs.map(
      ({ verification }: { verification: { equalErrorRate: number } }) => verification.equalErrorRate
    )
    const best = Math.min(...rates)
    assert.match(stdout, new RegExp(`Head +whole.safetensors, of epoch ${rates.indexOf(best) + 1}\n`))

    const cut = [...common, ...all, '--out', 'cut.safetensors']
    const whileRunning = signalAtCheckpoint(folder, 'cut', 'SIGINT')
    assert.is((await cli(cut, { cwd: folder, whileRunning })).code, 130)
    const resumed = ['train', '--out', 'cut.safetensors', '--resume']
    const other = await cli([...resumed, '--dropout', '0.2'], { cwd: folder })
    assert.match(
      other.stderr,
      /Expected 0\.1 for --dropout, as in the training to be resumed, but received 0\.2/
    )
    await good(resumed, { cwd: folder })
    assert.ok(read(folder, 'cut.safetensors').equals(read(folder, 'whole.safetensors')), 'the heads differ')
    assert.equal(logOf(folder, 'cut').epochs, epochs)

    // The kept head's EER is that of the classes which it does not know.
    using head = await MarginHead.load(path.join(folder, 'whole.safetensors'))
    assert.equal(head.projection, {
      ...{ from: dim, to: 5, layers: 2, hidden: 9 },
      batchNorm: true,
      dropout: 0.1,
    })
    const known = new Set(head.classNames?.map(Number))
    assert.is(known.size, 8)
    const kept = Array.from({ length: rows }, (_, i) => i).filter((i) => !known.has(i % classes))
    const data = read(folder, 'e.npy')
    const features = new Float32Array(
      data.buffer.slice(data.byteOffset + data.length - 4 * rows * dim, data.byteOffset + data.length)
    )
    const unseen = Float32Array.from(kept.flatMap((i) => [...features.subarray(i * dim, (i + 1) * dim)]))
    const labels = Int32Array.from(kept, (i) => i % classes)
    assert.is(verificationSync(await head.embed(unseen), labels, { dim: 5 }).equalErrorRate, best)
  }))

test('embed writes what the head computes, and verify --head judges it', () =>
  inFolder(async (folder) => {
    const features = writeData(folder, 3)
    await good([...project, '--out', 'h.safetensors', '--epochs', '3'], { cwd: folder })
    assert.is(logOf(folder, 'h').epochs[0].verification, undefined)
    assert.is(typeof logOf(folder, 'h').epochs[0].validation.accuracy, 'number')
    const embedded = await cli(['embed', 'e.npy', '--head', 'h.safetensors', '--out', 'out.npy', '--json'], {
      cwd: folder,
    })
    assert.is(embedded.code, 0, embedded.stderr)
    const { rows: count, dim: length } = JSON.parse(embedded.stdout)
    assert.equal([count, length], [rows, 5])
    using head = await MarginHead.load(path.join(folder, 'h.safetensors'))
    const expected = npyBytes('<f4', [rows, 5], await head.embed(features))
    const written = read(folder, 'out.npy')
    sameBits(written.subarray(-4 * rows * 5), expected.subarray(-4 * rows * 5), 'embeddings')
    assert.equal(parseNpyHeader(written).shape, [rows, 5])
    assert.is(parseNpyHeader(written).start + 4 * rows * 5, written.length)
    const figuresOf = async (...args: string[]) => {
      const { code, stdout, stderr } = await cli([...args, '--json'], { cwd: folder })
      assert.is(code, 0, stderr)
      const { read: _, ...figures } = JSON.parse(stdout)
      return figures
    }
    for (const [command, rowsIn, labelsIn] of [
      ['verify', '--embeddings', '--labels'],
      ['identify', '--gallery', '--gallery-labels'],
    ] as const) {
      const judge = [command, labelsIn, 'l.npy', rowsIn]
      const through = await figuresOf(...judge, 'e.npy', '--head', 'h.safetensors')
      assert.equal(through, await figuresOf(...judge, 'out.npy'))
      assert.is(through.dim, 5)
    }
    const inspected = await cli(['inspect', 'h.safetensors'], { cwd: folder })
    assert.match(inspected.stdout, /\nProjection +16 → 5\n/)
  }))

test('options that belong to a projection are refused without one', () => {
  const defaults = Object.fromEntries(
    settingOptions.map(({ option }) => [option.attributeName(), option.defaultValue])
  ) as unknown as SettingOptions
  for (const [given, pattern] of [
    [{ batchNorm: true }, /Expected --project with --batch-norm/],
    [{ dropout: 0.1 }, /Expected --project with --dropout/],
    [{ projectLayers: 2 }, /Expected --project with --project-layers/],
    [{ projectHidden: 3 }, /Expected --project with --project-hidden/],
    [{ project: 5, projectHidden: 3 }, /--project-layers 2 with --project-hidden but received 1/],
    [{ validationClasses: 3 }, /--project with --validation-classes 3: without it the embeddings/],
    [{ project: 5, validationClasses: 3, validation: 0.1 }, /either --validation or --validation-classes/],
  ] as [Partial<SettingOptions>, RegExp][])
    throwsLike(() => checkTogether({ ...defaults, ...given }, given), Misuse, pattern)
  checkTogether({ ...defaults, project: 5, validationClasses: 3 }, { project: 5, validationClasses: 3 })
})

test('what does not fit is refused', () =>
  inFolder(async (folder) => {
    writeData(folder, 4)
    await good(['--out', 'plain.safetensors', '--epochs', '1'], { cwd: folder })
    await good([...project, '--out', 'h.safetensors', '--epochs', '1'], { cwd: folder })
    fs.writeFileSync(path.join(folder, 'short.csv'), '1,2\n3,4\n')
    writeNpy(path.join(folder, 'nan.npy'), '<f4', [2, 16], new Float32Array(32).fill(Number.NaN, 31))
    const train = [...common, '--out', 'n.safetensors']
    const embed = (file: string, head = 'h.safetensors', out = 'o.npy') => [
      'embed',
      file,
      '--head',
      head,
      '--out',
      out,
    ]
    for (const [args, code, pattern] of [
      [[...train, ...project, '--from', 'plain.safetensors'], 2, /either|received both/],
      [
        [...train, '--from', 'h.safetensors'],
        1,
        /16 for dim, as the data have, in h.safetensors but received 5/,
      ],
      [[...train, ...project, '--validation-classes', '11'], 1, /at most 10 for --validation-classes/],
      [
        embed('e.npy', 'plain.safetensors'),
        1,
        /a head with a projection in plain\.safetensors but it has none/,
      ],
      [
        embed('short.csv'),
        1,
        /rows of 16 numbers, as the head's projection takes, in short\.csv but received 2/,
      ],
      [embed('nan.npy'), 1, /finite numbers for features .* in row 1 \(from 0\) of nan\.npy/],
      [embed('e.npy', 'h.safetensors', 'o.csv'), 2, /ends in \.npy for --out but received o\.csv/],
      [[...embed('e.npy'), '--columns', '1:3'], 2, /no --columns with e\.npy/],
      [['verify', '--scores', 'short.csv', '--head', 'h.safetensors'], 2, /no --head with --scores/],
    ] as [string[], number, RegExp][]) {
      const ended = await cli(args, { cwd: folder })
      assert.match(ended.stderr, pattern)
      assert.is(ended.code, code, ended.stderr)
    }
    assert.not(fs.existsSync(path.join(folder, 'o.npy')))
    assert.not(fs.existsSync(path.join(folder, 'n.safetensors')))
  }))

test('classes that are kept back are numbered behind the others, which keep order and names', () => {
  const labels = Int32Array.of(3, 0, 1, 2, 3, 0, 2, 5, 5, 1, 4)
  const read = {
    classes: 7,
    data: { embeddings: new Float32Array(11), labels, dim: 1 },
  } as unknown as ReadData
  for (const names of [undefined, [...'abcdef']])
    for (let count = 1; count <= 4; count++)
      for (let seed = 0; seed < 5; seed++) {
        const { classes, data, names: left } = keepClassesBack({ ...read, names }, count, seed)
        assert.is(classes, 7 - count)
        assert.is(left?.length, names ? 6 - count : classes) // class 6 has neither rows nor a name
        const back = new Set<number>()
        data.labels.forEach((label, row) => {
          const before = labels[row] as number
          if (label < classes) assert.is(left?.[label], names ? names[before] : String(before))
          else back.add(before)
        })
        assert.is(back.size, count)
        assert.not(back.has(4), 'a class of one row makes no pair')
      }
  throwsLike(() => keepClassesBack(read, 5, 0), Error, /at most 4 for --validation-classes/)
  assert.is(keepClassesBack(read, 0, 0), read)
})

test('a .npy header is as NumPy reads it, of any length', () => {
  for (const shape of [[1], [3, 128], [123456789, 2147483647], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]]) {
    const header = npyHeader(shape)
    assert.is(header.length % 64, 0)
    const { kind, shape: parsed, start } = parseNpyHeader(header)
    assert.equal([kind, parsed, start], ['f4', shape, header.length])
  }
})

test.run()
