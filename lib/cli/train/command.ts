/** `train`: a head from embeddings and labels in files. */
import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { type Command, Option } from 'commander'
import { MarginHead } from '../../index'
import { openHead, readClassNames } from '../../internal/head-file'
import { appendText, replaceText, writeReport } from '../../internal/write-file'
import { filesNote, type TextOptions } from '../data/files'
import { addTextOptions, type Reading } from '../data/options'
import { cleanUp, finishStepFirst, interrupted } from '../interrupt'
import { addWithAliases, explain, parseInteger, threadsOption } from '../options'
import { checkReport, checkTarget, complain, Failure, Misuse } from '../terminal'
import { balanced, balancedWeights, readWeights } from './class-weights'
import { checkData, checkPresent, type ReadData, readData } from './data'
import { type Epoch, type Files, filesOf, fromSource, type Log, readLog, toSource } from './log'
import { checkTogether, optionsOf, type SettingOptions, settingOptions, settingsOf, spoken } from './options'
import { checkValidation, type Plan, planOf } from './plan'
import { logLine, showResult, TrainingProgress } from './show'
import { Training } from './training'
import { keepClassesBack } from './unseen'

interface Options extends SettingOptions, TextOptions {
  embeddings?: string
  labels?: string
  out: string
  from?: string
  classes?: number
  classWeights?: string
  checkpointSteps: number
  resume?: boolean
  restart?: boolean
  log?: string
  report?: string
  device?: string
  threads?: number
  json?: boolean
}

export function addTrain(all: Command): void {
  const command = all
    .command('train')
    .description(
      'train a head on embeddings and labels from files, with validation, checkpoints and resumption'
    )
    .option('--embeddings <file>', 'rows of numbers: .npy, .npz, .safetensors, .csv, .tsv')
    .option('--labels <file>', "each row's class (default: the embeddings' own file)")
  addTextOptions(command)
  const out = new Option('--out <file>', 'where the head goes, a .safetensors file').makeOptionMandatory()
  addWithAliases(command, out, ['--output'])
  command
    .option('--from <file>', 'a head whose weights are the first ones, in place of random ones')
    .option(
      '--classes <number>',
      'how many: integer labels are class numbers already (default: as many as there are labels)',
      parseInteger(1)
    )
  for (const { option, aliases } of settingOptions) addWithAliases(command, option, aliases)
  command
    .option(
      '--class-weights <file>',
      'how much each class counts in the loss: a file, or balanced, by its rows'
    )
    .option('--checkpoint-steps <number>', 'between checkpoints, besides one an epoch', parseInteger(1), 1000)
    .option('--resume', 'go on with the training of --out; its files and settings are known')
    .option('--restart', 'begin anew, though an interrupted training is there')
    .option('--log <file>', "append each epoch's figures as a line of JSON")
    .option('--report <file>', 'write an HTML report with curves of loss, accuracy and learning rate')
    .option('--device <name>', 'auto, cpu, cuda or cuda:<index> (default: auto)')
    .addOption(threadsOption())
    .option('--json', 'the result as JSON')
    .action(train)
  explain(
    command,
    [
      'train --embeddings faces.npy --labels people.npy --out head.safetensors',
      'train --embeddings faces.csv --loss cosface --margin 0.2 --epochs 50 --out head.safetensors',
      'train --out head.safetensors --resume --epochs 80',
      'train --embeddings features.npy --labels people.npy --project 128 --batch-norm --validation-classes 50 --out head.safetensors',
      'train --embeddings many.npz --loss combined --sample-rate 0.1 --precision bfloat16 --out head.safetensors',
    ],
    [
      'The head of the best validation accuracy is written to --out; beside it a .training.json keeps settings and figures, and a .checkpoint.safetensors the last state while the training runs. Ctrl-C finishes the step, saves it and exits with 130; --resume goes on, and ends with the same bits as without the interruption. It also goes on after the end, with more --epochs.',
      `Usual names of options are understood, too: ${settingOptions.flatMap(({ aliases }) => aliases).join(', ')}.`,
      filesNote,
    ]
  )
}

async function train(typed: Options, command: Command): Promise<void> {
  const given: Partial<Options> = Object.fromEntries(
    Object.entries(typed).filter(([name]) => command.getOptionValueSource(name) !== 'default')
  )
  checkUse(typed)
  const { embeddings, labels, from, classWeights } = given
  const weights = classWeights === balanced ? undefined : classWeights
  await checkPresent({ embeddings, labels, 'a head': from, 'class weights': weights })
  const files = filesOf(typed.out)
  const saved = typed.resume ? await readLog(files.log) : undefined
  const options = saved
    ? { ...typed, ...sourcesOf(saved, files), ...saved.text, ...optionsOf(saved.settings), ...given }
    : typed
  checkTogether(options, given)
  await checkReport(options.report)
  await checkTarget(options.out, '--out')
  if (options.log !== undefined) await checkTarget(options.log, '--log', true)
  if (existsSync(files.checkpoint) && !options.resume && !options.restart)
    throw new Failure(
      `Expected no interrupted training but ${files.checkpoint} is there: go on with --resume, or begin anew with --restart`
    )
  const all = await readFiles(options, saved)
  const read = keepClassesBack(all, options.validationClasses, options.seed)
  const settings = settingsOf(options, read.data.dim, read.classes)
  const plan = planOf(settings, read.data)
  checkValidation(plan, given.validation)
  const training = await prepare(plan, read, files, options, saved)
  using _head = training.head
  if (read.names) await replaceText(files.names, `${JSON.stringify(read.names)}\n`)
  else await rm(files.names, { force: true }) // of another head, that was here before
  await run(training, options, read.reading)
}

function checkUse(options: Options): void {
  if (!options.out.endsWith('.safetensors'))
    throw new Misuse(`Expected a name that ends in .safetensors for --out but received ${options.out}`)
  if (options.resume && options.restart) throw new Misuse('Expected --resume or --restart but received both')
  if (options.resume && options.from !== undefined)
    throw new Misuse(
      'Expected --resume, which goes on, or --from, which begins with the weights of a head, but received both'
    )
  if (options.from !== undefined && options.project !== undefined)
    throw new Misuse(
      'Expected --from, whose class weights stand among the embeddings of its data, or --project, which makes others, but received both'
    )
}

/** The files of a training to be resumed, from where its log is. */
function sourcesOf({ sources = {} }: Log, files: Files): Partial<Options> {
  return Object.fromEntries(
    Object.entries(sources).map(([name, source]) => [name, fromSource(files.log, source)])
  )
}

async function readFiles(options: Options, saved: Log | undefined): Promise<ReadData> {
  const { embeddings, labels, columns, labelColumn, encoding } = options
  if (embeddings === undefined)
    throw new Misuse('Expected --embeddings, the rows to train on, but received none')
  await checkPresent({ embeddings, labels })
  const files = filesOf(options.out)
  // Labels keep the numbers that a head knows them by.
  const kept = saved && (saved.finished ? files.head : files.checkpoint)
  // A head below which classes were kept back does not know these.
  const head = options.from ?? (options.validationClasses ? undefined : kept)
  const classes = options.classes ?? saved?.classesGiven
  const names = head === undefined ? undefined : await classNamesOf(head)
  if (names && classes !== undefined && classes !== names.length)
    throw new Failure(`Expected ${names.length} for --classes, as ${head} has, but received ${classes}`)
  const sources = { embeddings, labels, columns, labelColumn, encoding }
  const read = await readData(sources, { classes, names })
  checkData(read, sources, options.loss !== 'softmax')
  return read
}

async function classNamesOf(head: string): Promise<readonly string[] | undefined> {
  const opened = await openHead(head)
  try {
    return await readClassNames(opened, true)
  } finally {
    await opened.close()
  }
}

async function prepare(
  plan: Plan,
  { data, names, classes }: ReadData,
  files: Files,
  options: Options,
  saved: Log | undefined
): Promise<Training> {
  const where = { device: options.device as 'auto' | undefined, threads: options.threads }
  const weighted = options.classWeights
  const classWeights =
    weighted === undefined || weighted === balanced ? weighted : toSource(files.log, weighted)
  if (saved) {
    if (weighted !== undefined && classWeights !== saved.classWeights)
      throw new Failure(
        `Expected ${saved.classWeights ?? 'none'} for --class-weights, as in the training to be resumed, but received ${classWeights}`
      )
    return Training.resume(saved, plan, data, files, where) // the checkpoint has the weights
  }
  const sources: Record<string, string> = {}
  for (const name of ['embeddings', 'labels', 'from', 'log'] as const)
    if (options[name] !== undefined) sources[name] = toSource(files.log, options[name])
  const { classes: classesGiven, columns, labelColumn, encoding } = options
  const given = { sources, classesGiven, classWeights, text: { columns, labelColumn, encoding } }
  return Training.start(plan, data, files, where, given, {
    weights: await firstWeights(plan, options),
    classWeights: await classWeightsOf(options.classWeights, plan, data.labels),
    classNames: names?.length === classes ? names : undefined, // else some classes have no rows, and no names
  })
}

async function classWeightsOf(asked: string | undefined, plan: Plan, labels: Int32Array) {
  if (asked === undefined) return undefined
  const { classes } = plan.settings.head
  return asked === balanced
    ? balancedWeights(labels, plan.trainingRows, classes)
    : readWeights(asked, classes)
}

/** The class weights of the head that the training begins from. */
async function firstWeights(
  { settings }: Plan,
  { from, threads }: Options
): Promise<Float32Array | undefined> {
  if (from === undefined) return undefined
  using head = await MarginHead.load(from, { threads, device: 'cpu' })
  for (const name of ['classes', 'dim'] as const)
    if (head[name] !== settings.head[name])
      throw new Failure(
        `Expected a head of ${settings.head[name]} for ${name}, as the data have, in ${from} but received ${head[name]}`
      )
  if (head.projection)
    throw new Failure(
      `Expected a head without a projection in ${from} but it has one, which cannot be begun from`
    )
  if (head.bias())
    throw new Failure(`Expected a head without a bias in ${from} but it has one, which cannot be begun from`)
  return head.weights()
}

async function run(training: Training, options: Options, reading: Reading): Promise<void> {
  const progress = new TrainingProgress()
  cleanUp(() => progress.stop())
  finishStepFirst()
  progress.start(training)
  try {
    await training.run(options.checkpointSteps, () => interrupted() !== undefined, {
      step: (step) => progress.step(step),
      epoch: async (number, epoch) => {
        const seconds = progress.epoch(number, options.epochs, epoch)
        if (options.log !== undefined)
          await appendText(options.log, logLine(training, number, epoch, seconds))
      },
    })
  } finally {
    progress.stop()
  }
  const { head, plan, best } = training
  if (!training.finished) {
    complain(
      `Interrupted at step ${head.iteration.toLocaleString('en')} of ${plan.steps.toLocaleString('en')}; saved. Go on with --resume.`
    )
    return
  }
  if (best?.validation?.accuracy === 0)
    complain(
      'No row that was kept back was judged rightly in any epoch: see docs/loss-stays-at-40.md, or begin with --margin-warmup-steps.'
    )
  const { seconds } = progress
  if (options.report !== undefined) await writeReportOf(training, options, options.report, seconds)
  showResult(training, seconds, options, reading)
}

async function writeReportOf(
  { plan, head, epochs, best, files }: Training,
  { embeddings, labels, from }: Options,
  file: string,
  seconds: number
): Promise<void> {
  const { renderTrainingReport } = await import('../../report/training.js')
  const html = await renderTrainingReport({
    epochs,
    best: best as Epoch,
    asked: plan.settings.epochs,
    rows: { training: plan.trainingRows.length, validation: plan.validationRows.length },
    classes: head.classes,
    dim: head.dim,
    device: head.device,
    files: { Embeddings: embeddings, Labels: labels, From: from, Head: files.head },
    settings: spoken(plan.settings),
    seconds,
  })
  await writeReport(file, html)
}
