'use strict'
// npm test: format, lint and type checks, then every test file in a process of its own, two at a time and beside them one
// of those that wait more than they compute.
// Closes with "N passed, N failed, N skipped"; a check that fails, a crash, a file without tests and one that takes too
// long count as failures. What a suite skips is named below its line. In CI it skips what the processor or the operating
// system lacks alone: the rest fails (`lacking` of test/support/support.ts).
const { spawn, spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.join(__dirname, '..')
const pattern = new RegExp(process.argv[2] ?? '')
const limit = 20 * 60e3 // milliseconds for one file
const bin = (name, file) => path.join(path.dirname(require.resolve(`${name}/package.json`)), file)
const native = [
  'native',
  path.join('test', 'simt'),
  path.join('test', 'faults'),
  path.join('bench', 'gpu'),
].flatMap((folder) =>
  fs
    .readdirSync(path.join(root, folder), { recursive: true })
    .filter((file) => /\.(h|c|cc|cuh|cu)$/.test(file))
    .map((file) => path.join(folder, file))
)

// The addon whose CUDA devices are the shim of test/simt, for the suites that drive the CUDA executor without a GPU.
const shim = [
  'build of the shim addon (cmake-js)',
  [
    require.resolve('cmake-js/bin/cmake-js'),
    'compile',
    '--out',
    'build/simt',
    '--CDMARGIN_SOFTMAX_CUDA=shim',
  ],
]
// The addon of the process group, where there is an MPI; the suites say so where there is none.
const mpi = ['build of the addon for MPI (cmake)', [path.join('scripts', 'build-distributed.cjs')]]
const hasMpi = !spawnSync('mpirun', ['--version']).error
const checks = [
  ['format and lint (biome)', [bin('@biomejs/biome', 'bin/biome'), 'check', '--error-on-warnings', '.']],
  [
    'format of native (clang-format)',
    [bin('clang-format-node', 'build/cli.js'), '--dry-run', '--Werror', ...native],
  ],
  ['types (tsc)', [bin('typescript', 'bin/tsc'), '-p', 'tsconfig.json']],
  ...(process.platform === 'linux' ? [shim] : []),
  ...(hasMpi ? [mpi] : []),
]
const suites = path.join(root, 'test', 'suites')
const nameOf = (file) => file.replace('.test.ts', '')
// Ranks of mpirun wait for one another, and for limits of time.
const waiting = ['sharding', 'nccl', 'distributed', 'group-wait', 'killed-ranks']
// The longest first, so that none runs alone at the end.
const longest = ['simt', 'cuda-suites', 'install', 'windows', 'runtimes', 'faults-allocations']
const rank = (file) => {
  const at = longest.indexOf(nameOf(file))
  return at < 0 ? longest.length : at
}
const sizeOf = (file) => fs.statSync(path.join(suites, file)).size
const tests = fs
  .readdirSync(suites)
  .filter((file) => file.endsWith('.test.ts') && pattern.test(file))
  .sort((a, b) => rank(a) - rank(b) || sizeOf(b) - sizeOf(a))

// 'auto' means the CPU here, also where there is a GPU: the suites of the CUDA executor name their devices.
function run(args) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, {
      cwd: root,
      env: { MARGIN_SOFTMAX_DEVICE: 'cpu', ...process.env, NO_COLOR: '1' },
    })
    const timer = setTimeout(() => child.kill('SIGKILL'), limit)
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (output += data))
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ code, signal, output })
    })
  })
}

/** uvu's closing figures, each the last of its kind that was printed. */
const figure = (output, name) =>
  Number([...output.matchAll(new RegExp(`^\\s*${name}:\\s+(\\d+)`, 'gm'))].pop()?.[1] ?? 0)

async function main() {
  let passed = 0
  let failed = 0
  let skipped = 0
  const report = (name, good, seconds, text) => {
    const shown = good ? (text.match(/^Skipped: .*$/gm) ?? []).map((line) => `       ${line}`) : [text]
    console.log([`${good ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)`, ...shown].join('\n'))
  }
  const timed = async (name, args, judge) => {
    const start = Date.now()
    const result = await run(args)
    const good = judge(result)
    report(name, good, ((Date.now() - start) / 1000).toFixed(1), result.output)
  }
  if (!process.argv[2])
    for (const [name, args] of checks)
      await timed(name, args, ({ code }) => {
        if (code === 0) passed++
        else failed++
        return code === 0
      })
  const worker = async (queue) => {
    for (let file = queue.shift(); file; file = queue.shift())
      await timed(
        file,
        ['--require', 'tsx/cjs', path.join('test', 'suites', file)],
        ({ code, signal, output }) => {
          const total = figure(output, 'Total')
          passed += figure(output, 'Passed')
          skipped += figure(output, 'Skipped')
          // A process that ended badly with no failing test in its figures is itself one failure.
          const bad = total - figure(output, 'Passed')
          const died = code !== 0 || signal || total + figure(output, 'Skipped') === 0
          failed += bad || (died ? 1 : 0)
          return !bad && !died
        }
      )
  }
  const queue = tests.filter((file) => !waiting.includes(nameOf(file)))
  const waits = tests.filter((file) => waiting.includes(nameOf(file)))
  await Promise.all([worker(queue), worker(queue), worker(waits)])
  console.log(`${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ''}`)
  process.exit(failed ? 1 : 0)
}

main()
