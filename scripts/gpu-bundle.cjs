'use strict'
// npm run gpu:bundle [-- PART…]: what bench/gpu.sh needs on a machine that has a GPU, bash and Python but neither Node.js nor
// node_modules, into .gpu/ (ignored by git, so copy it along). A part is packed again only where its files have changed:
//   programs   conformance, steps, bench and libstep.so for sm_90a (H100, H200), with CUDA's runtime in them
//   golden     the golden vectors, where they are
//   addon      the addon for sm_90a
//   suites     the suites that judge results, bench/threads.ts and bench/gpu/devices.ts, a file each
//   node       this Node.js, stripped
// GPU_BUNDLE is another folder, CMAKE_BUILD_PARALLEL_LEVEL the number of compilers at a time.
const { execFileSync, spawnSync } = require('node:child_process')
const { createHash } = require('node:crypto')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..')
const bundle = path.resolve(root, process.env.GPU_BUNDLE ?? '.gpu')
const build = path.join(root, 'build', 'gpu-bundle')
const mostBytes = 32e6
const architecture = '90a-real'
const golden = process.env.MARGIN_SOFTMAX_GOLDEN ?? path.join(root, '..', 'shared', 'golden')
// Beside those that the CPU's shim runs: the golden vectors through the public functions.
const suites = [
  'loss',
  ...JSON.parse(fs.readFileSync(path.join(root, 'test', 'suites', 'cuda-suites.json'), 'utf8')),
]

/** Runs a program to its end; what it says is shown only where it fails. */
function run(command, args) {
  const env = { CMAKE_BUILD_PARALLEL_LEVEL: String(os.availableParallelism()), ...process.env }
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd: root, encoding: 'utf8', env })
  if (status !== 0)
    throw new Error(`${command} ${args.join(' ')} ended with ${status ?? error}:\n${stdout}\n${stderr}`)
}

const within = (folder, names) => names.map((name) => ({ name, file: path.join(folder, name) }))

/** Each part makes its files and returns them with their names in the archive; null: it is not to be had here. */
const parts = {
  programs() {
    const out = path.join(build, 'programs')
    run('cmake', ['-S', 'bench/gpu', '-B', out, `-DCMAKE_CUDA_ARCHITECTURES=${architecture}`])
    run('cmake', ['--build', out])
    return within(out, ['conformance', 'steps', 'bench', 'libstep.so'])
  },

  golden() {
    if (!fs.existsSync(golden)) return null
    return fs
      .readdirSync(golden)
      .sort()
      .map((name) => ({ name: `golden/${name}`, file: path.join(golden, name) }))
  },

  addon() {
    const out = path.join(build, 'addon')
    const cmakeJs = (...args) =>
      run(process.execPath, [require.resolve('cmake-js/bin/cmake-js'), ...args, '--out', out])
    cmakeJs(
      'configure',
      '--CDMARGIN_SOFTMAX_CUDA=on',
      `--CDMARGIN_SOFTMAX_CUDA_ARCHITECTURES=${architecture}`
    )
    cmakeJs('build')
    return within(path.join(out, 'Release'), ['margin_softmax.node'])
  },

  suites() {
    const out = path.join(build, 'suites')
    require('esbuild').buildSync({
      absWorkingDir: root,
      entryPoints: Object.fromEntries([
        ...suites.map((name) => [`suites/${name}`, `test/suites/${name}.test.ts`]),
        ['threads', 'bench/threads.ts'],
        ['devices', 'bench/gpu/devices.ts'],
      ]),
      outdir: out,
      bundle: true,
      platform: 'node',
      format: 'cjs',
      target: 'node20',
      external: ['@napi-rs/canvas'],
      logLevel: 'error',
    })
    return within(out, [...suites.map((name) => `suites/${name}.js`), 'threads.js', 'devices.js'])
  },

  node: () => [{ name: 'node', file: fs.realpathSync(process.execPath) }],
}

function digestOf(files) {
  const hash = createHash('sha256')
  for (const { name, file } of files) hash.update(`${name}\n`).update(fs.readFileSync(file))
  return hash.digest('hex')
}

/** Packs the files without symbols, with the same bytes for the same contents. */
function pack(archive, files) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-bundle-'))
  try {
    for (const { name, file } of files) {
      const copy = path.join(folder, name)
      fs.mkdirSync(path.dirname(copy), { recursive: true })
      fs.copyFileSync(file, copy)
      fs.chmodSync(copy, 0o755)
      const isElf = fs.readFileSync(copy).subarray(0, 4).equals(Buffer.from('\x7fELF', 'latin1'))
      if (isElf) run('strip', ['--strip-unneeded', copy])
    }
    const order = ['--sort=name', '--owner=0', '--group=0', '--mtime=@0']
    run('tar', [...order, '-I', 'xz -9 -T2', '-cf', archive, '-C', folder, ...fs.readdirSync(folder).sort()])
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

function main(names) {
  const unknown = names.filter((name) => !(name in parts))
  if (unknown.length > 0)
    throw new Error(`Expected some of ${Object.keys(parts)} for the parts but received ${unknown}`)
  fs.mkdirSync(bundle, { recursive: true })
  // Before anything is built, so that a change in the meantime makes the bundle one of other sources.
  const sources = execFileSync(path.join(root, 'bench/gpu/sources.sh'))
  const list = path.join(bundle, 'parts.json')
  const digests = fs.existsSync(list) ? JSON.parse(fs.readFileSync(list, 'utf8')) : {}
  const wanted = names.length > 0 ? names : Object.keys(parts)
  for (const name of wanted) {
    const archive = path.join(bundle, `${name}.txz`)
    const begin = Date.now()
    const files = parts[name]()
    if (!files) {
      console.log(`${name}: not here`)
      continue
    }
    const digest = digestOf(files)
    const kept = digests[name] === digest && fs.existsSync(archive)
    if (!kept) pack(archive, files)
    digests[name] = digest
    const megabytes = (fs.statSync(archive).size / 1e6).toFixed(2)
    console.log(
      `${name}: ${megabytes} MB${kept ? ', as it was' : ''} (${((Date.now() - begin) / 1000).toFixed(1)} s)`
    )
  }
  fs.writeFileSync(list, JSON.stringify(digests))
  if (['programs', 'addon'].every((name) => wanted.includes(name)))
    fs.writeFileSync(path.join(bundle, 'sources'), sources)

  const bytes = fs
    .readdirSync(bundle)
    .reduce((sum, name) => sum + fs.statSync(path.join(bundle, name)).size, 0)
  console.log(`${path.relative(root, bundle)}: ${(bytes / 1e6).toFixed(1)} MB of at most ${mostBytes / 1e6}`)
  if (bytes > mostBytes) throw new Error(`Expected at most ${mostBytes} bytes but the bundle has ${bytes}`)
}

try {
  main(process.argv.slice(2))
} catch (error) {
  console.error(error.message)
  process.exitCode = 1
}
