// For which GPUs a build compiles: native/cuda/architectures.cmake beside an nvidia-smi and an nvcc that are played.
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

const test = suite('cuda build')
const module = path.join(__dirname, '../../native/cuda/architectures.cmake')

/** Tells what is chosen for `given` where the programs print this. Where `smi` is undefined there is no nvidia-smi. */
function chosen(
  given: string,
  smi: string | undefined,
  nvcc = 'compute_80\ncompute_90\ncompute_120\n'
): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-'))
  const program = (name: string, script: string) =>
    fs.writeFileSync(path.join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  try {
    if (smi !== undefined) program('nvidia-smi', smi)
    program('nvcc', `printf '${nvcc}'`)
    const script = path.join(folder, 'choose.cmake')
    fs.writeFileSync(
      script,
      `include("${module}")
       set(ENV{PATH} "${folder}")
       margin_softmax_cuda_architectures("${given}" "${folder}/nvcc" list why)
       message(STATUS "\${why}: \${list}")`
    )
    return execFileSync('cmake', ['-P', script], { encoding: 'utf8' }).trim()
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

const anyGpu = '75-real;80-real;90;120-real'
const cases: [string, () => string, string][] = [
  ['no GPU: one of each kind', () => chosen('development', undefined), `-- as no GPU answers: ${anyGpu}`],
  [
    'a driver that does not answer',
    () => chosen('development', 'echo "NVIDIA-SMI 9.0 has failed"; exit 9'),
    `-- as no GPU answers: ${anyGpu}`,
  ],
  [
    'the GPU that is here, and no PTX',
    () => chosen('development', 'echo 9.0; echo 9.0'),
    '-- for the GPU that is here: 90-real',
  ],
  [
    'two kinds of GPUs',
    () => chosen('development', 'echo 12.0; echo 8.0'),
    '-- for the GPU that is here: 120-real;80-real',
  ],
  [
    'a GPU that nvcc does not know, beside one that it knows',
    () => chosen('development', 'echo 9.0; echo 12.1'),
    `-- as this nvcc does not know the GPU that is here: ${anyGpu}`,
  ],
  [
    'a release is for every generation, whatever is here',
    () => chosen('release', 'echo 9.0'),
    '-- for every generation: 75-real;80-real;86-real;89-real;90-real;100;120-real',
  ],
  ['a list', () => chosen('90a-real;100', 'echo 9.0'), '-- as given: 90a-real;100'],
]

if (process.platform === 'win32') {
  test.skip('the programs that are played are scripts of a shell', () => {})
} else {
  for (const [title, choose, expected] of cases) test(title, () => assert.is(choose(), expected))
}

test.run()
