'use strict'
// Compiles the addon on this machine into build/Release, where it goes before a prebuilt binary. Part of the package, for
// machines that no prebuilt binary loads on: node node_modules/margin-softmax/scripts/build-from-source.cjs
// Further arguments are handed to cmake-js: --CDMARGIN_SOFTMAX_CUDA=off, for one.
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const root = path.join(__dirname, '..')
const onWindows = process.platform === 'win32'

/** Finds cmake-js: among the dependencies of this package or of the project that it is called in, or nowhere. */
function findCmakeJs() {
  try {
    return require.resolve('cmake-js/bin/cmake-js', { paths: [root, process.cwd()] })
  } catch {
    return undefined
  }
}

/** Whether cmake-js did what it was asked in this package's folder; its messages go to the terminal. */
function cmakeJs(...args) {
  const script = findCmakeJs()
  const all = [...args, '--directory', root]
  const options = { cwd: root, stdio: 'inherit' }
  if (script) return spawnSync(process.execPath, [script, ...all], options).status === 0
  // npm brings it into its cache for this one time: no dependency is installed.
  const fetched = `cmake-js@${require('../package.json').devDependencies['cmake-js']}`
  const npm = ['exec', '--yes', `--package=${fetched}`, '--', 'cmake-js', ...all]
  const { npm_execpath: cli } = process.env
  const started = cli?.endsWith('npx-cli.js') ? path.join(path.dirname(cli), 'npm-cli.js') : cli
  const { status } = started?.endsWith('npm-cli.js')
    ? spawnSync(process.execPath, [started, ...npm], options)
    : onWindows // where npm is a script of the command processor, which would part and change words without quotes
      ? spawnSync(
          'npm',
          npm.map((word) => `"${word}"`),
          { ...options, shell: true }
        )
      : spawnSync('npm', npm, options)
  return status === 0
}

const needed = onWindows
  ? 'Visual Studio 2022 or its Build Tools, with "Desktop development with C++", "C++ CMake tools for Windows", ' +
    '"C++ Clang Compiler for Windows" and "MSBuild support for LLVM (clang-cl) toolset" chosen in its installer.'
  : 'CMake 3.22 or newer, and g++ or clang for C++17: on Debian or Ubuntu, apt-get install cmake g++ make.'

/** Compiles; where that fails, says what it needs. */
function buildFromSource(...args) {
  // Visual Studio's own compiler has no vector extensions: its clang does.
  const toolset = onWindows ? ['--toolset', 'ClangCL'] : []
  if (cmakeJs('compile', ...toolset, ...args)) return true
  console.error(
    '\nmargin-softmax: compiling the addon failed (its messages stand above).' +
      `\nIt needs ${needed}` +
      (findCmakeJs()
        ? ''
        : '\nIt needs cmake-js, too: npm install --save-dev cmake-js where npm could not fetch it.')
  )
  return false
}

module.exports = { buildFromSource }
if (require.main === module) process.exit(buildFromSource(...process.argv.slice(2)) ? 0 : 1)
