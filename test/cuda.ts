// The shim-built addon: 'cuda' devices whose kernels run on the CPU (test/simt). A suite that calls `useShim` before it
// touches lib/ drives the real kernels and the real launch code without a GPU.
import fs from 'node:fs'
import path from 'node:path'

/** Whether the shim runs here: its fibres are written for Linux. */
export const shimRuns = process.platform === 'linux'

/** The shim-built addon's file. */
export function shimBinary(): string {
  const binary = path.join(__dirname, '../build/simt/Release/margin_softmax.node')
  if (!fs.existsSync(binary)) throw new Error('npm test builds the addon for this; or: npm run build:simt')
  return binary
}

/** Makes lib/ load the shim-built addon in this process and its children. */
export function useShim(): void {
  process.env.MARGIN_SOFTMAX_BINARY = shimBinary()
}
