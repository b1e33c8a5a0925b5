// Starts a child of a suite on several ranks. With the MPI that `mpirun` belongs to, or MARGIN_SOFTMAX_MPIRUN names.
import { spawn, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { buildSync } from 'esbuild'
import * as assert from 'uvu/assert'

const root = path.join(__dirname, '../..')
const mpirun = process.env.MARGIN_SOFTMAX_MPIRUN ?? 'mpirun'
const version = spawnSync(mpirun, ['--version'], { encoding: 'utf8' }).stdout ?? ''
const binary =
  process.env.MARGIN_SOFTMAX_MPI_BINARY ?? path.join(root, 'build/mpi/Release/margin_softmax_mpi.node')

export const openMpi = version.includes('Open MPI')
/** Names what the tests lack here, if they lack something. */
export const missing = !version
  ? `no ${mpirun}`
  : !fs.existsSync(binary)
    ? `no ${path.relative(root, binary)}`
    : undefined

/** The words of a rank that mpirun ends, where it hears of it. */
export const toldToEnd = openMpi
  ? /^margin-softmax: rank [02] of 3 was told to end \(SIGTERM\), as mpirun does when another rank is gone$/m
  : /^(margin-softmax: rank .*\n)?$/

export interface Ended {
  code: number | null
  /** The output of each rank. */
  ranks: string[]
  output: string
  /** Milliseconds from where rank 1 said `begins at <time>`, and began to do something else, to where mpirun ended. */
  lasted: number
}

/** Splits the output of mpirun by rank. */
function byRank(output: string, ranks: number): string[] {
  const printed = Array.from({ length: ranks }, () => '')
  for (const line of output.split('\n')) {
    const [, rank, text] = /^\[(?:1,)?(\d+)\](?:<\w+>:| )(.*)/.exec(line) ?? []
    if (rank !== undefined) printed[Number(rank)] += `${text}\n`
  }
  return printed
}

const compiled = new Map<string, string>()

/** test/children/<child> as one file of JavaScript: a rank is up in a sixth of the time that the TypeScript loader takes. */
function compile(child: string): string {
  // As deep as lib/internal, from where the addons are looked for.
  const outfile = path.join(root, 'build', 'children', `${path.basename(child, '.ts')}.${process.pid}.cjs`)
  if (!compiled.has(child)) {
    const entryPoints = [path.join(root, 'test', 'children', child)]
    buildSync({
      entryPoints,
      outfile,
      bundle: true,
      packages: 'external',
      platform: 'node',
      target: 'node20',
    })
    compiled.set(child, outfile)
    process.once('exit', () => fs.rmSync(outfile, { force: true }))
  }
  return outfile
}

/** Runs test/children/<child> on each rank. `whenPrinted` hears what each has printed so far, whenever that is more. */
export function run(
  child: string,
  ranks: number,
  parameters: string[],
  env: NodeJS.ProcessEnv = {},
  whenPrinted?: (printed: string[]) => void
): Promise<Ended> {
  const flags = openMpi ? ['--oversubscribe', '--tag-output'] : ['-prepend-rank']
  const asRoot = { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' }
  const node = [process.execPath, compile(child)]
  return new Promise((resolve, reject) => {
    const started = spawn(mpirun, [...flags, '-n', String(ranks), ...node, ...parameters], {
      cwd: root,
      env: { ...process.env, ...asRoot, ...env },
      timeout: 120_000 * Math.max(1, parameters.length), // only so that a hang is a failure
      killSignal: 'SIGTERM',
    })
    let output = ''
    for (const stream of [started.stdout, started.stderr])
      stream.on('data', (data) => {
        output += data
        whenPrinted?.(byRank(output, ranks))
      })
    started.on('error', reject)
    started.on('close', (code) => {
      const began = Number(/begins at (\d+)/.exec(output)?.[1])
      resolve({ code, ranks: byRank(output, ranks), output, lasted: Date.now() - began })
    })
  })
}

/** The ranks all end well, and say of each scenario that it is done. */
export async function works(child: string, ranks: number, ...scenarios: string[]): Promise<Ended> {
  const ended = await run(child, ranks, scenarios)
  assert.is(ended.code, 0, ended.output)
  for (const scenario of scenarios) done(ended, ranks, scenario)
  return ended
}

/** Every rank said that it is done with a scenario. */
export function done({ ranks: all, output }: Ended, ranks: number, scenario: string): void {
  assert.is(all.length, ranks)
  for (const printed of all)
    assert.ok(printed.includes(`done ${scenario} of ${ranks}\n`), `${scenario}:\n${output}`)
}

/** mpirun ends with a failure within 10 s; what ranks 0 and 2 say, and what rank 1 says, which did something else. */
export async function fails(child: string, scenario: string, others: RegExp, odd: RegExp): Promise<Ended> {
  const ended = await run(child, 3, [scenario])
  assert.is.not(ended.code, 0, ended.output)
  assert.ok(ended.lasted < 10_000, `${scenario} took ${ended.lasted} ms:\n${ended.output}`)
  for (const [rank, printed] of ended.ranks.entries()) {
    const expected = rank === 1 ? odd : others
    assert.ok(expected.test(printed), `expected ${expected} of rank ${rank} in ${scenario}:\n${ended.output}`)
    if (rank !== 1) assert.not.match(printed, /went well/)
  }
  return ended
}
