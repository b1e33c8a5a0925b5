// Trains a head on embeddings that are there already, saves it, loads it, and looks up the nearest classes.
//
//   node plain-loop.mjs
import { arcface, MarginHead, sgd } from 'margin-softmax'

const [classes, dim, rows, batch] = [50, 64, 2000, 100]

// Stands for your embeddings [rows,dim] and labels [rows]: a direction for each class, and noise.
const labels = Int32Array.from({ length: rows }, (_, row) => row % classes)
const embeddings = Float32Array.from({ length: rows * dim }, (_, i) => {
  const label = labels[Math.floor(i / dim)]
  return Math.sin(3 * (label + 1) * ((i % dim) + 1)) + 4 * (Math.random() - 0.5)
})

const head = await MarginHead.create({
  classes,
  dim,
  margin: arcface({ scale: 32, margin: 0.3 }),
  optimizer: sgd({ learningRate: 0.05, momentum: 0.9, weightDecay: 5e-4 }),
  marginWarmupSteps: 20, // the margin grows from 0 to 0.3
})

for (let epoch = 1; epoch <= 6; epoch++) {
  let sum = 0
  for (let first = 0; first < rows; first += batch) {
    const last = first + batch
    const { loss } = await head.step(
      embeddings.subarray(first * dim, last * dim),
      labels.subarray(first, last),
      { gradInput: false } // the embeddings are not trained, so their gradient is not needed
    )
    sum += loss
  }
  const { stats } = await head.evaluate(embeddings, labels)
  console.log(`epoch ${epoch}: loss ${((sum * batch) / rows).toFixed(3)}, accuracy ${stats.accuracy}`)
}

await head.save('head.safetensors')
head.dispose()

const trained = await MarginHead.load('head.safetensors')
const { indices, scores } = await trained.topK(embeddings.subarray(0, dim), 3)
console.log('row 0 belongs to class', labels[0], 'and is nearest to', indices, 'with cosines', scores)
trained.dispose()
