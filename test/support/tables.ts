// Tables in files, read as the commands read them.
import fs from 'node:fs'
import path from 'node:path'
import { type FileArray, readArray, readBoth, type TextOptions } from '../../lib/cli/data/files'
import { inFolder } from './cli-support'

/** A file that is there while `body` runs. */
export async function withTable(text: string | Buffer, body: (path: string) => Promise<void>): Promise<void> {
  await inFolder(async (folder) => {
    const file = path.join(folder, 'a.csv')
    fs.writeFileSync(file, text)
    await body(file)
  })
}

export type Kind = 'both' | 'numbers' | 'labels'
/** Embeddings, labels, or both of one file. */
export async function readAs(
  kind: Kind,
  path: string,
  options?: TextOptions,
  what = 'embeddings'
): Promise<{ embeddings?: FileArray; labels?: FileArray }> {
  if (kind === 'both') return readBoth({ path }, options)
  if (kind === 'labels') return { labels: await readArray({ path }, 'labels', 'labels', options) }
  return { embeddings: await readArray({ path }, what, 'numbers', options) }
}
