/// <reference lib="esnext.disposable" preserve="true" />

import { type DeviceName, deviceName, type Precision, precisionName } from './devices'
import { wrongType } from './errors'
import { checkOptions, copyOf, type FloatArray, fileName, type LabelArray } from './internal/check'
import { changed, changeHead, changeNames, withClasses, withoutClasses } from './internal/head-changes'
import { type HeadMemory, saveMemory } from './internal/head-memory'
import type { WeightStorage } from './internal/head-options'
import { embedRequest, signalOf, topKRequest } from './internal/head-requests'
import type {
  AddedClasses,
  EvaluateResult,
  HeadChanges,
  LoadOptions,
  MarginHeadOptions,
  ProjectedHeadOptions,
  SignalOptions,
  StepOptions,
  StepResult,
} from './internal/head-settings'
import type { ClassRun } from './internal/head-shards'
import { headFromFile, headFromOptions } from './internal/head-start'
import { HeadWork } from './internal/head-work'
import { isObject } from './internal/intrinsics'
import { type Exchange, native } from './internal/native'
import type { Projection } from './internal/projection'
import type { Margin } from './margins'
import type { Optimizer } from './optimizers'
import type { GradientChoice } from './outputs'
import type { TopKResult } from './topk'

/**
 * The class weights of a margin loss with their optimizer, resident in native memory. Embeddings and labels go in; the
 * loss and the embeddings' gradient come out. The weights are updated within the backward pass, and their gradient is never
 * stored.
 */
export class MarginHead {
  readonly #head: HeadWork

  private constructor(memory: HeadMemory) {
    if (!isObject(memory) || !('native' in memory))
      throw wrongType('MarginHead.create(options) or MarginHead.load(file)', 'new MarginHead', memory)
    this.#head = new HeadWork(memory)
  }

  /** C, the number of classes; of a sharded head those of all ranks. */
  get classes(): number {
    return MarginHead.#of(this).memory.settings.classes
  }
  /** D, the length of an embedding. */
  get dim(): number {
    return MarginHead.#of(this).memory.settings.dim
  }
  /** The projection that is trained below the class weights, frozen; undefined without one. */
  get projection(): Projection | undefined {
    return MarginHead.#of(this).memory.settings.projection
  }
  /** The margin as it is after the warm-up. */
  get margin(): Margin {
    return MarginHead.#of(this).memory.settings.margin
  }
  /** The optimizer that updates the weights. */
  get optimizer(): Optimizer {
    return MarginHead.#of(this).memory.settings.optimizer
  }
  /** The device where the weights lie and every step runs: `'cpu'`, `'cuda:0'`, … */
  get device(): DeviceName {
    return deviceName(MarginHead.#of(this).memory.execution.device)
  }
  /** The precision of the matrix products. */
  get precision(): Precision {
    return precisionName(MarginHead.#of(this).memory.execution.precision)
  }
  /** The way in which the ranks of a sharded head exchange data, and why; undefined without a group. See docs/many-processes.md. */
  get exchange(): Exchange | undefined {
    return MarginHead.#of(this).memory.exchange
  }
  /** The classes that this process holds: all of them, or this rank's share of a process group's. */
  get shard(): Readonly<ClassRun> {
    return MarginHead.#of(this).memory.shard
  }
  /** The name of each class [C], frozen; undefined without names. Every rank has those of all classes. */
  get classNames(): readonly string[] | undefined {
    return MarginHead.#of(this).memory.classNames
  }
  /** A copy of the classes' weights in the loss [C]; undefined without `classWeights`. Every rank has those of all classes. */
  get classWeights(): Float32Array | undefined {
    return MarginHead.#of(this).memory.classWeights?.slice()
  }
  /** The type in which the class weights are stored. */
  get weightStorage(): WeightStorage {
    return MarginHead.#of(this).memory.settings.weightStorage
  }
  /** The number of updates made so far. */
  get iteration(): number {
    return native().headIteration(MarginHead.#of(this).memory.native)
  }
  /** Whether the head is gone: by `dispose`, or because its GPU failed in the middle of an update. */
  get disposed(): boolean {
    return MarginHead.#of(this).isDisposed
  }

  /**
   * Makes a new head. First values (`weights`) are not copied: leave them alone until the promise settles.
   * @throws TypeError, RangeError for options; MarginSoftmaxError `ERR_OUT_OF_MEMORY`, `ERR_NOT_FINITE` for weights that
   *   are NaN or infinite once stored, `ERR_DETACHED` for weights that were transferred meanwhile
   */
  static create(options: ProjectedHeadOptions): Promise<MarginHead>
  static create(options: MarginHeadOptions): Promise<MarginHead>
  static async create(options: MarginHeadOptions | ProjectedHeadOptions): Promise<MarginHead> {
    return new MarginHead(await headFromOptions(options))
  }

  /**
   * Makes one training step: computes the loss and the embeddings' gradient, and updates the weights.
   *
   * Steps run in the order of the calls, off the JavaScript thread. Embeddings and labels are copied when it is called.
   * A step that fails, as with embeddings that are not finite, leaves weights, state and iteration as they were. Only if a
   * GPU fails in the middle of an update is the head lost: it is then disposed of, and the error says so. On the CPU one step
   * takes at most about 3,500 rows of 512 numbers, and more of shorter rows; the error says how many.
   * @param embeddings [B,D]; features [B,from] where the head has a projection, as for `evaluate` and `topK`
   * @param labels [B]
   * @throws TypeError, RangeError for arguments; MarginSoftmaxError `ERR_NOT_FINITE`, `ERR_OUT_OF_MEMORY`, `ERR_DISPOSED`,
   *   `ERR_CUDA`; of a sharded head also `ERR_DISTRIBUTED`, where another rank's arguments are refused, among others
   */
  async step<Choice extends GradientChoice = true>(
    embeddings: FloatArray,
    labels: LabelArray,
    options?: StepOptions<Choice>
  ): Promise<StepResult<Choice>> {
    return MarginHead.#of(this).step(embeddings, labels, options, true) as Promise<StepResult<Choice>>
  }

  /** As `step`, done before it returns. @throws MarginSoftmaxError `ERR_BUSY` while asynchronous work of this head runs */
  stepSync<Choice extends GradientChoice = true>(
    embeddings: FloatArray,
    labels: LabelArray,
    options?: StepOptions<Choice>
  ): StepResult<Choice> {
    return MarginHead.#of(this).stepSync(embeddings, labels, options, true) as StepResult<Choice>
  }

  /** Computes loss and statistics of a batch without an update. */
  async evaluate(embeddings: FloatArray, labels: LabelArray): Promise<EvaluateResult> {
    return MarginHead.#of(this).step(embeddings, labels, { gradInput: false }, false)
  }

  /** As `evaluate`, done before it returns. */
  evaluateSync(embeddings: FloatArray, labels: LabelArray): EvaluateResult {
    return MarginHead.#of(this).stepSync(embeddings, labels, { gradInput: false }, false)
  }

  /**
   * Finds the k best classes of each row, by cosine, or by raw score for `softmaxMargin()`. If its `signal` is aborted, it
   * rejects at once: work that waits does not begin, and work that runs stops after its block of classes.
   */
  async topK(embeddings: FloatArray, k = 1, options?: SignalOptions): Promise<TopKResult> {
    return MarginHead.#of(this).read('topK', embeddings, options, (memory, rows) =>
      topKRequest(memory, rows, k)
    )
  }

  /** As `topK`, done before it returns. */
  topKSync(embeddings: FloatArray, k = 1): TopKResult {
    return MarginHead.#of(this).readSync('topKSync', (memory) => topKRequest(memory, embeddings, k))
  }

  /**
   * Computes the embeddings of features with the projection as it is, in evaluation: without dropout, with batch norm's running
   * moments. They are not normalized. Any number of rows; turn and `signal` as for `topK`.
   * @param features [N,from]
   * @returns [N,D]
   * @throws TypeError, RangeError for arguments; MarginSoftmaxError `ERR_UNAVAILABLE` for a head without a projection,
   *   `ERR_OUT_OF_MEMORY`, `ERR_DISPOSED`
   */
  async embed(features: FloatArray, options?: SignalOptions): Promise<Float32Array> {
    return (await MarginHead.#of(this).read('embed', features, options, embedRequest)).embeddings
  }

  /** As `embed`, done before it returns. */
  embedSync(features: FloatArray): Float32Array {
    return MarginHead.#of(this).readSync('embedSync', (memory) => embedRequest(memory, features)).embeddings
  }

  /** Copies the class weights [C,D], of a sharded head this rank's [shard.count,D]. Waits for work of this head that runs. */
  weights(): Float32Array {
    return MarginHead.#of(this).copy('weight', this.shard.count * this.dim)
  }

  /** Copies the bias [C], of a sharded head this rank's; undefined without one. */
  bias(): Float32Array | undefined {
    return MarginHead.#of(this).memory.settings.bias ? this.#head.copy('bias', this.shard.count) : undefined
  }

  /**
   * Writes weights, optimizer state and settings to a safetensors file. A training run that is loaded from it continues with
   * the same bits. The save waits for the steps called before, and steps called meanwhile wait for it. The file appears whole
   * or not at all, with a checksum of each tensor; a link and the old file's mode stay (docs/checkpoints.md).
   *
   * Each rank of a sharded head writes a file of its own beside it, and the file of this name is a JSON index of them. Give
   * every rank the same path, on a file system that all of them see.
   *
   * If its `signal` is aborted, it rejects with the reason, and the old file stays: at once while it waits, within 16 MiB
   * while it writes. A sharded head takes no signal, because its ranks save together.
   * @throws MarginSoftmaxError `ERR_FILE`, `ERR_DISPOSED`
   */
  async save(path: string, options?: SignalOptions): Promise<void> {
    MarginHead.#of(this).alive()
    const file = fileName(path)
    const signal = signalOf(this.#head.memory, options, 'save')
    return this.#head.alone((memory) => saveMemory(memory, file, () => this.#head.alive(), signal), signal)
  }

  /**
   * Changes how the head trains from its next step on: margin, optimizer, sampling, filter, … (`HeadChanges`). It waits its
   * turn in the order of the calls, as a step does; the head's properties have the new values once the promise has settled.
   * An optimizer of the same kind keeps the state that there is. The state of another kind begins at zero, as does momentum
   * where there was none. A failure changes nothing. Every rank of a sharded head calls it with the same options, and the
   * optimizer must need the same state; `load` takes any.
   * @example await head.set({ interclassFilter: 0.5, optimizer: sgd({ learningRate: 0.01, momentum: 0.9 }) })
   * @throws TypeError, RangeError for options, also those that contradict the head; MarginSoftmaxError `ERR_OUT_OF_MEMORY`,
   *   `ERR_DISPOSED`, `ERR_UNAVAILABLE`
   */
  async set(changes: HeadChanges): Promise<void> {
    MarginHead.#of(this).alive()
    const checkedChanges = checkOptions(changes ?? null, 'options', changeNames)
    await this.#head.alone(async (memory) => {
      this.#head.memory = await changeHead(memory, changed(memory, checkedChanges, this.iteration))
    })
  }

  /**
   * Adds classes behind the existing ones, which keep weights and optimizer state. The state of the new ones is zero, and the
   * iteration continues. AdamW divides by what a state of that age would hold, so a new class's first step is up to
   * (1 − β1)/√(1 − β2) times the learning rate, 3.2 by default.
   *
   * It waits its turn as a step does. Leave `weights` and `classNames` alone until the promise settles. A new head is made
   * beside the old one, so both take memory meanwhile, and a failure changes nothing. A sharded head refuses.
   * @param count how many
   * @param options their first weights [count,D] (`classMeans` makes some), and their names
   * @returns where they are
   * @example await head.addClasses(2, { weights: classMeans(embeddings, labels, { classes: 2, dim }) })
   * @throws TypeError, RangeError for arguments; MarginSoftmaxError `ERR_OUT_OF_MEMORY`, `ERR_NOT_FINITE`, `ERR_DISPOSED`,
   *   `ERR_UNAVAILABLE` for a sharded head
   */
  async addClasses(count: number, options?: AddedClasses): Promise<ClassRun> {
    MarginHead.#of(this).alive()
    return this.#head.alone(async (memory) => {
      const { classes } = memory.settings
      this.#head.replace(await withClasses(memory, count, options))
      return { first: classes, count: this.classes - classes }
    })
  }

  /**
   * Removes classes with their state. Those that stay keep their order, weights, state and names and close up: class j
   * becomes j minus the number of removed ones below it. Turn, memory and failures as for `addClasses`.
   * @param classes which, none of them twice, not all
   * @returns where each class of before is now [C], −1 where it was removed: `labels.map((label) => places[label])`
   * @throws TypeError, RangeError for arguments; MarginSoftmaxError `ERR_OUT_OF_MEMORY`, `ERR_DISPOSED`, `ERR_UNAVAILABLE`
   *   for a sharded head
   */
  async removeClasses(classes: LabelArray): Promise<Int32Array> {
    MarginHead.#of(this).alive()
    const removed = copyOf(classes, 'classes')
    return this.#head.alone(async (memory) => {
      const { memory: smaller, places } = await withoutClasses(memory, removed)
      this.#head.replace(smaller)
      return places
    })
  }

  /**
   * Loads a head from a file that `save` wrote. Its options are the file's, but for:
   *
   * - threads, workspace, device and group: any number of ranks loads what any other number saved;
   * - `weightStorage`: float32 weights are rounded to the nearest bfloat16, bfloat16 weights go into float32 as they are;
   * - how it trains, as by `set`: optimizer state that the file has and the new optimizer needs is read, the rest begins at
   *   zero.
   * @throws MarginSoftmaxError `ERR_FILE` for a file that is missing, damaged, cut short or of another kind,
   *   `ERR_OUT_OF_MEMORY`
   */
  static async load(path: string, options?: LoadOptions): Promise<MarginHead> {
    return new MarginHead(await headFromFile(path, options))
  }

  /**
   * Frees the native memory at once, without waiting for the garbage collector. A step that has begun still finishes, and
   * the memory is freed with it; a step that waits rejects. Later calls throw.
   */
  dispose(): void {
    MarginHead.#of(this).dispose()
  }

  /** As `dispose`, at the end of the block of `using head = …`. */
  [Symbol.dispose](): void {
    this.dispose()
  }

  /** The receiver of a method, which may have been taken off its head. */
  static #of(head: unknown): HeadWork {
    if (!isObject(head) || !(#head in head)) throw wrongType('a MarginHead', 'this', head)
    return head.#head
  }
}
