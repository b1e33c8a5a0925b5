// Random calls of the public API: valid ones beside the oracle, hostile ones by the shape of their errors. See
// fuzz/campaign.ts for more of them.
import { suite } from 'uvu'
import { fuzz } from '../fuzz/run'

const test = suite('fuzz, API')

test('valid calls are right', () => fuzz('valid'))
test('hostile calls fail as documented', () => fuzz('hostile'))

test('the tfjs adapter is right, fails as documented and leaves no tensor', () => fuzz('adapter'))

test.run()
