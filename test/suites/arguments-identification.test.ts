// Arguments of identification, galleries and what judges scores, with values that they can not mean.
import { suite } from 'uvu'
import * as library from '../../lib/index'
import { anyNumber, type Call, rateLists, refuseHostileValues, split } from '../support/hostile-arguments'
import { makeBatch } from '../support/support'

const test = suite('arguments of identification')
const [rows, dim] = [6, 4]
const batch = makeBatch(1, { rows, dim, classes: 9 })
const listed = { pairs: [0, 1, 2, 3, 4, 5, 0, 2], same: [1, 0, 0, 1] }
const positive = ['1.5', '2³¹', '2⁵³', '1e308']

const cosines = { threads: [], instructionSet: [] }
const labelled = {
  gallery: batch.input,
  galleryLabels: [0, 1, 1, 2, 0, 2],
  probes: batch.weight.slice(0, rows * dim),
  probeLabels: [0, 1, 2, 0, 3, 1],
  dim,
}
const identified = (call: (batch: never, options: never) => unknown): Call => ({
  names: {
    gallery: [],
    galleryLabels: [],
    probes: [],
    probeLabels: [],
    dim: [],
    maxRank: [],
    falseAlarmRates: rateLists,
    detectionRank: [],
    replicates: ['0'],
    confidence: [],
    seed: ['0', '2³¹'],
    ...cosines,
  },
  run: (changes) => {
    const [inBatch, others] = split(changes, labelled)
    return call({ ...labelled, ...inBatch } as never, others as never)
  },
})
const normalized = (call: (batch: never, options: never) => unknown): Call => {
  const sound = { embeddings: batch.input, cohort: batch.weight, pairs: listed.pairs, dim }
  return {
    names: { embeddings: [], cohort: [], pairs: [], dim: [], top: [], ...cosines },
    run: (changes) => {
      const [inBatch, others] = split(changes, sound)
      return call({ ...sound, ...inBatch } as never, others as never)
    },
  }
}
const anyLabel = ['0', 'an empty string', 'a word', 'a long string', 'a name of Object.prototype']
const gallery = () => {
  const made = new library.Gallery<number>({ dim })
  made.enrol(batch.input, [0, 1, 1, 2, 0, 2])
  return made
}

const calls: Record<string, Call> = {
  identify: identified(library.identify as never),
  identifySync: identified(library.identifySync as never),
  asNorm: normalized(library.asNorm as never),
  asNormSync: normalized(library.asNormSync as never),
  'gallery.enrol': {
    names: { embeddings: [], labels: ['0'] },
    run: ({ embeddings = batch.input, labels = [3, 4, 5, 6, 7, 8] }) =>
      gallery().enrol(embeddings as never, labels as never),
  },
  'gallery.remove': {
    names: { labels: [...anyLabel, 'an empty list', 'a list of strings'] },
    run: ({ labels = 3 }) => gallery().remove(labels as never),
  },
  'gallery.search': {
    names: { probes: [], k: [], threshold: anyNumber, ...cosines },
    run: ({ probes = batch.input, ...options }) => gallery().search(probes as never, options as never),
  },
  calibrationCost: {
    names: { scores: [], same: [] },
    run: ({ scores = [1, 2, 3, 4], same = listed.same }) =>
      library.calibrationCost(scores as never, same as never),
  },
  fitCalibration: {
    names: { scores: [], same: [], pTarget: [] },
    run: ({ scores = [1, 2, 3, 4], same = [0, 1, 0, 1], ...options }) =>
      library.fitCalibration(scores as never, same as never, options as never),
  },
  verificationIntervalsSync: {
    names: {
      scores: [],
      identities: [],
      falseAcceptRates: rateLists,
      pTarget: [],
      cMiss: positive,
      cFalseAlarm: positive,
      replicates: [],
      confidence: [],
      seed: ['0', '2³¹'],
      ...cosines,
    },
    run: ({ scores = [1, 2, 3, 4], identities = [0, 0, 1, 1, 0, 1, 1, 0], ...options }) =>
      library.verificationIntervalsSync(
        scores as never,
        identities as never,
        { replicates: 5, ...options } as never
      ),
  },
}

refuseHostileValues(test, calls, rows)

test.run()
