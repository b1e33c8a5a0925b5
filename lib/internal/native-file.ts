// Finds the native addons and loads them. It uses createRequire, because bundlers rewrite a `require` of a path.
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import locate from 'node-gyp-build'
import { MarginSoftmaxError } from '../errors'
import { headerBytes } from './binary-format'
import { type Explained, explain, explainHeader, type FailedLoad } from './native-failure'
import { beginningOf } from './read-file'

/**
 * The main addon: a binary built here (build/Release), a prebuilt one for this platform, or the file that
 * `MARGIN_SOFTMAX_BINARY` in the environment names.
 */
export function loadAddon(): unknown {
  const binary = process.env.MARGIN_SOFTMAX_BINARY
  if (binary && !fs.existsSync(binary))
    throw new MarginSoftmaxError(
      'ERR_NATIVE_MISSING',
      `Expected the path of a native binary for MARGIN_SOFTMAX_BINARY but received ${JSON.stringify(binary)}`
    )
  const where = place()
  return load(where, binary ? path.resolve(binary) : undefined, Boolean(binary), ({ reason, remedy }) =>
    [
      `No native binary of margin-softmax loads on ${process.platform}-${process.arch}, ${runtime()}.`,
      `Looked ${binary ? `at ${binary}` : `in build/Release and prebuilds of ${where.folder}`}: ${reason}`,
      remedy,
    ].join('\n')
  )
}

/** The addon of the process group, compiled by scripts/build-distributed.cjs; `MARGIN_SOFTMAX_MPI_BINARY` names another. */
export function loadGroupAddon(): unknown {
  const binary = process.env.MARGIN_SOFTMAX_MPI_BINARY
  const where = place()
  const file = path.resolve(binary || path.join(where.folder, 'build/mpi/Release/margin_softmax_mpi.node'))
  return load(where, file, Boolean(binary), ({ reason }) =>
    [
      `The addon of margin-softmax/distributed does not load: ${reason}`,
      ...(where.packaged
        ? [
            'It needs Open MPI or MPICH (Debian, Ubuntu: apt-get install openmpi-bin libopenmpi-dev, or mpich libmpich-dev) and is built by:',
            'npx margin-softmax build --distributed',
          ]
        : ['Leave margin-softmax out of the bundle, or name the addon in MARGIN_SOFTMAX_MPI_BINARY']),
    ].join('\n')
  )
}

/** The binary that `loadAddon()` loads, and why that one. */
export function binaryFile(): { file: string; chosen: string } {
  const binary = process.env.MARGIN_SOFTMAX_BINARY
  if (binary) return { file: path.resolve(binary), chosen: 'named by MARGIN_SOFTMAX_BINARY' }
  const { folder } = place()
  const file = locate.resolve(folder)
  const built = file.startsWith(path.join(folder, 'build'))
  return {
    file,
    chosen: built
      ? 'compiled on this machine: goes before a prebuilt one'
      : `prebuilt for ${process.platform}-${process.arch}: nothing was compiled here`,
  }
}

interface Place {
  /** Holds build and prebuilds: the package's folder, or that of the bundle which a bundler put this code into. */
  folder: string
  prebuilds: string
  packaged: boolean
}

function place(): Place {
  // A bundle of ES modules has no __dirname; Bun and Next.js write into a bundle where the file was when it was made.
  if (typeof __dirname === 'undefined' || !fs.existsSync(__dirname))
    return outside(path.dirname(process.argv[1] ?? '.'))
  const folder = path.join(__dirname, '../..')
  if (nameOf(folder) !== 'margin-softmax') return outside(__dirname)
  // Written out, so that tools which trace the files that a program needs (Next.js, Vercel) take the folder along.
  return { folder, prebuilds: path.join(__dirname, '..', '..', 'prebuilds'), packaged: true }
}

const outside = (folder: string): Place => ({
  folder,
  prebuilds: path.join(folder, 'prebuilds'),
  packaged: false,
})

function nameOf(folder: string): unknown {
  try {
    return JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8')).name
  } catch {
    return undefined
  }
}

/** @param wording the message for what is wrong */
function load(
  { folder, prebuilds, packaged }: Place,
  named: string | undefined,
  given: boolean,
  wording: (why: Explained) => string
): unknown {
  const { platform, arch } = process
  const failed: FailedLoad = { platform, arch, packaged, given, folder, prebuilt: [] }
  try {
    const file = named ?? locate.resolve(folder)
    failed.file = file
    Object.assign(failed, beginningOf(file, headerBytes))
    const unfit = explainHeader(failed)
    if (unfit) throw new Error(unfit.reason) // before the system's loader, which may end the process
    return createRequire(file)(file)
  } catch (error) {
    const cause = error as NodeJS.ErrnoException
    // There was no memory for the binary: it is not missing.
    if (cause.code === 'ERR_OUT_OF_MEMORY') throw new MarginSoftmaxError(cause.code, cause.message, { cause })
    const why = explain({ ...failed, libc: libc(), prebuilt: binariesIn(prebuilds), cause })
    throw new MarginSoftmaxError('ERR_NATIVE_MISSING', wording(why), { cause })
  }
}

function runtime(): string {
  const { electron, bun, deno } = process.versions
  if (electron) return `Electron ${electron}`
  if (bun) return `Bun ${bun}`
  return deno ? `Deno ${deno}` : `Node.js ${process.version}`
}

function libc(): string | undefined {
  if (process.platform !== 'linux') return undefined
  try {
    const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } }
    return header.glibcVersionRuntime ? 'glibc' : 'musl'
  } catch {
    return undefined // Deno asks for --allow-sys
  }
}

/** The prebuilt binaries, as `linux-x64/node.napi.glibc.node`. */
function binariesIn(prebuilds: string): string[] {
  try {
    const names = fs.readdirSync(prebuilds, { recursive: true }).map(String)
    return names.filter((name) => name.endsWith('.node')).map((name) => name.replaceAll('\\', '/'))
  } catch {
    return []
  }
}
