// device: 'cuda' on machines that the shim plays: with old drivers, broken GPUs, or none. Each is seen by a fresh process.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { elsewhere, shimRuns, useShim } from '../support/cuda'

const test = suite('cuda machines')

if (!shimRuns) {
  test.skip('the shim runs on Linux', () => {})
} else {
  useShim()

  const explains = `
    let thrown = {}
    try { m.marginLossSync({ input: new Float32Array(4), weight: new Float32Array(8), labels: [0], dim: 4 }, { device: 'cuda' }) }
    catch (error) { thrown = { code: error.code, message: error.message } }
    const { loss } = m.marginLossSync({ input: new Float32Array(4).fill(1), weight: new Float32Array(8).fill(1), labels: [0], dim: 4 })
    say({ gpu: m.devices()[1], thrown, automatic: Number.isFinite(loss) })`

  for (const [title, environment, reason] of [
    ['no driver', { SIMT_DRIVER: 'none' }, /no NVIDIA driver was found/],
    [
      'an old driver',
      { SIMT_DRIVER: 'old' },
      /knows CUDA 11\.2 but this build needs 13\.0: update the driver/,
    ],
    ['no GPU', { SIMT_DEVICES: '0' }, /sees no GPU/],
    ['a GPU too old', { SIMT_CAPABILITY: '70', SIMT_DEVICES: '1' }, /compute capability 7\.0 is below 7\.5/],
    [
      'a GPU that fails its trial',
      { SIMT_FAIL: 'launch:3', SIMT_DEVICES: '1' },
      /cudaErrorLaunchFailure \(719\)/,
    ],
    [
      'a GPU that fails its trial in a step of several chunks with an update',
      { SIMT_FAIL: 'launch:60', SIMT_DEVICES: '1' },
      /cudaErrorLaunchFailure \(719\)/,
    ],
  ] as const)
    test(`${title}: devices() says so, 'auto' is the CPU, 'cuda' explains`, async () => {
      const seen = (await elsewhere(environment, explains)) as {
        gpu: { usable: boolean; reason: string }
        thrown: { code: string; message: string }
        automatic: boolean
      }
      assert.is(seen.gpu?.usable, false, JSON.stringify(seen))
      assert.match(seen.gpu.reason, reason)
      assert.is(seen.thrown.code, 'ERR_UNAVAILABLE')
      assert.match(seen.thrown.message, reason)
      assert.is(seen.automatic, true)
    })

  /** Runs `body`, which may `use` a device, or get the error's text; then also says which GPUs were opened, in order. */
  async function opens(environment: Record<string, string>, body: string) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-'))
    const contexts = path.join(folder, 'contexts')
    try {
      const said = await elsewhere(
        { SIMT_DEVICES: '3', SIMT_CONTEXTS: contexts, ...environment },
        `const batch = { input: new Float32Array(4).fill(1), weight: new Float32Array(8).fill(1), labels: [0], dim: 4 }
         const use = (device) => { try { m.marginLossSync(batch, { device }); return 'well' } catch (error) { return error.message } }
         const start = (options) => m.MarginHead.create({ classes: 3, dim: 4, ...options });
         (async () => say(await (async () => { ${body} })()))()`
      )
      const opened = fs.existsSync(contexts) ? fs.readFileSync(contexts, 'utf8').trim().split('\n') : []
      return { said, opened: opened.map(Number) }
    } finally {
      fs.rmSync(folder, { recursive: true })
    }
  }

  test('only the GPU that is asked for is opened', async () => {
    assert.equal(await opens({}, `use('cuda:1'); return use('cuda:1')`), { said: 'well', opened: [1] })
    assert.equal(await opens({}, `return (await start({ device: 'cuda:2' })).device`), {
      said: 'cuda:2',
      opened: [2],
    })
  })

  test('a GPU that is not there opens none of those that are', async () => {
    const { said, opened } = await opens({}, `return use('cuda:7')`)
    assert.match(String(said), /"cuda:7": cuda:0 is there; cuda:1 is there; cuda:2 is there$/)
    assert.equal(opened, [])
  })

  test("'auto' and 'cuda' open GPUs in order until one is usable", async () => {
    const heads = `return [(await start({})).device, (await start({ device: 'cuda' })).device]`
    assert.equal(await opens({}, heads), { said: ['cuda:0', 'cuda:0'], opened: [0] })
    assert.equal(await opens({ SIMT_REFUSED: '0' }, heads), { said: ['cuda:1', 'cuda:1'], opened: [1] })
    const { said } = await opens({ SIMT_REFUSED: '012' }, `return [(await start({})).device, use('cuda')]`)
    const [automatic, reasons] = said as string[]
    assert.is(automatic, 'cpu')
    assert.match(reasons ?? '', /(cuda:[012] is not: [^;]*cudaErrorDevicesUnavailable[^;]*(; )?){3}$/)
  })

  test('devices() opens every GPU; one that does not open has no free bytes', async () => {
    const { said, opened } = await opens(
      { SIMT_REFUSED: '1' },
      `use('cuda:2'); return m.devices().slice(1).map(({ usable, memoryBytes, freeBytes }) => [usable, memoryBytes > 0, freeBytes > 0])`
    )
    assert.equal(said, [
      [true, true, true],
      [false, true, false],
      [true, true, true],
    ])
    assert.equal(opened, [2, 0])
  })

  test("'auto' is the first GPU for heads and losses, and the CPU for functions of given numbers", async () => {
    const seen = await elsewhere(
      { SIMT_DEVICES: '2' },
      `const { softmax, MarginHead, marginLossSync } = m
       const batch = { input: new Float32Array(4).fill(1), weight: new Float32Array(8).fill(1), labels: [0], dim: 4 }
       const broken = (work) => { try { work(); return 'cpu' } catch (error) { return error.message.includes('cuda:0') ? 'cuda:0' : error.message } }
       MarginHead.create({ classes: 3, dim: 4 }).then((head) => {
         process.env.SIMT_FAIL = 'cudaMemcpyAsync:1'
         const loss = broken(() => marginLossSync(batch))
         process.env.SIMT_FAIL = 'cudaMemcpyAsync:01'
         say({ head: head.device, loss, softmax: broken(() => softmax(new Float32Array(3))) })
       })`
    )
    assert.equal(seen, { head: 'cuda:0', loss: 'cuda:0', softmax: 'cpu' })
  })

  test('a GPU without tensor cores computes in float32 and says what it lacks', async () => {
    const seen = await elsewhere(
      { SIMT_CAPABILITY: '75', SIMT_DEVICES: '1' },
      `const batch = { input: new Float32Array(4).fill(1), weight: new Float32Array(8).fill(1), labels: [0], dim: 4 }
       let message = ''
       try { m.marginLossSync(batch, { device: 'cuda', precision: 'bfloat16' }) } catch (error) { message = error.message }
       say({ precisions: m.devices()[1].precisions, message, finite: Number.isFinite(m.marginLossSync(batch, { device: 'cuda' }).loss) })`
    )
    assert.equal(seen, {
      precisions: ['float32'],
      message:
        'Expected \'float32\' on a GPU of compute capability 7.5 for precision but received "bfloat16"',
      finite: true,
    })
  })

  test('a launch that fails breaks the device for good, in words; the other GPU goes on', async () => {
    const seen = await elsewhere(
      { SIMT_DEVICES: '2' },
      `const batch = { input: new Float32Array(8).fill(1), weight: new Float32Array(8).fill(1), labels: [0, 1], dim: 4 }
       const codes = []
       const attempt = (device) => { try { m.marginLossSync(batch, { device }); codes.push('well') } catch (error) { codes.push(error.code + (/can't be used again/.test(error.message) ? ', for good' : '')) } }
       m.devices()
       process.env.SIMT_FAIL = 'launch:2'
       attempt('cuda:0')
       delete process.env.SIMT_FAIL
       attempt('cuda:0')
       attempt('cuda:1')
       attempt('cpu')
       say(codes)`
    )
    assert.equal(seen, ['ERR_CUDA, for good', 'ERR_CUDA, for good', 'well', 'well'])
  })
}

test.run()
