// One fuzz suite in a process of its own: `child.ts <suite> [file for the number of the call]`.
import { campaign, type Plan } from './campaign'
import { hostileKinds } from './hostile-calls'
import { logitsLoss, means, measures, pairs } from './valid-functions'
import { life } from './valid-heads'
import { best, loss, lossSync } from './valid-losses'

const plans: Record<string, () => Plan | Promise<Plan>> = {
  adapter: async () => (await import('./adapter.js')).adapterPlan(),
  files: async () => (await import('./files.js')).filePlan(),
  valid: () => ({
    calls: 10_000,
    kinds: {
      lossSync: { share: 4, run: lossSync },
      loss: { share: 3, run: loss },
      best: { share: 2, run: best },
      measures: { share: 1, run: measures },
      logitsLoss: { share: 2, run: logitsLoss },
      pairs: { share: 1, run: pairs },
      means: { share: 1, run: means },
      life: { share: 2, run: life },
    },
  }),
  hostile: () => ({
    calls: 10_000,
    kinds: Object.fromEntries(
      Object.entries(hostileKinds).map(([name, run]) => [name, { share: name === 'loss' ? 3 : 1, run }])
    ),
  }),
}

const [suite, position] = process.argv.slice(2)
const plan = plans[suite as string]
if (!plan) throw new Error(`Expected ${Object.keys(plans).join(' or ')} but received ${suite}`)
Promise.resolve(plan())
  .then((made) => campaign(suite as string, made, position))
  .then((good) => {
    process.exitCode = good ? 0 : 1
  })
