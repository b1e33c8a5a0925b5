'use strict'
// Compiles lib/ to dist/: JavaScript for import and require, with types.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.join(__dirname, '..')
fs.rmSync(path.join(root, 'dist'), { recursive: true, force: true })
const compiler = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin', 'tsc')
const { status } = spawnSync(process.execPath, [compiler, '-p', 'tsconfig.build.json'], {
  cwd: root,
  stdio: 'inherit',
})
process.exit(status ?? 1)
