// Reads from a native binary's header for which machine it is. Loaders say it badly: to Linux a binary for another processor is
// "No such file or directory", and one that was cut short ends the process with a bus error.

/** The header of a binary, as far as it is read here. */
export interface BinaryFormat {
  /** As in `process.platform`; Linux's format is that of the BSDs, too. */
  platform: 'linux' | 'darwin' | 'win32'
  /** As in `process.arch`; `universal` for macOS's binaries of several, or the number in the header. */
  arch: string
  /** The bytes that the file has at least, as far as the header says. */
  bytes: number
}

/** As many bytes of a file's beginning as hold every format's header. */
export const headerBytes = 4096

const elfMachines: Record<number, string> = {
  ...{ 3: 'ia32', 8: 'mips', 20: 'ppc', 21: 'ppc64', 22: 's390x', 40: 'arm' },
  ...{ 62: 'x64', 183: 'arm64', 243: 'riscv64', 258: 'loong64' },
}
const machMachines: Record<number, string> = { 16777223: 'x64', 16777228: 'arm64', 7: 'ia32', 12: 'arm' }
const peMachines: Record<number, string> = { 332: 'ia32', 34404: 'x64', 43620: 'arm64' }

/** The format of the file that begins with these bytes; undefined: no binary of any known system. */
export function formatOf(header: Buffer): BinaryFormat | undefined {
  const holds = (bytes: number) => header.length >= bytes
  if (holds(64) && header.readUInt32BE(0) === 0x7f454c46) return elfFormat(header)
  if (holds(8) && [0xfeedfacf, 0xfeedface].includes(header.readUInt32LE(0)))
    return { platform: 'darwin', arch: nameOf(machMachines, header.readUInt32LE(4)), bytes: 0 }
  // A Java class begins with the same four bytes, and then its version, which is 45 at least.
  if (holds(8) && header.readUInt32BE(0) === 0xcafebabe && header.readUInt32BE(4) < 45)
    return { platform: 'darwin', arch: 'universal', bytes: 0 }
  if (!holds(64) || header.toString('latin1', 0, 2) !== 'MZ') return undefined
  const at = header.readUInt32LE(60)
  if (!holds(at + 6) || header.toString('latin1', at, at + 4) !== 'PE\0\0') return undefined
  return { platform: 'win32', arch: nameOf(peMachines, header.readUInt16LE(at + 4)), bytes: 0 }
}

function elfFormat(header: Buffer): BinaryFormat {
  const wide = header[4] === 2 // 64 bits
  const little = header[5] === 1
  const half = (at: number) => (little ? header.readUInt16LE(at) : header.readUInt16BE(at))
  const word = (at: number) => (little ? header.readUInt32LE(at) : header.readUInt32BE(at))
  const long = (at: number) => Number(little ? header.readBigUInt64LE(at) : header.readBigUInt64BE(at))
  // The table of sections, which linkers write last: its place, and the size and number of its entries.
  const bytes = wide ? long(40) + half(58) * half(60) : word(32) + half(46) * half(48)
  return { platform: 'linux', arch: nameOf(elfMachines, half(18)), bytes }
}

const nameOf = (machines: Record<number, string>, machine: number) =>
  machines[machine] ?? `processor ${machine}`
