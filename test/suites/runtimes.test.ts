// The package, packed and installed, in other runtimes than Node.js, in bundles, and in test runners: the same figures.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import esbuild from 'esbuild'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  install,
  node,
  type Outcome,
  pack,
  prebuildOfTests,
  runtimeTarballs,
  succeeded,
  work,
} from '../support/installed'
import { lacking } from '../support/support'

const test = suite('runtimes')
const tools = path.join(__dirname, '../runtimes')
const toolsRequire = createRequire(path.join(tools, 'package.json'))
fs.mkdirSync(work, { recursive: true })
const { tarball } = pack(prebuildOfTests())
const { folder, installed } = install(tarball, '--ignore-scripts')
const env = { MARGIN_SOFTMAX_BINARY: undefined, PREBUILDS_ONLY: undefined, NO_COLOR: '1' }

function write(name: string, text: string): string {
  fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true })
  fs.writeFileSync(path.join(folder, name), text)
  return name
}
fs.copyFileSync(path.join(tools, 'use.cjs'), path.join(folder, 'use.cjs'))
write(
  'use.mjs',
  `import * as api from 'margin-softmax'
import { use } from './use.cjs'
use(api, '.').then((figures) => console.log(figures), (error) => { console.log(String(error)); process.exitCode = 1 })`
)
const inNode = (file: string, more: NodeJS.ProcessEnv = {}) => node(folder, [file], { ...env, ...more })
const expected = succeeded('Node.js', inNode('use.mjs'))
/** The command of a package of test/runtimes, to be run by Node.js. */
const toolFile = (name: string, file: string) =>
  path.join(path.dirname(toolsRequire.resolve(`${name}/package.json`)), file)

/** The first of these packages that is installed, each made for one kind of machine. */
function binaryOf(file: string, ...packages: string[]): string | undefined {
  for (const name of packages)
    try {
      return path.join(path.dirname(toolsRequire.resolve(`${name}/package.json`)), file)
    } catch {} // for another machine
  return undefined
}
const ending = process.platform === 'win32' ? '.exe' : ''
const machine = `${process.platform.replace('win32', 'windows')}-${process.arch.replace('arm64', 'aarch64')}`
const bun = binaryOf(`bin/bun${ending}`, `@oven/bun-${machine}`, `@oven/bun-${machine}-musl`)
const deno = binaryOf(
  `deno${ending}`,
  `@deno/${process.platform}-${process.arch}`,
  `@deno/${process.platform}-${process.arch}-glibc`
)

function run(program: string, ...args: string[]): Outcome {
  const { status, stdout, stderr } = spawnSync(program, args, {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })
  return { status, stdout, stderr }
}

/** Deno has no binary for musl, and neither has one for every processor. */
function absent(name: string): void {
  const usual = ['x64', 'arm64'].includes(process.arch) && !fs.existsSync('/etc/alpine-release')
  if (usual) lacking(test, `there is no ${name}`)
  else test.skip(name, () => {})
}

if (!bun) absent('Bun')
else
  test('Bun', () => {
    assert.is(succeeded('Bun', run(bun, 'use.mjs')), expected)
    assert.is(run(bun, '-e', 'console.log(typeof Float16Array)').stdout, 'function\n')
  })

if (!deno) absent('Deno')
else {
  const permissions = ['--allow-read', '--allow-write', '--allow-env', '--allow-ffi', '--allow-sys']
  const deny = (...flags: string[]) => run(deno, 'run', '--no-prompt', ...flags, 'use.mjs')
  test('Deno with the permissions that docs/runtimes-and-bundlers.md names', () => {
    assert.is(succeeded('Deno', deny(...permissions)), expected)
    assert.is(run(deno, 'eval', 'console.log(typeof Float16Array)').stdout, 'function\n')
  })
  test('Deno without one of them says which', () => {
    for (const flag of permissions) {
      const { status, stdout, stderr } = deny(...permissions.filter((other) => other !== flag))
      assert.is(status, 1)
      assert.ok(`${stdout}${stderr}`.includes(flag), `${flag}: ${stdout}${stderr}`)
    }
  })
}

test('Yarn with Plug’n’Play: a head is saved and loaded', () => {
  const project = path.join(folder, 'pnp')
  const named = (file: string) => `file:${file}`
  const resolutions: Record<string, string> = {}
  for (const file of runtimeTarballs())
    resolutions[path.basename(file).replace(/-\d+\.\d.*$/, '')] = named(file)
  const manifest = {
    name: 'pnp',
    private: true,
    dependencies: { 'margin-softmax': named(tarball) },
    resolutions,
  }
  write('pnp/package.json', JSON.stringify(manifest))
  // Nothing is asked of the network: every package is given.
  write('pnp/.yarnrc.yml', 'enableNetwork: false\nenableTelemetry: false\nenableGlobalCache: false\n')
  write('pnp/yarn.lock', '')
  for (const name of ['use.cjs', 'use.mjs'])
    fs.copyFileSync(path.join(folder, name), path.join(project, name))
  const yarn = (...args: string[]) =>
    succeeded('Yarn', node(project, [toolFile('@yarnpkg/cli-dist', 'bin/yarn.js'), ...args], env))
  yarn('install', '--no-immutable')
  assert.ok(fs.existsSync(path.join(project, '.pnp.cjs')))
  assert.is(yarn('node', 'use.mjs'), expected)
})

/** A bundle that leaves the package out works; one that holds it says what to do, and then works. */
function bundles(name: string, bundle: (file: string, external: boolean) => Promise<unknown>): void {
  for (const [format, ending] of [
    ['CommonJS', 'cjs'],
    ['ES modules', 'mjs'],
  ])
    test(`${name}, ${format}: outside the bundle, inside it without the binary, with it, with MARGIN_SOFTMAX_BINARY`, async () => {
      const at = (kind: string) => path.join(name, kind, `app.${ending}`)
      await bundle(at('outside'), true)
      assert.is(succeeded(name, inNode(at('outside'))), expected)
      await bundle(at('inside'), false)
      const outside = inNode(at('inside'))
      assert.is(outside.status, 1)
      assert.match(
        outside.stdout,
        /No native binary .*\n.*this code was bundled.*\nLeave margin-softmax out of the bundle/
      )
      const [binary] = fs
        .readdirSync(path.join(installed, 'prebuilds'), { recursive: true, encoding: 'utf8' })
        .filter((file) => file.endsWith('.node'))
      const more = { MARGIN_SOFTMAX_BINARY: path.join(installed, 'prebuilds', binary as string) }
      assert.is(succeeded(name, inNode(at('inside'), more)), expected)
      const beside = path.join(folder, name, 'inside', 'prebuilds')
      fs.cpSync(path.join(installed, 'prebuilds'), beside, { recursive: true })
      assert.is(succeeded(name, inNode(at('inside'))), expected)
      fs.rmSync(beside, { recursive: true })
    })
}

// esbuild gives ES modules no `require`, which CommonJS packages need.
const banner = {
  js: `import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)`,
}
bundles('esbuild', (file, external) =>
  esbuild.build({
    ...{ absWorkingDir: folder, entryPoints: ['use.mjs'], outfile: file, bundle: true, platform: 'node' },
    ...(file.endsWith('.mjs') ? { format: 'esm', banner } : { format: 'cjs' }),
    ...(external && { external: ['margin-softmax'] }),
  })
)

bundles('webpack', async (file, external) => {
  const module = file.endsWith('.mjs')
  const config = {
    ...{ context: folder, entry: './use.mjs', mode: 'production', target: 'node' },
    output: { path: path.join(folder, path.dirname(file)), filename: path.basename(file), module },
    experiments: { outputModule: module },
    ...(external && { externals: { 'margin-softmax': `${module ? 'module' : 'commonjs'} margin-softmax` } }),
  }
  const webpack = toolsRequire('webpack')
  await new Promise<void>((resolve, reject) =>
    webpack(config, (error: Error | null, stats: { hasErrors(): boolean }) => {
      if (error || stats.hasErrors()) reject(error ?? new Error(String(stats)))
      else resolve()
    })
  )
})

// Two files each, so that more than one worker, or more than one context, loads the addon.
const same = (name: string) => `expect(await use(${name}, '.') + '\\n').toBe(${JSON.stringify(expected)})`
for (const file of ['one', 'two']) {
  write(
    `jest/${file}.jest.cjs`,
    `const { use } = require('../use.cjs')
for (const round of [1, 2]) test('round ' + round, async () => {
  jest.resetModules()
  ${same("require('margin-softmax')")}
})`
  )
  write(
    `vitest/${file}.test.mjs`,
    `import { expect, test, vi } from 'vitest'
import { use } from '../use.cjs'
for (const round of [1, 2]) test('round ' + round, async () => {
  vi.resetModules()
  ${same("await import('margin-softmax')")}
})`
  )
}

test('Jest', () => {
  const config = { rootDir: folder, testMatch: ['**/*.jest.cjs'], transform: {}, testEnvironment: 'node' }
  write('jest.json', JSON.stringify(config))
  const args = ['--config', path.join(folder, 'jest.json'), '--ci', '--no-cache', '--watchman=false']
  const { status, stderr } = node(folder, [toolFile('jest', 'bin/jest.js'), ...args], env)
  assert.is(status, 0, stderr)
  assert.match(stderr, /Tests: +4 passed/)
})

fs.symlinkSync(
  path.dirname(toolsRequire.resolve('vitest/package.json')),
  path.join(folder, 'node_modules', 'vitest'),
  'junction'
)
for (const pool of ['threads', 'vmThreads', 'forks'])
  test(`Vitest, pool ${pool}`, () => {
    const args = ['run', '--root', folder, '--pool', pool]
    const { status, stdout, stderr } = node(folder, [toolFile('vitest', 'vitest.mjs'), ...args], env)
    assert.is(status, 0, `${stdout}${stderr}`)
    assert.match(stdout, /4 passed/)
  })

test.run()
