// The package as npm would publish it, packed and installed into an empty project, without the network.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { binaryFile } from '../../lib/internal/native-file'

export const root = path.join(__dirname, '../..')
const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'))
/** The folder of the suite that runs. It is on disk with the repository: what is compiled here is found again by the next run. */
export const work = path.join(root, 'build', `${path.basename(process.argv[1] ?? '', '.test.ts')}-test`)

export interface Outcome {
  status: number | null
  stdout: string
  stderr: string
}

/** Runs Node.js: its first argument is a script, or an option. */
export function node(folder: string, args: string[], env: NodeJS.ProcessEnv = {}): Outcome {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, MARGIN_SOFTMAX_CUDA: 'off', ...env },
  })
  return { status, stdout, stderr }
}

export function npm(folder: string, ...args: string[]): Outcome {
  const { status, stdout, stderr } = spawnSync('npm', args, {
    cwd: folder,
    encoding: 'utf8',
    shell: process.platform === 'win32',
  })
  return { status, stdout, stderr }
}

export function succeeded(what: string, { status, stdout, stderr }: Outcome): string {
  if (status !== 0) throw new Error(`${what} ended with ${status}:\n${stdout}\n${stderr}`)
  return stdout
}

/** The files under a folder, as paths from it with slashes. */
export function filesUnder(folder: string): string[] {
  return fs
    .readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)).split(path.sep).join('/'))
    .sort()
}

/** The files of a pattern such as `docs/*.md`. */
function filesOf(pattern: string): string[] {
  const { dir, ext } = path.parse(pattern)
  const names = fs.readdirSync(path.join(root, dir)).filter((name) => path.extname(name) === ext)
  return names.map((name) => path.posix.join(dir, name))
}

/** prebuilds/ of this machine without CUDA, compiled by what `npm run prebuild` runs. */
export function prebuild(): string {
  succeeded('the prebuild', node(root, [path.join('scripts', 'prebuild.cjs'), '--out', work]))
  return path.join(work, 'prebuilds')
}

/** prebuilds/ with the binary that the suites run. */
export function prebuildOfTests(): string {
  const prebuilds = path.join(work, 'prebuilds')
  fs.rmSync(prebuilds, { recursive: true, force: true })
  const folder = path.join(prebuilds, `${process.platform}-${process.arch}`)
  fs.mkdirSync(folder, { recursive: true })
  const library = { linux: fs.existsSync('/etc/alpine-release') ? '.musl' : '.glibc' }[
    process.platform as string
  ]
  fs.copyFileSync(binaryFile().file, path.join(folder, `node.napi${library ?? ''}.node`))
  return prebuilds
}

/** The tarball of this repository with other prebuilds than it may hold. */
export function pack(prebuilds: string): { tarball: string; files: string[] } {
  const stage = path.join(work, 'package')
  fs.rmSync(stage, { recursive: true, force: true })
  const published = manifest.files.filter((name: string) => name !== 'prebuilds')
  for (const name of ['package.json', 'README.md', 'LICENSE', ...published])
    for (const file of name.includes('*') ? filesOf(name) : [name])
      fs.cpSync(path.join(root, file), path.join(stage, file), { recursive: true })
  fs.cpSync(prebuilds, path.join(stage, 'prebuilds'), { recursive: true })
  // npm must leave this out by `files`, were it there.
  for (const name of ['test', 'lib', 'scripts'])
    fs.cpSync(path.join(root, name), path.join(stage, name), { recursive: true })
  return packFolders(stage)[0] as { tarball: string; files: string[] }
}

/** Packs folders of packages, each into a tarball of its own. */
function packFolders(...folders: string[]): { tarball: string; files: string[] }[] {
  const options = ['--json', '--ignore-scripts', '--pack-destination', work]
  const packed = JSON.parse(succeeded('npm pack', npm(root, 'pack', ...options, ...folders)))
  return packed.map(({ filename, files }: { filename: string; files: { path: string }[] }) => ({
    tarball: path.join(work, filename),
    files: files.map((file) => file.path).sort(),
  }))
}

/** The folders in node_modules of every package that ours needs to run, and that those need, and so on. */
function runtimeFolders(): string[] {
  const folders = new Set<string>()
  const visit = (from: string, names: string[]) => {
    for (const name of names) {
      const nested = path.join(from, 'node_modules', name)
      if (from !== root && fs.existsSync(nested))
        throw new Error(`Expected one version of ${name} but received another in ${nested}`)
      const folder = path.join(root, 'node_modules', name)
      if (folders.has(folder)) continue
      folders.add(folder)
      const { dependencies = {} } = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'))
      visit(folder, Object.keys(dependencies))
    }
  }
  visit(root, Object.keys(manifest.dependencies))
  return [...folders]
}

let packedRuntime: string[] | undefined

/** Tarballs of all packages that ours needs to run. */
export function runtimeTarballs(): string[] {
  packedRuntime ??= packFolders(...runtimeFolders()).map((packed) => packed.tarball)
  return packedRuntime
}

/**
 * A project that has installed the tarball. All packages that it needs are packed from this repository's node_modules and
 * named to npm, which asks neither a registry nor its cache for what it was given. Outside the repository, where nothing
 * else is found.
 */
export function install(tarball: string, ...options: string[]) {
  const folder = fs.mkdtempSync(path.join(fs.realpathSync(os.tmpdir()), 'margin-softmax-'))
  process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
  fs.writeFileSync(path.join(folder, 'package.json'), '{ "name": "empty", "private": true }')
  const common = ['--offline', '--no-audit', '--no-fund', ...options]
  const outcome = npm(folder, 'install', ...common, ...runtimeTarballs(), tarball)
  succeeded('npm install', outcome)
  return { folder, installed: path.join(folder, 'node_modules', manifest.name), said: outcome }
}
