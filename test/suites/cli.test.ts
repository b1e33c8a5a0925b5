// The command line as a whole: help, versions, exit codes, what goes where.
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Failure, needPackages, toInstall } from '../../lib/cli/terminal'
import { instructionSets, MarginHead } from '../../lib/index'
import { cli, inFolder, program, writeNpy, writeTensors } from '../support/cli-support'
import { throwsLike } from '../support/support'

const test = suite('command line')
const { version } = JSON.parse(fs.readFileSync(path.join(__dirname, '..', '..', 'package.json'), 'utf8'))
const commands = ['info', 'verify', 'identify', 'train', 'embed', 'inspect', 'bench', 'demo', 'build']

test('--version and --help', async () => {
  assert.equal(await cli(['--version']), { code: 0, stdout: `${version}\n`, stderr: '' })
  const { code, stdout } = await cli(['--help'])
  assert.is(code, 0)
  for (const word of [...commands, 'Examples:', 'Exit codes:']) assert.match(stdout, word)
})

for (const command of commands)
  test(`${command} --help has an example`, async () => {
    const { code, stdout, stderr } = await cli([command, '--help'])
    assert.is(code, 0)
    assert.match(stdout, new RegExp(`\\$ npx margin-softmax ${command}`))
    assert.is(stderr, '')
  })

const misuses: [string[], RegExp][] = [
  [[], /Usage: margin-softmax/],
  [['nothing'], /unknown command 'nothing'/],
  [['info', '--colour'], /unknown option '--colour'/],
  [['verify'], /Expected either --embeddings or --scores but received neither/],
  [['inspect'], /missing required argument 'file'/],
  [['train', '--embeddings', 'a.npy', '--out', 'a.safetensors', '--epochs', '0'], /integer of at least 1/],
  [
    ['train', '--embeddings', 'a.npy', '--out', 'a.safetensors', '--validation', '2'],
    /number from 0 to 0\.9/,
  ],
  [
    ['train', '--embeddings', 'a.npy', '--out', 'a.safetensors', '--loss', 'hinge'],
    /Allowed choices are arcface/,
  ],
  [
    ['train', '--embeddings', 'a.npy', '--out', 'a.safetensors', '--sample-rate', '0'],
    /number above 0, at most 1/,
  ],
  [['train', '--embeddings', 'a.npy', '--out', 'a.safetensors', '--scale', '0'], /number above 0\./],
  [['train', '--embeddings', 'a.npy', '--out', 'a.safetensors', '--m3', 'x'], /a number such as -0\.5/],
  [
    ['train', '--embeddings', 'a.npy', '--out', 'a.safetensors', '--precision', 'half'],
    /Allowed choices are float32, tf32, bfloat16/,
  ],
  [
    ['train', '--embeddings', 'a.npy', '--out', 'a.bin'],
    /ends in \.safetensors for --out but received a\.bin/,
  ],
  [
    ['train', '--embeddings', 'package.json', '--out', 'a.safetensors'],
    /Expected --labels beside package\.json/,
  ],
  [['verify', '--embeddings', 'a.npy'], /Expected --labels, --pairs or --same beside a\.npy/],
  [
    ['verify', '--embeddings', 'a.npy', '--labels', 'b', '--pairs', 'c'],
    /either --labels or a list of pairs/,
  ],
  [['verify', '--embeddings', 'a.npy', '--labels', 'b.npy', '--folds', '3'], /no --folds without a list/],
  [['demo', '--held-out', '3'], /two different digits/],
]
for (const [args, pattern] of misuses)
  test(`misuse is 2: ${args.join(' ')}`, async () => {
    const { code, stdout, stderr } = await cli(args)
    assert.is(code, 2, stderr)
    assert.is(stdout, '')
    assert.match(stderr, pattern)
  })

test('asking for help or the version is no misuse', async () => {
  const help = (await cli(['train', '--help'])).stdout
  assert.equal(await cli(['help', 'train']), { code: 0, stdout: help, stderr: '' })
  assert.is((await cli(['help'])).code, 0)
  assert.equal(await cli(['-v']), { code: 0, stdout: `${version}\n`, stderr: '' })
})

test('help fits into 80 columns, but for what is to be typed', async () => {
  for (const command of commands) {
    const { stdout } = await cli([command, '--help'])
    const long = stdout.split('\n').filter((line) => line.length > 80 && !/^ {2}\$ /.test(line))
    assert.equal(long, [], command)
  }
})

const onFull = fs.existsSync('/dev/full') ? test : test.skip // Linux has it
onFull('an output that cannot be written is one line and 1', async () => {
  const full = fs.openSync('/dev/full', 'w')
  const child = spawn(process.execPath, [...program, '--help'], { stdio: ['ignore', full, 'pipe'] })
  let stderr = ''
  child.stderr?.on('data', (data) => {
    stderr += data
  })
  assert.is(await new Promise((resolve) => child.on('close', resolve)), 1)
  assert.match(stderr, /^margin-softmax: Expected to write the output but: ENOSPC[^\n]*\n$/)
  fs.closeSync(full)
})

test('a failure is 1, with one line on stderr and nothing on stdout', async () => {
  for (const args of [
    ['verify', '--embeddings', 'nix.npy', '--labels', 'nix.npy'],
    ['inspect', 'nix.safetensors'],
  ]) {
    const { code, stdout, stderr } = await cli(args)
    assert.is(code, 1)
    assert.is(stdout, '')
    assert.match(stderr, /^margin-softmax: Expected .* in nix\.\w+ but: ENOENT[^\n]*\n$/)
  }
})

test('info tells what runs here', async () => {
  const { code, stdout, stderr } = await cli(['info', '--json'])
  assert.is(code, 0)
  assert.is(stderr, '')
  const info = JSON.parse(stdout)
  assert.is(info.version, version)
  assert.is(info.node, process.version)
  assert.ok(fs.existsSync(info.binary.file))
  assert.equal(info.instructionSets, instructionSets())
  assert.is(typeof info.bfloat16.fast, 'boolean')
  assert.ok(info.threads >= 1)
  assert.is(info.devices[0].device, 'cpu')
  const text = (await cli(['info'], { env: { MARGIN_SOFTMAX_THREADS: '3' } })).stdout
  assert.match(text, `margin-softmax ${version}`)
  assert.match(text, new RegExp(`bfloat16 +${info.bfloat16.instructionSet}: `))
  assert.match(text, /Threads +3 \(MARGIN_SOFTMAX_THREADS\)/)
  assert.not(text.includes('\x1b'))
})

test('info tells of wrong settings in the environment', async () => {
  const said = async (env: Record<string, string>) =>
    JSON.parse((await cli(['info', '--json'], { env })).stdout).missing[0]
  assert.match(
    await said({ MARGIN_SOFTMAX_THREADS: 'two' }),
    /from 1 to 1023 for MARGIN_SOFTMAX_THREADS but received "two"/
  )
  assert.match(await said({ MARGIN_SOFTMAX_DEVICE: 'gpu' }), /for device but received "gpu"/)
})

test('without a binary verify says so', async () => {
  const env = { MARGIN_SOFTMAX_BINARY: path.join(__dirname, '../none.node') }
  await inFolder(async (folder) => {
    writeNpy(path.join(folder, 'e.npy'), '<f4', [2, 1], Float32Array.of(1, 2))
    const { code, stderr } = await cli(['verify', '--embeddings', 'e.npy', '--labels', 'e.npy'], {
      cwd: folder,
      env,
    })
    assert.is(code, 1)
    assert.match(stderr, /^margin-softmax: Expected the path of a native binary/)
  })
})

test('info without a binary says what to do, and fails', async () => {
  const env = { MARGIN_SOFTMAX_BINARY: path.join(__dirname, '../none.node') }
  const { code, stdout } = await cli(['info', '--json'], { env })
  assert.is(code, 1)
  const info = JSON.parse(stdout)
  assert.is(info.binary, null)
  assert.match(info.missing[0], /MARGIN_SOFTMAX_BINARY but received/)
})

test('inspect a head, any safetensors file, and a damaged one', () =>
  inFolder(async (folder) => {
    const file = path.join(folder, 'head.safetensors')
    using head = await MarginHead.create({
      classes: 5,
      dim: 3,
      marginWarmupSteps: 7,
      classNames: [...'abcde'],
    })
    await head.step(Float32Array.of(1, 2, 3, 4, 5, 6), [0, 4])
    await head.save(file)
    const inspected = JSON.parse((await cli(['inspect', file, '--json'])).stdout)
    assert.is(inspected.head.classes, 5)
    assert.is(inspected.head.iteration, 1)
    assert.equal(inspected.head.classNames, [...'abcde'])
    const norms = Array.from({ length: 5 }, (_, j) =>
      Math.hypot(...head.weights().subarray(3 * j, 3 * j + 3))
    )
    assert.ok(Math.abs(inspected.head.norms.least - Math.min(...norms)) < 1e-12)
    assert.ok(Math.abs(inspected.head.norms.most - Math.max(...norms)) < 1e-12)
    const text = (await cli(['inspect', file])).stdout
    assert.match(text, /Classes +5 × 3 dimensions/)
    assert.match(text, /Names +"a", "b", "c", "d", "e"\n/)
    assert.match(text, /Margin +arcface\(\{ scale: 64, margin: 0\.5/)
    assert.match(text, /Progress +1 step\n/)
    assert.match(text, /weight +F32 +\[5, 3\]/)

    // A sharded head: two files and an index that names them.
    const { format, head: settings } = inspected.metadata
    const weights = head.weights()
    const shards = [
      { file: '1.safetensors', first: 0, count: 3 },
      { file: '2.safetensors', first: 3, count: 2 },
    ]
    for (const { file: name, ...run } of shards) {
      const values = weights.subarray(run.first * 3, (run.first + run.count) * 3)
      const tensor = { dtype: 'F32', shape: [run.count, 3], values }
      const tensors = { weight: tensor, 'optimizer.momentum': tensor }
      writeTensors(path.join(folder, name), tensors, { format, head: settings, shard: JSON.stringify(run) })
    }
    const index = path.join(folder, 'sharded')
    const contents = { format: 'margin-softmax sharded head 1', head: JSON.parse(settings), shards }
    fs.writeFileSync(index, JSON.stringify(contents))
    const whole = JSON.parse((await cli(['inspect', index, '--json'])).stdout)
    const { classNames, ...nameless } = inspected.head
    assert.equal(whole.head, nameless)
    assert.is(whole.tensors.length, 4)
    assert.match((await cli(['inspect', path.join(folder, '2.safetensors')])).stdout, /weight +F32 +\[2, 3\]/)
    fs.rmSync(path.join(folder, '1.safetensors'))
    assert.is((await cli(['inspect', index])).code, 1)

    const other = path.join(folder, 'other.safetensors')
    writeTensors(other, { a: { dtype: 'F16', shape: [2, 2], values: new Uint16Array(4) } })
    assert.match((await cli(['inspect', other])).stdout, /a +F16 +\[2, 2\]/)

    const directory = await cli(['inspect', folder])
    assert.is(directory.code, 1)
    assert.match(
      directory.stderr,
      /^margin-softmax: Expected a whole safetensors file in .*it is a folder, not a regular file/
    )
    fs.truncateSync(file, fs.statSync(file).size - 4)
    const { code, stderr } = await cli(['inspect', file])
    assert.is(code, 1)
    assert.match(stderr, /^margin-softmax: Expected a whole safetensors file in .*cut short or damaged\n$/)
  }))

test('missing packages are named with the line that installs them', () => {
  needPackages(['vega', 'commander'], 'this test')
  throwsLike(
    () => needPackages(['vega', 'absent-one', 'absent-two'], 'this test'),
    Failure,
    /^Expected the packages absent-one, absent-two for this test but received none\. Install .*:\n {2}npm install absent-one absent-two$/
  )
  assert.match(toInstall('vega'), /^vega@\d+$/)
})

test('a reader that stops early is no failure', async () => {
  const child = spawn(process.execPath, [...program, '--help'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  child.stdout.destroy()
  const code = await new Promise((resolve) => child.on('close', resolve))
  assert.is(code, 0)
})

test('bench times every case', async () => {
  const { code, stdout, stderr } = await cli(['bench', '--json', '--threads', '2'])
  assert.is(code, 0, stderr)
  const { steps, verification, threads, rival } = JSON.parse(stdout)
  assert.is(threads, 2)
  assert.is(steps.length, 3)
  for (const step of steps) assert.ok(step.milliseconds > 0 && step.gigaflops > 0)
  if (rival) for (const step of steps) assert.ok(step.rivalMilliseconds > 0)
  assert.is(verification.pairs, (5000 * 4999) / 2)
})

test.run()
