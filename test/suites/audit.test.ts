// scripts/audit.cjs with registries that know of nothing, know of something, and do not answer.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

const test = suite('audit')
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'margin-softmax-audit-'))
test.after(() => fs.rmSync(folder, { recursive: true, force: true }))

/** Returns what the script says and its exit code, where npm prints this and fails. */
function audit(printed: string) {
  fs.writeFileSync(path.join(folder, 'npm'), `#!/bin/sh\ncat << 'END'\n${printed}\nEND\nexit 1\n`, {
    mode: 0o755,
  })
  const script = path.join(__dirname, '..', '..', 'scripts', 'audit.cjs')
  const env = { ...process.env, PATH: `${folder}${path.delimiter}${process.env.PATH}` }
  const { status, stdout } = spawnSync(process.execPath, [script], { encoding: 'utf8', env })
  return { status, stdout }
}

if (process.platform === 'win32') test.skip('a script stands in for npm', () => {})
else {
  test('no weakness is no failure', () => {
    assert.equal(audit('{ "vulnerabilities": {}, "metadata": { "vulnerabilities": { "total": 0 } } }'), {
      status: 0,
      stdout: 'audit: 0 of the runtime packages have known weaknesses\n',
    })
  })
  test('a weakness is named, and a failure', () => {
    const one = { name: 'some-package', severity: 'high', range: '<2.0.0' }
    const report = { vulnerabilities: { [one.name]: one }, metadata: { vulnerabilities: { total: 1 } } }
    assert.equal(audit(JSON.stringify(report)), {
      status: 1,
      stdout: 'audit: 1 of the runtime packages have known weaknesses\n  some-package <2.0.0: high\n',
    })
  })
  test('a registry that does not answer is no failure', () => {
    for (const printed of ['{ "message": "405 Method Not Allowed", "error": {} }', 'not JSON', ''])
      assert.equal(audit(printed), {
        status: 0,
        stdout: 'no audit: the registry does not answer it\n',
      })
  })
}

test.run()
