// The reports in a browser: they fit a phone and a desk, in light and dark, and fetch and complain about nothing.
import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Browser, chromium } from 'playwright-core'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { page } from '../../lib/report/page'
import { cli, inFolder, writeNpy } from '../support/cli-support'
import { integer, lacking, normals, random, rejectsLike } from '../support/support'

const test = suite('reports')
const places = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
const executablePath = [process.env.CHROMIUM ?? '', ...places].find((file) => file && fs.existsSync(file))
/** A folder for pictures to look at: MARGIN_SOFTMAX_PICTURES=out npm test report */
const pictures = process.env.MARGIN_SOFTMAX_PICTURES

let browser: Browser | undefined
test.before(async () => {
  if (executablePath)
    browser = await chromium.launch({
      executablePath,
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    })
})
test.after(() => browser?.close())

interface Seen {
  /** Width of the whole page, in pixels. */
  wide: number
  /** Elements that stick out of it, but for boxes that scroll by themselves. */
  beyond: string[]
  paper: string
  images: number
}

/** Runs in the page. */
const seen = `({
  wide: document.documentElement.scrollWidth,
  beyond: [...document.querySelectorAll('main *')]
    .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && !element.closest('.scroll, pre, svg'))
    .map((element) => element.outerHTML.slice(0, 80)),
  paper: getComputedStyle(document.body).backgroundColor,
  images: document.querySelectorAll('svg[aria-label]').length,
})`

/** Loads a page once, and sees it in both colour schemes at each width. */
async function look(file: string, name: string, picture = true): Promise<void> {
  const tab = await (browser as Browser).newPage()
  const complaints: string[] = []
  const requests: string[] = []
  tab.on('console', (message) => complaints.push(message.text()))
  tab.on('pageerror', (error) => complaints.push(error.message))
  tab.on('request', (request) => requests.push(request.url()))
  const url = pathToFileURL(file).href
  try {
    await tab.goto(url)
    for (const colorScheme of ['light', 'dark'] as const)
      for (const width of [1200, 768, 390, 320]) {
        const what = `${name}, ${colorScheme}, ${width} pixels`
        await tab.emulateMedia({ colorScheme })
        await tab.setViewportSize({ width, height: 900 })
        const { wide, beyond, paper, images } = await tab.evaluate<Seen>(seen)
        if (pictures && picture) {
          fs.mkdirSync(pictures, { recursive: true })
          await tab.screenshot({
            path: path.join(pictures, `${name}-${colorScheme}-${width}.png`),
            fullPage: true,
          })
        }
        assert.is(wide, width, `${what}: it scrolls sideways`)
        assert.equal(beyond, [], what)
        assert.ok(images > 0, `${what}: no pictures`)
        const lightness = Number(/\d+/.exec(paper)?.[0])
        assert.ok(colorScheme === 'dark' ? lightness < 60 : lightness > 200, `${what}: the paper is ${paper}`)
      }
    assert.equal(complaints, [], name)
    assert.equal(requests, [url], name)
  } finally {
    await tab.close()
  }
}

if (!executablePath) {
  lacking(
    test,
    'no Chromium was found (CHROMIUM in the environment names one): the reports were not looked at'
  )
} else {
  const next = random(3)
  const [rows, dim, classes] = [600, 24, 30]
  const labels = Int32Array.from({ length: rows }, () => integer(next, 0, classes - 1))
  const centres = normals(next, classes * dim)
  const embeddings = normals(next, rows * dim).map(
    (x, i) => x + (centres[(labels[Math.floor(i / dim)] as number) * dim + (i % dim)] as number)
  )

  const wrong: [string, string, RegExp][] = [
    ['a box too wide', '<div style="width:2000px">x</div>', /scrolls sideways/],
    ['a picture from elsewhere', '<img src="https://example.invalid/x.png" alt="">', /./],
    ['a script that throws', '<script>throw new Error("no")</script>', /./],
    ['nothing to see', '', /no pictures/],
  ]
  for (const [name, body, pattern] of wrong)
    test(`this test would find ${name}`, () =>
      inFolder(async (folder) => {
        const file = path.join(folder, 'wrong.html')
        const svg = body ? '<svg aria-label="x"></svg>' : ''
        fs.writeFileSync(file, page('Wrong', `${body}${svg}`))
        await rejectsLike(look(file, 'wrong', false), Error, pattern)
      }))

  test('verify, all pairs and a list', () =>
    inFolder(async (folder) => {
      const long = `${'a-very-long-name-of-a-file-'.repeat(4)}.npy`
      writeNpy(path.join(folder, long), '<f4', [rows, dim], embeddings)
      writeNpy(path.join(folder, 'l.npy'), '<i4', [rows], labels)
      const pairs = Int32Array.from({ length: 3000 }, (_, i) =>
        i % 3 === 2 ? 0 : integer(next, 0, rows - 1)
      )
      for (let p = 0; p < 1000; p++)
        pairs[3 * p + 2] = Number(labels[pairs[3 * p] as number] === labels[pairs[3 * p + 1] as number])
      writeNpy(path.join(folder, 'p.npy'), '<i4', [1000, 3], pairs)
      for (const [name, ...args] of [
        ['verify', '--labels', 'l.npy'],
        ['verify-list', '--pairs', 'p.npy'],
      ] as [string, ...string[]][]) {
        const ended = await cli(['verify', '--embeddings', long, ...args, '--report', `out/${name}.html`], {
          cwd: folder,
        })
        assert.is(ended.code, 0, ended.stderr)
        assert.match(ended.stdout, `Report: out/${name}.html`)
        await look(path.join(folder, 'out', `${name}.html`), name)
      }
    }))

  test('identify, with unknown probes and pictures', () =>
    inFolder(async (folder) => {
      const dot =
        'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
      fs.writeFileSync(path.join(folder, 'dot.png'), Buffer.from(dot, 'base64'))
      const names = Array.from(labels, (label) => `a-long-name-of-somebody-without-any-space-${label}`)
      fs.writeFileSync(path.join(folder, 'names.csv'), `label\n${names.join('\n')}\n`)
      fs.writeFileSync(path.join(folder, 'pictures.csv'), `label\n${'dot.png\n'.repeat(rows)}`)
      writeNpy(path.join(folder, 'e.npy'), '<f4', [rows, dim], embeddings)
      const strangers = names.map((name, i) => (i % 3 === 0 ? 'somebody else' : name))
      fs.writeFileSync(path.join(folder, 'probes.csv'), `label\n${strangers.join('\n')}\n`)
      const files = ['--gallery', 'e.npy', '--gallery-labels', 'names.csv', '--probes', 'e.npy']
      const pictured = ['--gallery-pictures', 'pictures.csv', '--replicates', '30']
      const asked = ['--probe-labels', 'probes.csv', ...pictured, '--report', 'out/identify.html']
      const ended = await cli(['identify', ...files, ...asked], { cwd: folder })
      assert.is(ended.code, 0, ended.stderr)
      await look(path.join(folder, 'out', 'identify.html'), 'identify')
    }))

  test('train, with and without a validation', () =>
    inFolder(async (folder) => {
      writeNpy(path.join(folder, 'e.npy'), '<f4', [rows, dim], embeddings)
      writeNpy(path.join(folder, 'l.npy'), '<i4', [rows], labels)
      for (const [name, ...args] of [
        ['train', '--epochs', '12'],
        [
          'train-short',
          '--epochs',
          '1',
          '--validation',
          '0',
          '--loss',
          'softmax',
          '--label-smoothing',
          '0.1',
        ],
      ] as [string, ...string[]][]) {
        const data = ['--embeddings', 'e.npy', '--labels', 'l.npy', '--out', `${name}.safetensors`]
        const ended = await cli(['train', ...data, ...args, '--report', `out/${name}.html`], { cwd: folder })
        assert.is(ended.code, 0, ended.stderr)
        assert.match(ended.stdout, `out/${name}.html`)
        await look(path.join(folder, 'out', `${name}.html`), name)
      }
    }))

  test('the demo', () =>
    inFolder(async (folder) => {
      const args = ['--quick', '--loss', 'softmax', 'arcface', '--epochs', '1', '--out', 'demo.html']
      const ended = await cli(['demo', ...args], { cwd: folder })
      assert.is(ended.code, 0, ended.stderr)
      await look(path.join(folder, 'demo.html'), 'demo')
    }))
}

test.run()
