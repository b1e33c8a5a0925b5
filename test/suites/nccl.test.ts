// Sharded heads whose GPUs exchange by NCCL, on the shim and its double of the library: the bits of the path through the
// host, every reason not to use NCCL, and failures in the middle of a step. See nccl.child.ts.
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { cli } from '../support/cli-support'
import { shimBinary, shimRuns, useShim } from '../support/cuda'
import * as mpi from '../support/mpirun'
import { lacking } from '../support/support'

const test = suite('nccl')
const child = 'nccl.child.ts'

if (mpi.missing) {
  lacking(test, `there is ${mpi.missing}`)
} else if (!shimRuns) {
  test.skip('the shim runs on Linux', () => {})
} else {
  useShim()
  // The folder where the dynamic linker would find the real library.
  const folder = path.join(path.dirname(shimBinary()), '../test/simt/nccl')
  Object.assign(process.env, { LD_LIBRARY_PATH: folder, SIMT_DEVICES: '4', SIMT_THREADS: '1' })

  for (const ranks of [2, 4])
    test(`the bits of the path through the host, and a whole head within 1e-6, on ${ranks} ranks`, async () => {
      await mpi.works(child, ranks, 'equal', 'sampled', 'bytes', 'topK', 'notFinite')
    })

  test('a group of one exchanges nothing', async () => {
    const { ranks } = await mpi.works(child, 1, 'cpuOfOne')
    assert.match(ranks[0] as string, /^cpuOfOne by mpi: a group of one exchanges nothing$/m)
  })
  const obstacles = [
    ['withoutLibrary', /rank 1 found no NCCL: nowhere\.so: cannot open shared object file/],
    ['off', /rank 1 is not to use NCCL: MARGIN_SOFTMAX_NCCL is off/],
    ['otherLibrary', /rank 1 found no NCCL that could be used: libm\.so\.6 has no ncclGetVersion/],
    ['oldVersion', /rank 1 has too old an NCCL: it is 2\.13\.4, 2\.14 is needed/],
    ['otherVersion', /rank 0 has NCCL 2\.27\.3 and rank 1 has NCCL 2\.28\.5/],
    ['oneGpu', /ranks 0 and 1 compute on the same GPU, and NCCL wants one for each/],
    ['cpu', /rank 1 computes on the CPU/],
    ['wrong', /NCCL did not pass its trial on rank 1: Expected NCCL to bring what the ranks sent but/],
    ['wrongSums', /NCCL did not pass its trial on rank 1: Expected NCCL to bring what the ranks sent but/],
    [
      'init',
      /NCCL did not pass its trial on rank 1: Expected NCCL 2\.27\.3 to connect .* reported unhandled system/,
    ],
  ] as const
  test('where something is in the way every rank says what, and goes through the host with the same bits', async () => {
    const names = obstacles.map(([name]) => name)
    // And once nothing is in the way, not any more.
    for (const printed of (await mpi.works(child, 3, ...names, 'topK')).ranks)
      for (const [name, reason] of obstacles)
        assert.match(printed, new RegExp(`^${name} by mpi: ${reason.source}.*$`, 'm'))
  })

  const library = (message: string) =>
    new RegExp(`MarginSoftmaxError: .*Expected NCCL 2\\.27\\.3 to exchange the ranks' rows ${message}`)
  // That the others have given up may reach a rank before its own wait ends.
  const stopped = library(
    '(within 5 s but it does not end|but it reported remote process exited).*held part of an update and was disposed of'
  )
  const lost = library('but it reported remote process exited')
  const heard = (reason: string) =>
    new RegExp(`Error: Expected every rank to go on but rank 1 could not: Expected ${reason}`)
  // A step makes four groups of calls: the rows, two for their sums, the gradient. What goes wrong before the last word
  // of the others may reach them as either.
  for (const [scenario, what, others, odd] of [
    ['NCCL_DOUBLE_FAIL=call:1', 'a call that fails', lost, library('but it reported unhandled system error')],
    [
      'NCCL_DOUBLE_FAIL=async:2',
      'a failure while it works',
      lost,
      library('but it reported unhandled system'),
    ],
    ['NCCL_DOUBLE_FAIL=cut:3', 'a connection that breaks', library(''), lost],
    ['NCCL_DOUBLE_FAIL=stall:4', 'a gradient that never arrives', stopped, stopped],
    ['NCCL_DOUBLE_FAIL=die:3', 'a rank that is killed', /told to end|NCCL/, /^begins/],
    [
      'SIMT_FAIL=cudaMalloc:1',
      'a GPU without memory for the rows',
      heard('\\d+ bytes of memory for the rows of all ranks'),
      /ERR_OUT_OF_MEMORY/,
    ],
    ['SIMT_FAIL=launch:3', 'a GPU that fails in the step', heard('the GPU to compute'), /ERR_CUDA/],
  ] as const)
    test(`${what} on one rank ends all of them (${scenario})`, async () => {
      await mpi.fails(child, scenario, others, odd)
    })

  test('`info` says which NCCL there is, or why none', async () => {
    const info = async (env: Record<string, string>) => {
      const { stdout, stderr } = await cli(['info'], { env })
      return stdout + stderr
    }
    assert.match(await info({}), /^\s*NCCL\s+2\.27\.3$/m)
    assert.match(
      await info({ MARGIN_SOFTMAX_NCCL: 'nowhere.so' }),
      /NCCL\s+not used: this process found no NCCL: nowhere\.so/
    )
    assert.match(await info({ MARGIN_SOFTMAX_NCCL: 'off' }), /NCCL\s+not used: .*MARGIN_SOFTMAX_NCCL is off/)
  })
}

test.run()
