// An option is one row of a table and one property with its doc comment: nothing else needs to know it.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { settingOptions } from '../../lib/cli/train/options'
import { type HeadRow, settingNames, settingRows } from '../../lib/internal/head-options'
import { headOptions } from '../../lib/internal/head-start'
import { binaryFile } from '../../lib/internal/native-file'
import { lossOptions } from '../../lib/loss'
import { crossEntropyOptions } from '../../lib/probability'

const test = suite('options')
const root = path.join(__dirname, '../..')
const read = (...names: string[]) => fs.readFileSync(path.join(root, ...names), 'utf8')

/** In a copy of lib/ that has one row and one property more. */
const child = `
const assert = require('node:assert')
const fs = require('node:fs')
const { spawnSync } = require('node:child_process')
const { MarginHead, marginLossSync } = require('./lib/index.ts')
const saved = async (head) => {
  await head.save('head.safetensors')
  const bytes = fs.readFileSync('head.safetensors')
  const { __metadata__ } = JSON.parse(bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE())))
  return JSON.parse(__metadata__.head).focusOfStep
}
const command = (...words) => spawnSync(process.execPath, ['--import', 'tsx', 'lib/cli/main.ts', ...words], { encoding: 'utf8' })
const of = { classes: 3, dim: 2, device: 'cpu' }
;(async () => {
  await assert.rejects(MarginHead.create({ ...of, focusOfStep: '1' }), /^TypeError: Expected a number for focusOfStep but received/)
  await assert.rejects(MarginHead.create({ ...of, focusOfStep: 3 }), /^RangeError: Expected a number from 0 to 2 for focusOfStep/)
  await assert.rejects(MarginHead.create({ ...of, focusOfStep: null }), /for focusOfStep/)
  const head = await MarginHead.create(of)
  assert.strictEqual(await saved(head), 0.5)
  await head.set({ focusOfStep: 0.25 })
  await assert.rejects(head.set({ focusOfStep: -1 }), /for focusOfStep/)
  assert.strictEqual(await saved(head), 0.25)
  assert.strictEqual(await saved(await MarginHead.load('head.safetensors', { device: 'cpu' })), 0.25)
  assert.strictEqual(await saved(await MarginHead.load('head.safetensors', { device: 'cpu', focusOfStep: 1.5 })), 1.5)
  await assert.rejects(MarginHead.load('head.safetensors', { focusOfStep: 9 }), /for focusOfStep/)
  const one = { input: new Float32Array(2), weight: new Float32Array(4), labels: [0], dim: 2 }
  assert.throws(() => marginLossSync(one, { focusOfStep: 1 }), /Expected only margin, .* for options but received "focusOfStep"/)
  assert.match(command('inspect', 'head.safetensors').stdout, /Options +focusOfStep 1\\.5/)
  const help = command('train', '--help').stdout
  assert.match(help, /--focus-of-step <number> +where a step looks \\(default: 0\\.5\\)/)
  const typed = command('train', '--embeddings', 'a.npy', '--out', 'b.safetensors', '--focus-of-step', '3')
  assert.match(typed.stderr, /Expected a number from 0 to 2/)
})()
`

test('a new option of a head is one row: checked, defaulted, saved, loaded, set, typed and shown', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-options-'))
  try {
    fs.cpSync(path.join(root, 'lib'), path.join(folder, 'lib'), { recursive: true })
    fs.symlinkSync(path.join(root, 'node_modules'), path.join(folder, 'node_modules'), 'junction')
    fs.copyFileSync(path.join(root, 'package.json'), path.join(folder, 'package.json'))
    const table = path.join(folder, 'lib/internal/head-options.ts')
    const text = fs.readFileSync(table, 'utf8')
    const row =
      "  focusOfStep: { ...numberRow(0.5, 0, 2), typed: { text: 'where a step looks', argument: 'number' } },\n"
    const changed = text.replace('  seed: seedRow,\n', (last) => row + last)
    assert.is.not(changed, text)
    fs.writeFileSync(table, changed)
    fs.writeFileSync(path.join(folder, 'child.cjs'), child)
    const { status, stderr } = spawnSync(process.execPath, ['--require', 'tsx/cjs', 'child.cjs'], {
      cwd: folder,
      encoding: 'utf8',
      env: { ...process.env, MARGIN_SOFTMAX_BINARY: binaryFile().file },
    })
    assert.is(status, 0, stderr)
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
})

/** In other places a setting's name occurs because something is done with its value. */
const uses: Record<string, string[]> = {
  marginWarmupSteps: ['cli/inspect.ts', 'demo/experiment.ts'],
  labelSmoothing: ['cli/inspect.ts', 'loss.ts', 'probability.ts'],
  ignoreIndex: [
    ...['internal/check.ts', 'internal/class-means.ts', 'internal/head-memory.ts'],
    ...['internal/head-requests.ts', 'loss.ts', 'probability.ts'],
  ],
  sampleRate: ['cli/inspect.ts'],
  sampleCorrection: ['cli/inspect.ts'],
  interclassFilter: ['cli/inspect.ts'],
  negligible: ['loss.ts'],
  maxGradientNorm: [],
  weightStorage: ['cli/inspect.ts', 'head.ts', 'internal/head-memory.ts', 'internal/head-settings.ts'],
}

test('the name of a setting is a row, a property, and else only where its value is used', () => {
  const generalWords = ['classes', 'dim', 'margin', 'bias', 'optimizer', 'projection', 'seed']
  assert.equal(settingNames.filter((name) => !generalWords.includes(name)).sort(), Object.keys(uses).sort())
  const files = fs
    .readdirSync(path.join(root, 'lib'), { recursive: true })
    .map((name) => String(name).split(path.sep).join('/'))
    .filter((name) => name.endsWith('.ts') && name !== 'internal/head-options.ts')
  for (const [name, expected] of Object.entries(uses)) {
    const found = files.filter((file) => {
      const code = read('lib', file)
        .replace(/\/\*[\s\S]*?\*\//g, '')
        .replace(/\/\/.*/g, '')
        .replace(new RegExp(`^  ${name}\\??: .*$`, 'gm'), '') // a property of a type, or a row
      return new RegExp(`\\b${name}\\b`).test(code)
    })
    assert.equal(found.filter((file) => !expected.includes(file)).sort(), [], name)
  }
})

/** Reads the defaults that the doc comments of an interface's properties name. */
function documentedDefaults(file: string, name: string): Map<string, string> {
  const text = read('lib', file)
  const begin = text.indexOf(`export interface ${name}`)
  const body = text.slice(begin, text.indexOf('\n}\n', begin))
  const defaults = new Map<string, string>()
  for (const [, comment = '', property = ''] of body.matchAll(/\/\*\*([\s\S]*?)\*\/\s+(\w+)\??:/g)) {
    const [, said] = /[Dd]efault(?: is)?:? (`[^`]+`|[−\w.-]*\w)/.exec(comment.replace(/\n\s*\*/g, '')) ?? []
    defaults.set(property, (said ?? '').replace(/[`']/g, '').replace('−', '-'))
  }
  return defaults
}

const spoken = (value: unknown) =>
  typeof value === 'object' ? `${(value as { name: string }).name}()` : String(value)

test('doc comments name the defaults of the table', () => {
  const documented = documentedDefaults('internal/head-settings.ts', 'MarginHeadOptions')
  assert.equal(
    [...documented.keys()].filter((name) => !headOptions.includes(name)),
    []
  )
  let seen = 0
  for (const [name, row] of settingRows as [string, HeadRow<unknown>][]) {
    if (row.default === undefined) continue
    assert.is(documented.get(name), spoken(row.default), name)
    seen++
  }
  assert.ok(seen > 10)
})

test('the guide to the command line has every option of train that stands for one of a head', () => {
  const guide = read('docs/command-line.md')
  for (const { option, at } of settingOptions)
    if (at[0]?.startsWith('head.')) assert.ok(guide.includes(`\`${option.long}\``), option.long)
})

test('no option is listed twice', () => {
  for (const list of [headOptions, lossOptions, crossEntropyOptions])
    assert.is(new Set(list).size, list.length)
})

test.run()
