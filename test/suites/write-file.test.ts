// Files are replaced while others have them open, by names of every kind. test/suites/special-files.test.ts has pipes,
// links and modes.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { replaceText } from '../../lib/internal/write-file'
import { cli } from '../support/cli-support'
import { loadHead, refused, saveHead } from '../support/saved-heads'

const test = suite('write file')
const onWindows = process.platform === 'win32'
let folder = ''
test.before.each(() => {
  folder = fs.mkdtempSync(path.join(fs.realpathSync(os.tmpdir()), 'margin-softmax-write-'))
})
test.after.each(() => fs.rmSync(folder, { recursive: true, force: true }))
const at = (name: string) => path.join(folder, name)

/** Runs `body` while the system seems to be Windows and refuses to rename so many times; returns how often it was asked. */
async function refusing(times: number, code: string, body: () => Promise<void>): Promise<number> {
  const { rename } = fs.promises
  const platform = Object.getOwnPropertyDescriptor(process, 'platform') as PropertyDescriptor
  let asked = 0
  Object.defineProperty(process, 'platform', { ...platform, value: 'win32' })
  fs.promises.rename = async (from, to) => {
    if (++asked > times) return rename(from, to)
    throw Object.assign(new Error(`${code}: refused`), { code })
  }
  try {
    await body()
  } finally {
    fs.promises.rename = rename
    Object.defineProperty(process, 'platform', platform)
  }
  return asked
}

for (const code of ['EPERM', 'EACCES', 'EBUSY'])
  test(`a file that Windows does not replace yet, for ${code}, is replaced a little later`, async () => {
    await replaceText(at('file'), 'old')
    assert.is(await refusing(3, code, () => replaceText(at('file'), 'new')), 4)
    assert.is(fs.readFileSync(at('file'), 'utf8'), 'new')
  })

test('another error of the rename is no reason to wait', async () => {
  assert.is(
    await refusing(1, 'ENOSPC', () => refused(replaceText(at('file'), 'new'), /Expected to write .* ENOSPC/)),
    1
  )
  assert.equal(fs.readdirSync(folder), [])
})

test('a file that is never free: the save fails by name, the old file stays, nothing is left beside it', async () => {
  await replaceText(at('file'), 'old')
  const asked = await refusing(Number.POSITIVE_INFINITY, 'EBUSY', () =>
    refused(replaceText(at('file'), 'new'), /Expected to write .* EBUSY/)
  )
  assert.ok(asked > 5 && asked < 20, `${asked} times`)
  assert.is(fs.readFileSync(at('file'), 'utf8'), 'old')
  assert.equal(fs.readdirSync(folder), ['file'])
})

test('a save over a file that someone has open ends once it is closed', async () => {
  await saveHead(at('head.safetensors'), 1)
  const reader = await fs.promises.open(at('head.safetensors'))
  const saving = saveHead(at('head.safetensors'), 2)
  await new Promise((resolve) => setTimeout(resolve, 300))
  await reader.close()
  await saving
  assert.is(await loadHead(at('head.safetensors')), 2)
})

test('saves and loads of one file at once: each load sees a whole head', async () => {
  const file = at('head.safetensors')
  await saveHead(file, 0)
  const saves = Array.from({ length: 10 }, (_, seed) => saveHead(file, seed))
  const loads = Array.from({ length: 10 }, () => loadHead(file)) // which compares every value
  await Promise.all([...saves, ...loads])
  assert.equal(fs.readdirSync(folder), ['head.safetensors'])
})

test('names may have any letters, and paths more than 260 of them', async () => {
  const words = ['Mein Projekt ü', '図 образ', 'a'.repeat(100), 'b'.repeat(100), 'c'.repeat(100)]
  const deep = path.join(folder, ...words)
  fs.mkdirSync(deep, { recursive: true })
  const file = path.join(deep, 'Köpfe 頭.safetensors')
  assert.ok(file.length > 350)
  await saveHead(file, 3)
  assert.is(await loadHead(file), 3)
  const { code, stdout, stderr } = await cli(['inspect', file])
  assert.is(code, 0, stderr)
  assert.match(stdout, /Köpfe 頭/)
})

test('a folder is said to be one by whoever reads or writes', async () => {
  const said = /it is a folder, not a regular file/
  await refused(loadHead(folder), said)
  await refused(saveHead(folder, 1), said)
  const { code, stderr } = await cli(['inspect', folder])
  assert.is(code, 1)
  assert.match(stderr, said)
})

if (onWindows)
  test('a file that stays open is not replaced, and the save says so after some seconds', async () => {
    await saveHead(at('head.safetensors'), 1)
    const reader = await fs.promises.open(at('head.safetensors'))
    await refused(saveHead(at('head.safetensors'), 2), /Expected to write .* but: E(PERM|ACCES|BUSY)/)
    await reader.close()
    assert.is(await loadHead(at('head.safetensors')), 1)
    assert.equal(fs.readdirSync(folder), ['head.safetensors'])
  })

test.run()
