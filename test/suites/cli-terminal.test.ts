// A terminal is shown progress, which a pipe is spared.
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { cli, inFolder, inTerminal, noTerminal, writeNpy } from '../support/cli-support'
import { lacking, normals, random } from '../support/support'

const test = suite('terminal')
const [rows, dim, classes] = [2000, 16, 12]
const control = '\x1b'
/** One drawing of the bar: from the first column on, and what was there after it is cleared. */
const drawings = new RegExp(`${control}\\[1G(\\w+ [█░]+ (\\d+) % {2}[^${control}]*)${control}\\[0K`, 'g')
const ctrlC = '\x03'

function writeData(folder: string): void {
  const next = random(1)
  const labels = Int32Array.from({ length: rows }, (_, i) => i % classes)
  const centres = normals(next, classes * dim)
  const embeddings = normals(next, rows * dim).map(
    (x, i) => x + (centres[(Math.floor(i / dim) % classes) * dim + (i % dim)] as number)
  )
  writeNpy(path.join(folder, 'e.npy'), '<f4', [rows, dim], embeddings)
  writeNpy(path.join(folder, 'l.npy'), '<i4', [rows], labels)
}

const data = ['--embeddings', 'e.npy', '--labels', 'l.npy']
const long = [
  'train',
  ...data,
  '--out',
  'h.safetensors',
  '--batch',
  '50',
  '--patience',
  '0',
  '--epochs',
  '10000',
]

/** The terminal has its cursor and its wrapping of lines again, and no bar is left in the last line that had one. */
function isGivenBack(shown: string): void {
  assert.is(shown.lastIndexOf(`${control}[?7h`) > shown.lastIndexOf(`${control}[?7l`), true, shown)
  assert.is(shown.lastIndexOf(`${control}[?25h`) >= shown.lastIndexOf(`${control}[?25l`), true, shown)
  const afterTheBar = shown.slice(shown.lastIndexOf('░'))
  assert.match(afterTheBar, `${control}[2K`)
}

if (noTerminal) lacking(test, `the bar was not watched: ${noTerminal}`)
else {
  test('a bar is drawn and drawn again; Ctrl-C saves a checkpoint and gives the terminal back', () =>
    inFolder(async (folder) => {
      writeData(folder)
      const twice = new RegExp(`(?:${control}\\[1G[^${control}]*epoch \\d+[^]*){3}`)
      const { code, shown } = await inTerminal(long, { cwd: folder, press: { keys: ctrlC, after: twice } })
      assert.is(code, 130, shown)
      const bars = [...shown.matchAll(drawings)]
      assert.match(bars[0]?.[1] as string, /^Training ░{24} 0 % {2}$/)
      const said = bars.map(([, bar]) => bar as string).filter((bar) => bar.includes('epoch'))
      assert.ok(said.length >= 3 && new Set(said).size >= 3, shown)
      for (const bar of said)
        assert.match(
          bar,
          /^Training [█░]{24} \d+ % {2}epoch \d+ {2}loss \d+\.\d{3} {2}\d+\.\d % right {2}.* left$/
        )
      const epochs = said.map((bar) => Number(/epoch (\d+)/.exec(bar)?.[1]))
      assert.equal(
        epochs,
        [...epochs].sort((a, b) => a - b)
      )
      isGivenBack(shown)
      assert.match(shown, /2KInterrupted at step [\d,]+ of 360,000; saved\. Go on with --resume\.\r\n$/)
      const files = ['e.npy', 'h.checkpoint.safetensors', 'h.safetensors', 'h.training.json', 'l.npy']
      assert.equal(fs.readdirSync(folder).sort(), files)
      const step = Number(/step ([\d,]+)/.exec(shown)?.[1]?.replaceAll(',', ''))
      const { stdout } = await cli(['inspect', 'h.checkpoint.safetensors', '--json'], { cwd: folder })
      assert.is(JSON.parse(stdout).head.iteration, step)
    }))

  test('in a narrow terminal the bar keeps to its line, with the time that is left', () =>
    inFolder(async (folder) => {
      writeData(folder)
      const press = { keys: ctrlC, after: /left/ }
      const { shown } = await inTerminal(long, { cwd: folder, columns: 48, press })
      const bars = [...shown.matchAll(drawings)].map(([, bar]) => bar as string)
      for (const bar of bars) assert.ok(bar.length <= 48, bar)
      assert.match(bars.at(-1) as string, /left$/) // the epoch as well, where a short time leaves room
    }))

  test('after the bar come the results, with what emphasis the terminal is to have', () =>
    inFolder(async (folder) => {
      writeData(folder)
      for (const [env, emphasis] of [
        [{}, `${control}[2m`],
        [{ NO_COLOR: '1' }, ''],
        [{ TERM: 'dumb' }, ''],
      ] as [Record<string, string>, string][]) {
        const { code, shown } = await inTerminal(['verify', ...data], { cwd: folder, env })
        assert.is(code, 0, shown)
        assert.match(shown, 'Reading ')
        isGivenBack(shown)
        const result = shown.slice(shown.lastIndexOf(`${control}[2K`) + `${control}[2K`.length)
        assert.match(result, /^(Read [^\r\n]*\r?\n)?2,000 rows × 16: [\d,]+ pairs of one class/m)
        assert.is(result.includes(control), emphasis !== '', result)
        assert.match(result, `${emphasis}ROC AUC`)
      }
    }))
}

test('in a pipe there is neither bar nor colour, whatever the environment says of terminals', () =>
  inFolder(async (folder) => {
    writeData(folder)
    for (const args of [
      ['train', ...data, '--out', 'h.safetensors', '--epochs', '2'],
      ['verify', ...data],
    ]) {
      const { code, stdout, stderr } = await cli(args, {
        cwd: folder,
        env: { TERM: 'xterm', COLUMNS: '100' },
      })
      assert.is(code, 0, stderr)
      for (const sign of [control, '\r', '█', '░']) assert.not.match(stdout + stderr, sign)
    }
  }))

test.run()
