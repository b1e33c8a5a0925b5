// The package as npm would publish it, packed and installed into an empty project, without the network.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

export const root = path.join(__dirname, '..')
const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'))
/** On disk with the repository: what is compiled here is found again by the next run. */
export const work = path.join(root, 'build', 'install-test')

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

/** prebuilds/ of this machine without CUDA, compiled by what `npm run prebuild` runs. */
export function prebuild(): string {
  succeeded('the prebuild', node(root, [path.join('scripts', 'prebuild.cjs'), '--out', work]))
  return path.join(work, 'prebuilds')
}

/** The tarball of this repository with other prebuilds than it may hold. */
export function pack(prebuilds: string): { tarball: string; files: string[] } {
  const stage = path.join(work, 'package')
  fs.rmSync(stage, { recursive: true, force: true })
  for (const name of ['package.json', 'README.md', 'LICENSE', ...manifest.files])
    if (name !== 'prebuilds')
      fs.cpSync(path.join(root, name), path.join(stage, name), {
        recursive: true,
      })
  fs.cpSync(prebuilds, path.join(stage, 'prebuilds'), { recursive: true })
  // What npm must leave out by `files`, were it there.
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

let runtimeTarballs: string[] | undefined

/**
 * A project that has installed the tarball. All packages that it needs are packed from this repository's node_modules and
 * named to npm, which asks neither a registry nor its cache for what it was given. Outside the repository, where nothing
 * else is found.
 */
export function install(tarball: string, ...options: string[]) {
  const folder = fs.mkdtempSync(path.join(fs.realpathSync(os.tmpdir()), 'margin-softmax-'))
  process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
  fs.writeFileSync(path.join(folder, 'package.json'), '{ "name": "empty", "private": true }')
  runtimeTarballs ??= packFolders(...runtimeFolders()).map((packed) => packed.tarball)
  const common = ['--offline', '--no-audit', '--no-fund', ...options]
  const outcome = npm(folder, 'install', ...common, ...runtimeTarballs, tarball)
  succeeded('npm install', outcome)
  return { folder, installed: path.join(folder, 'node_modules', manifest.name), said: outcome }
}
