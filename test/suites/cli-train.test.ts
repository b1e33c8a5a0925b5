// `train`: what it writes, and that an interruption costs no bit.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { trainingDefaults } from '../../lib/cli/train/settings'
import { MarginHead } from '../../lib/index'
import { cli, inFolder, writeNpy } from '../support/cli-support'
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

const test = suite('train')
test('a head that has learnt, with its log', () =>
  inFolder(async (folder) => {
    writeData(folder)
    const { stdout, stderr } = await good(['--out', 'head.safetensors', '--epochs', '6'], { cwd: folder })
    const lines = stderr.trimEnd().split('\n')
    assert.is(lines[0], 'Read e.npy: 600 rows × 16 numbers; labels in l.npy: 12 classes, 50 rows each.')
    const line =
      /^Epoch (\d) of 6: loss \d+\.\d{4}, [\d.]+ % right, validation [\d.]+ %, loss [\d.]+, rate [\d.]+, [\d.]+ s$/
    assert.equal(
      lines.slice(1).map((text) => line.exec(text)?.[1]),
      ['1', '2', '3', '4', '5', '6']
    )
    assert.match(stdout, /600 rows × 16, 12 classes; 6 epochs on cpu/)
    assert.equal(fs.readdirSync(folder).sort(), ['e.npy', 'head.safetensors', 'head.training.json', 'l.npy'])
    using head = await MarginHead.load(path.join(folder, 'head.safetensors'))
    assert.is(head.classes, classes)
    const log = JSON.parse(read(folder, 'head.training.json').toString())
    assert.is(log.finished, true)
    assert.is(log.epochs.length, 6)
    const best = Math.max(
      ...log.epochs.map((epoch: { validation: { accuracy: number } }) => epoch.validation.accuracy)
    )
    assert.ok(best > 0.9, `validation accuracy ${best}`)
    // Whoever asks a finished training to go on gets its figures, and no other head.
    const before = read(folder, 'head.safetensors')
    await good(['--out', 'head.safetensors', '--epochs', '6', '--resume'], { cwd: folder })
    assert.ok(before.equals(read(folder, 'head.safetensors')))
  }))

test('labels as names, without validation, as JSON', () =>
  inFolder(async (folder) => {
    const lines = Array.from(
      { length: 40 },
      (_, i) => `${i % 2 ? 'zoe' : 'ann'},${i % 2},${(i + 1) % 2},${i / 100}`
    )
    fs.writeFileSync(path.join(folder, 'a.csv'), lines.join('\n'))
    const args = [
      '--embeddings',
      'a.csv',
      '--out',
      'h.safetensors',
      '--validation',
      '0',
      '--epochs',
      '3',
      '--json',
    ]
    const { code, stdout, stderr } = await cli(['train', '--batch', '10', '--optimizer', 'adamw', ...args], {
      cwd: folder,
    })
    assert.is(code, 0, stderr)
    const result = JSON.parse(stdout)
    assert.equal([result.classes, result.dim, result.epochs.length], [2, 3, 3])
    assert.equal(result.rows, { training: 40, validation: 0 })
    assert.is(result.best.iteration, 12)
    assert.equal(JSON.parse(read(folder, 'h.classes.json').toString()), ['ann', 'zoe'])
  }))

/** A training that takes a while, with a checkpoint every few steps; and the head and log of one that was not cut short. */
const long = ['--epochs', '40', '--patience', '0', '--warmup-steps', '40', '--checkpoint-steps', '3']
let uncut: Promise<{ head: Buffer; log: { epochs: object[] } }> | undefined
async function trainUncut() {
  let made: Awaited<typeof uncut>
  await inFolder(async (folder) => {
    writeData(folder, 2, 1.2)
    await good(['--out', 'whole.safetensors', ...long], { cwd: folder })
    made = { head: read(folder, 'whole.safetensors'), log: logOf(folder, 'whole') }
  })
  return made as NonNullable<typeof made>
}

// SIGKILL leaves whatever was on the disk at the moment: also from there the bits are the same.
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
  ['SIGKILL', null],
] as const)
  test(`${signal} loses nothing: the resumed training gives the same bits`, () =>
    inFolder(async (folder) => {
      writeData(folder, 2, 1.2)
      uncut ??= trainUncut()
      const { head, log } = await uncut
      const cut = ['--out', 'cut.safetensors', ...long]
      const whileRunning = signalAtCheckpoint(folder, 'cut', signal)
      const ended = await cli([...common, ...cut], { cwd: folder, whileRunning })
      assert.is(ended.code, code, ended.stderr)
      assert.is(ended.stdout, '')
      if (code)
        assert.match(ended.stderr, /\nInterrupted at step \d+ of [\d,]+; saved\. Go on with --resume\.\n$/)

      const again = await cli([...common, ...cut], { cwd: folder })
      assert.is(again.code, 1)
      assert.match(again.stderr, /Expected no interrupted training but cut\.checkpoint\.safetensors is there/)
      // Another interruption, then to the end.
      if (code) {
        const { code: second } = await cli([...common, ...cut, '--resume'], {
          cwd: folder,
          whileRunning: signalAtCheckpoint(folder, 'cut', 'SIGINT'),
        })
        assert.is(second, 130)
      }
      await good([...cut, '--resume'], { cwd: folder })
      assert.ok(read(folder, 'cut.safetensors').equals(head), 'the heads differ')
      assert.equal(logOf(folder, 'cut').epochs, log.epochs)
      assert.not(fs.existsSync(path.join(folder, 'cut.checkpoint.safetensors')))
    }))

test('a combined margin, sampled classes, the filter and bfloat16 reach the head, and survive an interruption', () =>
  inFolder(async (folder) => {
    writeData(folder, 4, 1)
    const own = ['--loss', 'combined', '--m1', '0.9', '--m2', '0.2', '--m3', '-0.1', '--sample-rate', '0.5']
    const args = [
      ...own,
      '--sample-correction',
      '--interclass-filter',
      '0.4',
      '--precision',
      'bfloat16',
      '--epochs',
      '60',
    ]
    const more = ['--patience', '0', '--checkpoint-steps', '3']
    await good([...args, ...more, '--out', 'whole.safetensors'], { cwd: folder })
    const cut = [...common, ...args, ...more, '--out', 'cut.safetensors']
    const whileRunning = signalAtCheckpoint(folder, 'cut', 'SIGINT')
    assert.is((await cli(cut, { cwd: folder, whileRunning })).code, 130)
    const other = await cli([...cut, '--resume', '--precision', 'float32'], { cwd: folder })
    assert.is(other.code, 1)
    assert.match(other.stderr, /Expected bfloat16 for --precision, as in .* but received float32/)
    assert.is((await cli([...cut, '--resume'], { cwd: folder })).code, 0)
    assert.ok(read(folder, 'cut.safetensors').equals(read(folder, 'whole.safetensors')), 'the heads differ')

    const { head } = JSON.parse(
      (await cli(['inspect', 'whole.safetensors', '--json'], { cwd: folder })).stdout
    )
    assert.equal(head.margin, { name: 'combined', scale: 16, m1: 0.9, m2: 0.2, m3: -0.1 })
    assert.equal([head.sampleRate, head.sampleCorrection, head.interclassFilter], [0.5, true, 0.4])
    const text = (await cli(['inspect', 'whole.safetensors'], { cwd: folder })).stdout
    assert.match(
      text,
      /Sampling +50\.00 % of the classes in a step, corrected\nFilter +other classes above a cosine of 0\.4/
    )
    // Each of the four makes a difference.
    const unsaved = ['--epochs', '5', '--patience', '0']
    const weightsWithout = async (option?: string) => {
      const at = option ? args.indexOf(option) : args.length
      const fewer = [...args.slice(0, at), ...args.slice(at + 2)]
      await good([...fewer, ...unsaved, '--out', 'other.safetensors', '--restart'], { cwd: folder })
      return (await MarginHead.load(path.join(folder, 'other.safetensors'))).weights()
    }
    const withAll = await weightsWithout()
    for (const option of ['--m1', '--sample-rate', '--interclass-filter', '--precision'])
      assert.not.equal(await weightsWithout(option), withAll, option)
  }))

test('a training.json from before an option was there is resumed, with what the option is by default', () =>
  inFolder(async (folder) => {
    writeData(folder)
    const args = ['--out', 'head.safetensors', '--epochs', '3']
    await good(args, { cwd: folder })
    const log = JSON.parse(read(folder, 'head.training.json').toString())
    for (const name of ['sampleCorrection', 'interclassFilter', 'marginWarmupSteps', 'precision']) {
      assert.ok(name in log.settings.head, name)
      delete log.settings.head[name]
    }
    delete log.settings.head.optimizer.nesterov
    for (const name of ['labelSmoothing', 'negligible', 'weightStorage', 'bias']) {
      assert.ok(name in log.settings.head, name)
      delete log.settings.head[name]
    }
    for (const name of Object.keys(trainingDefaults).filter((name) => !['batch', 'epochs'].includes(name))) {
      assert.ok(name in log.settings, name)
      delete log.settings[name]
    }
    delete log.sources
    delete log.started
    for (const epoch of log.epochs) delete epoch.learningRate
    fs.writeFileSync(path.join(folder, 'head.training.json'), JSON.stringify(log))
    await good([...args, '--resume'], { cwd: folder })
    for (const [other, pattern] of [
      [['--seed', '4'], /Expected 0 for --seed, as in the training to be resumed, but received 4/],
      [['--sample-correction'], /Expected false for --sample-correction, .* but received true/],
      [['--precision', 'bfloat16'], /Expected float32 for --precision, .* but received bfloat16/],
      [['--rate-warmup-steps', '3'], /Expected 0 for --rate-warmup-steps, .* but received 3/],
    ] as const) {
      const { code, stderr } = await cli([...common, ...args, '--resume', ...other], { cwd: folder })
      assert.is(code, 1)
      assert.match(stderr, pattern)
    }
    // An option of a later version may have decided bits.
    log.settings.tomorrow = 1
    fs.writeFileSync(path.join(folder, 'head.training.json'), JSON.stringify(log))
    const later = await cli([...common, ...args, '--resume'], { cwd: folder })
    assert.match(later.stderr, /Expected 1 for tomorrow, .* but received undefined/)
  }))

test('a training.json with anything else in it is refused by its part', () =>
  inFolder(async (folder) => {
    writeData(folder)
    const args = ['--out', 'head.safetensors', '--epochs', '3']
    await good(args, { cwd: folder })
    const whole = read(folder, 'head.training.json').toString()
    for (const [change, pattern] of [
      [() => null, /its content is null, not an object/],
      [(log) => ({ ...log, settings: null }), /its settings is null, not an object/],
      [(log) => ({ ...log, settings: { ...log.settings, head: [] } }), /its settings\.head is an array/],
      [
        (log) => ({ ...log, settings: { ...log.settings, head: { classes: 'x' } } }),
        /for classes but received "x"/,
      ],
      [
        (log) => ({ ...log, settings: { ...log.settings, milestones: 'x' } }),
        /for milestones but received "x"/,
      ],
      [(log) => ({ ...log, settings: { ...log.settings, epochs: 2.5 } }), /for epochs but received 2\.5/],
      [
        (log) => ({ ...log, settings: { ...log.settings, schedule: 'no' } }),
        /for schedule but received "no"/,
      ],
      [(log) => ({ ...log, sources: { labels: 3 } }), /its sources\.labels is 3, not a string/],
      [(log) => ({ ...log, patienceFrom: -1 }), /for patienceFrom but received -1/],
      [(log) => ({ ...log, data: 5 }), /its data is 5, not a string/],
      [(log) => ({ ...log, finished: 'no' }), /its finished is "no"/],
      [(log) => ({ ...log, epochs: {} }), /its epochs are an object, not an array/],
      [(log) => ({ ...log, epochs: [null] }), /its epochs\[0\] is null/],
      [
        (log) => ({ ...log, epochs: [{ ...log.epochs[0], loss: 'x' }] }),
        /for epochs\[0\]\.loss but received "x"/,
      ],
      [
        (log) => ({ ...log, epochs: [{ ...log.epochs[0], validation: null }] }),
        /its epochs\[0\]\.validation is null/,
      ],
      [(log) => ({ ...log, sums: [{}] }), /for sums\[0\]\.iteration but received undefined/],
    ] as [(log: { settings: object; epochs: object[] }) => unknown, RegExp][]) {
      fs.writeFileSync(path.join(folder, 'head.training.json'), JSON.stringify(change(JSON.parse(whole))))
      const { code, stderr } = await cli([...common, ...args, '--resume'], { cwd: folder })
      assert.is(code, 1, stderr)
      assert.match(stderr, pattern)
      assert.match(stderr, /^margin-softmax: Expected .*\n$/)
    }
  }))

test('killed at its very end, with its checkpoint still there, a training is resumed to the same end', () =>
  inFolder(async (folder) => {
    writeData(folder)
    const args = ['--out', 'h.safetensors', '--epochs', '2']
    await good(args, { cwd: folder })
    const head = read(folder, 'h.safetensors')
    fs.copyFileSync(path.join(folder, 'h.safetensors'), path.join(folder, 'h.checkpoint.safetensors'))
    await good([...args, '--resume'], { cwd: folder })
    assert.equal(read(folder, 'h.safetensors'), head)
    assert.equal(fs.readdirSync(folder).sort(), ['e.npy', 'h.safetensors', 'h.training.json', 'l.npy'])
  }))

test('only the same training is resumed', () =>
  inFolder(async (folder) => {
    writeData(folder)
    const args = ['--out', 'h.safetensors', '--epochs', '400', '--patience', '0', '--checkpoint-steps', '2']
    const ended = await cli([...common, ...args], {
      cwd: folder,
      whileRunning: signalAtCheckpoint(folder, 'h', 'SIGINT'),
    })
    assert.is(ended.code, 130)
    const refused = async (changed: string[], pattern: RegExp) => {
      const { code, stderr } = await cli([...common, ...args, '--resume', ...changed], { cwd: folder })
      assert.is(code, 1)
      assert.match(stderr, pattern)
    }
    await refused(
      ['--epochs', '300'],
      /Expected at least 400 for --epochs, as in the training to be resumed, but received 300/
    )
    await refused(['--seed', '4'], /Expected 0 for --seed, as in/)
    await refused(['--loss', 'cosface'], /for --loss, as in/)
    await refused(['--out', 'other.safetensors'], /resumed in other\.training\.json but there is none/)
    writeData(folder, 5)
    await refused([], /Expected the embeddings and labels of h\.training\.json but received others/)
    const anew = await good([...args, '--epochs', '2', '--restart'], { cwd: folder })
    assert.match(anew.stdout, /2 epochs/)
  }))

test('it stops early where nothing gets better', () =>
  inFolder(async (folder) => {
    writeData(folder, 3, 0.05) // every epoch is perfect: the accuracy does not rise, while the loss falls
    const { stdout } = await good(['--out', 'h.safetensors', '--epochs', '50', '--patience', '3', '--json'], {
      cwd: folder,
    })
    const { best, epochs } = JSON.parse(stdout)
    const accuracies = epochs.map((epoch: { validation: { accuracy: number } }) => epoch.validation.accuracy)
    const at = accuracies.indexOf(Math.max(...accuracies))
    assert.is(epochs.length, at + 1 + 3)
    const losses = epochs.map((epoch: { validation: { loss: number } }) => epoch.validation.loss)
    const equals = epochs.filter((_: object, i: number) => accuracies[i] === accuracies[at])
    const least = Math.min(...equals.map((epoch: { validation: { loss: number } }) => epoch.validation.loss))
    assert.is(best.iteration, epochs[losses.indexOf(least)].iteration)
    assert.ok(best.iteration > epochs[at].iteration)
    using head = await MarginHead.load(path.join(folder, 'h.safetensors'))
    assert.is(head.iteration, best.iteration)
  }))

test('what cannot be trained on is refused', () =>
  inFolder(async (folder) => {
    writeData(folder)
    fs.mkdirSync(path.join(folder, 'folder.safetensors'))
    const nan = new Float32Array(rows * dim).fill(Number.NaN)
    writeNpy(path.join(folder, 'nan.npy'), '<f4', [rows, dim], nan)
    for (const [args, code, pattern] of [
      [
        ['--out', 'h.safetensors', '--classes', '3'],
        1,
        /Expected class numbers below 3, as --classes says, but received 3 in row 3 \(from 0\) of l\.npy/,
      ],
      [['--out', 'folder.safetensors'], 2, /a file name for --out but received the folder/],
      [['--out', 'e.npy/h.safetensors'], 1, /a folder that can be written to for --out but: /],
      [['--out', 'h.safetensors', '--embeddings', 'nan.npy'], 1, /Expected finite numbers for embeddings/],
      [['--out', 'h.safetensors', '--loss', 'softmax'], 2, /no --scale with softmax but received 16/],
      [['--out', 'h.safetensors', '--m2', '0.1'], 2, /no --m2 with arcface but received 0\.1/],
      [['--out', 'h.safetensors', '--loss', 'combined', '--margin', '1'], 2, /no --margin with combined/],
      [
        ['--out', 'h.safetensors', '--loss', 'softmax', '--interclass-filter', '0.5'],
        2,
        /no --(scale|interclass-filter) with softmax/,
      ],
      [['--out', 'h.safetensors', '--precision', 'tf32'], 1, /for precision but received "tf32"/],
      [['--out', 'h.safetensors', '--device', 'gpu'], 1, /for device but received "gpu"/],
    ] as [string[], number, RegExp][]) {
      const ended = await cli([...common, ...args], { cwd: folder })
      assert.is(ended.code, code, args.join(' '))
      assert.match(ended.stderr, pattern)
      assert.is(ended.stdout, '')
    }
  }))

test.run()
