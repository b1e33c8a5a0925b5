// The README, the guides and the examples hold: their JavaScript runs, their links lead somewhere, and the API reference is whole.
import { execFile } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import * as api from '../../lib/index'

const test = suite('docs')
const root = path.join(__dirname, '../..')
const read = (page: string) => fs.readFileSync(path.join(root, page), 'utf8')
const pagesIn = (folder: string) =>
  fs
    .readdirSync(path.join(root, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => path.posix.join(folder, name))
const guides = pagesIn('docs')
const examples = fs.readdirSync(path.join(root, 'examples')).map((name) => `examples/${name}`)
const execute = (file: string, cwd: string) => promisify(execFile)(process.execPath, [file], { cwd })

/** The fenced blocks of a page: what stands behind the first fence, and the text between the two. */
function blocksOf(page: string): { info: string; text: string }[] {
  return [...read(page).matchAll(/^```(.*)\n([\s\S]*?)^```$/gm)].map(([, info = '', text = '']) => ({
    info,
    text,
  }))
}

/** The programs of a page: a block that imports begins one, and those that follow without an import go on with it. */
function programsOf(page: string): string[] {
  const programs: string[] = []
  for (const { info, text } of blocksOf(page)) {
    if (info !== 'js') continue
    if (programs.length === 0 || /^import /m.test(text)) programs.push(text)
    else programs.push(`${programs.pop()}\n${text}`)
  }
  return programs
}

const wave = (length: string) => `Float32Array.from({ length: ${length} }, (_, i) => Math.sin(i))`
/** By a word of the README's programs: what its reader is assumed to have. The guides' programs need nothing. */
const before: Record<string, string> = {
  'head.topK(embeddings, 5)': `const embeddings = ${wave('16 * 128')}, labels = Int32Array.from({ length: 16 }, (_, i) => i)`,
  'adapter(tf)': `import { MarginHead } from 'margin-softmax'
    await tf.setBackend('cpu')
    const head = await MarginHead.create({ classes: 4, dim: 3 })
    const network = tf.sequential({ layers: [tf.layers.dense({ units: 3, inputShape: [5] })] })
    const optimizer = tf.train.sgd(0.1), images = tf.ones([2, 5]), labels = [0, 1]`,
}

// Built where there is an MPI; CI has one, and runs them all.
const hasGroup = process.env.CI || fs.existsSync(path.join(root, 'build/mpi/Release/margin_softmax_mpi.node'))

for (const page of ['README.md', ...guides])
  for (const [i, program] of programsOf(page).entries()) {
    const runs = hasGroup || !program.includes('margin-softmax/distributed')
    ;(runs ? test : test.skip)(`${page}: program ${i + 1}`, async () => {
      const [, lines = ''] =
        page === 'README.md' ? (Object.entries(before).find(([word]) => program.includes(word)) ?? []) : []
      const build = path.join(root, 'build') // not there where a prebuilt binary is
      fs.mkdirSync(build, { recursive: true })
      const folder = fs.mkdtempSync(path.join(build, 'docs-'))
      try {
        const file = path.join(folder, 'program.mjs')
        fs.writeFileSync(file, `${lines}\n${program}`)
        const { stdout } = await execute(file, folder)
        if (lines === '' && page === 'README.md' && i === 0) assert.match(stdout, /loss: \d/)
      } finally {
        fs.rmSync(folder, { recursive: true })
      }
    })
  }

for (const example of examples) {
  const runs = hasGroup || !read(example).includes('margin-softmax/distributed')
  ;(runs ? test : test.skip)(
    `${example} runs as it is, and imports nothing that a user has not`,
    async () => {
      for (const [, from] of read(example).matchAll(/^import .* from '(.*)'$/gm))
        assert.match(from, /^(margin-softmax|margin-softmax\/\w+|@tensorflow\/tfjs)$/)
      const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'example-'))
      try {
        const { stdout } = await execute(path.join(root, example), folder)
        assert.ok(stdout.split('\n').length > 3, stdout)
      } finally {
        fs.rmSync(folder, { recursive: true })
      }
    }
  )
}

test('the README has a program for each thing that these tests know', () => {
  const programs = programsOf('README.md')
  for (const word of Object.keys(before))
    assert.is(programs.filter((program) => program.includes(word)).length, 1, word)
})

test('blocks are of kinds that a reader knows; JavaScript is among those that run', () => {
  for (const page of ['README.md', ...guides])
    for (const { info } of blocksOf(page)) assert.match(info, /^(js|sh|math)$/, page)
})

/** The name of a heading in a link, on GitHub. */
const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replace(/ /g, '-')
const anchorsOf = (page: string) =>
  [...read(page).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => anchor(heading))

const readmes = ['lib', 'native', 'test', 'bench', 'scripts', 'docs/reference'].flatMap((folder) =>
  fs
    .readdirSync(path.join(root, folder), { recursive: true })
    .map(String)
    .filter((name) => path.basename(name) === 'README.md' && !name.includes('node_modules'))
    .map((name) => path.posix.join(folder, name.split(path.sep).join('/')))
)

for (const page of [
  ...['README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'bench/CPU.md', 'bench/GPU.md', 'bench/ACCURACY.md'],
  ...readmes,
  ...guides,
])
  test(`${page}: links lead to pages, files and headings that exist`, () => {
    const text = read(page).replace(/^```[\s\S]*?^```$/gm, '')
    for (const [, link = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https:\/\//.test(link)) continue
      const [file = '', heading] = link.split('#')
      const target = file === '' ? page : path.posix.join(path.posix.dirname(page), file)
      assert.ok(fs.existsSync(path.join(root, target)), link)
      if (heading !== undefined) assert.ok(anchorsOf(target).includes(heading), link)
    }
  })

test('the README has fewer than 150 lines and names every guide and every example', () => {
  const readme = read('README.md')
  assert.ok(readme.trimEnd().split('\n').length < 150)
  for (const page of [...guides, ...examples]) assert.ok(readme.includes(`(${page})`), page)
})

test("the README's table repeats figures of bench/CPU.md", () => {
  const figures = (page: string) =>
    read(page)
      .split('<!-- bench:start -->')[1]
      ?.split('<!-- bench:end -->')[0]
      ?.match(/^\| (?!B×D×C|:--|tfjs-node ).*$/gm)
      ?.map((line) => line.split('|').map((cell) => cell.trim())) as string[][]
  // In reverse: of two rows of one name, in two tables, the first stays.
  const all = new Map(
    figures('bench/CPU.md')
      .reverse()
      .map(([, contender, ...cells]) => [contender, cells])
  )
  const shown = figures('README.md')
  assert.is(shown.length, 4)
  for (const [, contender, ...cells] of shown)
    for (const cell of cells)
      assert.ok(cell === '' || all.get(contender)?.includes(cell), `${contender}: ${cell}`)
})

test('docs/api.md has every public function, and every call of a head', () => {
  const page = read('docs/api.md')
  const calls = (of: object) =>
    Object.entries(Object.getOwnPropertyDescriptors(of)).flatMap(([name, { value }]) =>
      typeof value === 'function' && name !== 'constructor' ? [name] : []
    )
  for (const name of [...Object.keys(api), ...calls(api.MarginHead), ...calls(api.MarginHead.prototype)])
    assert.match(page, new RegExp(`\\b${name}\\b`), name)
})

test('the API reference is made without a warning: every public name is documented', async () => {
  const folder = path.join(root, 'docs/reference')
  const typedoc = path.join(folder, 'node_modules/typedoc/bin/typedoc')
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [typedoc, '--emit', 'none'], {
    cwd: folder,
  }).catch((error) => error)
  assert.match(`${stdout}${stderr}`, /^(\[info\].*\n)*$/)
})

test.run()
