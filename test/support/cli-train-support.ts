// Rows around the directions of their classes, in files for `train`, and its runs.
import type { ChildProcess } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import * as assert from 'uvu/assert'
import { cli, type RunOptions, send, writeNpy } from './cli-support'
import { normals, random } from './support'

export const [rows, dim, classes] = [600, 16, 12]

export function writeData(folder: string, seed = 1, noise = 0.6): Float32Array {
  const next = random(seed)
  const centres = normals(next, classes * dim)
  const labels = Int32Array.from({ length: rows }, (_, i) => i % classes)
  const embeddings = normals(next, rows * dim).map(
    (x, i) => noise * x + (centres[(Math.floor(i / dim) % classes) * dim + (i % dim)] as number)
  )
  writeNpy(path.join(folder, 'e.npy'), '<f4', [rows, dim], embeddings)
  writeNpy(path.join(folder, 'l.npy'), '<i4', [rows], labels)
  return embeddings
}

export const common = [
  'train',
  '--embeddings',
  'e.npy',
  '--labels',
  'l.npy',
  '--scale',
  '16',
  '--batch',
  '50',
]

/** A run that ends well. @param args without the common ones, unless they begin with `train` */
export async function good(args: string[], options: RunOptions) {
  const ended = await cli(args[0] === 'train' ? args : [...common, ...args], options)
  assert.is(ended.code, 0, ended.stderr)
  return ended
}

export const read = (folder: string, name: string) => fs.readFileSync(path.join(folder, name))
export const logOf = (folder: string, name: string) =>
  JSON.parse(read(folder, `${name}.training.json`).toString())

/** Sends a signal as soon as there is a new checkpoint. */
export const signalAtCheckpoint =
  (folder: string, name: string, signal: NodeJS.Signals) => (child: ChildProcess) => {
    const file = path.join(folder, `${name}.checkpoint.safetensors`)
    const written = () => fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs
    const before = written()
    const timer = setInterval(() => {
      if (written() === before) return
      clearInterval(timer)
      send(child, signal)
    }, 5)
    child.on('close', () => clearInterval(timer))
  }
