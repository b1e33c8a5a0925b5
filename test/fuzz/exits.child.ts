// A process that ends in the middle of work: `exits.child.ts <way> <milliseconds> <classes> <number of the choices>`.
import os from 'node:os'
import path from 'node:path'
import { MarginHead, marginLoss } from '../../lib/index'

const [way, delay, classes, choices] = process.argv.slice(2) as [string, string, string, string]
const [saves, disposes] = [Number(choices) % 2 === 1, Number(choices) > 1]
const dim = 64

const ends: Record<string, () => unknown> = {
  exit: () => process.exit(7),
  exitCode: () => {
    process.exitCode = 7
  },
  throw: () => {
    throw new Error('thrown on purpose')
  },
  reject: () => Promise.reject(new Error('rejected on purpose')),
  SIGTERM: () => process.kill(process.pid, 'SIGTERM'),
  SIGKILL: () => process.kill(process.pid, 'SIGKILL'),
}

async function main(): Promise<void> {
  const input = new Float32Array(64 * dim).fill(1)
  const weight = new Float32Array(Number(classes) * dim).fill(1)
  for (let i = 0; i < 5; i++) marginLoss({ input, weight, labels: new Int32Array(64), dim }).catch(() => {})
  setTimeout(() => ends[way]?.(), Number(delay))
  const head = await MarginHead.create({ classes: 5000, dim })
  for (let i = 0; i < 9; i++) head.step(input, new Int32Array(64)).catch(() => {})
  if (saves)
    head.save(path.join(os.tmpdir(), `margin-softmax-exits-${process.ppid}.safetensors`)).catch(() => {})
  if (disposes) head.dispose()
}

main()
