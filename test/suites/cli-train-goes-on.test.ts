// `train` goes on: after an interruption and after its end, with nothing said again; and begins from a head.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { MarginHead } from '../../lib/index'
import { cli, inFolder, writeNpy } from '../support/cli-support'
import {
  classes,
  common,
  good,
  logOf,
  read,
  signalAtCheckpoint,
  writeData,
} from '../support/cli-train-support'

const test = suite('train goes on')
const sameHead = (folder: string, a: string, b: string) =>
  assert.ok(
    read(folder, `${a}.safetensors`).equals(read(folder, `${b}.safetensors`)),
    `the heads ${a} and ${b} differ`
  )

test('everything that decides the bits is known to --resume, wherever it is called and the folder is', () =>
  inFolder(async (folder) => {
    fs.mkdirSync(path.join(folder, 'data'))
    writeData(path.join(folder, 'data'), 2, 1.2)
    const args = ['train', '--embeddings', 'data/e.npy', '--labels', 'data/l.npy', '--patience', '0']
    const shape = [
      '--classes-per-batch',
      '6',
      '--rows-per-class',
      '5',
      '--label-smoothing',
      '0.1',
      '--seed',
      '3',
    ]
    const rates = [
      '--schedule',
      'polynomial',
      '--power',
      '2',
      '--rate-warmup-steps',
      '30',
      '--optimizer',
      'adamw',
    ]
    const rest = [
      '--weight-storage',
      'bfloat16',
      '--negligible',
      '0',
      '--epochs',
      '40',
      '--checkpoint-steps',
      '4',
    ]
    const all = [...args, ...shape, ...rates, ...rest]
    await good([...all, '--out', 'whole.safetensors', '--log', 'whole.jsonl'], { cwd: folder })
    const ended = await cli([...all, '--out', 'cut.safetensors', '--log', 'cut.jsonl'], {
      cwd: folder,
      whileRunning: signalAtCheckpoint(folder, 'cut', 'SIGINT'),
    })
    assert.is(ended.code, 130, ended.stderr)
    // The folder has another name now, and the command runs elsewhere.
    const moved = `${folder}-moved`
    fs.renameSync(folder, moved)
    try {
      await good(['train', '--out', path.join(moved, 'cut.safetensors'), '--resume'], {
        cwd: path.dirname(folder),
      })
      sameHead(moved, 'cut', 'whole')
      assert.equal(logOf(moved, 'cut').epochs, logOf(moved, 'whole').epochs)
      const lines = (name: string) =>
        read(moved, `${name}.jsonl`)
          .toString()
          .trimEnd()
          .split('\n')
          .map((line) => JSON.parse(line))
      const figures = ({ epoch, loss, accuracy, learningRate, validation }: Record<string, unknown>) => ({
        epoch,
        loss,
        accuracy,
        learningRate,
        validation,
      })
      assert.equal(lines('cut').map(figures), lines('whole').map(figures))
      assert.equal(
        lines('cut').map(({ epoch }) => epoch),
        Array.from({ length: 40 }, (_, i) => i + 1)
      )
      assert.is(new Set(lines('cut').map(({ started }) => started)).size, 1)
      assert.is(lines('cut')[0].started, logOf(moved, 'cut').started)
    } finally {
      fs.mkdirSync(folder)
      fs.rmSync(moved, { recursive: true })
    }
  }))

test('more epochs after the end give the bits of a training that had them from the start, where the rate is constant', () =>
  inFolder(async (folder) => {
    writeData(folder, 2, 1.2)
    const args = ['--schedule', 'constant', '--learning-rate', '0.02', '--patience', '0']
    await good([...args, '--epochs', '9', '--out', 'whole.safetensors'], { cwd: folder })
    await good([...args, '--epochs', '4', '--out', 'more.safetensors'], { cwd: folder })
    const before = logOf(folder, 'more')
    const { stdout } = await good(['train', '--out', 'more.safetensors', '--resume', '--epochs', '9'], {
      cwd: folder,
    })
    assert.match(stdout, /; 9 epochs on cpu/)
    sameHead(folder, 'more', 'whole')
    assert.equal(logOf(folder, 'more').epochs, logOf(folder, 'whole').epochs)
    assert.is(logOf(folder, 'more').started, before.started)
    assert.not(fs.existsSync(path.join(folder, 'more.checkpoint.safetensors')))
  }))

test('after an early stop more epochs have the patience anew, and more patience goes on as well', () =>
  inFolder(async (folder) => {
    writeData(folder, 3, 0.05) // every epoch is perfect
    const { stdout } = await good(['--out', 'h.safetensors', '--epochs', '20', '--patience', '2'], {
      cwd: folder,
    })
    assert.match(stdout, /; 3 epochs of 20, the last 2 no better, on cpu/)
    const more = async (...args: string[]) => {
      await good(['train', '--out', 'h.safetensors', '--resume', ...args], { cwd: folder })
      return logOf(folder, 'h').epochs.length
    }
    assert.is(await more(), 3, 'nothing was asked for')
    assert.is(await more('--epochs', '30'), 5)
    assert.is(await more('--patience', '4'), 7, 'four from the third epoch on')
    assert.is(await more('--patience', '1'), 7)
    assert.is(await more('--patience', '0'), 30)
  }))

test('a training begins from the weights of a head', () =>
  inFolder(async (folder) => {
    writeData(folder)
    await good(['--out', 'first.safetensors', '--epochs', '3', '--validation', '0'], { cwd: folder })
    // At a rate of 0 the weights stay those of the head.
    const still = ['--epochs', '1', '--validation', '0', '--learning-rate', '0', '--weight-decay', '0']
    const args = ['--out', 'second.safetensors', '--from', 'first.safetensors', '--loss', 'cosface', ...still]
    await good(args, { cwd: folder })
    using first = await MarginHead.load(path.join(folder, 'first.safetensors'))
    using second = await MarginHead.load(path.join(folder, 'second.safetensors'))
    assert.equal(second.weights(), first.weights())
    assert.is(second.margin.name, 'cosface')
    assert.is(logOf(folder, 'second').sources.from, 'first.safetensors')
    const other = [...common, '--out', 'third.safetensors', '--from', 'first.safetensors', '--classes', '20']
    const { code, stderr } = await cli(other, { cwd: folder })
    assert.is(code, 1)
    assert.match(stderr, /a head of 20 for classes, as the data have, in first\.safetensors but received 12/)
  }))

test('classes keep their names and numbers in the head, and in what begins from it', () =>
  inFolder(async (folder) => {
    const table = (file: string, names: string[]) =>
      fs.writeFileSync(
        path.join(folder, file),
        Array.from({ length: 60 }, (_, i) => {
          const k = i % names.length
          return `${names[k]},${Math.cos(2 * k)},${Math.sin(2 * k)},${i / 100}`
        }).join('\n')
      )
    table('first.csv', ['cid', 'ann', 'bob'])
    const train = (name: string, ...more: string[]) =>
      cli(
        ['train', '--embeddings', `${name}.csv`, '--out', `${name}.safetensors`, '--batch', '10', ...more],
        {
          cwd: folder,
        }
      )
    assert.is((await train('first', '--epochs', '2')).code, 0)
    table('second.csv', ['cid', 'bob'])
    const second = await train('second', '--epochs', '1', '--from', 'first.safetensors')
    assert.is(second.code, 0, second.stderr)
    assert.match(second.stderr, /Classes without rows: 1 of 3\./)
    await good(['train', '--out', 'second.safetensors', '--resume', '--epochs', '2'], { cwd: folder })
    for (const name of ['first', 'second']) {
      using head = await MarginHead.load(path.join(folder, `${name}.safetensors`))
      assert.equal(head.classNames, ['ann', 'bob', 'cid'], name)
      assert.equal(JSON.parse(read(folder, `${name}.classes.json`).toString()), ['ann', 'bob', 'cid'])
    }
    table('third.csv', ['cid', 'dan'])
    const third = await train('third', '--from', 'first.safetensors')
    assert.is(third.code, 1)
    assert.match(third.stderr, /the head's 3 class names in .*third\.csv but received "dan"/)
    const fourth = await train('second', '--from', 'first.safetensors', '--classes', '5')
    assert.match(fourth.stderr, /Expected 3 for --classes, as first\.safetensors has, but received 5/)
  }))

test('class weights, balanced or from a file, reach the head and survive a resumption', () =>
  inFolder(async (folder) => {
    writeData(folder)
    const weights = Float64Array.from({ length: classes }, (_, i) => (i + 1) / 8)
    writeNpy(path.join(folder, 'w.npy'), '<f8', [classes], weights)
    const args = ['--epochs', '1', '--validation', '0.11', '--class-weights']
    await good([...args, 'w.npy', '--out', 'file.safetensors'], { cwd: folder })
    await good([...args, 'balanced', '--out', 'balanced.safetensors'], { cwd: folder })
    const weightsOf = async (name: string) => {
      using head = await MarginHead.load(path.join(folder, `${name}.safetensors`))
      return head.classWeights
    }
    assert.equal(await weightsOf('file'), Float32Array.from(weights))
    const { epochs } = logOf(folder, 'balanced')
    assert.is(epochs.length, 1)
    // 534 training rows of 12 classes: about 1 each, and none the same by chance alone.
    const even = (await weightsOf('balanced')) as Float32Array
    for (const weight of even) assert.ok(weight > 0.8 && weight < 1.25, `${even}`)
    assert.ok(new Set(even).size > 1)
    await good(['train', '--out', 'file.safetensors', '--resume', '--epochs', '2'], { cwd: folder })
    assert.equal(await weightsOf('file'), Float32Array.from(weights))
    const resume = ['train', '--out', 'file.safetensors', '--resume', '--class-weights', 'balanced']
    const other = await cli(resume, { cwd: folder })
    assert.match(other.stderr, /Expected w\.npy for --class-weights, as in .* but received balanced/)
    weights[3] = -1
    writeNpy(path.join(folder, 'w.npy'), '<f8', [classes], weights)
    const negative = await cli([...common, ...args, 'w.npy', '--out', 'h.safetensors'], { cwd: folder })
    assert.match(negative.stderr, /weights from 0 but received -1 in row 3 /)
    const few = await cli([...common, ...args, 'w.npy', '--out', 'h.safetensors', '--classes', '13'], {
      cwd: folder,
    })
    assert.match(
      few.stderr,
      /a weight for each of 13 classes in w\.npy but received an array of shape \[12\]/
    )
  }))

const full = fs.existsSync('/dev/full') ? test : test.skip
full('a log that cannot be written to costs nothing that was trained', () =>
  inFolder(async (folder) => {
    writeData(folder)
    const args = ['--out', 'h.safetensors', '--epochs', '2', '--log', '/dev/full']
    const { code, stderr } = await cli([...common, ...args], { cwd: folder })
    assert.is(code, 1)
    assert.match(stderr, /Expected to write \/dev\/full but: ENOSPC/)
    const { stdout } = await good(['train', '--out', 'h.safetensors', '--resume', '--log', 'h.jsonl'], {
      cwd: folder,
    })
    assert.match(stdout, /; 2 epochs on cpu/)
    assert.is(read(folder, 'h.jsonl').toString().trimEnd().split('\n').length, 1)
  })
)

test.run()
