// Judges embeddings of people that no training has seen: do two of them show the same person?
//
//   node verification.mjs
import { verification } from 'margin-softmax'

const [people, photos, dim] = [200, 5, 32]
const rows = people * photos

// Stands for your embeddings [rows,dim] and the person of each row [rows].
const labels = Int32Array.from({ length: rows }, (_, row) => Math.floor(row / photos))
const embeddings = Float32Array.from({ length: rows * dim }, (_, i) => {
  const person = labels[Math.floor(i / dim)]
  return Math.sin((person + 1) * 12.9898 * ((i % dim) + 1)) + 1.5 * (Math.random() - 0.5)
})

// All pairs of rows: every figure is exact for them.
const all = await verification(embeddings, labels, { falseAcceptRates: [0.01, 0.001] })
console.log(`${all.pairs.same} pairs of one person, ${all.pairs.different} of two`)
console.log(
  `area under the ROC curve ${all.areaUnderCurve.toFixed(4)}, equal error rate ${all.equalErrorRate.toFixed(4)}`
)
for (const { limit, trueAcceptRate, threshold } of all.operatingPoints)
  console.log(
    `at most ${limit} false accepts: ${trueAcceptRate.toFixed(4)} true accepts, at a cosine of ${threshold.toFixed(3)}`
  )

// A list of pairs, as in Labeled Faces in the Wild: `pairs` has two rows for each, `same` the right answers.
const pairs = new Int32Array(2 * 1000)
const same = new Uint8Array(1000)
for (let i = 0; i < 1000; i++) {
  const first = Math.floor(Math.random() * rows)
  const second = i % 2 ? photos * labels[first] + ((first + 1) % photos) : Math.floor(Math.random() * rows)
  pairs.set([first, second], 2 * i)
  same[i] = labels[first] === labels[second] ? 1 : 0
}
const listed = await verification(embeddings, { pairs, same }, { dim, folds: 10 })
const { meanAccuracy, standardDeviation } = listed.folds
console.log(`accuracy over ten folds ${meanAccuracy.toFixed(4)} ± ${standardDeviation.toFixed(4)}`)
