// The command line as a child process, and files for it.
import { type ChildProcess, type ChildProcessByStdio, spawn, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import type { Readable } from 'node:stream'
import { quickFolder } from './support'

const root = path.join(__dirname, '../..')
const built = path.join(root, 'dist', 'cli', 'main.js')

/** Names the program that node runs: the compiled one, which starts six times as fast, unless a source is newer. */
export const program = isUpToDate()
  ? [built]
  : ['--import', `file://${require.resolve('tsx')}`, path.join(root, 'lib', 'cli', 'main.ts')]

function isUpToDate(): boolean {
  const sources = fs.readdirSync(path.join(root, 'lib'), { recursive: true, withFileTypes: true })
  const age = fs.statSync(built, { throwIfNoEntry: false })?.mtimeMs ?? 0
  return sources.every((file) => fs.statSync(path.join(file.parentPath, file.name)).mtimeMs < age)
}

export interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

export interface RunOptions {
  cwd?: string
  env?: Record<string, string>
  /** Called once the process runs. */
  whileRunning?: (child: ChildProcess) => void
}

export function cli(args: string[], { cwd = root, env = {}, whileRunning }: RunOptions = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(
      process.execPath,
      [...(noSignals ? ['--import', receiver] : []), ...program, ...args],
      {
        cwd,
        env: { ...process.env, MARGIN_SOFTMAX_DEVICE: 'cpu', ...env },
        stdio: ['ignore', 'pipe', 'pipe', ...(noSignals ? (['ipc'] as const) : [])],
      }
    ) as ChildProcessByStdio<null, Readable, Readable>
    let [stdout, stderr] = ['', '']
    child.stdout.on('data', (data) => {
      stdout += data
    })
    child.stderr.on('data', (data) => {
      stderr += data
    })
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, stdout, stderr }))
    whileRunning?.(child)
  })
}

/** Windows ends a process where others send it a signal: there a message brings the program what the console would. */
const noSignals = process.platform === 'win32'
const receiver = `data:text/javascript,${encodeURIComponent(`
  process.on('message', (signal) => process.emit(signal))
  process.channel?.unref()`)}`

/** Sends a program that `cli` started a signal. */
export function send(child: ChildProcess, signal: NodeJS.Signals): void {
  if (noSignals && signal !== 'SIGKILL') child.send(signal)
  else child.kill(signal)
}

const utilLinux = spawnSync('script', ['--version'], { encoding: 'utf8' }).stdout?.includes('util-linux')

/** The reason why there is no terminal for `inTerminal`, if there is none: other systems' `script` has other options. */
export const noTerminal = utilLinux ? undefined : 'no script of util-linux, which makes a terminal, is here'

export interface TerminalOptions extends Omit<RunOptions, 'whileRunning'> {
  columns?: number
  /** Keys that are pressed once the terminal has shown something. */
  press?: { keys: string; after: RegExp }
}

/** The command line in a terminal of its own: what that shows, with control sequences, and the exit code. */
export function inTerminal(
  args: string[],
  { cwd = root, env = {}, columns = 100, press }: TerminalOptions = {}
): Promise<{ code: number | null; shown: string }> {
  const quoted = [process.execPath, ...program, ...args].map((word) => `'${word}'`).join(' ')
  const command = `stty cols ${columns} rows 24; exec ${quoted}`
  return new Promise((resolve, reject) => {
    const child = spawn('script', ['-qec', command, '/dev/null'], {
      cwd,
      env: {
        ...process.env,
        MARGIN_SOFTMAX_DEVICE: 'cpu',
        SHELL: '/bin/sh',
        TERM: 'xterm',
        NO_COLOR: '',
        ...env,
      },
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    let shown = ''
    child.stdout.setEncoding('utf8').on('data', (data) => {
      shown += data
      if (!press?.after.test(shown)) return
      child.stdin.write(press.keys)
      press = undefined
    })
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, shown }))
  })
}

/** A folder that is there while `body` runs. */
export async function inFolder(body: (folder: string) => unknown): Promise<void> {
  const folder = fs.mkdtempSync(path.join(quickFolder, 'margin-softmax-cli-'))
  try {
    await body(folder)
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

/** A .npy file as NumPy writes it. */
export function npyBytes(type: string, shape: number[], values: ArrayBufferView, order = 'False'): Buffer {
  const tuple = `(${shape.join(', ')}${shape.length === 1 ? ',' : ''})`
  const text = `{'descr': '${type}', 'fortran_order': ${order}, 'shape': ${tuple}, }`
  const padded = text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11) // numbers begin at a multiple of 64
  const head = Buffer.from(`\x93NUMPY\x01\x00  ${padded}\n`, 'latin1')
  head.writeUInt16LE(padded.length + 1, 8)
  return Buffer.concat([head, Buffer.from(values.buffer, values.byteOffset, values.byteLength)])
}

export function writeNpy(
  file: string,
  type: string,
  shape: number[],
  values: ArrayBufferView,
  order?: string
): void {
  fs.writeFileSync(file, npyBytes(type, shape, values, order))
}

/** A safetensors file of any tensors. */
export function writeTensors(
  file: string,
  tensors: Record<string, { dtype: string; shape: number[]; values: ArrayBufferView }>,
  metadata: Record<string, string> = {}
): void {
  let end = 0
  const header: Record<string, object> = { __metadata__: metadata }
  for (const [name, { dtype, shape, values }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [end, end + values.byteLength] }
    end += values.byteLength
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const parts = Object.values(tensors).map(({ values }) =>
    Buffer.from(values.buffer, values.byteOffset, values.byteLength)
  )
  fs.writeFileSync(file, Buffer.concat([length, json, ...parts]))
}
