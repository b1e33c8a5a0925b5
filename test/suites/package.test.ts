// The package as its users get it: dist/ by its name, from CommonJS, from ES modules, and with types.
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import * as sourceDistributed from '../../lib/distributed'
import * as source from '../../lib/index'
import * as sourceTfjs from '../../lib/tfjs'

const test = suite('package')
const root = path.join(__dirname, '../..')
const entries = {
  'margin-softmax': source,
  'margin-softmax/tfjs': sourceTfjs,
  'margin-softmax/distributed': sourceDistributed,
}

const run = (...args: string[]) =>
  execFileSync(process.execPath, args, { cwd: root, encoding: 'utf8' }).trim()

for (const [entry, module] of Object.entries(entries)) {
  const expected = JSON.stringify(Object.keys(module).sort())
  const print = (names: string) =>
    `console.log(JSON.stringify(Object.keys(${names}).filter((n) => !['default', '__esModule'].includes(n)).sort()))`

  test(`${entry} from CommonJS`, () => assert.is(run('-e', print(`require('${entry}')`)), expected))
  test(`${entry} from an ES module`, () => {
    assert.is(run('--input-type=module', '-e', `import * as all from '${entry}'; ${print('all')}`), expected)
  })
}

test('both entries share one copy of the state', () => {
  const code = `import { createRequire } from 'node:module'
    import { MarginHead } from 'margin-softmax'
    console.log(createRequire(import.meta.url)('margin-softmax').MarginHead === MarginHead)`
  const file = path.join(root, 'build', 'one-copy.mjs') // in the package, but in no tarball
  fs.mkdirSync(path.dirname(file), { recursive: true })
  fs.writeFileSync(file, code)
  try {
    assert.is(run(file), 'true')
  } finally {
    fs.rmSync(file)
  }
})

/** Calls `body` with a folder whose programs find the package by its name, and what compiles them. */
function withConsumer(body: (folder: string, compile: (...args: string[]) => string) => void): void {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-'))
  try {
    fs.mkdirSync(path.join(folder, 'node_modules'))
    fs.symlinkSync(root, path.join(folder, 'node_modules', 'margin-softmax'), 'junction')
    const compiler = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin', 'tsc')
    const common = ['--noEmit', '--strict', '--target', 'es2022', '--skipLibCheck', '--types', '']
    body(folder, (...args) =>
      execFileSync(process.execPath, [compiler, ...common, ...args], {
        cwd: folder,
        encoding: 'utf8',
        stdio: 'pipe',
      })
    )
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

test('types resolve under node16 and bundler resolution', () =>
  withConsumer((folder, compile) => {
    const use = `import { marginLossSync, arcface, type Margin } from 'margin-softmax'
      const margin: Margin = arcface()
      export const loss: number = marginLossSync({ input: new Float32Array(1), weight: new Float32Array(1), labels: [0], dim: 1 }, { margin }).loss\n`
    fs.writeFileSync(path.join(folder, 'use.mts'), use)
    fs.writeFileSync(path.join(folder, 'use.cts'), use)
    fs.writeFileSync(path.join(folder, 'use.ts'), use)
    compile('--module', 'node16', 'use.mts', 'use.cts')
    compile('--module', 'preserve', '--moduleResolution', 'bundler', 'use.ts')
  }))

test('the published types say which gradients are there, and take undefined for an option that is absent', () =>
  withConsumer((folder, compile) => {
    const use = fs.readFileSync(path.join(root, 'test/support/types.ts'), 'utf8')
    fs.writeFileSync(path.join(folder, 'use.mts'), use.replace("'../../lib/index'", "'margin-softmax'"))
    compile('--module', 'node16', '--exactOptionalPropertyTypes', 'use.mts')
  }))

test.run()
