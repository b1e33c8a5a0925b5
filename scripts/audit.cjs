'use strict'
// Asks the registry for known weaknesses of the packages that margin-softmax needs to run, and fails where there are any.
// Registries without such an answer (mirrors, no network) are said to be so, and are no failure.
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const quick = ['--fetch-retries=0', '--fetch-timeout=15000']
// Optional ones are the runtimes of test/runtimes alone.
const { stdout } = spawnSync('npm', ['audit', '--omit=dev', '--omit=optional', '--json', ...quick], {
  cwd: path.join(__dirname, '..'),
  encoding: 'utf8',
  timeout: 60e3,
  shell: process.platform === 'win32',
})

function answer() {
  try {
    return JSON.parse(stdout)
  } catch {
    return {}
  }
}

const { metadata, vulnerabilities = {} } = answer()
const total = metadata?.vulnerabilities?.total
if (total === undefined) {
  console.log('no audit: the registry does not answer it')
} else {
  console.log(`audit: ${total} of the runtime packages have known weaknesses`)
  for (const { name, severity, range } of Object.values(vulnerabilities))
    console.log(`  ${name} ${range}: ${severity}`)
  process.exitCode = total > 0 ? 1 : 0
}
