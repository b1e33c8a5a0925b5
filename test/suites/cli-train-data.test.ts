// People feed odd files to `train`: errors are in the files' coordinates, and a result that would mean nothing is told so.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { cli, inFolder, writeNpy } from '../support/cli-support'
import { common, dim, rows, writeData } from '../support/cli-train-support'

const test = suite('data of train')
const once = [...common, '--epochs', '1', '--out', 'h.safetensors']

/** Runs that fail, each with what it says; nothing is left of them. */
async function refuses(
  folder: string,
  runs: [args: string[], code: number, pattern: RegExp][]
): Promise<void> {
  const before = fs.readdirSync(folder)
  for (const [args, code, pattern] of runs) {
    const ended = await cli(args, { cwd: folder })
    assert.is(ended.code, code, `${args.join(' ')}: ${ended.stderr}`)
    assert.match(ended.stderr, pattern)
    assert.match(ended.stderr, /^(\d[^\n]*\n|[A-Z][^\n]*\.\n)*margin-softmax: Expected [^\n]*\n$/)
  }
  assert.equal(fs.readdirSync(folder), before)
}

test('a number that is not finite is named by its row in the file, before anything is trained', () =>
  inFolder(async (folder) => {
    const embeddings = writeData(folder)
    const runs: [string[], number, RegExp][] = []
    for (const [row, column, value] of [
      [77, 3, Number.NaN],
      [0, 0, Number.POSITIVE_INFINITY],
      [rows - 1, dim - 1, Number.NEGATIVE_INFINITY],
    ] as [number, number, number][]) {
      const broken = embeddings.slice()
      broken[row * dim + column] = value
      if (row < rows - 1) broken[(rows - 1) * dim] = Number.NaN // the first one is told
      writeNpy(path.join(folder, `${row}.npy`), '<f4', [rows, dim], broken)
      const pattern = new RegExp(
        `received ${value} in row ${row} \\(from 0\\) of ${row}\\.npy, dimension ${column} \\(from 0\\)$`,
        'm'
      )
      runs.push([[...once, '--embeddings', `${row}.npy`], 1, pattern])
    }
    // Finite in the file, not in single precision.
    const large = Float64Array.from(embeddings)
    large[5 * dim + 2] = 1e39
    writeNpy(path.join(folder, 'large.npy'), '<f8', [rows, dim], large)
    runs.push([
      [...once, '--embeddings', 'large.npy'],
      1,
      /single precision, but received Infinity in row 5 .*large\.npy, dimension 2/,
    ])
    // A text file's rows have lines.
    const lines = ['label,x,y', ...Array.from({ length: 20 }, (_, i) => `p${i % 2},${i},1`)]
    lines[9] = 'p0,2,1e39'
    fs.writeFileSync(path.join(folder, 'lines.csv'), lines.join('\n'))
    runs.push([
      ['train', '--embeddings', 'lines.csv', '--out', 'h.safetensors'],
      1,
      /received Infinity in line 10 of lines\.csv, dimension 1 /,
    ])
    await refuses(folder, runs)
  }))

test('a file that is not there is told before anything else', () =>
  inFolder(async (folder) => {
    writeData(folder)
    await refuses(folder, [
      [
        ['train', '--embeddings', 'no.npy', '--out', 'h.safetensors'],
        1,
        /embeddings in no\.npy but: there is no such file/,
      ],
      [[...once, '--labels', 'no.npz:labels'], 1, /labels in no\.npz but: there is no such file/],
      [
        [...once, '--from', 'no.safetensors', '--loss', 'softmax'],
        1,
        /a head in no\.safetensors but: there is no/,
      ],
    ])
  }))

test('rows that nothing can be learnt from are refused', () =>
  inFolder(async (folder) => {
    writeData(folder)
    writeNpy(path.join(folder, 'one.npy'), '<i4', [rows], new Int32Array(rows))
    writeNpy(path.join(folder, 'same.npy'), '<f4', [rows, dim], new Float32Array(rows * dim).fill(0.5))
    const single = Int32Array.from({ length: rows }, (_, i) => i)
    writeNpy(path.join(folder, 'single.npy'), '<i4', [rows], single)
    await refuses(folder, [
      [
        [...once, '--labels', 'one.npy'],
        1,
        /rows of at least 2 classes in one\.npy but received 600 rows of one/,
      ],
      [[...once, '--labels', 'one.npy', '--classes', '5'], 1, /rows of at least 2 classes/],
      [
        [...once, '--embeddings', 'same.npy'],
        1,
        /rows that differ in same\.npy but received the same numbers in all 600 rows/,
      ],
      [
        [...once, '--validation', '0.0001'],
        1,
        /a row back for --validation but received 0\.0001: 0\.01 % of 600 rows is less than one/,
      ],
      [
        [...once, '--labels', 'single.npy', '--validation', '0.2'],
        1,
        /each class keeps a row to be trained on, and 600 of 600 classes have no other/,
      ],
      [
        [...once, '--validation-classes', '2'],
        2,
        /--project with --validation-classes 2: without it the embeddings are given/,
      ],
    ])
  }))

test('a training that diverges says so by its step, not by a row of a shuffled batch', () =>
  inFolder(async (folder) => {
    writeData(folder)
    const ended = await cli([...once, '--learning-rate', '1e38'], { cwd: folder })
    assert.is(ended.code, 1)
    assert.match(
      ended.stderr,
      /Expected finite losses but received one that is not in step \d+, of epoch 1, at a learning rate of [\d.e+]+: the training diverges\n$/
    )
  }))

test('what is odd about the rows is told, and what is not kept back', () =>
  inFolder(async (folder) => {
    const embeddings = writeData(folder)
    embeddings.fill(0, 7 * dim, 9 * dim)
    writeNpy(path.join(folder, 'e.npy'), '<f4', [rows, dim], embeddings)
    // 580 classes of one row, one of twenty.
    const labels = Int32Array.from({ length: rows }, (_, i) => (i < 20 ? 0 : i - 19))
    writeNpy(path.join(folder, 'l.npy'), '<i4', [rows], labels)
    const few = await cli([...once, '--classes', '590', '--json'], { cwd: folder })
    assert.is(few.code, 0, few.stderr)
    for (const line of [
      'Read e.npy: 600 rows × 16 numbers; labels in l.npy: 590 classes, 1 to 20 rows each.',
      'Rows of zeros have no direction to learn from: 2 rows, the first is row 7 (from 0) of e.npy.',
      'Classes of a single row: 580 of 581 classes. It is trained on, never kept back to judge by.',
      'Classes without rows: 9 of 590. They learn only what the others are.',
      '19 rows kept back to judge by, not 60: each class keeps a row to be trained on, and 580 of 581 classes have no other.',
    ])
      assert.ok(few.stderr.split('\n').includes(line), `${line}\n${few.stderr}`)
    assert.equal(JSON.parse(few.stdout).rows, { training: 581, validation: 19 })
    // Nobody asked for a validation: there is none, and it is said.
    writeNpy(
      path.join(folder, 'l.npy'),
      '<i4',
      [rows],
      Int32Array.from({ length: rows }, (_, i) => i)
    )
    const none = await cli([...once, '--json', '--restart'], { cwd: folder })
    assert.is(none.code, 0, none.stderr)
    assert.match(
      none.stderr,
      /No row is kept back to judge by: each class keeps .* The last epoch's head is kept\.\n/
    )
    assert.equal(JSON.parse(none.stdout).rows, { training: 600, validation: 0 })
  }))

test('options that say nothing together are refused by name, and usual names are understood', () =>
  inFolder(async (folder) => {
    writeData(folder)
    await refuses(folder, [
      [
        [...once, '--optimizer', 'adamw', '--momentum', '0.5'],
        2,
        /no --momentum with adamw but received 0\.5/,
      ],
      [[...once, '--power', '2'], 2, /no --power with cosine but received 2/],
      [[...once, '--schedule', 'step'], 2, /--milestones with the step schedule/],
      [
        [...once, '--schedule', 'step', '--milestones', '1'],
        1,
        /fewer than the 1 epochs for --milestones but received 1/,
      ],
      [
        [...once, '--rate-warmup-steps', '10'],
        1,
        /fewer than the 10 steps of 1 epochs for --rate-warmup-steps/,
      ],
      [[...once, '--classes-per-batch', '5'], 2, /--classes-per-batch and --rows-per-class together/],
      [
        [...once, '--classes-per-batch', '5', '--rows-per-class', '4'],
        2,
        /Expected 20 for --batch, .* but received 50/,
      ],
      [
        [
          'train',
          ...once.slice(1, 5),
          '--out',
          'h.safetensors',
          '--classes-per-batch',
          '13',
          '--rows-per-class',
          '2',
        ],
        1,
        /at most 12, .* for --classes-per-batch but received 13/,
      ],
      [[...once, '--bias'], 2, /no --bias with arcface/],
      [[...once, '--resume', '--from', 'e.npy'], 2, /--resume, .* or --from, .* but received both/],
    ])
    const wrong = await cli([...once, '--bs', '0'], { cwd: folder })
    assert.match(
      wrong.stderr,
      /option '--bs <number>' argument '0' is invalid\. Expected an integer of at least 1/
    )
    const args = [
      '--output',
      'a.safetensors',
      '--lr',
      '0.03',
      '--bs',
      '40',
      '--num-epochs',
      '2',
      '--wd',
      '0.01',
    ]
    const more = [
      '--lr-schedule',
      'step',
      '--lr-milestones',
      '1',
      '--lr-warmup-steps',
      '3',
      '--warmup-steps',
      '5',
    ]
    const ended = await cli(['train', '--embeddings', 'e.npy', '--labels', 'l.npy', ...args, ...more], {
      cwd: folder,
    })
    assert.is(ended.code, 0, ended.stderr)
    const { settings } = JSON.parse(fs.readFileSync(path.join(folder, 'a.training.json'), 'utf8'))
    const { learningRate, batch, epochs, schedule, milestones, rateWarmupSteps, head } = settings
    assert.equal([learningRate, batch, epochs, schedule], [0.03, 40, 2, 'step'])
    assert.equal([milestones, rateWarmupSteps, head.marginWarmupSteps], [[1], 3, 5])
    assert.is(head.optimizer.weightDecay, 0.01)
  }))

test.run()
