// The binary for Windows x64, cross-compiled as `npm run prebuild -- --platform win32 --arch x64` does it, is read: what it
// needs of Windows, and which instructions it has. scripts/test-wine.sh runs it.
import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { node, root, succeeded } from '../support/installed'
import { lacking } from '../support/support'

const test = suite('windows')
const compiler = 'x86_64-w64-mingw32-g++-posix'
const work = path.join(root, 'build', 'windows-test')

function read(file: string, ...options: string[]): string {
  return execFileSync('x86_64-w64-mingw32-objdump', [...options, file], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
}

function readBinary(): void {
  const folder = path.join(work, 'prebuilds', 'win32-x64')
  fs.rmSync(work, { recursive: true, force: true })
  const options = ['--platform', 'win32', '--arch', 'x64', '--out', work]
  succeeded('the prebuild', node(root, [path.join('scripts', 'prebuild.cjs'), ...options]))
  const file = path.join(folder, 'node.napi.node')
  const headers = read(file, '--private-headers')

  test('a single file is all that Windows gets, where node-gyp-build looks for it', () => {
    assert.equal(fs.readdirSync(folder), ['node.napi.node'])
    assert.ok(fs.statSync(file).size < 2e6)
  })

  test('it needs libraries of Windows alone; node.exe is looked for when it is used, under any name', () => {
    const needed = [...headers.matchAll(/^\s*DLL Name: (\S+)/gm)].map((match) => match[1]).sort()
    assert.equal(needed, ['KERNEL32.dll', 'api-ms-win-crt-math-l1-1-0.dll', 'msvcrt.dll'])
    assert.ok(fs.readFileSync(file).includes('node.exe\0'))
  })

  test('it shows Node.js its two entries alone', () => {
    const shown = [...headers.matchAll(/^\s*\[ *\d+\] (?:\+base\[ *\d+\] +[\da-f]+ )?([a-z]\w+)$/gm)]
    assert.equal(
      shown.map((match) => match[1]),
      ['napi_register_module_v1', 'node_api_module_get_api_version_v1']
    )
  })

  test('its addresses are drawn by lot and its data does not run', () => {
    for (const word of ['DYNAMIC_BASE', 'HIGH_ENTROPY_VA', 'NX_COMPAT'])
      assert.ok(headers.includes(word), word)
  })

  test('no mathematics is done in x87 registers, whose precision differs between threads', () => {
    const instructions = read(file, '--disassemble', '--no-show-raw-insn')
    assert.match(instructions, /\bvfmadd\w+\b/, 'instructions were read')
    const mathematics = /\s(fsin|fcos|fsincos|f2xm1|fyl2x|fyl2xp1|fptan|fpatan|fprem1?|fscale|fsqrt)\b.*/g
    assert.equal(instructions.match(mathematics), null)
  })
}

if (process.platform !== 'linux') test.skip('it is cross-compiled on Linux', () => {})
else if (spawnSync(compiler, ['--version']).error)
  lacking(test, `${compiler} of Debian's g++-mingw-w64-x86-64-posix`)
else readBinary()

test('a machine that nothing compiles for is refused, with those that there are', () => {
  const { status, stderr } = node(root, [path.join('scripts', 'prebuild.cjs'), '--platform', 'sunos'])
  assert.is(status, 1)
  assert.match(stderr, /^Expected \S+( or \S+)* for --platform and --arch but received sunos-\w+\n$/)
})

test('a cross compiler that is missing is named, with its package', () => {
  if (process.platform !== 'linux') return
  const { status, stderr } = node(
    root,
    [path.join('scripts', 'prebuild.cjs'), '--platform', 'win32', '--arch', 'x64'],
    {
      PATH: '/nowhere',
    }
  )
  assert.is(status, 1)
  assert.match(
    stderr,
    /^Expected the compiler \S+ for win32-x64 but .*: apt-get install g\+\+-mingw-w64-x86-64-posix\n$/
  )
})

test.run()
