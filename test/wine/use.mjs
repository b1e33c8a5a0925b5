// scripts/test-wine.sh uses the installed package so: a head is trained, saved, loaded and goes on with the same bits;
// a job of several threads in Workers that come and go; a table of embeddings for the command line.
import assert from 'node:assert'
import fs from 'node:fs'
import { Worker } from 'node:worker_threads'
import { arcface, MarginHead, sgd, verification } from 'margin-softmax'

const [rows, dim, classes] = [240, 16, 12]
const labels = Int32Array.from({ length: rows }, (_, i) => i % classes)
const embeddings = Float32Array.from(
  { length: rows * dim },
  (_, i) => Math.sin(1 + (Math.floor(i / dim) % classes) * dim + (i % dim)) + 0.3 * Math.sin(7 * i)
)
const head = await MarginHead.create({
  classes,
  dim,
  margin: arcface({ margin: 0.3, scale: 16 }),
  optimizer: sgd({ learningRate: 0.1, momentum: 0.9 }),
  seed: 1,
})
const first = await head.step(embeddings, labels)
for (let i = 0; i < 20; i++) await head.step(embeddings, labels)
await head.save('head.safetensors')
const same = await MarginHead.load('head.safetensors')
const [one, two] = [await head.step(embeddings, labels), await same.step(embeddings, labels)]
assert.ok(one.loss < first.loss / 2, `${first.loss} became ${one.loss}`)
assert.strictEqual(one.loss, two.loss)
assert.deepStrictEqual(one.gradInput, two.gradInput)
const { areaUnderCurve: auc } = await verification(embeddings, labels)
assert.ok(auc > 0.9, `AUC ${auc}`)

const job = `require('margin-softmax').marginLoss(
  { input: new Float32Array(4096).fill(1), weight: new Float32Array(8192).fill(1), labels: new Int32Array(64), dim: 64 },
  { threads: 4 }
).then(() => process.exit(5))`
for (let i = 0; i < 3; i++)
  assert.strictEqual(await new Promise((end) => new Worker(job, { eval: true }).once('exit', end)), 5)

const row = (_, i) => [`class ${labels[i]}`, ...embeddings.subarray(i * dim, (i + 1) * dim)].join()
fs.writeFileSync('e.csv', `${Array.from({ length: rows }, row).join('\n')}\n`)
console.log(`one step to the other: ${first.loss} → ${one.loss}, AUC ${auc}`)
