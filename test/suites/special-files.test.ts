// Files that are no files, files that claim much, links, modes: nothing hangs, grows without bound or is lost, and what is
// wrong is said.
import { spawn, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { zipSync } from 'fflate'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { ProcessGroup } from '../../lib/distributed'
import { MarginHead, MarginSoftmaxError } from '../../lib/index'
import { openHeadTogether } from '../../lib/internal/head-file'
import { beginSave, endSave, temporaryName } from '../../lib/internal/leftovers'
import { writeReport } from '../../lib/internal/write-file'
import { cli, npyBytes, program } from '../support/cli-support'
import { inProcessGroups } from '../support/in-process-group'
import { loadHead, refused, saveHead } from '../support/saved-heads'
import { rejectsLike } from '../support/support'

const test = suite('special files')
const onUnix = process.platform === 'win32' ? test.skip : test
const deadline = 60e3 // against waiting for ever; what is right takes milliseconds
let folder = ''
test.before.each(() => {
  folder = fs.mkdtempSync(path.join(fs.realpathSync(os.tmpdir()), 'margin-softmax-special-'))
})
test.after.each(() => fs.rmSync(folder, { recursive: true, force: true }))
const at = (name: string) => path.join(folder, name)

/** The command line, killed where it does not end. */
function run(args: string[], options: object = {}) {
  return spawnSync(process.execPath, [...program, ...args], {
    encoding: 'utf8',
    timeout: deadline,
    killSignal: 'SIGKILL',
    cwd: folder,
    env: { ...process.env, MARGIN_SOFTMAX_DEVICE: 'cpu' },
    maxBuffer: 2 ** 28,
    ...options,
  })
}

function fails(args: string[], pattern: RegExp): void {
  const { status, signal, stderr } = run(args)
  assert.is(signal, null, `${args.join(' ')} did not end`)
  assert.is(status, 1, stderr)
  assert.match(stderr, pattern)
}

/** An example of each kind of file that the commands read. */
const readers = (name: string): string[][] => [
  ['inspect', `${name}.safetensors`],
  ...['npy', 'npz', 'csv', 'safetensors'].map((ending) => [
    'verify',
    '--embeddings',
    `${name}.${ending}`,
    '--labels',
    'l.csv',
  ]),
  ['train', '--embeddings', `${name}.npy`, '--labels', 'l.csv', '--out', 'head.safetensors'],
]

function specials(name: string, make: (file: string) => void): void {
  for (const ending of ['npy', 'npz', 'csv', 'safetensors']) make(at(`${name}.${ending}`))
  fs.writeFileSync(at('l.csv'), 'x\ny\n')
}

onUnix('a pipe is refused by whoever reads or saves, and none waits for it', async () => {
  specials('pipe', (file) => assert.is(spawnSync('mkfifo', [file]).status, 0))
  for (const args of readers('pipe')) fails(args, /it is a pipe, not a regular file/)
  const pipe = at('pipe.safetensors')
  await refused(loadHead(pipe), /it is a pipe, not a regular file/)
  await refused(saveHead(pipe, 1), /^Expected to write .* but: it is a pipe, not a regular file$/)
  fails(['train', '--embeddings', 'l.csv', '--out', 'pipe.safetensors'], /for --out but: it is a pipe/)
  assert.ok(fs.statSync(pipe).isFIFO())
  fs.symlinkSync(pipe, at('link.safetensors'))
  await refused(loadHead(at('link.safetensors')), /it is a pipe/)
})

onUnix('a device is refused, also through a link', async () => {
  specials('zero', (file) => fs.symlinkSync('/dev/zero', file))
  for (const args of readers('zero')) fails(args, /it is a device, not a regular file/)
  await refused(loadHead('/dev/full'), /it is a device/)
  await refused(saveHead('/dev/full', 1), /it is a device/)
  assert.ok(fs.statSync('/dev/full').isCharacterDevice())
})

onUnix('a folder and a socket are refused', async () => {
  specials('folder', (file) => fs.mkdirSync(file))
  for (const args of readers('folder')) fails(args, /it is a folder, not a regular file/)
  await refused(loadHead(folder), /it is a folder/)
  await refused(saveHead(folder, 1), /it is a folder/)
  const server = net.createServer().listen(at('socket'))
  await new Promise((resolve) => server.on('listening', resolve))
  await refused(loadHead(at('socket')), /it is a socket/)
  await refused(saveHead(at('socket'), 1), /it is a socket/)
  await new Promise((resolve) => server.close(resolve))
})

onUnix('a save through links replaces what they lead to', async () => {
  fs.mkdirSync(at('real'))
  await saveHead(at('real/head'), 1)
  fs.symlinkSync('real/head', at('relative'))
  fs.symlinkSync(at('relative'), at('absolute'))
  fs.symlinkSync('real/new', at('dangling'))
  fs.symlinkSync('real', at('linked'))
  for (const [i, name] of ['relative', 'absolute', 'linked/head', 'linked/../real/head'].entries()) {
    await saveHead(at(name), i + 2)
    assert.is(await loadHead(at('real/head')), i + 2, name)
    assert.is(await loadHead(at(name)), i + 2, name)
  }
  await saveHead(at('dangling'), 9)
  assert.is(await loadHead(at('real/new')), 9)
  // So does a sharded head: the shards lie beside the index, not beside the link.
  await saveHead(at('relative'), 7, 2)
  assert.is(await loadHead(at('relative')), 7)
  assert.is(await loadHead(at('real/head')), 7)
  for (const name of ['relative', 'absolute', 'dangling', 'linked'])
    assert.ok(fs.lstatSync(at(name)).isSymbolicLink())
  assert.equal(fs.readdirSync(folder).sort(), ['absolute', 'dangling', 'linked', 'real', 'relative'])
  fs.symlinkSync(at('loop'), at('loop'))
  await refused(saveHead(at('loop'), 1), /ELOOP|more than 40 symbolic links/)
  await refused(loadHead(at('loop')), /ELOOP/)
  fs.symlinkSync('missing/head', at('nowhere'))
  await refused(saveHead(at('nowhere'), 1), /ENOENT/)
})

onUnix('the mode of the old file stays, and nobody else reads what is written meanwhile', async () => {
  for (const mode of [0o600, 0o640, 0o666, 0o444]) {
    fs.writeFileSync(at('head'), '')
    fs.chmodSync(at('head'), mode)
    await saveHead(at('head'), 1)
    assert.is(fs.statSync(at('head')).mode & 0o777, mode)
    await writeReport(at('head'), 'text')
    assert.is(fs.statSync(at('head')).mode & 0o777, mode)
    fs.rmSync(at('head'))
  }
  await saveHead(at('head'), 1)
  assert.is(fs.statSync(at('head')).mode & 0o777, 0o666 & ~process.umask())
  if (process.getuid?.() !== 0) return
  fs.chownSync(at('head'), 12345, 54321)
  await saveHead(at('head'), 2)
  const { uid, gid } = fs.statSync(at('head'))
  assert.equal([uid, gid], [12345, 54321])
})

onUnix('a link that was planted under the name of the temporary file is not followed', async () => {
  fs.writeFileSync(at('victim'), 'precious')
  const save = beginSave()
  endSave(save)
  const [, stem = '', count = ''] = /^(.*-)(\w+)$/.exec(save) ?? []
  const next = `${stem}${(Number.parseInt(count, 36) + 1).toString(36)}`
  fs.symlinkSync(at('victim'), temporaryName(at('head'), next))
  await saveHead(at('head'), 1)
  assert.is(fs.readFileSync(at('victim'), 'utf8'), 'precious')
  assert.is(await loadHead(at('head')), 1)
})

const faces = Array.from(
  { length: 40 },
  (_, i) => `p${i % 8},${[i, i * i, 7 - i].map((x) => Math.sin(x)).join()}\n`
)
const verify = ['verify', '--embeddings', 'e.csv', '--report']

onUnix('a report is written through what is no file, which stays what it is', async () => {
  fs.writeFileSync(at('e.csv'), faces.join(''))
  fails([...verify, '/dev/full'], /^margin-softmax: Expected to write \/dev\/full but: ENOSPC/m)
  assert.ok(fs.statSync('/dev/full').isCharacterDevice())
  assert.is(run([...verify, '/dev/null']).status, 0)
  assert.ok(fs.statSync('/dev/null').isCharacterDevice())

  // stdout as a pipe, as a file, and as a file that goes on.
  const piped = run([...verify, '/dev/stdout'])
  assert.is(piped.status, 0, piped.stderr)
  assert.match(piped.stdout, /^<!doctype html>.*<\/html>.*Report: \/dev\/stdout\n$/s)
  fs.writeFileSync(at('out.html'), 'before\n')
  const out = fs.openSync(at('out.html'), 'a')
  assert.is(run([...verify, '/dev/stdout'], { stdio: ['ignore', out, 'pipe'] }).status, 0)
  fs.closeSync(out)
  assert.match(fs.readFileSync(at('out.html'), 'utf8'), /^before\n<!doctype html>.*<\/html>/s)

  // A pipe with a name: read, it is filled; unread, it is an error.
  assert.is(spawnSync('mkfifo', [at('pipe')]).status, 0)
  fails([...verify, 'pipe'], /ENXIO/)
  const reader = spawn(
    'sh',
    [
      '-c',
      `exec 3<>pipe; echo ready; sleep 1; cat <&3 > copy.html & sleep 1; while ! grep -q '</html>' copy.html; do sleep 0.1; done; kill $!`,
    ],
    { cwd: folder }
  )
  await new Promise((resolve) => reader.stdout.once('data', resolve))
  assert.is(run([...verify, 'pipe']).status, 0)
  await new Promise((resolve) => reader.on('close', resolve))
  assert.match(fs.readFileSync(at('copy.html'), 'utf8'), /^<!doctype html>.*<\/html>\n$/s)
  assert.ok(fs.statSync(at('pipe')).isFIFO())
})

const npy = (shape: number[], bytes = 16, type = '<f4') => npyBytes(type, shape, new Uint8Array(bytes))

test('a .npy file that claims more than it has is refused before memory is taken for it', () => {
  fs.writeFileSync(at('l.csv'), 'x\ny\n')
  for (const [shape, type] of [
    [[100_000, 10_000], '<f4'],
    [[100_000, 10_000], '<f8'],
    [[2 ** 32, 2 ** 32], '<f4'],
    [[2 ** 53 + 2, 2], '<f4'],
  ] as const) {
    fs.writeFileSync(at('a.npy'), npy([...shape], 16, type))
    fails(['verify', '--embeddings', 'a.npy', '--labels', 'l.csv'], /it ends too early/)
  }
  fs.writeFileSync(
    at('a.npy'),
    Buffer.concat([Buffer.from('\x93NUMPY\x02\x00\xff\xff\xff\x00', 'latin1'), Buffer.alloc(2 ** 17)])
  )
  fails(
    ['verify', '--embeddings', 'a.npy', '--labels', 'l.csv'],
    /its header has 16777227 bytes, above the limit of 65536/
  )
})

test('an .npz is unpacked no further than its arrays say', async () => {
  const zip = (embeddings: Buffer) =>
    Buffer.from(
      zipSync(
        { 'embeddings.npy': new Uint8Array(embeddings), 'labels.npy': new Uint8Array(npy([4])) },
        { level: 9 }
      )
    )
  const verifies = ['verify', '--embeddings', 'a.npz']
  fs.writeFileSync(at('a.npz'), zip(Buffer.concat([npy([4, 4], 64), Buffer.alloc(2 ** 26)])))
  assert.ok(fs.statSync(at('a.npz')).size < 1e5)
  fails(verifies, /its embeddings unpacks to \d{8} bytes, not to 192 as its shape \[4,4\] says/)
  // The directory's claims: the size, the checksum, the place.
  const whole = zip(npy([4, 4], 64))
  const entry = whole.indexOf('PK\x01\x02', 0, 'latin1')
  for (const [field, value, pattern] of [
    [24, 0xfffffff0, /expected 4294967280\. got only 192/],
    [24, 192 - 64, /expected 128\. got at least 192/],
    [16, 1, /does not have the checksum that it should/],
    [42, 1, /invalid local file header signature/],
    [20, 0x7fffffff, /overflows file bounds/],
  ] as const) {
    const lying = Buffer.from(whole)
    lying.writeUInt32LE(value, entry + field)
    fs.writeFileSync(at('a.npz'), lying)
    fails(verifies, pattern)
  }
  const damaged = Buffer.from(whole)
  damaged.fill(0xff, 60, 90)
  fs.writeFileSync(at('a.npz'), damaged)
  fails(verifies, /^margin-softmax: Expected embeddings in a\.npz but: /)
})

test('limits name themselves: a line, a header', async () => {
  fs.writeFileSync(at('a.csv'), `1,2\n${'1,'.repeat(2 ** 23)}1\n`)
  fails(
    ['verify', '--embeddings', 'a.csv', '--labels', 'a.csv'],
    /line 2 is longer than the limit of 16777216 bytes/
  )
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(100_000_001n)
  fs.writeFileSync(at('a.safetensors'), length)
  fs.truncateSync(at('a.safetensors'), 2 ** 27)
  const pattern = /its header has 100000001 bytes, above the format's limit of 100000000/
  await refused(loadHead(at('a.safetensors')), pattern)
  fails(['inspect', 'a.safetensors'], pattern)
})

function safetensors(name: string, header: object | string): void {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  fs.writeFileSync(at(name), Buffer.concat([length, json]))
}

const empty = { dtype: 'F32', shape: [0], data_offsets: [0, 0] }

test('300,000 tensors, or brackets within brackets, are read and told in bounds', () => {
  safetensors(
    'many.safetensors',
    Object.fromEntries(Array.from({ length: 300_000 }, (_, i) => [`t${i}`, empty]))
  )
  const { status, stdout, stderr } = run(['inspect', 'many.safetensors'])
  assert.is(status, 0, stderr)
  assert.ok(stdout.split('\n').length < 120, `${stdout.split('\n').length} lines`)
  assert.match(stdout, /and 299,900 more: --json names all/)
  const json = JSON.parse(run(['inspect', '--json', 'many.safetensors']).stdout)
  assert.is(json.tensors.length, 300_000)
  safetensors('deep.safetensors', `{"a":${'['.repeat(1e6)}${']'.repeat(1e6)}}`)
  fails(['inspect', 'deep.safetensors'], /its tensor a is an array, not an object/)
})

test('a sparse file of a head beyond all memory is refused at once', async () => {
  const count = Math.ceil(os.totalmem() / 400) + 1
  const bytes = count * 400
  const head = {
    classes: count,
    dim: 100,
    margin: { name: 'normface', scale: 30 },
    optimizer: { name: 'sgd' },
    iteration: 0,
  }
  safetensors('sparse', {
    __metadata__: { format: 'margin-softmax head 1', head: JSON.stringify(head) },
    weight: { dtype: 'F32', shape: [count, 100], data_offsets: [0, bytes] },
  })
  fs.truncateSync(at('sparse'), fs.statSync(at('sparse')).size + bytes)
  await rejectsLike(
    MarginHead.load(at('sparse'), { device: 'cpu' }),
    MarginSoftmaxError,
    new RegExp(`^Expected ${bytes} bytes of memory for the head but this process may use \\d+$`)
  )
})

test('nothing from a file steers the terminal', async () => {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: what must not come
  const control = /[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]/
  const bad = '\u001b]0;owned\u0007\u001b[31m\u009b2J\u202e\rred'
  safetensors('a.safetensors', { [bad]: empty, __metadata__: { note: bad, [bad]: 'x' } })
  fs.writeFileSync(at('bad.csv'), `x,1,2\ny,${bad},2\n`)
  for (const args of [
    ['inspect', 'a.safetensors'],
    ['inspect', '--json', 'a.safetensors'],
    ['inspect', `no ${bad}`],
    ['verify', '--embeddings', 'a.safetensors:x', '--labels', 'bad.csv'],
    ['verify', '--embeddings', 'bad.csv'],
    [bad],
  ]) {
    const { status, stdout, stderr } = run(args)
    assert.ok([0, 1, 2].includes(status as number), stderr)
    assert.not.match(stdout, control, args.join(' '))
    assert.not.match(stderr, control, args.join(' '))
    if (args[0] === 'inspect') assert.match(stdout + stderr, /owned|\\u001b|u001b/)
  }
  assert.is(JSON.parse(run(['inspect', '--json', 'a.safetensors']).stdout).metadata.note, bad)
})

test('inspect says whether checksums are right, and what saves left', async () => {
  await saveHead(at('head'), 1)
  const save = beginSave()
  fs.writeFileSync(temporaryName(at('head'), save), 'xxxx')
  fs.writeFileSync(at('head.00000000-1-1-00000000-1.tmp'), 'x')
  endSave(save)
  const dead = temporaryName('head', save.replace(/^(\w+)-\w+-/, '$1-zzzzz-'))
  fs.writeFileSync(at(dead), 'x')
  const { stdout } = await cli(['inspect', at('head')])
  assert.match(stdout, /^Checksums +right$/m)
  assert.match(stdout, new RegExp(`${dead}, 0\\.0 KiB: the next save of this path removes it`))
  assert.match(stdout, /head\.00000000-1-1-00000000-1\.tmp, 0\.0 KiB: of another machine, container or boot/)
  const json = JSON.parse((await cli(['inspect', '--json', at('head')])).stdout)
  assert.is(json.checksums, true)
  assert.is(json.leftovers.length, 3)
  const bytes = fs.readFileSync(at('head'))
  bytes[bytes.length - 1] = (bytes[bytes.length - 1] as number) ^ 1
  fs.writeFileSync(at('head'), bytes)
  fails(['inspect', 'head'], /its optimizer\.momentum does not have the checksum that it should/)
})

test('where one rank cannot open a head, every rank is told, and none keeps a file open', async () => {
  await saveHead(at('head'), 1)
  const open = () => (fs.existsSync('/proc/self/fd') ? fs.readdirSync('/proc/self/fd').length : 0)
  const before = open()
  const [first, second] = inProcessGroups(2) as [ProcessGroup, ProcessGroup]
  await Promise.all([
    rejectsLike(
      openHeadTogether(at('head'), first),
      MarginSoftmaxError,
      /every rank to open the file but rank 1 failed/
    ),
    refused(openHeadTogether(at('none'), second), /ENOENT/),
  ])
  assert.is(open(), before)
})

test.run()
