'use strict'
// npm run prebuild: compiles prebuilds/<platform>-<arch>/node.napi[.glibc|.musl].node, which node-gyp-build loads.
//   --out FOLDER   where prebuilds/ goes; the repository unless told
//   --arch ARCH    another architecture: on Linux by a cross compiler, as Debian's g++-aarch64-linux-gnu
// MARGIN_SOFTMAX_CUDA in the environment says whether CUDA joins: on, off, or auto (where nvcc is found).
//
// prebuildify calls this file again in place of node-gyp, which is where cmake-js compiles. It looks for the binary in
// build/Release of the folder that it works in and moves it away: a folder of its own, so that build/ stays as it was.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { parseArgs } = require('node:util')

const root = path.join(__dirname, '..')
const cuda = process.env.MARGIN_SOFTMAX_CUDA ?? 'auto'
const glibc = process.platform === 'linux' && !!process.report.getReport().header.glibcVersionRuntime
const crossTools = { arm64: { processor: 'aarch64', prefix: 'aarch64-linux-gnu-' } }

/** The tools for another architecture than this machine's, on Linux. */
function crossToolsFor(arch) {
  if (process.platform !== 'linux' || arch === process.arch) return undefined
  const tools = crossTools[arch]
  if (!tools)
    throw new Error(
      `Expected one of ${[process.arch, ...Object.keys(crossTools)]} for --arch but received ${arch}`
    )
  return tools
}

function compile(arch) {
  const tools = crossToolsFor(arch)
  const definitions = {
    MARGIN_SOFTMAX_CUDA: tools ? 'off' : cuda,
    MARGIN_SOFTMAX_CUDA_ARCHITECTURES: 'release',
    MARGIN_SOFTMAX_GLIBC_FLOOR: glibc ? 'ON' : 'OFF',
    ...(tools && {
      CMAKE_SYSTEM_NAME: 'Linux',
      CMAKE_SYSTEM_PROCESSOR: tools.processor,
      CMAKE_CXX_COMPILER: `${tools.prefix}g++`,
    }),
  }
  const where = ['--directory', root, '--out', path.resolve('build'), '--arch', arch]
  const toolset = process.platform === 'win32' ? ['--toolset', 'ClangCL'] : []
  const cmakeJs = (...args) =>
    spawnSync(process.execPath, [require.resolve('cmake-js/bin/cmake-js'), ...args, ...where, ...toolset], {
      stdio: 'inherit',
    }).status === 0
  // Two commands: `compile` alone keeps the options that the folder was configured with before.
  return (
    cmakeJs('configure', ...Object.entries(definitions).map(([name, value]) => `--CD${name}=${value}`)) &&
    cmakeJs('build')
  )
}

function main() {
  const { values } = parseArgs({ options: { out: { type: 'string' }, arch: { type: 'string' } } })
  const arch = values.arch ?? process.arch
  const tools = crossToolsFor(arch)
  const work = path.join(root, 'build', 'prebuild', `${process.platform}-${arch}-cuda-${cuda}`)
  fs.mkdirSync(work, { recursive: true })
  require('prebuildify')(
    {
      cwd: work,
      out: path.resolve(root, values.out ?? '.'),
      arch,
      name: 'node.napi',
      napi: true,
      strip: true,
      ...(tools && { stripBin: `${tools.prefix}strip` }),
      tagLibc: process.platform === 'linux',
      targets: [process.versions.node],
      shell: true,
      nodeGyp: `"${process.execPath}" "${__filename}"`,
    },
    (error) => {
      if (!error) return
      console.error(error.message)
      process.exitCode = 1
    }
  )
}

if (process.argv[2] === 'rebuild') {
  const arch = process.argv.find((argument) => argument.startsWith('--arch='))
  process.exit(compile(arch.slice('--arch='.length)) ? 0 : 1)
}
main()
