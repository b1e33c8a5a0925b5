// Prints what `devices()` says of this machine, for bench/gpu.sh. Exits with 1 where no GPU is usable.
import { devices } from '../../lib/index'

const all = devices()
for (const device of all) console.log(JSON.stringify(device))
process.exitCode = all.some(({ device, usable }) => device !== 'cpu' && usable) ? 0 : 1
