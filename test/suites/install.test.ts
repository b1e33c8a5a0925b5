// The package as its users get it: packed, installed, imported every way; then with no binary for the machine.
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { filesUnder, install, node, npm, pack, prebuild, root, succeeded, work } from '../support/installed'

const test = suite('install')
fs.mkdirSync(work, { recursive: true })
const prebuilds = prebuild()
const { tarball, files } = pack(prebuilds)
/** Node.js 20's own binaries for Linux need it, so a binary that needs no newer one adds no condition. */
const oldestGlibc = '2.28'
const newer = (version: string, other: string) =>
  version.localeCompare(other, undefined, { numeric: true }) >= 0
// PREBUILDS_ONLY: node-gyp-build would look in build/Release first.
const env = { PREBUILDS_ONLY: '1', MARGIN_SOFTMAX_BINARY: undefined }
const project = install(tarball, '--ignore-scripts')

/** One step, saved and taken up again: the loaded head must go on with the same bits. */
const use = `
const wave = (length) => Float32Array.from({ length }, (_, i) => Math.sin(i))
async function main() {
  const head = await MarginHead.create({ classes: 10, dim: 8, margin: arcface(), optimizer: sgd({ learningRate: 0.1 }) })
  const labels = Int32Array.from({ length: 4 }, (_, i) => i)
  await head.step(wave(32), labels)
  await head.save('head.safetensors')
  const same = await MarginHead.load('head.safetensors')
  const [one, two] = [await head.step(wave(32), labels), await same.step(wave(32), labels)]
  console.log(Number.isFinite(one.loss) && one.loss === two.loss && same.iteration === 2)
}
main()`
const names = '{ MarginHead, arcface, sgd }'
const typed = `import ${names} from 'margin-softmax'\n${use.replace('(length)', '(length: number)')}`

function write(name: string, text: string): string {
  fs.writeFileSync(path.join(project.folder, name), text)
  return name
}
const printsTrue = (file: string) =>
  assert.is(succeeded(file, node(project.folder, [file], env)).trim(), 'true')

const markdown = (folder: string) =>
  fs
    .readdirSync(path.join(root, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `${folder}/${name}`)

test('what is published is exactly this', () => {
  const compiled = filesUnder(path.join(root, 'lib'))
    .filter((name) => /\.m?ts$/.test(name) && !name.endsWith('.d.ts'))
    .flatMap((name) => [name.replace(/ts$/, 'js'), name.replace(/(m?ts)$/, 'd.$1')])
    .map((name) => `dist/${name}`)
  const under = (folder: string) => filesUnder(path.join(root, folder)).map((name) => `${folder}/${name}`)
  const single = ['package.json', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CMakeLists.txt']
  const texts = [
    'SECURITY.md',
    'CONTRIBUTING.md',
    'docs/reference/README.md',
    ...markdown('docs'),
    ...markdown('bench'),
    'docs/angles.svg',
    ...under('examples'),
  ]
  const scripts = ['scripts/build-from-source.cjs', 'scripts/build-distributed.cjs']
  const packed = filesUnder(prebuilds).map((name) => `prebuilds/${name}`)
  assert.is(packed.length, 1)
  assert.equal(files, [...single, ...texts, ...scripts, ...compiled, ...under('native'), ...packed].sort())
})

test('every link of the README and the guides leads to a file that is published', () => {
  for (const page of ['README.md', 'SECURITY.md', ...markdown('docs')])
    for (const [, link = ''] of fs
      .readFileSync(path.join(project.installed, page), 'utf8')
      .matchAll(/\]\(([^)\s]+)\)/g)) {
      const [name = ''] = link.split('#')
      const file = path.posix.join(path.posix.dirname(page), name)
      if (name && !/^https:/.test(link)) assert.ok(files.includes(file), `${page}: ${link}`)
    }
})

test('nothing runs at installation: npm says no word of scripts, also where it may run them', () => {
  const { scripts } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'))
  for (const name of ['preinstall', 'install', 'postinstall', 'prepare'])
    assert.is(scripts[name], undefined, name)
  assert.not.ok(files.includes('binding.gyp'), 'npm runs node-gyp where there is a binding.gyp')
  for (const { said } of [project, install(tarball)]) {
    assert.is(said.stderr, '')
    assert.match(said.stdout, /^\s*added \d+ packages in \d+\w+\s*$/)
  }
})

test('from an ES module: a step, saved and resumed', () =>
  printsTrue(write('esm.mjs', `import ${names} from 'margin-softmax'${use}`)))
test('from CommonJS', () =>
  printsTrue(write('commonjs.cjs', `const ${names} = require('margin-softmax')${use}`)))

for (const [resolution, options] of Object.entries({
  node16: { module: 'node16' },
  bundler: { module: 'esnext', moduleResolution: 'bundler' },
}))
  test(`from TypeScript with ${resolution} resolution, compiled and run`, () => {
    const compiler = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin', 'tsc')
    const sources = resolution === 'node16' ? ['node16.mts', 'node16.cts'] : ['bundler.mts']
    for (const source of sources) write(source, typed)
    const compilerOptions = { ...options, strict: true, target: 'es2022', types: [] }
    const config = write(
      `${resolution}.json`,
      JSON.stringify({ compilerOptions: { ...compilerOptions, outDir: resolution }, files: sources })
    )
    succeeded('tsc', node(project.folder, [compiler, '-p', config]))
    for (const source of sources) printsTrue(path.join(resolution, source.replace(/ts$/, 'js')))
  })

const released = path.join(root, 'prebuilds') // where npm run prebuild was run here
const binaries = [prebuilds, released]
  .filter((folder) => fs.existsSync(folder))
  .flatMap((folder) => filesUnder(folder).map((name) => path.join(folder, name)))
const readelf = (file: string, ...options: string[]) =>
  execFileSync('readelf', ['--wide', ...options, file], { encoding: 'utf8' })

test('a binary is where node-gyp-build looks for it', () => {
  const tag = { linux: '.(glibc|musl)' }[process.platform as string] ?? ''
  for (const file of binaries)
    assert.match(file.split(path.sep).join('/'), new RegExp(`prebuilds/\\w+-\\w+/node\\.napi${tag}\\.node$`))
})

for (const file of binaries.filter((name) => /linux-\w+.node\.napi/.test(name))) {
  const name = path.relative(root, file)

  test(`${name} loads with glibc ${oldestGlibc} and needs no other library`, () => {
    const needed = [...readelf(file, '--dynamic').matchAll(/\(NEEDED\).*\[(.+)\]/g)].map((match) => match[1])
    const system = /^(lib(c|m|dl|rt|pthread)\.so\.\d|ld-linux[\w-]*\.so\.\d|libc\.musl-\w+\.so\.1)$/
    for (const library of needed) assert.match(library as string, system)
    const symbols = [...readelf(file, '--dyn-syms').matchAll(/ UND (\S+)@(\w+?)_([\d.]+)/g)]
    if (!file.includes('musl')) assert.ok(symbols.length > 20, 'symbols with versions were read')
    for (const [, symbol, library, version] of symbols) {
      assert.is(library, 'GLIBC', symbol)
      assert.ok(
        newer(oldestGlibc, version as string),
        `${symbol} needs glibc ${version}: add it to native/node/glibc_floor.cc`
      )
    }
  })

  test(`${name} guards its stack and what the linker resolved`, () => {
    assert.match(readelf(file, '--dyn-syms'), /\b__stack_chk_(fail|guard)\b/)
    assert.match(readelf(file, '--dynamic'), /\(FLAGS_1\).*\bNOW\b/)
    const segments = readelf(file, '--segments')
    assert.match(segments, /GNU_RELRO/)
    assert.match(segments, /GNU_STACK.* RW /)
  })

  test(`${name} is stripped and shows Node.js its two entries alone`, () => {
    assert.not.match(readelf(file, '--sections'), /\.symtab|\.debug/)
    const shown = [...readelf(file, '--dyn-syms').matchAll(/(?:GLOBAL|WEAK) +DEFAULT +\d+ (\S+)/g)].map(
      (match) => match[1]
    )
    assert.equal(shown.sort(), ['napi_register_module_v1', 'node_api_module_get_api_version_v1'])
  })
}

test('publint finds nothing', () => {
  const { stdout } = node(root, [
    path.join(root, 'node_modules', 'publint', 'src', 'cli.js'),
    tarball,
    '--strict',
  ])
  assert.match(stdout, /All good!/, stdout)
})

test('are the types wrong? No, for every resolution that knows "exports"', () => {
  const cli = path.join(root, 'node_modules', '@arethetypeswrong', 'cli', 'dist', 'index.js')
  const options = ['--profile', 'node16', '--no-definitely-typed', '--no-color', '--no-emoji']
  const stdout = succeeded('attw', node(root, [cli, tarball, ...options]))
  assert.match(stdout, /node16 \(from ESM\).* OK \(ESM\) .* OK \(ESM\) /)
})

test('with all release binaries the tarball is smaller than 12 MB', () => {
  if (!fs.existsSync(released)) return // npm run prebuild was not run here
  const options = ['--json', '--dry-run', '--ignore-scripts']
  const [{ size }] = JSON.parse(succeeded('npm pack', npm(root, 'pack', ...options)))
  assert.ok(size < 12e6, `${size} bytes`)
})

const attempt = `try { require('margin-softmax').instructionSets(); console.log('loaded') }
  catch (error) { console.log(error.code + '\\n' + error.message) }`
const build = path.join(project.installed, 'scripts', 'build-from-source.cjs')
const load = (how: NodeJS.ProcessEnv) =>
  node(project.folder, ['-e', attempt], { ...env, ...how }).stdout.trim()

test('without a binary the error says in three lines what was looked for, where, and what to do', () => {
  fs.rmSync(path.join(project.installed, 'prebuilds'), { recursive: true })
  const [code, what, where, remedy = '', ...rest] = load({ PREBUILDS_ONLY: undefined }).split('\n') as [
    string,
    ...string[],
  ]
  assert.is(code, 'ERR_NATIVE_MISSING')
  assert.is(
    what,
    `No native binary of margin-softmax loads on ${process.platform}-${process.arch}, Node.js ${process.version}.`
  )
  assert.is(
    where,
    `Looked in build/Release and prebuilds of ${project.installed}: the folder prebuilds is not there`
  )
  assert.match(remedy, /^Copy it to where the package runs.* npx margin-softmax build$/)
  assert.equal(rest, [])
})

test('where there is no compiler either, the build says what it needs', () => {
  const nothing = path.join(work, 'nothing')
  fs.mkdirSync(nothing, { recursive: true })
  const { status, stderr } = node(project.folder, [build], { PATH: nothing, npm_execpath: undefined })
  assert.is(status, 1)
  assert.match(
    stderr,
    /It needs CMake .* or newer, and g\+\+ or clang .*\nIt needs cmake-js, too: npm install/
  )
  assert.match(load({ PREBUILDS_ONLY: undefined }), /^ERR_NATIVE_MISSING\n/)
})

test('the sources in the package make a binary that loads', () => {
  // cmake-js as a dependency of the project; without it the script has npm fetch it, which needs the network.
  fs.symlinkSync(
    path.join(root, 'node_modules', 'cmake-js'),
    path.join(project.folder, 'node_modules', 'cmake-js'),
    'junction'
  )
  succeeded('the build', node(project.folder, [build], env))
  assert.is(load({ PREBUILDS_ONLY: undefined }), 'loaded')
  assert.match(load({}), /^ERR_NATIVE_MISSING\n/, 'the prebuilds are gone')
})

test.run()
