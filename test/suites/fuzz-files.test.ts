// Mutated files for whoever reads files: see fuzz/files.ts.
import { suite } from 'uvu'
import { fuzz } from '../fuzz/run'

const test = suite('fuzz, files')

test('a broken file is told of in our words, in time and in little memory', () => fuzz('files'))

test.run()
