'use strict'
// npm run test:sanitized -- address|thread [pattern]: compiles the addon under GCC's or clang's sanitizer (of addresses and
// undefined behaviour, or of threads) into build/<sanitizer>, and runs the suites whose names match against it: those
// that call native code on the CPU unless told. Closes as npm test does.
const { execFileSync, spawnSync } = require('node:child_process')
const path = require('node:path')

const root = path.join(__dirname, '..')
const usual =
  '^(loss|loss-edges|loss-outputs|head|head-reject|head-storage|reject|buffers|concurrency|topk|verification|probability|cross-entropy|cross-entropy-edges|sampling|bfloat16|negligible|margins|lying-buffer|fuzz-[a-z-]+|outputs-off)\\.test'
const sanitizers = {
  address: {
    library: 'libasan.so',
    symbol: '__asan_init',
    options: {
      ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1',
      UBSAN_OPTIONS: 'print_stacktrace=1',
    },
  },
  thread: {
    library: 'libtsan.so',
    symbol: '__tsan_init',
    // Node.js itself is not instrumented.
    options: { TSAN_OPTIONS: 'exitcode=66 ignore_noninstrumented_modules=1' },
  },
}

function compile(sanitizer) {
  const out = path.join('build', sanitizer)
  const cmakeJs = (...args) => {
    const script = require.resolve('cmake-js/bin/cmake-js')
    const options = { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 28 }
    const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args, '--out', out], options)
    if (status !== 0)
      throw new Error(`cmake-js ${args.join(' ')} ended with ${status}:\n${stdout}\n${stderr}`)
  }
  cmakeJs('configure', `--CDMARGIN_SOFTMAX_SANITIZE=${sanitizer}`, '--CDMARGIN_SOFTMAX_CUDA=off')
  cmakeJs('build')
  const binary = path.join(root, out, 'Release', 'margin_softmax.node')
  const symbols = execFileSync('nm', ['-D', binary], { encoding: 'utf8' })
  if (!symbols.includes(sanitizers[sanitizer].symbol))
    throw new Error(`Expected ${binary} to be compiled under the sanitizer but it is not`)
  return binary
}

function main(sanitizer, pattern = usual) {
  const chosen = sanitizers[sanitizer]
  if (!chosen) throw new Error(`Expected address or thread but received ${sanitizer}`)
  const binary = compile(sanitizer)
  const compiler = process.env.CXX ?? 'c++'
  const library = execFileSync(compiler, [`-print-file-name=${chosen.library}`], { encoding: 'utf8' }).trim()
  const { status } = spawnSync(process.execPath, [path.join(__dirname, 'test.cjs'), pattern], {
    cwd: root,
    stdio: 'inherit',
    env: { ...chosen.options, ...process.env, LD_PRELOAD: library, MARGIN_SOFTMAX_BINARY: binary },
  })
  process.exitCode = status ?? 1
}

main(...process.argv.slice(2))
