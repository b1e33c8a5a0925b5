'use strict'
// Compiles the addon of margin-softmax/distributed against this machine's MPI, to build/mpi. Works in the repository and
// in the installed package. Arguments go to CMake: -DMPI_C_COMPILER=mpicc.mpich chooses among several MPIs, and
// MARGIN_SOFTMAX_MPI_BUILD in the environment another folder than build/mpi.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.join(__dirname, '..')
const folder = path.resolve(root, process.env.MARGIN_SOFTMAX_MPI_BUILD ?? path.join('build', 'mpi'))

function stop(...lines) {
  console.error(`\nmargin-softmax: ${lines.join('\n')}`)
  process.exit(1)
}

function headers() {
  const beside = path.join(path.dirname(process.execPath), '..', 'include', 'node')
  if (fs.existsSync(path.join(beside, 'node_api.h'))) return beside
  try {
    return require('node-api-headers').include_dir
  } catch {
    stop(
      `no node_api.h in ${beside}.`,
      'Install the headers of Node (Debian, Ubuntu: apt-get install libnode-dev) or: npm install node-api-headers'
    )
  }
}

function cmake(...args) {
  const { status, error } = spawnSync('cmake', args, { cwd: root, stdio: 'inherit' })
  if (error) stop(`cmake does not start (${error.code}): on Debian or Ubuntu, apt-get install cmake g++ make`)
  if (status !== 0)
    stop(
      'compiling the addon of margin-softmax/distributed failed (its messages stand above).',
      'It needs CMake 3.22 or newer, a C++17 compiler, and Open MPI or MPICH with headers:',
      'on Debian or Ubuntu, apt-get install cmake g++ make openmpi-bin libopenmpi-dev (or mpich libmpich-dev).'
    )
}

const include = [path.dirname(require.resolve('node-addon-api/package.json')), headers()]
cmake(
  '-S',
  path.join('native', 'mpi'),
  '-B',
  folder,
  `-DNODE_API_INCLUDE=${include.join(';')}`,
  ...process.argv.slice(2)
)
cmake('--build', folder, '--config', 'Release')
console.log(`Built ${path.join(folder, 'Release', 'margin_softmax_mpi.node')}`)
