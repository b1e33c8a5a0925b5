/** `train`: a head from embeddings and labels in files. */
import { existsSync } from 'node:fs'
import { type Command, Option } from 'commander'
import { precisions } from '../devices'
import {
  adamW,
  arcface,
  combined,
  cosface,
  type Margin,
  normface,
  type Optimizer,
  type Precision,
  sgd,
  softmaxMargin,
  sphereface,
} from '../index'
import { replaceText } from '../write-file'
import { asMatrix, filesNote, holdsLabels, parseSource, readArray } from './data/files'
import { asLabels } from './data/labels'
import { cleanUp, finishStepFirst, interrupted } from './interrupt'
import { anyNumber, explain, integerFrom, numberAbove, numberFrom } from './options'
import {
  checkTarget,
  complain,
  counted,
  duration,
  Failure,
  Misuse,
  Progress,
  percent,
  print,
  printJson,
  printList,
} from './terminal'
import { filesOf, Training, type TrainingData, type TrainingSettings, trainingDefaults } from './training'

/** What only some losses have. */
interface LossOptions {
  scale?: number
  margin?: number
  m1?: number
  m2?: number
  m3?: number
  interclassFilter?: number
}

interface Options extends LossOptions {
  embeddings: string
  labels?: string
  out: string
  loss: string
  sampleRate: number
  sampleCorrection?: boolean
  precision: Precision
  classes?: number
  optimizer: 'sgd' | 'adamw'
  learningRate?: number
  momentum: number
  weightDecay: number
  schedule: 'cosine' | 'constant'
  epochs: number
  batch: number
  warmupSteps: number
  validation: number
  patience: number
  seed: number
  checkpointSteps: number
  resume?: boolean
  restart?: boolean
  device?: string
  threads?: number
  json?: boolean
}

interface Loss {
  takes: (keyof LossOptions)[]
  make(given: LossOptions): Margin
}

/** Each loss, and which options it takes; the others are undefined, which stands for the loss's own default. */
const losses: Record<string, Loss> = {
  arcface: {
    takes: ['scale', 'margin', 'interclassFilter'],
    make: ({ scale, margin }) => arcface({ scale, margin }),
  },
  cosface: {
    takes: ['scale', 'margin', 'interclassFilter'],
    make: ({ scale, margin }) => cosface({ scale, margin }),
  },
  combined: {
    takes: ['scale', 'm1', 'm2', 'm3', 'interclassFilter'],
    make: ({ scale, m1, m2, m3 }) => combined({ scale, m1, m2, m3 }),
  },
  normface: { takes: ['scale', 'interclassFilter'], make: ({ scale }) => normface({ scale }) },
  sphereface: {
    takes: ['scale', 'margin', 'interclassFilter'],
    make: ({ scale, margin }) => sphereface({ scale, m: margin }),
  },
  softmax: { takes: [], make: () => softmaxMargin() },
}
const lossOf = ({ loss }: Options) => losses[loss] as Loss
const lossFlags = {
  scale: '--scale',
  margin: '--margin',
  m1: '--m1',
  m2: '--m2',
  m3: '--m3',
  interclassFilter: '--interclass-filter',
} as const

const usualRates = { sgd: 0.1, adamw: 1e-3 }

export function addTrain(all: Command): void {
  const command = all
    .command('train')
    .description(
      'train a head on embeddings and labels from files, with validation, checkpoints and resumption'
    )
    .requiredOption('--embeddings <file>', 'rows of numbers: .npy, .npz, .safetensors, .csv, .tsv')
    .option('--labels <file>', "each row's class (default: the embeddings' own file)")
    .requiredOption('--out <file>', 'where the head goes, a .safetensors file')
    .addOption(new Option('--loss <name>', 'the margin').choices(Object.keys(losses)).default('arcface'))
    .option('--scale <number>', "of the logits (default: the loss's own)", numberAbove(0))
    .option(
      '--margin <number>',
      'its size: of arcface, cosface, sphereface (default: 0.5, 0.35, 4)',
      numberFrom(0)
    )
    .option('--m1 <number>', 'of combined, cos(m1 θ + m2) − m3 (default: 1)', numberFrom(0))
    .option('--m2 <number>', 'of combined (default: 0.3)', anyNumber)
    .option('--m3 <number>', 'of combined (default: 0.2)', anyNumber)
    .option(
      '--interclass-filter <cosine>',
      'leave out other classes nearer than this: the same identity twice (default: 1, none)',
      numberFrom(-1, 1)
    )
    .option(
      '--sample-rate <share>',
      'of the classes that take part in a step, for very many of them (Partial FC)',
      numberAbove(0, 1),
      1
    )
    .option('--sample-correction', 'each class of a sample stands for all that it was drawn from')
    .option(
      '--classes <number>',
      'how many: integer labels are class numbers already (default: as many as there are labels)',
      integerFrom(1)
    )
    .addOption(new Option('--optimizer <name>', 'of the weights').choices(['sgd', 'adamw']).default('sgd'))
    .option('--learning-rate <number>', 'at first (default: 0.1 for sgd, 0.001 for adamw)', numberFrom(0))
    .option('--momentum <number>', 'of sgd', numberFrom(0, 1), 0.9)
    .option('--weight-decay <number>', 'of either', numberFrom(0), 5e-4)
    .addOption(
      new Option('--schedule <name>', 'of the learning rate: to 0 along half a cosine wave, or constant')
        .choices(['cosine', 'constant'])
        .default(trainingDefaults.schedule)
    )
    .option('--epochs <number>', 'passes over the rows', integerFrom(1), trainingDefaults.epochs)
    .option('--batch <number>', 'rows of a step', integerFrom(1), trainingDefaults.batch)
    .option('--warmup-steps <number>', 'over which the margin grows to its size', integerFrom(0), 0)
    .option(
      '--validation <share>',
      'of the rows kept back to judge by',
      numberFrom(0, 0.9),
      trainingDefaults.validation
    )
    .option(
      '--patience <epochs>',
      'without a better validation before it ends; 0: never',
      integerFrom(0),
      trainingDefaults.patience
    )
    .option(
      '--seed <number>',
      'of the weights, the validation rows and the order',
      integerFrom(0),
      trainingDefaults.seed
    )
    .option('--checkpoint-steps <number>', 'between checkpoints, besides one an epoch', integerFrom(1), 1000)
    .option('--resume', 'go on with the training that was interrupted')
    .option('--restart', 'begin anew, though an interrupted training is there')
    .option('--device <name>', 'auto, cpu, cuda or cuda:<index> (default: auto)')
    .addOption(
      new Option('--precision <name>', 'of the matrix products').choices(precisions).default('float32')
    )
    .option('--threads <number>', 'of the processor (default: all)', integerFrom(1, 1023))
    .option('--json', 'the result as JSON')
    .action(train)
  explain(
    command,
    [
      'train --embeddings faces.npy --labels people.npy --out head.safetensors',
      'train --embeddings faces.csv --loss cosface --margin 0.2 --epochs 50 --out head.safetensors',
      'train --embeddings faces.npy --labels people.npy --out head.safetensors --resume',
      'train --embeddings many.npz --loss combined --sample-rate 0.1 --precision bfloat16 --out head.safetensors',
    ],
    [
      'The head of the best validation accuracy is written to --out; beside it a .training.json keeps settings and figures, and a .checkpoint.safetensors the last state while the training runs. Ctrl-C finishes the step, saves it and exits with 130; the same command with --resume goes on, and ends with the same bits as without the interruption.',
      filesNote,
    ]
  )
}

async function train(options: Options): Promise<void> {
  if (!options.out.endsWith('.safetensors'))
    throw new Misuse(`Expected a name that ends in .safetensors for --out but received ${options.out}`)
  if (options.resume && options.restart) throw new Misuse('Expected --resume or --restart but received both')
  for (const [name, flag] of Object.entries(lossFlags) as [keyof LossOptions, string][])
    if (options[name] !== undefined && !lossOf(options).takes.includes(name))
      throw new Misuse(`Expected no ${flag} with ${options.loss} but received ${options[name]}`)
  await checkTarget(options.out, '--out')
  const files = filesOf(options.out)
  if (existsSync(files.checkpoint) && !options.resume && !options.restart)
    throw new Failure(
      `Expected no interrupted training but ${files.checkpoint} is there: go on with --resume, or begin anew with --restart`
    )
  const progress = new Progress()
  cleanUp(() => progress.stop())
  const { data, classes, names } = await readData(options)
  const settings = settingsOf(options, data.dim, classes)
  const where = { device: options.device as 'auto' | undefined, threads: options.threads }
  const training = await Training[options.resume ? 'resume' : 'start'](settings, data, files, where)
  using head = training.head
  if (training.trainingRows < 1) throw new Failure('Expected rows to train on but all are kept back')
  if (names)
    await replaceText(
      `${options.out.replace(/\.safetensors$/, '')}.classes.json`,
      `${JSON.stringify(names)}\n`
    )

  finishStepFirst()
  const begin = performance.now()
  const first = head.iteration
  progress.start('Training', training.steps, first)
  try {
    await training.run(
      options.checkpointSteps,
      () => interrupted() !== undefined,
      ({ epoch, step, steps, loss, accuracy }) => {
        const seconds = (performance.now() - begin) / 1000
        const left = (seconds / (step - first)) * (steps - step)
        const judged = training.epochs.at(-1)?.validation
        const parts = [`epoch ${epoch}`, `loss ${loss.toFixed(3)}`, `${percent(accuracy, 1)} right`]
        if (judged) parts.push(`validation ${percent(judged.accuracy, 1)}`)
        progress.update(step, ...parts, `${duration(left)} left`)
      }
    )
  } finally {
    progress.stop()
  }
  if (!training.finished) {
    complain(
      `Interrupted at step ${head.iteration.toLocaleString('en')} of ${training.steps.toLocaleString('en')}; saved. Go on with --resume.`
    )
    return
  }
  report(options, training, (performance.now() - begin) / 1000)
}

async function readData(
  options: Options
): Promise<{ data: TrainingData; classes: number; names?: string[] }> {
  const source = parseSource(options.embeddings)
  const beside = options.labels === undefined || options.labels === options.embeddings
  if (beside && !holdsLabels(source.path))
    throw new Misuse(`Expected --labels beside ${options.embeddings}, which holds no labels`)
  const { embeddings, rows, dim } = asMatrix(
    await readArray(source, 'embeddings', beside ? 'numbers beside labels' : 'numbers')
  )
  const labelSource = beside ? { path: source.path } : parseSource(options.labels as string)
  const { labels, classes, names } = asLabels(await readArray(labelSource, 'labels', 'labels'), {
    classes: options.classes,
  })
  if (labels.length !== rows)
    throw new Failure(
      `Expected ${counted(rows, 'label')} in ${labelSource.path} but received ${labels.length}`
    )
  return { data: { embeddings, labels, dim }, classes, names }
}

function settingsOf(options: Options, dim: number, classes: number): TrainingSettings {
  const { momentum, weightDecay } = options
  const learningRate = options.learningRate ?? usualRates[options.optimizer]
  const optimizer: Optimizer =
    options.optimizer === 'sgd'
      ? sgd({ learningRate, momentum, weightDecay })
      : adamW({ learningRate, weightDecay })
  return {
    head: {
      classes,
      dim,
      margin: lossOf(options).make(options),
      optimizer,
      sampleRate: options.sampleRate,
      sampleCorrection: options.sampleCorrection ?? false,
      interclassFilter: options.interclassFilter ?? 1,
      precision: options.precision,
      marginWarmupSteps: options.warmupSteps,
      seed: options.seed,
    },
    batch: options.batch,
    epochs: options.epochs,
    learningRate,
    schedule: options.schedule,
    validation: options.validation,
    patience: options.patience,
    seed: options.seed,
  }
}

function report(options: Options, training: Training, seconds: number): void {
  const { best, epochs, head, files } = training
  if (options.json) {
    printJson({
      head: files.head,
      classes: head.classes,
      dim: head.dim,
      device: head.device,
      rows: { training: training.trainingRows, validation: training.validationRows },
      best,
      epochs,
      seconds,
    })
    return
  }
  const rows = training.trainingRows + training.validationRows
  const early =
    epochs.length < options.epochs ? ` of ${options.epochs}, the last ${options.patience} no better,` : ''
  print(
    `${counted(rows, 'row')} × ${head.dim}, ${counted(head.classes, 'class', 'classes')}; ${counted(epochs.length, 'epoch')}${early} on ${head.device} (${duration(seconds)})\n`
  )
  const kept = best && epochs.indexOf(best) + 1
  printList([
    ['Loss', best?.loss.toFixed(4) ?? '–'],
    ['Accuracy', best ? percent(best.accuracy) : '–'],
    ...(best?.validation
      ? [
          [
            'Validation',
            `${percent(best.validation.accuracy)}, loss ${best.validation.loss.toFixed(4)} (${counted(training.validationRows, 'row')})`,
          ] as [string, string],
        ]
      : []),
    ['Head', `${files.head}, of epoch ${kept}`],
    ['Figures', files.log],
  ])
}
