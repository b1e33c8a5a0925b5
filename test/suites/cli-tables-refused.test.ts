// Tables that would be guesswork are refused, by file, line and column.
import { suite } from 'uvu'
import type { TextOptions } from '../../lib/cli/data/files'
import { Failure } from '../../lib/cli/terminal'
import { rejectsLike } from '../support/support'
import { type Kind, readAs, withTable } from '../support/tables'

const test = suite('refused tables of the command line')

const bad: [string, Kind, string | Buffer, RegExp, TextOptions?][] = [
  ['words', 'numbers', '1,2\n1,zwei\n', /line 2, column 2 is "zwei", no number$/],
  ['words, by name', 'numbers', 'a,b\n1,2\n1,zwei\n', /line 3, column b is "zwei", no number$/],
  [
    'words of a first row',
    'numbers',
    'ann,2,3\nbo,3,4\nzoe,1,1\n',
    /line 1, column a?.*--columns|column of its header/,
  ],
  ['lines of several lengths', 'numbers', '1,2\n\n1\n', /line 3 has 1 field, not 2 as line 1/],
  ['an empty field', 'numbers', '1,2\n1,\n', /line 2, column 2 is "", an empty field/],
  ['a first empty field', 'numbers', ',2,5\n1,3,7\n', /line 1, column 1 is "", an empty field/],
  ['a first missing number', 'numbers', 'NaN,2,5\n1,3,7\n', /line 1, column 1 is "NaN", no number/],
  ['a minus alone', 'numbers', '1,2\n-,1\n', /line 2, column 1 is "-", no number/],
  ['a long line', 'numbers', '1,2\n1,2,3\n', /line 2 has 3 fields, not 2 as line 1/],
  ['a late line', 'numbers', `${'1,2\n'.repeat(400_000)}\n1;2\n`, /line 400002 has 1 field, not 2/],
  ['an open quote', 'numbers', '1,"2\n', /line 1 has a quote that does not end/],
  [
    'an open quote, late',
    'numbers',
    '1,2\n1,2\n1,2\n1,"2\n3,4\n5,6\n',
    /line 4 has a quote that does not end/,
  ],
  [
    'more behind a quote',
    'both',
    'label,a\n"x"y,1\n',
    /line 2 has more behind the quote that ends "\\"x\\""/,
  ],
  ['not finite', 'numbers', '1,2\n1,NaN\n', /line 2, column 2 is "NaN", no number/],
  ['no rows', 'numbers', '\n', /it has no rows$/],
  ['comments alone', 'numbers', '# a\n# b\n', /it has no rows, only comments/],
  ['a header alone', 'both', 'a,label\n', /it has no rows$/],
  [
    'a late comment',
    'numbers',
    '1 2\n3 4\n# end\n',
    /line 3, column 1 is "#", .*comments are read above the first row only/,
  ],
  [
    'a row that looks like a comment',
    'both',
    '#12,1,2\nann,3,4\n',
    /line 1 begins with #, as comments do, but/,
  ],
  ['an id', 'both', 'id,label,a,b\n7,x,1,2\n9,y,3,4\n', /column id does not look like .* --columns a:b/],
  [
    'an id among numbered ones',
    'numbers',
    'f0,f1,age\n7,1,2\n9,3,4\n',
    /column age does not look like .* --columns f0:f1/,
  ],
  [
    'an index without a header',
    'numbers',
    '0,.1,.2\n1,.3,.4\n2,.5,.6\n',
    /column 1 counts the rows from 0: name the columns/,
  ],
  [
    'an index under a name',
    'both',
    'nummer,x,label\n1,5,a\n2,6,b\n3,7,c\n',
    /column nummer counts the rows from 1/,
  ],
  [
    'no column of labels',
    'both',
    'a,who\n1,x\n',
    /no column of its header is named label: it has a, who; name one with --label-column/,
  ],
  ['two columns of labels', 'both', 'label,a,Label\n1,2,3\n', /it has 2 columns named label/],
  [
    'labels in an unnamed column',
    'labels',
    'file,who\nimg0.jpg,x\n',
    /it has 2 columns and none is named label.*file, who/,
  ],
  [
    'labels that are numbers of an embedding',
    'both',
    '0.5,1,ann\n0.25,2,bo\n',
    /line 1, column 3 is "ann", no number; name.*--label-column/,
  ],
  ['labels at the end', 'both', '1,2,3\n0.25,2,4\n', /line 2, column 1 is "0\.25", which is hardly a label/],
  [
    'an unknown column',
    'both',
    'a,label\n1,x\n',
    /no column of its header is named b: it has a, label; name one with --columns/,
    { columns: 'b' },
  ],
  ['a position under a header', 'both', 'a,label\n1,x\n', /named 1: it has a, label/, { columns: '1' }],
  [
    'a name without a header',
    'numbers',
    '1,2\n',
    /it has no header, so that --columns takes numbers from 1 to 2, not a/,
    { columns: 'a' },
  ],
  ['a position beyond', 'numbers', '1,2\n', /numbers from 1 to 2, not 3/, { columns: '1:3' }],
  ['a range backwards', 'numbers', '1,2\n', /--columns has 2:1, which is no range/, { columns: '2:1' }],
  ['a column twice', 'numbers', 'a,b\n1,2\n', /--columns has column a twice/, { columns: 'a,a:b' }],
  [
    'the labels among the numbers',
    'both',
    'a,label\n1,2\n',
    /--columns has the column of labels, column label/,
    { columns: 'a:label' },
  ],
  [
    'decimal commas',
    'numbers',
    '1,5;2,5\n3,5;4,5\n',
    /line 1, column 1 is "1,5", no number: it has a decimal comma/,
  ],
  [
    'decimal commas under a header',
    'numbers',
    'a;b\n3,5;4,5\n',
    /line 2, column a is "3,5", no number: it has a decimal comma/,
  ],
  [
    'word2vec, cut short',
    'both',
    '3 3\nann 1 2 3\nbo 4 5 6\n',
    /its first line announces 3 rows, but it has 2/,
  ],
  ['LIBSVM', 'both', '1 1:0.5 2:3\n0 1:1 2:2\n', /no column of numbers|LIBSVM/],
  ['Kaldi, text', 'both', 'utt1  [ 0.1 0.2 0.3 ]\nutt2  [ 0.1 0.2 0.3 ]\n', /text archives of Kaldi/],
  ['Kaldi, scp', 'numbers', 'utt1 /a/b.ark:12\n', /Kaldi/],
  ['psql', 'numbers', ' a | b\n---+---\n 1 | 2\n', /part the fields with commas instead of \|/],
  [
    'not UTF-8',
    'both',
    Buffer.from('Jarg,1\r\nJörg,1\n', 'latin1'),
    /line 2 is not UTF-8: say what it is with --encoding/,
  ],
  [
    'not UTF-8, late',
    'both',
    Buffer.from(`${'Jarg,1\n'.repeat(300_000)}Jörg,1\n`, 'latin1'),
    /line 300001 is not UTF-8/,
  ],
  ['UTF-16 without a mark', 'both', Buffer.from('Jarg,1\n', 'utf16le'), /line 1 has a zero byte: .*utf-16le/],
  ['UTF-32', 'both', Buffer.from([0xff, 0xfe, 0, 0, 0x31, 0, 0, 0]), /byte order mark of UTF-32/],
  [
    'another mark than was said',
    'both',
    Buffer.from('\ufeffx,1\n', 'utf16le'),
    /byte order mark of UTF-16LE, which is not gbk/,
    { encoding: 'gbk' },
  ],
  [
    'not what was said',
    'both',
    Buffer.from('x,1\ny,2\nz\ud800,3\n', 'utf16le'),
    /line 3 is not utf-16le/,
    { encoding: 'utf-16le' },
  ],
]
for (const [name, kind, text, pattern, options] of bad)
  test(`refused: ${name}`, () =>
    withTable(text, async (file) => {
      await rejectsLike(readAs(kind, file, options), Failure, pattern)
      await rejectsLike(
        readAs(kind, file, options),
        Failure,
        /^Expected (embeddings|labels) in .*a\.csv but: /
      )
    }))

test.run()
