// Asynchronous calls together, the event loop beside them, Workers, and ends in mid-flight: see concurrency.child.ts.
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runNode } from '../support/processes'

const test = suite('concurrency')

const run = (scenario: string, flags: string[] = []) =>
  runNode([
    ...flags,
    '--require',
    'tsx/cjs',
    path.join(__dirname, '../children/concurrency.child.ts'),
    scenario,
  ])

async function ends(scenario: string, code: number, output: RegExp, flags?: string[]): Promise<void> {
  const ended = await run(scenario, flags)
  const what = `${scenario} ended with code ${ended.code}, signal ${ended.signal}:\n${ended.output}`
  assert.is(ended.signal, null, what)
  assert.is(ended.code, code, what)
  assert.ok(output.test(ended.output), what)
}

for (const [scenario, what] of [
  ['many', 'many calls in flight are all right'],
  ['idle', 'a program that waits for something else uses no processor time'],
  ['alive', 'the event loop and fs.stat go on during a long call'],
  ['transfer', 'inputs changed or transferred in flight were taken as they were'],
  ['outputs', 'arrays to fill that are transferred in flight give an error'],
  ['shared', 'shared inputs that change in flight do no harm'],
  ['workers', 'several Workers at once'],
  ['reload', 'an addon loaded in Workers only, again and again'],
  ['oneByOne', 'sixty Workers in turn, each of which ends right after its job'],
  ['terminate', 'worker.terminate() in flight'],
  ['workerExit', 'process.exit() in a Worker in flight'],
] as const) {
  test(what, () => ends(scenario, 0, /^done$/m))
}

test('what is in flight survives garbage collection', () => ends('collected', 0, /^done$/m, ['--expose-gc']))
test('a call that nobody awaits is done before the process ends', () =>
  ends('pending', 0, /^done$.*^settled$/ms))
test('process.exit() in flight gives its exit code', () => ends('exit', 7, /^$/))
test('an uncaught error in flight ends the process as ever', () => ends('uncaught', 1, /uncaught on purpose/))

test.run()
