// Every JavaScript block of the README runs, after the few lines that its reader is assumed to have.
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

const test = suite('readme')
const root = path.join(__dirname, '..')
const readme = fs.readFileSync(path.join(root, 'README.md'), 'utf8')
const blocks = [...readme.matchAll(/```js\n([\s\S]*?)```/g)].map((match) => match[1] as string)

const wave = (length: string) => `Float32Array.from({ length: ${length} }, (_, i) => Math.sin(i))`
/** By a word of the block: what stands before it in a program. */
const before: Record<string, string> = {
  'await marginLoss(': `const dim = 8, input = ${wave('16 * 8')}, weight = ${wave('10 * 8')}
    const labels = Int32Array.from({ length: 16 }, (_, i) => i % 10)`,
  'MarginHead.create(': `const embeddings = ${wave('16 * 128')}, labels = Int32Array.from({ length: 16 }, (_, i) => i)`,
  'devices()': '',
  'processGroup()': 'const gradients = new Float32Array(100)',
  'adapter(tf)': `import { MarginHead } from 'margin-softmax'
    await tf.setBackend('cpu')
    const head = await MarginHead.create({ classes: 4, dim: 3 })
    const network = tf.sequential({ layers: [tf.layers.dense({ units: 3, inputShape: [5] })] })
    const optimizer = tf.train.sgd(0.1), images = tf.ones([2, 5]), labels = [0, 1]`,
}

test('has a block for each thing that these tests know', () => {
  assert.is(blocks.length, Object.keys(before).length)
})

// Built where there is an MPI; CI has one.
const group = path.join(root, 'build/mpi/Release/margin_softmax_mpi.node')
const runs = (word: string) => word !== 'processGroup()' || process.env.CI || fs.existsSync(group)

for (const [word, lines] of Object.entries(before))
  (runs(word) ? test : test.skip)(`the block with ${word}`, () => {
    const block = blocks.find((text) => text.includes(word))
    assert.ok(block, `no block of the README has ${word}`)
    const folder = fs.mkdtempSync(path.join(root, 'build', 'readme-'))
    try {
      const file = path.join(folder, 'block.mjs')
      fs.writeFileSync(file, `${lines}\n${block}`)
      execFileSync(process.execPath, [file], { cwd: folder, encoding: 'utf8', stdio: 'pipe' })
    } finally {
      fs.rmSync(folder, { recursive: true })
    }
  })

test.run()
