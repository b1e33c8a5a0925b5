// Lists of trials and scores as the field writes them: what is read, and what is refused by its line.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readScores } from '../../lib/cli/verification/scores'
import { type ListOptions, readTrials } from '../../lib/cli/verification/trials'
import { calibrationCost, verificationFromScoresSync, verificationSync } from '../../lib/index'
import { cli, inFolder, writeNpy } from '../support/cli-support'
import { normals, random, rejectsLike } from '../support/support'

const test = suite('lists of trials')

/** Writes files and reads a list of them. */
function reading<T>(
  files: Record<string, string | Buffer>,
  body: (at: (name: string) => string) => Promise<T>
) {
  return inFolder(async (folder) => {
    for (const [name, text] of Object.entries(files)) fs.writeFileSync(path.join(folder, name), text)
    await body((name) => path.join(folder, name))
  })
}

const files = (at: (name: string) => string, { pairs, names, same, ...rest }: ListOptions): ListOptions => ({
  ...rest,
  ...(pairs && { pairs: at(pairs) }),
  ...(names && { names: at(names) }),
  ...(same && { same: at(same) }),
})

const expected = { pairs: [0, 1, 0, 2, 3, 1], same: [1, 0, 0] }

test('answers first and last, in every pair of words, and with any separator', async () => {
  const rows = [
    [0, 1],
    [0, 2],
    [3, 1],
  ]
  for (const [yes, no] of [
    ['1', '0'],
    ['1', '-1'],
    ['same', 'different'],
    ['True', 'False'],
    ['target', 'nontarget'],
    ['GENUINE', 'impostor'],
    ['1.000e+00', '0.000e+00'],
  ] as [string, string][])
    for (const [side, separator] of [
      ['first', ' '],
      ['last', '\t'],
      ['last', ','],
      ['first', ';'],
    ] as ['first' | 'last', string][]) {
      const lines = rows.map((row, p) => {
        const answer = expected.same[p] ? yes : no
        return (side === 'first' ? [answer, ...row] : [...row, answer]).join(separator)
      })
      await reading({ 'list.txt': `${lines.join('\r\n')}\r\n\r\n` }, async (at) => {
        const { pairs, same, summary } = await readTrials({ pairs: at('list.txt') })
        assert.equal({ pairs: [...(pairs as Int32Array)], same: [...same] }, expected, lines[0])
        assert.match(summary, `answers ${side}`)
      })
    }
})

test('a header says nothing else than the names of columns', () =>
  reading(
    { 'l.csv': 'a,b,same\nx,y,target\n', 'm.csv': 'issame;f1;f2\ntrue;x;y\n', 'n.txt': 'x\ny\n' },
    async (at) => {
      for (const name of ['l.csv', 'm.csv']) {
        const { pairs, same } = await readTrials({ pairs: at(name), names: at('n.txt') })
        assert.equal([[...(pairs as Int32Array)], [...same]], [[0, 1], [1]])
      }
    }
  ))

const voxceleb = `1 id10270/5r0dWxy17C8/00001.wav id10270/x6uYqmx31kE/00001.wav
0 id10270/5r0dWxy17C8/00001.wav id10300/ize_eiCFEg0/00003.wav
`
const utterances = [
  '/data/vox1/wav/id10300/ize_eiCFEg0/00003.wav',
  '/data/vox1/wav/id10270/x6uYqmx31kE/00001.wav',
  '/data/vox1/wav/id10270/5r0dWxy17C8/00001.wav',
]

test("VoxCeleb's trials by names: equal, at the end of a path, or with another ending", async () => {
  for (const [what, names] of [
    ['equal', utterances.map((name) => name.slice('/data/vox1/wav/'.length))],
    ['at the end', utterances],
    ['another ending', utterances.map((name) => name.replace('.wav', '.npy'))],
    ['no ending', utterances.map((name) => name.replace('.wav', ''))],
    ["Windows' paths", utterances.map((name) => name.replaceAll('/', '\\'))],
  ] as [string, string[]][])
    await reading({ 'trials.txt': voxceleb, 'names.txt': `${names.join('\n')}\n` }, async (at) => {
      const {
        pairs,
        same,
        names: found,
      } = await readTrials({ pairs: at('trials.txt'), names: at('names.txt') })
      assert.equal([[...(pairs as Int32Array)], [...same], found?.count], [[2, 1, 2, 0], [1, 0], 3], what)
    })
})

test("Kaldi's trials, and numbers that are names", () =>
  reading(
    {
      trials: 'not read: no ending',
      'trials.txt': 'spk1-a spk1-b target\nspk1-a spk2-a nontarget\n',
      'utt.txt': 'spk2-a\nspk1-b\nspk1-a\n',
      'ids.txt': '17 4 1\n17 99 0\n',
      'id-names.txt': '99\n4\n17\n',
    },
    async (at) => {
      for (const [pairs, names] of [
        ['trials.txt', 'utt.txt'],
        ['ids.txt', 'id-names.txt'],
      ] as [string, string][]) {
        const list = await readTrials(files(at, { pairs, names }))
        assert.equal(
          [[...(list.pairs as Int32Array)], [...list.same]],
          [
            [2, 1, 2, 0],
            [1, 0],
          ]
        )
      }
    }
  ))

const lfw = '2\t1\nName_A\t1\t4\nName_A\t1\tName_B\t2\nName_B\t1\t2\nName_A\t4\tName_C\t1\n'
const people = [
  'Name_A/Name_A_0001.jpg',
  'Name_A/Name_A_0004.jpg',
  'Name_B_0001.png',
  'Name_B_0002',
  'x/Name_C_0001.jpg',
]

test("LFW's pairs.txt: its names, and the folds of its header", () =>
  reading(
    {
      'pairs.txt': lfw,
      'names.txt': people.join('\n'),
      'dev.txt': '1\nName_A\t1\t4\nName_A\t1\tName_B\t2\n',
      'short.txt': lfw.replace('2\t1', '10\t300'),
      'mixed.txt': '1\nName_A\t1\tName_B\t2\nName_A\t1\t4\n',
      'unknown.txt': '1\nName_A\t1\t4\nName_A\t1\tName_B\t7\n',
    },
    async (at) => {
      const { pairs, same, folds } = await readTrials(files(at, { pairs: 'pairs.txt', names: 'names.txt' }))
      assert.equal([...(pairs as Int32Array)], [0, 1, 0, 3, 2, 3, 1, 4])
      assert.equal([[...same], folds], [[1, 0, 1, 0], 2])
      assert.is((await readTrials(files(at, { pairs: 'dev.txt', names: 'names.txt' }))).folds, 0)
      for (const [name, pattern] of [
        ['short.txt', /^Expected 6000 pairs in .*short\.txt, as its header 10 300 says, but received 4$/],
        ['mixed.txt', /^Expected a name and two numbers in line 2 of .* but received 4 fields$/],
        [
          'unknown.txt',
          /^Expected one of the names in .*names\.txt in line 3 of .* but received "Name_B_0007"$/,
        ],
      ] as [string, RegExp][])
        await rejectsLike(readTrials(files(at, { pairs: name, names: 'names.txt' })), Error, pattern)
      await rejectsLike(
        readTrials(files(at, { pairs: 'pairs.txt' })),
        Error,
        /--names.* for LFW's list .*pairs\.txt/
      )
    }
  ))

test('what is not in a list, or could mean two things, is refused by its line', () =>
  reading(
    {
      'names.txt': 'a/1.wav\nb/1.wav\nc\nc\n',
      'both.txt': '0 1 1\n1 0 0\n',
      'mixed.txt': '0 1 1\n2 3 0\n2 3 -1\n',
      'word.txt': '5 6 same\n5 7 diffrent\n',
      'last.txt': '1 5 6\n0 6 7\n2 6 7\n',
      'four.txt': 'a b 1\na c 0 x\n',
      'name.txt': '1 0 1\n\n0 a/1.wav 1\n',
      'missing.txt': '1 a/1.wav b/1.wav\n0 a/1.wav z.wav\n',
      'twice.txt': '1 a/1.wav b/1.wav\n0 a/1.wav c\n',
      'end.txt': '1 a/1.wav b/1.wav\n0 a/1.wav 1.wav\n',
      'half.csv': '1.5,2,1\n3,4,0\n',
      'minus.csv': '-1,2,1\n3,4,0\n',
      'wide.csv': '1,2,3,1\n3,4,5,0\n',
      'empty.txt': '\n\n',
      'latin.txt': Buffer.from('1 a b\n0 a J\xf6rg\n', 'latin1'),
      'same.txt': '1\n0\n1\n',
      'two.csv': '0,1\n2,3\n',
    },
    async (at) => {
      for (const [options, pattern] of [
        [
          { pairs: 'both.txt' },
          /^Expected --answer first or --answer last for .*both\.txt but received neither/,
        ],
        [{ pairs: 'mixed.txt' }, /^Expected an answer .* of .*mixed\.txt but received -1$/],
        [{ pairs: 'word.txt' }, /^Expected an answer .* in line 2 of .*word\.txt but received "diffrent"$/],
        [{ pairs: 'last.txt' }, /^Expected an answer .*last\.txt but received 2$/],
        [{ pairs: 'four.txt' }, /^Expected 3 fields in line 2 of .*four\.txt .* but received 4$/],
        [
          { pairs: 'name.txt' },
          /^Expected row numbers from 0 in line 3 of .*, or --names .* received "a\/1\.wav"$/,
        ],
        [{ pairs: 'missing.txt', names: 'names.txt' }, /in line 2 of .*missing\.txt but received "z\.wav"$/],
        [
          { pairs: 'twice.txt', names: 'names.txt' },
          /^Expected one row of .* for "c" in line 2 of .* several/,
        ],
        [
          { pairs: 'end.txt', names: 'names.txt' },
          /^Expected one row of .* for "1\.wav" in line 2 of .* several/,
        ],
        [{ pairs: 'half.csv' }, /^Expected row numbers from 0 in .*half\.csv but received 1\.5$/],
        [{ pairs: 'minus.csv' }, /^Expected row numbers from 0 in .*minus\.csv but received -1$/],
        [{ pairs: 'wide.csv' }, /^Expected 3 columns in .*wide\.csv \(two rows and an answer/],
        [{ pairs: 'empty.txt' }, /^Expected pairs in .*empty\.txt but: it has no lines$/],
        [{ pairs: 'gone.txt' }, /^Expected pairs in .*gone\.txt but: ENOENT/],
        [
          { pairs: 'latin.txt' },
          /^Expected pairs in .*latin\.txt but: line 2 is not UTF-8: say what it is with --encoding/,
        ],
        [{ pairs: 'two.csv', same: 'same.txt' }, /^Expected 2 answers for .*two\.csv but received 3$/],
      ] as [ListOptions, RegExp][])
        await rejectsLike(readTrials(files(at, options)), Error, pattern)
      // What was asked for settles what could mean two things.
      const first = await readTrials({ ...files(at, { pairs: 'both.txt' }), answer: 'first' })
      const last = await readTrials({ ...files(at, { pairs: 'both.txt' }), answer: 'last' })
      assert.equal(
        [[...first.same], [...(first.pairs as Int32Array)]],
        [
          [0, 1],
          [1, 1, 0, 0],
        ]
      )
      assert.equal(
        [[...last.same], [...(last.pairs as Int32Array)]],
        [
          [1, 0],
          [0, 1, 1, 0],
        ]
      )
    }
  ))

test('scores beside answers, in either order, or apart', () =>
  reading(
    {
      'words.csv': 'answer,score\nsame,0.9\ndifferent,0.7\nsame,-0.25\n',
      'last.csv': 'score,label\n0.9,1\n0.7,0\n-0.25,1\n',
      'first.txt': 'target 0.9\nnontarget 0.7\ntarget -0.25\n',
      'alone.txt': '0.9\n0.7\n-0.25\n',
      'answers.txt': 'same\ndifferent\nsame\n',
      'both.csv': '1,0\n0,1\n',
      'three.csv': '0,0.9,1\n1,0.7,0\n',
      'text.csv': 'same;high\ndifferent;0.5\n',
      'nan.csv': 'true,nan\nfalse,0.5\n',
    },
    async (at) => {
      for (const [name, same] of [
        ['last.csv'],
        ['words.csv'],
        ['first.txt'],
        ['alone.txt', 'answers.txt'],
      ] as [string, string?][]) {
        const read = await readScores(at(name), same ? { same: at(same) } : {})
        assert.equal(
          [[...read.scores], [...read.same]],
          [
            [0.9, 0.7, -0.25],
            [1, 0, 1],
          ],
          name
        )
      }
      for (const [name, pattern] of [
        ['both.csv', /^Expected --answer first or --answer last for .*both\.csv/],
        [
          'three.csv',
          /^Expected a score and an answer a row, or --same, in .*three\.csv but received 3 columns$/,
        ],
        [
          'alone.txt',
          /^Expected a score and an answer a row, or --same, in .*alone\.txt but received 1 column$/,
        ],
        ['text.csv', /^Expected a finite score in line 1 of .*text\.csv but received "high"$/],
        ['nan.csv', /^Expected a finite score in line 1 of .*nan\.csv but received "nan"$/],
        ['gone.csv', /^Expected scores in .*gone\.csv but: ENOENT/],
      ] as [string, RegExp][])
        await rejectsLike(readScores(at(name), {}), Error, pattern)
    }
  ))

const plain = (value: unknown) =>
  JSON.parse(
    JSON.stringify(value, (_, part) => (ArrayBuffer.isView(part) ? [...(part as Float64Array)] : part))
  )

test('the command: names and scores give the figures of the library', () =>
  inFolder(async (folder) => {
    const [rows, dim] = [12, 5]
    const embeddings = normals(random(3), rows * dim)
    writeNpy(path.join(folder, 'e.npy'), '<f4', [rows, dim], embeddings)
    const names = Array.from({ length: rows }, (_, row) => `u${row}`)
    fs.writeFileSync(path.join(folder, 'n.txt'), names.join('\n'))
    const pairs = Array.from({ length: 40 }, (_, p) => [p % rows, (p * 4) % rows] as const)
    const same = pairs.map((_, p) => p % 3 === 0)
    const lines = pairs.map(([a, b], p) => `${same[p] ? 'target' : 'nontarget'} u${a} u${b}`)
    fs.writeFileSync(path.join(folder, 't.txt'), lines.join('\n'))
    const expectedList = verificationSync(embeddings, { pairs: pairs.flat(), same }, { dim, pTarget: 0.3 })
    const list = [
      '--embeddings',
      'e.npy',
      '--pairs',
      't.txt',
      '--names',
      'n.txt',
      '--p-target',
      '0.3',
      '--json',
    ]
    const ofList = await cli(['verify', ...list], { cwd: folder })
    assert.is(ofList.code, 0, ofList.stderr)
    const { scores, ...rest } = expectedList
    const { read, warnings, ...figures } = JSON.parse(ofList.stdout)
    assert.equal(figures, { rows, dim, ...plain(rest) })
    assert.is(read.pairs, '40 pairs of rows from t.txt, answers first, by the names in n.txt')
    // 4p mod 12 = p mod 12 for every fourth pair.
    assert.match(warnings[0], /^10 pairs of t\.txt are of a row with itself, the first in line 1 of t\.txt: /)
    assert.match(
      ofList.stderr,
      /^Read e\.npy: 12 rows × 5 numbers; 40 pairs .*\nmargin-softmax: 10 pairs of t\.txt are of a row with itself/
    )

    fs.writeFileSync(
      path.join(folder, 's.csv'),
      Array.from(scores as Float64Array, (x, p) => `${x},${same[p]}`).join('\n')
    )
    const ofScores = await cli(['verify', '--scores', 's.csv', '--json', '--folds', '4'], { cwd: folder })
    assert.is(ofScores.code, 0, ofScores.stderr)
    const { read: readToo, warnings: _, ...judged } = JSON.parse(ofScores.stdout)
    const ofGiven = verificationFromScoresSync(scores as Float64Array, same, { folds: 4 })
    const calibration = calibrationCost(scores as Float64Array, same)
    assert.equal(judged, plain({ ...ofGiven, ...calibration }))
    assert.is(readToo.scores, '40 scores from s.csv, answers last')
    const table = await cli(['verify', '--scores', 's.csv'], { cwd: folder })
    assert.match(table.stdout, /^Scores: \d+ pairs of one class, \d+ of different ones/)
    assert.match(table.stdout, `minCllr            ${calibration.minCllr.toFixed(4)} (Cllr `)
  }))

test('the command: options that do not go together', async () => {
  for (const [args, pattern] of [
    [[], /Expected either --embeddings or --scores but received neither/],
    [['--embeddings', 'e.npy', '--scores', 's.csv'], /either --embeddings or --scores but received both/],
    [['--scores', 's.csv', '--labels', 'l.npy'], /Expected no --labels with --scores/],
    [['--embeddings', 'e.npy', '--labels', 'l.npy', '--names', 'n.txt'], /Expected --pairs with --names/],
    [['--scores', 's.csv', '--p-target', '1'], /Expected a number above 0 and below 1/],
  ] as [string[], RegExp][]) {
    const { code, stderr } = await cli(['verify', ...args])
    assert.is(code, 2, args.join(' '))
    assert.match(stderr, pattern)
  }
})

test.run()
