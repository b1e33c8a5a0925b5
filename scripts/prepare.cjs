'use strict'
// After npm ci or npm install in the repository: compiles the addon unless a binary loads already, and lib/ into dist/.
// Installed packages never run this: they bring prebuilt binaries and dist/ with them.
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const root = path.join(__dirname, '..')
const run = (script, ...args) => {
  const { status, error } = spawnSync(process.execPath, [script, ...args], { cwd: root, stdio: 'inherit' })
  if (error) throw error
  return status === 0
}

function loads() {
  try {
    require('node-gyp-build')(root)
    return true
  } catch {
    return false
  }
}

if (!loads() && !run(require.resolve('cmake-js/bin/cmake-js'), 'compile')) {
  console.error(
    '\nmargin-softmax: compiling the addon failed (its messages stand above).' +
      '\nIt needs CMake 3.22 or newer, and g++ or clang for C++17: on Debian or Ubuntu, apt-get install cmake g++ make.'
  )
  process.exit(1)
}
if (!run(path.join(__dirname, 'build.cjs'))) process.exit(1)
