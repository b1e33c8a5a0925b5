/** `build`: compiles the addon, or that of margin-softmax/distributed, on this machine by the package's own scripts. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import type { Command } from 'commander'
import { explain } from './options'
import { exitCodes, Failure } from './terminal'

const scriptOf = (name: string) => path.join(__dirname, '..', '..', 'scripts', name)

export function addBuild(all: Command): void {
  const command = all
    .command('build')
    .description('compile the native addon here: needs CMake and a C++17 compiler, and nvcc for GPUs')
    .option('--distributed', 'the addon of margin-softmax/distributed instead: needs Open MPI or MPICH')
    .argument('[options...]', "cmake-js's options (with --distributed CMake's), after --")
    .action((options: string[], { distributed }: { distributed?: boolean }) => {
      const script = scriptOf(distributed ? 'build-distributed.cjs' : 'build-from-source.cjs')
      if (!existsSync(script)) throw new Failure(`Expected the script ${script} but it is not there`)
      const { status } = spawnSync(process.execPath, [script, ...options], { stdio: 'inherit' })
      if (status !== 0) process.exitCode = exitCodes.failure
    })
  explain(command, ['build', 'build -- --CDMARGIN_SOFTMAX_CUDA=off', 'build --distributed'])
}
