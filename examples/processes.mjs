// Trains one head on several processes: each holds a share of the classes and brings a batch of its own. Needs Open MPI or
// MPICH, and once `npx margin-softmax build --distributed`.
//
//   mpirun -n 2 node processes.mjs
import { arcface, MarginHead, sgd } from 'margin-softmax'
import { processGroup } from 'margin-softmax/distributed'

const [classes, dim, batch, steps] = [10_000, 64, 64, 40]
const group = await processGroup() // without mpirun a group of one
const head = await MarginHead.create({
  classes, // of all processes together
  dim,
  margin: arcface({ scale: 32, margin: 0.2 }),
  optimizer: sgd({ learningRate: 0.1, momentum: 0.9 }),
  seed: 1, // the same options on every rank
  group,
})

// Stands for this rank's data: every rank brings other rows. Their labels may be any of the classes.
function batchOf(rows) {
  const labels = Int32Array.from({ length: rows }, () => 100 * Math.floor((Math.random() * classes) / 100))
  const embeddings = Float32Array.from({ length: rows * dim }, (_, i) => {
    const label = labels[Math.floor(i / dim)]
    return Math.sin((label + 1) * ((i % dim) + 1)) + Math.random() - 0.5
  })
  return { embeddings, labels }
}

for (let step = 1; step <= steps; step++) {
  const { embeddings, labels } = batchOf(batch)
  // `loss` and `stats` are those of all rows of all ranks; `gradInput` belongs to this rank's rows.
  const { loss, stats } = await head.step(embeddings, labels)
  if (group.rank === 0 && step % 10 === 0)
    console.log(`step ${step}: loss ${loss.toFixed(2)}, accuracy ${stats.accuracy.toFixed(3)}`)
}

await head.save('head.safetensors') // an index, and one file beside it for each rank
if (group.rank === 0) console.log(`${group.size} processes; rank 0 sent ${group.bytesSent} bytes`)
head.dispose()
