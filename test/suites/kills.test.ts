// kill -9 at random moments of a program that saves, and of `train`: no checkpoint is lost, the training ends with the
// bits of one that was left alone, and nothing is left behind by the next save.
//
// $MARGIN_SOFTMAX_KILLS: how many of each, `20,3` unless given; $MARGIN_SOFTMAX_SEED repeats a run.
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { MarginHead } from '../../lib/index'
import { leftoversOf } from '../../lib/internal/leftovers'
import { program, writeNpy } from '../support/cli-support'
import { normals, numbersIn, random } from '../support/support'

const test = suite('kills')
const [saves = 20, trainings = 3] = numbersIn('MARGIN_SOFTMAX_KILLS')
const seed = Number(process.env.MARGIN_SOFTMAX_SEED ?? 1)
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-kills-'))
test.after(() => fs.rmSync(folder, { recursive: true, force: true }))

/** Runs node; `kill` is told of its process and says when it is to die. */
async function killed(args: string[], kill: (output: () => string) => Promise<unknown>, cwd = folder) {
  const child = spawn(process.execPath, args, {
    cwd,
    env: { ...process.env, MARGIN_SOFTMAX_DEVICE: 'cpu' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let [output, errors] = ['', '']
  child.stdout.on('data', (data) => {
    output += data
  })
  child.stderr.on('data', (data) => {
    errors += data
  })
  const ended = new Promise<{ code: number | null; signal: string | null }>((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal }))
  )
  await Promise.race([kill(() => output), ended])
  child.kill('SIGKILL')
  return { ...(await ended), output, errors }
}

test(`a program that saves is killed ${saves} times (seed ${seed})`, async () => {
  const next = random(seed)
  const file = path.join(folder, 'head.safetensors')
  const child = ['--require', 'tsx/cjs', path.join(__dirname, '../children/kills.child.ts'), file]
  let [number, during, left, done] = [1, 0, 0, 0]
  for (let kill = 0; kill < saves; kill++) {
    const from = number
    const { output, errors } = await killed(
      [...child, String(from)],
      async (said) => {
        while (!said()) await wait(1)
        await wait(next() * 150)
      },
      path.join(__dirname, '../..')
    )
    assert.match(output, /^begins/, errors)
    const begun = Number(
      output
        .match(/begins (\d+)/g)
        ?.at(-1)
        ?.slice(7)
    )
    const saved = Number(
      output
        .match(/saved (\d+)/g)
        ?.at(-1)
        ?.slice(6) ?? from - 1
    )
    if (begun > saved) during++
    done += saved - from + 1
    if (!fs.existsSync(file)) {
      assert.is(saved, 0, 'a checkpoint is lost')
      continue
    }
    left += (await leftoversOf(file)).length
    using head = await MarginHead.load(file)
    const weights = head.weights()
    number = weights[0] as number
    assert.ok(
      weights.every((weight) => weight === number),
      `torn: ${number} and others`
    )
    assert.ok(saved <= number && number <= begun, `${number} is there, ${saved} was saved and ${begun} begun`)
    await head.save(file)
    assert.equal(fs.readdirSync(folder), ['head.safetensors'], 'left after the next save')
    number++
  }
  console.log(
    `${saves} kills, ${during} during a save; ${done} saves, 0 lost; ${left} leftovers, all removed`
  )
  fs.rmSync(file, { force: true })
})

test(`a training is killed ${trainings} times and goes on (seed ${seed})`, async () => {
  const next = random(seed + 1)
  const [rows, dim, classes] = [3000, 32, 200]
  const labels = Int32Array.from({ length: rows }, (_, i) => i % classes)
  writeNpy(path.join(folder, 'e.npy'), '<f4', [rows, dim], normals(next, rows * dim))
  writeNpy(path.join(folder, 'l.npy'), '<i4', [rows], labels)
  const words = ['train', '--embeddings', 'e.npy', '--labels', 'l.npy', '--epochs', '10', '--batch', '64']
  const train = (name: string, ...more: string[]) => [
    ...program,
    ...words,
    '--checkpoint-steps',
    '5',
    '--threads',
    '1',
    '--out',
    `${name}.safetensors`,
    ...more,
  ]
  const has = (name: string) => fs.existsSync(path.join(folder, name))

  const begin = performance.now()
  const whole = await killed(train('whole'), () => new Promise(() => {}))
  assert.is(whole.code, 0, whole.errors)
  const lasts = performance.now() - begin
  const expected = fs.readFileSync(path.join(folder, 'whole.safetensors'))

  let [kills, resumed] = [0, 0]
  for (let training = 0; kills < trainings; training++) {
    const name = `t${training}`
    for (let left = Math.min(6, trainings - kills); ; ) {
      const more = has(`${name}.checkpoint.safetensors`)
        ? ['--resume']
        : has(`${name}.training.json`)
          ? ['--restart']
          : []
      if (more[0] === '--resume') resumed++
      const moment = left > 0 ? 0.2 * lasts + next() * 0.6 * lasts : undefined
      const { code, signal, errors } = await killed(train(name, ...more), () =>
        moment === undefined ? new Promise(() => {}) : wait(moment)
      )
      if (signal === 'SIGKILL') {
        kills++
        left--
        continue
      }
      assert.is(code, 0, errors)
      break
    }
    assert.ok(
      fs.readFileSync(path.join(folder, `${name}.safetensors`)).equals(expected),
      `${name}: other bits`
    )
    const files = fs.readdirSync(folder).filter((file) => file.startsWith(`${name}.`))
    assert.equal(files.sort(), [`${name}.safetensors`, `${name}.training.json`])
  }
  console.log(`${kills} kills of a training, resumed ${resumed} times: the same bits, nothing left`)
})

test.run()
