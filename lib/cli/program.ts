/** Runs the commands and makes exit codes of their failures: 0 done, 1 failed, 2 misused, 130 interrupted. */
import { Command, CommanderError } from 'commander'
import { addBench } from './bench'
import { addBuild } from './build'
import { addDemo } from './demo'
import { addEmbed } from './embed'
import { addIdentify } from './identify'
import { addInfo } from './info'
import { addInspect } from './inspect'
import { interrupted, listen } from './interrupt'
import { explain } from './options'
import { complain, exitCodes, Failure, Misuse, manifest, printableLines } from './terminal'
import { addTrain } from './train/command'
import { addVerify } from './verify'

function program(): Command {
  const all = new Command('margin-softmax')
    .description('Margin-softmax losses: train heads, judge embeddings, know your machine.')
    .version(manifest().version, '-v, --version')
    .configureOutput({
      outputError: (text, write) => write(printableLines(text.replace(/^error: /, 'margin-softmax: '))),
    })
    .showHelpAfterError('(--help shows how)')
    .exitOverride()
  for (const add of [
    addInfo,
    addVerify,
    addIdentify,
    addTrain,
    addEmbed,
    addInspect,
    addBench,
    addDemo,
    addBuild,
  ])
    add(all)
  explain(
    all,
    [
      'info',
      'verify --embeddings faces.npy --labels people.npy --report faces.html',
      'train --embeddings faces.npy --labels people.npy --out head.safetensors',
      'inspect head.safetensors',
    ],
    ['Exit codes: 0 done, 1 failed, 2 misused, 130 interrupted.']
  )
  return all
}

/** @returns the exit code */
export async function run(args: string[]): Promise<number> {
  listen()
  try {
    await program().parseAsync(args, { from: 'user' })
    return interrupted() ?? Number(process.exitCode ?? exitCodes.success)
  } catch (error) {
    // Its code is 0 where help or the version was asked for.
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.success : exitCodes.misuse
    const ours = error instanceof Failure || error instanceof Misuse || 'code' in (error as object)
    const expected = ours || error instanceof RangeError || error instanceof TypeError
    complain(`margin-softmax: ${expected ? (error as Error).message : (error as Error).stack}`)
    return error instanceof Misuse ? exitCodes.misuse : exitCodes.failure
  }
}
