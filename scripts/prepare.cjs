'use strict'
// After npm ci or npm install in the repository: compiles the addon unless a binary loads already, and lib/ into dist/.
// Installed packages never run this: they bring prebuilt binaries and dist/ with them. In package.json it is `postprepare`,
// since npm warns of a package that has `prepare` when it is installed from a tarball.
const { spawnSync } = require('node:child_process')
const path = require('node:path')
const { buildFromSource } = require('./build-from-source.cjs')

const root = path.join(__dirname, '..')

function loads() {
  try {
    require('node-gyp-build')(root)
    return true
  } catch {
    return false
  }
}

if (!loads() && !buildFromSource()) process.exit(1)
const { status } = spawnSync(process.execPath, [path.join(__dirname, 'build.cjs')], { stdio: 'inherit' })
process.exit(status ?? 1)
