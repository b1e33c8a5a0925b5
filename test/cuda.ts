// The shim-built addon: 'cuda' devices whose kernels run on the CPU (test/simt). A suite that imports this first drives
// the real kernels and the real launch code without a GPU.
import { execFileSync } from 'node:child_process'
import path from 'node:path'

const root = path.join(__dirname, '..')

/** Whether the shim runs here: its fibres are written for Linux. */
export const shimRuns = process.platform === 'linux'

/** Builds the addon (half a minute, once) and makes lib/ load it in this process and its children. */
export function useShim(): void {
  execFileSync(
    process.execPath,
    [
      require.resolve('cmake-js/bin/cmake-js'),
      'compile',
      '--out',
      'build/simt',
      '--CDMARGIN_SOFTMAX_CUDA=shim',
    ],
    { cwd: root, stdio: 'pipe' }
  )
  process.env.MARGIN_SOFTMAX_BINARY = path.join(root, 'build/simt/Release/margin_softmax.node')
}
