'use strict'
// Compiles the addon on this machine into build/Release, where it goes before a prebuilt binary. Part of the package, for
// machines that no prebuilt binary loads on: node node_modules/margin-softmax/scripts/build-from-source.cjs
// What follows is handed to cmake-js: --CDMARGIN_SOFTMAX_CUDA=off, for one.
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const root = path.join(__dirname, '..')

/** Where cmake-js is: among the dependencies of this package or of the project that it is called in, or nowhere. */
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
    : spawnSync('npm', npm, { ...options, shell: process.platform === 'win32' })
  return status === 0
}

/** Compiles; where that fails, says what it needs. */
function buildFromSource(...args) {
  // Visual Studio's own compiler has no vector extensions: its clang does.
  const toolset = process.platform === 'win32' ? ['--toolset', 'ClangCL'] : []
  if (cmakeJs('compile', ...toolset, ...args)) return true
  console.error(
    '\nmargin-softmax: compiling the addon failed (its messages stand above).' +
      '\nIt needs CMake 3.22 or newer, and g++ or clang for C++17: on Debian or Ubuntu, apt-get install cmake g++ make.' +
      (findCmakeJs()
        ? ''
        : '\nIt needs cmake-js, too: npm install --save-dev cmake-js where npm could not fetch it.')
  )
  return false
}

module.exports = { buildFromSource }
if (require.main === module) process.exit(buildFromSource(...process.argv.slice(2)) ? 0 : 1)
