// Tables as text: what programs write is read for what it is.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readBoth, type TextOptions } from '../../lib/cli/data/files'
import { asLabels } from '../../lib/cli/data/labels'
import { cli, inFolder } from '../support/cli-support'
import { integer, random } from '../support/support'
import { type Kind, readAs, withTable } from '../support/tables'

const test = suite('tables of the command line')

interface Expected {
  values?: number[]
  labels?: string[]
  /** Line numbers of the rows, in a file whose rows are not simply its lines. */
  lines?: number[]
}

/** Name, how it is read, text, what comes out. */
const read: [string, Kind, string | Buffer, Expected, TextOptions?][] = [
  ['a header with label', 'both', 'a,label,b\n1,x,2\n3,y,4\n', { values: [1, 2, 3, 4], labels: ['x', 'y'] }],
  ['no header', 'both', 'x,1,2\r\ny,3,4\r\n', { values: [1, 2, 3, 4], labels: ['x', 'y'] }],
  ['a byte order mark', 'both', '\ufefflabel;a\n7;1\n8;2', { values: [1, 2], labels: ['7', '8'] }],
  ['tabs, blank lines', 'both', 'x\t1\n\ny\t2\n\n', { values: [1, 2], labels: ['x', 'y'], lines: [1, 3] }],
  ['carriage returns alone', 'both', 'x,1,2\ry,3,4\r', { values: [1, 2, 3, 4], labels: ['x', 'y'] }],
  ['spaces', 'both', '7 1.5 -2e-3\n8   3 4 \n', { values: [1.5, -0.002, 3, 4], labels: ['7', '8'] }],
  ['a name with spaces', 'both', 'Ann Lee,1\nBo Yi,2\n', { values: [1, 2], labels: ['Ann Lee', 'Bo Yi'] }],
  ['no line end at the end', 'both', 'x,1\ny,2', { values: [1, 2], labels: ['x', 'y'] }],
  [
    'quotes',
    'both',
    '"Smith, ""Jo""",1,-2e-3\n"",3,.5\n',
    { values: [1, -0.002, 3, 0.5], labels: ['Smith, "Jo"', ''] },
  ],
  [
    'text vectors',
    'both',
    'ann 0.1 0.2\nbo 0.3 0.4\n',
    { values: [0.1, 0.2, 0.3, 0.4], labels: ['ann', 'bo'] },
  ],
  [
    'word2vec',
    'both',
    '2 3\nann 1 2 3\nbo 4 5 6\n',
    { values: [1, 2, 3, 4, 5, 6], labels: ['ann', 'bo'], lines: [2, 3] },
  ],
  [
    'labels anywhere',
    'both',
    '1,x,2\n3,y,4\n',
    { values: [1, 2, 3, 4], labels: ['x', 'y'] },
    { labelColumn: '2' },
  ],
  [
    'labels by name',
    'both',
    'a,who\n1,x\n3,y\n',
    { values: [1, 3], labels: ['x', 'y'] },
    { labelColumn: 'who' },
  ],
  [
    'chosen columns',
    'both',
    'id,a,b,c,label\n9,1,2,3,x\n8,4,5,6,y\n',
    { values: [1, 3, 4, 6], labels: ['x', 'y'] },
    { columns: 'a,c' },
  ],
  [
    'a range of columns',
    'both',
    'x,9,1,2,3\ny,8,4,5,6\n',
    { values: [1, 2, 3, 4, 5, 6], labels: ['x', 'y'] },
    { columns: '3:5' },
  ],
  [
    'columns of texts that nobody asked for',
    'both',
    'file,f0,f1,label\na.jpg,1,2,x\n"b,b",3,4,y\n',
    { values: [1, 2, 3, 4], labels: ['x', 'y'] },
    { columns: 'f0:f1' },
  ],
  ['names with a colon', 'numbers', 'a:0,a:1,b\n1,2,3\n', { values: [1, 2] }, { columns: 'a:0,a:1' }],
  // pandas
  ['an index', 'both', ',f0,f1,label\n0,1,2,x\n1,3,4,y\n', { values: [1, 2, 3, 4], labels: ['x', 'y'] }],
  ['an index of texts', 'both', ',f0,label\nann,1,x\nbo,3,y\n', { values: [1, 3], labels: ['x', 'y'] }],
  ['an index that was read again', 'numbers', 'Unnamed: 0,f0,f1\n0,1,2\n1,3,4\n', { values: [1, 2, 3, 4] }],
  [
    'an index above numbered columns',
    'numbers',
    ',0,1\n0,.1,.2\n1,.3,.4\n',
    { values: [0.1, 0.2, 0.3, 0.4] },
  ],
  ['numbered columns', 'numbers', '0,1,2\n.5,1,2\n.25,3,4\n', { values: [0.5, 1, 2, 0.25, 3, 4] }],
  [
    'numbered columns and label',
    'both',
    '0,1,label\n5,6,x\n7,8,y\n',
    { values: [5, 6, 7, 8], labels: ['x', 'y'] },
  ],
  [
    'numbered columns and label, numbers alone',
    'numbers',
    '0,1,label\n5,6,7\n7,8,9\n',
    { values: [5, 6, 7, 8] },
  ],
  // R
  [
    'write.csv',
    'both',
    '"","V1","label"\n"1",0.5,"x"\n"2",1.5,"y"\n',
    { values: [0.5, 1.5], labels: ['x', 'y'] },
  ],
  [
    'write.table',
    'both',
    '"V1" "V2" "label"\n"1" 0.1 0.2 "Ann Lee"\n"2" 0.3 0.4 "y"\n',
    { values: [0.1, 0.2, 0.3, 0.4], labels: ['Ann Lee', 'y'] },
  ],
  // NumPy
  [
    'savetxt with a title',
    'numbers',
    '# six features\n1 2 3\n4 5 6\n',
    { values: [1, 2, 3, 4, 5, 6], lines: [2, 3] },
  ],
  ['savetxt with names', 'both', '# a,label\n1,7\n2,8\n', { values: [1, 2], labels: ['7', '8'] }],
  ['savetxt with several comments', 'numbers', '# x\n#\n# y z\n1 2 3\n', { values: [1, 2, 3] }],
  ['savetxt as it comes', 'numbers', '1.000000000000000000e+00 -2.5e-01\n', { values: [1, -0.25] }],
  // Excel, MATLAB
  ['sep=', 'both', 'sep=;\r\nlabel;a\r\nx;1\r\n', { values: [1], labels: ['x'], lines: [3] }],
  [
    'spaces before the numbers',
    'numbers',
    '   1.0e+00   2.0e+00\n  -3.0e+00   4.0e+00\n',
    { values: [1, 2, -3, 4] },
  ],
  // Quotes
  [
    'separators inside quotes',
    'both',
    '"Smith; Jo",1\n"a\tb",2\n',
    { values: [1, 2], labels: ['Smith; Jo', 'a\tb'] },
  ],
  [
    'a line end inside quotes',
    'both',
    'label,a\n"Smith\nJo",1\ny,2\n',
    { values: [1, 2], labels: ['Smith\nJo', 'y'], lines: [2, 4] },
  ],
  [
    'a line end inside quotes, late',
    'both',
    'label,a\nw,1\nx,1\n"S\n\n""q""\nJo",1\ny,2\n',
    { labels: ['w', 'x', 'S\n\n"q"\nJo', 'y'], lines: [2, 3, 4, 8] },
  ],
  ['a line end inside the header', 'both', '"a\nb",label\n1,x\n2,y\n', { values: [1, 2], lines: [3, 4] }],
  ['a quote that is none', 'both', 'label,a\n5" disk,1\ny,2\n', { labels: ['5" disk', 'y'] }],
  // Labels alone
  ['labels alone', 'labels', 'zoe\nann lee\nzoe\n', { labels: ['zoe', 'ann lee', 'zoe'] }],
  ['labels that look numbered', 'labels', 'person 1\nperson 2\n', { labels: ['person 1', 'person 2'] }],
  ['labels under a header', 'labels', 'label\n12\n7\n', { labels: ['12', '7'] }],
  ['labels under a name', 'labels', 'who\n12\n7\n', { labels: ['12', '7'] }, { labelColumn: 'who' }],
  ['labels beside file names', 'labels', 'file,label\nimg0.jpg,x\nimg1.jpg,y\n', { labels: ['x', 'y'] }],
  [
    'labels beside file names, by place',
    'labels',
    'img0.jpg,x\nimg1.jpg,y\n',
    { labels: ['x', 'y'] },
    { labelColumn: '2' },
  ],
  ['labels of a comment', 'labels', '# file,label\nimg0.jpg,x\n', { labels: ['x'] }],
  // Encodings
  [
    'UTF-16, as its mark says',
    'both',
    Buffer.from('\ufeffJörg,1\nΑ,2\n', 'utf16le'),
    { values: [1, 2], labels: ['Jörg', 'Α'] },
  ],
  [
    'UTF-16, big-endian',
    'both',
    Buffer.from('\ufeffJörg,1\nΑ,2\n', 'utf16le').swap16(),
    { values: [1, 2], labels: ['Jörg', 'Α'] },
  ],
  [
    'UTF-16, as is said',
    'both',
    Buffer.from('Jörg,1\r\n', 'utf16le'),
    { labels: ['Jörg'] },
    { encoding: 'utf-16le' },
  ],
  [
    'windows-1252',
    'both',
    Buffer.from('Jörg,1\nJürg,2\n', 'latin1'),
    { labels: ['Jörg', 'Jürg'] },
    { encoding: 'windows-1252' },
  ],
  [
    'gbk',
    'both',
    Buffer.from([0xd5, 0xc5, 0xc8, 0xfd, 0x2c, 0x31, 0x0a]),
    { values: [1], labels: ['张三'] },
    { encoding: 'gbk' },
  ],
]
for (const [name, kind, text, { values, labels, lines }, options] of read)
  test(`read: ${name}`, () =>
    withTable(text, async (file) => {
      const { embeddings, labels: labelArray } = await readAs(kind, file, options)
      if (values) assert.equal([...((embeddings?.values ?? []) as Float64Array)], values)
      if (labels) assert.equal(labelArray?.values, labels)
      for (const [row, line] of (lines ?? []).entries())
        assert.match((embeddings ?? labelArray)?.place(row) ?? '', new RegExp(`^line ${line}(,.*)? of `))
    }))

test('pairs may count, and begin as numbered columns do', () =>
  withTable('0,1,2\n1,2,1\n2,3,0\n', async (file) => {
    const { embeddings } = await readAs('numbers', file, {}, 'pairs')
    assert.equal(embeddings?.shape, [3, 3])
  }))

test('labels that are wrong are told by line and column', () =>
  withTable('a,who\n1,x\n\n2,\n', async (file) => {
    const { labels } = await readBoth({ path: file }, { labelColumn: 'who' })
    try {
      asLabels(labels)
      assert.unreachable()
    } catch (error) {
      assert.match(
        (error as Error).message,
        /^Expected a label in line 4, column who of .*a\.csv but received none$/
      )
    }
  }))

test('what was left out is told', () =>
  withTable(',a,label\n0,1,x\n', async (file) => {
    const { embeddings, labels } = await readBoth({ path: file })
    assert.equal(embeddings.notes, ['without column 1, which has no name'])
    assert.equal(labels.notes, ['column label'])
  }))

test('wherever a part of the file ends, what is read is the same', () =>
  inFolder(async (folder) => {
    // Longer than the megabyte that is read at a time, with characters, quotes and line ends at every offset.
    const next = random(5)
    const names = ['Jörg', '张三', '"a ""b"""', '"x\r\ny"', '"p,q"', '🙂', 'plain']
    const clean = ['Jörg', '张三', 'a "b"', 'x\ny', 'p,q', '🙂', 'plain']
    const rows = Array.from({ length: 110_000 }, () => integer(next, 0, names.length - 1))
    const text = `label,a\r\n${rows.map((name, i) => `${names[name]},${i}\r\n`).join('')}`
    for (const encoding of ['utf-8', 'utf-16le'] as const) {
      const file = path.join(folder, 'a.csv')
      fs.writeFileSync(file, text, encoding === 'utf-8' ? 'utf8' : 'utf16le')
      const { embeddings, labels } = await readBoth({ path: file }, { encoding })
      const wrong = rows.findIndex(
        (name, i) => (labels.values as string[])[i] !== clean[name] || embeddings.values[i] !== i
      )
      assert.is(wrong, -1, `row ${wrong} of ${encoding}: ${(labels.values as string[])[wrong]}`)
      const line = 2 + rows.length - 1 + rows.slice(0, -1).filter((name) => name === 3).length
      assert.match(embeddings.place(rows.length - 1), new RegExp(`^line ${line} `))
    }
  }))

test('train and verify take what a file does not say, and a resumed training knows it', () =>
  inFolder(async (folder) => {
    const lines = Array.from(
      { length: 40 },
      (_, i) => `${i},${i % 2 ? 'Jörg' : 'Jürg'},${i % 2},${(i + 1) % 2}\n`
    )
    fs.writeFileSync(path.join(folder, 'a.csv'), `nr,wer,x,y\n${lines.join('')}`, 'latin1')
    const said = ['--label-column', 'wer', '--columns', 'x:y', '--encoding', 'latin1']
    const common = ['--embeddings', 'a.csv', '--json', ...said]
    const verified = await cli(['verify', ...common], { cwd: folder })
    assert.is(verified.code, 0, verified.stderr)
    assert.is(verified.stderr, 'Read a.csv: 40 rows × 2 numbers; labels in column wer: 2 names.\n')
    assert.is(JSON.parse(verified.stdout).areaUnderCurve, 1)
    const out = ['--out', 'h.safetensors']
    const trained = await cli(['train', ...common, ...out, '--epochs', '1', '--batch', '10'], { cwd: folder })
    assert.is(trained.code, 0, trained.stderr)
    assert.equal(JSON.parse(trained.stdout).read, JSON.parse(verified.stdout).read)
    const more = await cli(['train', ...out, '--resume', '--epochs', '2', '--json'], { cwd: folder })
    assert.is(more.code, 0, more.stderr)
    assert.match(more.stderr, /labels in column wer: 2 names, 20 rows each\./)
    assert.equal(JSON.parse(fs.readFileSync(path.join(folder, 'h.classes.json'), 'utf8')), ['Jörg', 'Jürg'])
    // Another head of the same name, whose labels are class numbers, has no names.
    fs.writeFileSync(
      path.join(folder, 'b.csv'),
      Array.from({ length: 40 }, (_, i) => `${i % 2},${i % 2},1\n`).join('')
    )
    const numbered = await cli(['train', '--embeddings', 'b.csv', ...out, '--epochs', '1', '--batch', '10'], {
      cwd: folder,
    })
    assert.is(numbered.code, 0, numbered.stderr)
    assert.not(fs.existsSync(path.join(folder, 'h.classes.json')))
    for (const [args, pattern] of [
      [
        ['--embeddings', 'e.npy', '--labels', 'a.csv', '--columns', '1'],
        /no --columns with e\.npy, no text file, but/,
      ],
      [
        ['--embeddings', 'a.csv', '--same', 'a.csv', '--label-column', '1'],
        /no --label-column without labels but received 1/,
      ],
      [['--embeddings', 'a.csv', '--encoding', 'x'], /Expected a name that the Encoding Standard knows/],
    ] as [string[], RegExp][]) {
      const { code, stderr } = await cli(['verify', ...args], { cwd: folder })
      assert.is(code, 2, stderr)
      assert.match(stderr, pattern)
    }
  }))

test.run()
