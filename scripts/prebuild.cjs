'use strict'
// npm run prebuild: compiles prebuilds/<platform>-<arch>/node.napi[.glibc|.musl].node, which node-gyp-build loads.
//   --out FOLDER          where prebuilds/ goes; the repository unless told
//   --platform PLATFORM   another system, and
//   --arch ARCH           another architecture: those of `crossTools`, by cross compilers that Debian has
//   --all                 this machine's, and all of `crossTools`, one after the other
// MARGIN_SOFTMAX_CUDA in the environment says whether CUDA joins: on, off, or auto (where nvcc is found). It joins no binary for
// another machine.
//
// prebuildify calls this file again in place of node-gyp, which is where cmake-js compiles. It looks for the binary in
// build/Release of the folder that it works in and moves it away: a folder of its own, so that build/ stays as it was.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { parseArgs, promisify } = require('node:util')

const root = path.join(__dirname, '..')
const cuda = process.env.MARGIN_SOFTMAX_CUDA ?? 'auto'
const here = `${process.platform}-${process.arch}`
const glibc = process.platform === 'linux' && !!process.report.getReport().header.glibcVersionRuntime

/** Cross-compilers on Linux, with CMake's names of the machines that they compile for. */
const crossTools = {
  'linux-arm64': {
    package: 'g++-aarch64-linux-gnu',
    compiler: 'aarch64-linux-gnu-g++',
    strip: 'aarch64-linux-gnu-strip',
    definitions: { CMAKE_SYSTEM_NAME: 'Linux', CMAKE_SYSTEM_PROCESSOR: 'aarch64' },
  },
  'win32-x64': {
    package: 'g++-mingw-w64-x86-64-posix', // the one with std::thread
    compiler: 'x86_64-w64-mingw32-g++-posix',
    strip: 'x86_64-w64-mingw32-strip',
    definitions: {
      CMAKE_SYSTEM_NAME: 'Windows',
      CMAKE_SYSTEM_PROCESSOR: 'AMD64',
      CMAKE_JS_NODELIB_DEF: require('node-api-headers').def_paths.node_api_def,
    },
  },
}

/** The tools for another machine than this one: undefined for this one. */
function crossToolsFor(machine) {
  if (machine === here) return undefined
  const names = process.platform === 'linux' ? Object.keys(crossTools) : []
  const tools = names.includes(machine) ? crossTools[machine] : undefined
  if (!tools)
    throw new Error(
      `Expected ${[...new Set([here, ...names])].join(' or ')} for --platform and --arch but received ${machine}`
    )
  if (spawnSync(tools.compiler, ['--version']).error)
    throw new Error(
      `Expected the compiler ${tools.compiler} for ${machine} but it is not here: apt-get install ${tools.package}`
    )
  return tools
}

function compile(machine) {
  const tools = crossToolsFor(machine)
  const definitions = {
    MARGIN_SOFTMAX_CUDA: tools ? 'off' : cuda,
    MARGIN_SOFTMAX_CUDA_ARCHITECTURES: 'release',
    MARGIN_SOFTMAX_TEST_KERNELS: 'OFF',
    MARGIN_SOFTMAX_GLIBC_FLOOR: glibc && machine.startsWith('linux') ? 'ON' : 'OFF',
    ...(tools && { ...tools.definitions, CMAKE_CXX_COMPILER: tools.compiler }),
  }
  const where = ['--directory', root, '--out', path.resolve('build'), '--arch', machine.split('-')[1]]
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

async function prebuild(machine, out) {
  const tools = crossToolsFor(machine)
  const [platform, arch] = machine.split('-')
  const work = path.join(root, 'build', 'prebuild', `${machine}-cuda-${tools ? 'off' : cuda}`)
  fs.mkdirSync(work, { recursive: true })
  await promisify(require('prebuildify'))({
    cwd: work,
    out: path.resolve(root, out),
    platform, // the call in place of node-gyp has it in its environment
    arch,
    name: 'node.napi',
    napi: true,
    strip: true,
    ...(tools && { stripBin: tools.strip }),
    tagLibc: platform === 'linux',
    targets: [process.versions.node],
    shell: true,
    nodeGyp: `"${process.execPath}" "${__filename}"`,
  })
}

async function main() {
  const { values } = parseArgs({
    options: {
      out: { type: 'string', default: '.' },
      platform: { type: 'string', default: process.platform },
      arch: { type: 'string', default: process.arch },
      all: { type: 'boolean', default: false },
    },
  })
  const machines = values.all
    ? [...new Set([here, ...Object.keys(crossTools)])]
    : [`${values.platform}-${values.arch}`]
  for (const machine of machines) crossToolsFor(machine) // what is missing is said before anything is compiled
  for (const machine of machines) await prebuild(machine, values.out)
}

if (process.argv[2] === 'rebuild') {
  const arch = process.argv.find((argument) => argument.startsWith('--arch='))
  process.exit(compile(`${process.env.PREBUILD_PLATFORM}-${arch.slice('--arch='.length)}`) ? 0 : 1)
}
main().catch((error) => {
  console.error(error.message)
  process.exitCode = 1
})
