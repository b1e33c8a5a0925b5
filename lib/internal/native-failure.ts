// Says why a native binary does not load and what to do about it: each cause has its own remedy.
import { formatOf } from './binary-format'

/** The facts about a load that failed. */
export interface FailedLoad {
  /** As in `process.platform` and `process.arch`. */
  platform: string
  arch: string
  /** The C library of the process, glibc or musl; undefined where the runtime does not say, and on systems with one only. */
  libc?: string
  /** Whether this code runs inside its package; a bundler takes it out. */
  packaged: boolean
  /** Whether MARGIN_SOFTMAX_BINARY named the file. */
  given: boolean
  /** The folder that was searched, and the files in its prebuilds, as `linux-x64/node.napi.glibc.node`. */
  folder: string
  prebuilt: string[]
  /** The file that was found, with its first bytes and its size as far as it could be read. */
  file?: string
  header?: Buffer
  size?: number
  /** The error that was thrown, unless the header says enough. */
  cause?: { name?: string; code?: string; message: string }
}

export interface Explained {
  reason: string
  remedy: string
}

const compile = 'Compile one with CMake and a C++17 compiler: npx margin-softmax build'
const guide = 'docs/runtimes-and-bundlers.md in the package'

/** The reason and the remedy, each in one line. */
export function explain(failed: FailedLoad): Explained {
  const { file, cause: { name, code, message } = { message: '' } } = failed
  const said = message.split('\n')[0] as string
  if (name === 'NotCapable')
    return { reason: said, remedy: 'Start Deno with --allow-read, --allow-env, --allow-sys and --allow-ffi' }
  if (code === 'ERR_DLOPEN_DISABLED')
    return {
      reason: 'this process may load no native addon',
      remedy: 'Start Node.js without --no-addons, and beside --permission with --allow-addons',
    }
  if (file === undefined) return explainAbsence(failed)
  if (code === 'EACCES')
    return {
      reason: `${file} may not be read`,
      remedy: 'Let this user read it, and enter the folders above it',
    }
  return explainHeader(failed) ?? explainLoader(failed, said)
}

/** The failure if no binary was found. */
function explainAbsence({ platform, arch, libc, packaged, folder, prebuilt }: FailedLoad): Explained {
  const machine = `${platform}-${arch}`
  if (!packaged)
    return {
      reason: 'none is there; this code was bundled, or copied out of its package without its binaries',
      remedy: `Leave margin-softmax out of the bundle (esbuild: --external:margin-softmax; other bundlers: ${guide}), or copy its folder prebuilds to ${folder}`,
    }
  if (prebuilt.length === 0)
    return {
      reason: 'the folder prebuilds is not there',
      remedy: `Copy it to where the package runs, if a deployment left it out (${guide}). ${compile}`,
    }
  const fitting = prebuilt.filter((name) => name.startsWith(`${machine}/`))
  if (fitting.length === 0)
    return {
      reason: `there are binaries for ${[...new Set(prebuilt.map((name) => name.split('/')[0]))].join(', ')}, none for ${machine}`,
      remedy: compile,
    }
  return {
    reason: `there is ${fitting.join(', ')}, none for ${libc ?? 'the C library of this system'}`,
    remedy: compile,
  }
}

/** Says what is wrong with a file by its header and size; undefined if nothing is. */
export function explainHeader(failed: FailedLoad): Explained | undefined {
  const { platform, arch, file, given, header, size = 0 } = failed
  if (!header) return undefined
  const format = formatOf(header)
  const machine = `${platform}-${arch}`
  const remedy = given ? `Name one for ${machine}, or unset MARGIN_SOFTMAX_BINARY` : replaceOf(failed)
  if (!format) return { reason: `${file} is no native binary`, remedy }
  const system = platform === 'darwin' || platform === 'win32' ? platform : 'linux'
  if (format.platform !== system || (format.arch !== arch && format.arch !== 'universal'))
    return { reason: `${file} is for ${format.platform}-${format.arch}, not for ${machine}`, remedy }
  if (size < format.bytes)
    return { reason: `${file} was cut short: it has ${size} of ${format.bytes} bytes`, remedy }
  return undefined
}

/** The failure if the system's loader refused a binary that is whole and for this machine. */
function explainLoader(failed: FailedLoad, said: string): Explained {
  const { libc, given, file = '', prebuilt } = failed
  const reason = said.includes(file) ? said : `${file}: ${said}`
  const glibc = /GLIBC_([\d.]+)' not found/.exec(said)?.[1]
  if (glibc)
    return {
      reason,
      remedy: `It needs glibc ${glibc}: take a newer system or base image. ${remedyFor(given)}`,
    }
  // musl's loader misses that of glibc; glibc's misses musl's library, or finds a text under its development name.
  const needs = /ld-linux|libc\.so\.6/.test(said) ? 'glibc' : /libc\.(musl|so:)/.test(said) ? 'musl' : libc
  if (needs !== libc) {
    // The choice among prebuilds knows musl by a file that only Alpine Linux has.
    const chosen = prebuilt.find((name) => file.endsWith(name))
    const other = prebuilt.find((name) => name === chosen?.replace(`.${needs}.`, `.${libc}.`))
    return {
      reason: `${reason}: it is for ${needs}, this process runs on ${libc ?? 'another C library'}`,
      remedy: other ? `Set LIBC=${libc} in the environment: the package has ${other}` : remedyFor(given),
    }
  }
  if (/failed to map segment/.test(said))
    return {
      reason,
      remedy:
        'Its file system is mounted noexec: name a copy on another in MARGIN_SOFTMAX_BINARY, or mount it with exec',
    }
  if (/undefined symbol: (napi|node_api)_/.test(said))
    return {
      reason,
      remedy: 'This runtime lacks a part of Node-API 8: it needs Node.js 20, or a newer version of it',
    }
  const library = /^(?:Error loading shared library )?([^/\s:]+): (cannot open shared|No such file)/.exec(
    said
  )?.[1]
  if (library) return { reason, remedy: `Install the package of this system that has ${library}` }
  return { reason, remedy: remedyFor(given) }
}

const remedyFor = (given: boolean) =>
  given ? 'Name another binary, or unset MARGIN_SOFTMAX_BINARY' : compile

/** For a file of the package that is not what it should be. */
const replaceOf = ({ file = '', folder }: FailedLoad) =>
  file.slice(folder.length).includes('prebuilds')
    ? 'Install margin-softmax again'
    : 'Compile it again: npx margin-softmax build'
