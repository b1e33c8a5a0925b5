/** `build`: compiles the addon on this machine, by the package's own script. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import type { Command } from 'commander'
import { exitCodes, Failure } from './terminal'

const script = path.join(__dirname, '..', '..', 'scripts', 'build-from-source.cjs')

export function addBuild(all: Command): void {
  all
    .command('build')
    .description('compile the native addon here: needs CMake and a C++17 compiler, and nvcc for GPUs')
    .argument('[options...]', "cmake-js's options, after --")
    .addHelpText(
      'after',
      `
Examples:
  $ margin-softmax build
  $ margin-softmax build -- --CDMARGIN_SOFTMAX_CUDA=off`
    )
    .action((options: string[]) => {
      if (!existsSync(script)) throw new Failure(`Expected the script ${script} but it is not there`)
      const { status } = spawnSync(process.execPath, [script, ...options], { stdio: 'inherit' })
      if (status !== 0) process.exitCode = exitCodes.failure
    })
}
