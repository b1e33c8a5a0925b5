/// <reference lib="esnext.disposable" preserve="true" />
import { agree, together } from './agreement'
import {
  apart,
  boolean,
  type FloatArray,
  floats,
  integerFrom,
  type LabelArray,
  labels,
  numberFrom,
  options,
  rowsOf,
} from './check'
import { cpu, type DeviceName, deviceName, ncclLibrary, type Precision, precisionName } from './devices'
import type { ProcessGroup } from './distributed'
import { MarginSoftmaxError, wrongType, wrongValue } from './errors'
import { type Execution, execution, executionOptions } from './execution'
import { type Move, openHead, readHead, writeHead } from './head-file'
import {
  checkBytes,
  checkSettings,
  checkWeightStorage,
  type EvaluateResult,
  type Exchange,
  headOptions,
  type LoadOptions,
  type MarginHeadOptions,
  type Settings,
  type StepOptions,
  type StepResult,
  type WeightStorage,
} from './head-settings'
import type { ClassRun } from './head-shards'
import { handOver, outputArray, present, standIns } from './loss'
import { encodeMargin, isNormalized, type Margin } from './margins'
import { groupTable, type NativeHead, type NativeResult, native, succeeded } from './native'
import type { Optimizer } from './optimizers'
import { type TopKResult, topKArrays } from './topk'

/**
 * The class weights of a margin loss with their optimizer, resident in native memory. Embeddings and labels go in; the
 * loss and the embeddings' gradient come out; the weights' gradient is spent on their update and never stored.
 */
export class MarginHead {
  readonly #native: NativeHead
  readonly #settings: Settings
  readonly #execution: Execution
  readonly #group: ProcessGroup | undefined
  /** The classes that this process holds: all of them, or this rank's share of a process group's. */
  readonly shard: Readonly<ClassRun>
  static #sharded = 0
  #pending = new Set<Promise<unknown>>()
  #saving: Promise<void> | undefined
  #exchange: Exchange | undefined
  #disposed = false

  private constructor(
    { head, firstClass, ownClasses }: NativeResult,
    settings: Settings,
    run: Execution,
    group: ProcessGroup | undefined
  ) {
    this.#native = head
    this.#settings = settings
    this.#execution = run
    this.#group = group
    this.shard = { first: firstClass, count: ownClasses }
  }

  /** C. */
  get classes(): number {
    return this.#settings.classes
  }
  /** D. */
  get dim(): number {
    return this.#settings.dim
  }
  /** The margin at full size. */
  get margin(): Margin {
    return this.#settings.margin
  }
  /** What updates the weights. */
  get optimizer(): Optimizer {
    return this.#settings.optimizer
  }
  /** Where the weights lie and every step runs: `'cpu'`, `'cuda:0'`, … */
  get device(): DeviceName {
    return deviceName(this.#execution.device)
  }
  /** Of the matrix products. */
  get precision(): Precision {
    return precisionName(this.#execution.precision)
  }
  /** What the ranks of a sharded head exchange over, and why; undefined without a group. See docs/many-processes.md. */
  get exchange(): Exchange | undefined {
    return this.#exchange
  }
  /** What the class weights are stored in. */
  get weightStorage(): WeightStorage {
    return this.#settings.weightStorage
  }
  /** Updates made so far. */
  get iteration(): number {
    return native().headIteration(this.#native)
  }
  /** By `dispose`, or because its GPU failed in the middle of an update. */
  get disposed(): boolean {
    return this.#disposed || native().headDisposed(this.#native)
  }

  /**
   * A new head.
   * @throws TypeError, RangeError for options; MarginSoftmaxError `ERR_OUT_OF_MEMORY`
   */
  static async create(given: MarginHeadOptions): Promise<MarginHead> {
    const known = options(given ?? null, 'options', headOptions) as MarginHeadOptions
    const settings = checkSettings(known)
    const { weights } = known
    const first = weights && floats(weights, 'weights', settings.classes * settings.dim)
    const start = { iteration: 0, random: !first }
    return MarginHead.#allocate(settings, execution(known), known.group, start, async (head) => {
      const { dim, shard } = head
      const own = first?.subarray(shard.first * dim, (shard.first + shard.count) * dim)
      if (own) succeeded(native().headWrite(head.#native, 'weight', 0, own))
    })
  }

  /**
   * One training step: loss, the embeddings' gradient, and the update of the weights.
   * Steps run in the order of the calls, off the JavaScript thread; embeddings and labels are copied when it is called.
   * A step that fails (not finite embeddings among the reasons) leaves weights, state and iteration as they were; only
   * where a GPU fails in the middle of an update is the head lost: it counts as disposed of, and the error says so.
   * On the CPU one step takes at most some 3,500 rows of 512 numbers (proportionally more of fewer): the error says how
   * many.
   * @param embeddings [B,D]
   * @param labels [B]
   * @throws TypeError, RangeError for arguments; MarginSoftmaxError `ERR_NOT_FINITE`, `ERR_OUT_OF_MEMORY`, `ERR_DISPOSED`,
   *   `ERR_CUDA`
   */
  async step(embeddings: FloatArray, labels: LabelArray, given?: StepOptions): Promise<StepResult> {
    return this.#work(embeddings, labels, given, true)
  }

  /** As `step`, done before it returns. @throws MarginSoftmaxError `ERR_BUSY` while asynchronous work of this head runs */
  stepSync(embeddings: FloatArray, labels: LabelArray, given?: StepOptions): StepResult {
    return this.#workSync(embeddings, labels, given, true)
  }

  /** Loss and statistics of a batch without an update. */
  async evaluate(embeddings: FloatArray, labels: LabelArray): Promise<EvaluateResult> {
    return this.#work(embeddings, labels, { gradInput: false }, false)
  }

  /** As `evaluate`, done before it returns. */
  evaluateSync(embeddings: FloatArray, labels: LabelArray): EvaluateResult {
    return this.#workSync(embeddings, labels, { gradInput: false }, false)
  }

  /** The k best classes of each row: cosines, or raw scores for `softmaxMargin()`. */
  async topK(embeddings: FloatArray, k = 1): Promise<TopKResult> {
    let { request, outputs } = this.#topKRequest(embeddings, k)
    if (this.#saving) request = { ...request, input: request.input.slice() }
    while (this.#saving) await this.#saving
    succeeded(await this.#track(native().headTopK(this.#native, { ...request, asynchronous: true })))
    return outputs
  }

  /** As `topK`, done before it returns. */
  topKSync(embeddings: FloatArray, k = 1): TopKResult {
    const { request, outputs } = this.#topKRequest(embeddings, k)
    this.#idle('topKSync')
    succeeded(native().headTopK(this.#native, request) as NativeResult)
    return outputs
  }

  /** A copy of the class weights [C,D] (of a sharded head this rank's, [shard.count,D]), once nothing of this head runs. */
  weights(): Float32Array {
    return this.#copy('weight', this.shard.count * this.dim)
  }

  /** A copy of the bias [C] (of a sharded head this rank's), or undefined without one. */
  bias(): Float32Array | undefined {
    return this.#settings.bias ? this.#copy('bias', this.shard.count) : undefined
  }

  /**
   * Writes weights, optimizer state and settings to a safetensors file: training that is loaded from it goes on with the
   * same bits. Waits for the steps called before; those called meanwhile wait for it. The file appears whole or not at all,
   * with a checksum of each tensor; a link and the old file's mode stay (docs/checkpoints.md).
   * Of a sharded head each rank writes a file of its own beside it, and the file of this name is a JSON index of them:
   * give every rank the same path, on a file system that all of them see.
   * @throws MarginSoftmaxError `ERR_FILE`, `ERR_DISPOSED`
   */
  async save(path: string): Promise<void> {
    if (typeof path !== 'string' || path === '') throw wrongType('a file name', 'path', path)
    this.#alive()
    while (this.#saving) await this.#saving
    const saving = this.#write(path)
    this.#saving = saving
      .catch(() => {})
      .finally(() => {
        this.#saving = undefined
      })
    return saving
  }

  /**
   * A head from a file that `save` wrote. Threads, workspace, device and group may be given anew: what R ranks saved,
   * R′ ranks or a single process load. So may `weightStorage`: weights of a float32 file are rounded to the nearest
   * bfloat16, those of a bfloat16 file go into float32 as they are. Else it is the file's.
   * @throws MarginSoftmaxError `ERR_FILE` for a file that is missing, damaged, cut short or of another kind,
   *   `ERR_OUT_OF_MEMORY`
   */
  static async load(path: string, given?: LoadOptions): Promise<MarginHead> {
    if (typeof path !== 'string' || path === '') throw wrongType('a file name', 'path', path)
    const known = options(given, 'options', ['group', 'weightStorage', 'checksums', ...executionOptions])
    const run = execution(known)
    const asked =
      known.weightStorage === undefined ? {} : { weightStorage: checkWeightStorage(known.weightStorage) }
    const { checksums = true } = known
    boolean(checksums, 'checksums')
    const file = await openHead(path)
    try {
      const start = { iteration: file.iteration, random: false }
      const fill = (head: MarginHead) =>
        readHead(
          file,
          head.shard,
          (name, offset, part) => succeeded(native().headWrite(head.#native, name, offset, part)),
          checksums
        )
      return await MarginHead.#allocate({ ...file.settings, ...asked }, run, known.group, start, fill)
    } finally {
      await file.close()
    }
  }

  /** Gives the native memory back at once rather than when the garbage collector comes by. Later calls throw. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    native().headDispose(this.#native)
  }

  /** As `dispose`, at the end of the block of `using head = …`. */
  [Symbol.dispose](): void {
    this.dispose()
  }

  /** A head with the memory for its (share of the) classes, filled by `fill`; on every rank of a group, or on none. */
  static async #allocate(
    settings: Settings,
    run: Execution,
    group: ProcessGroup | undefined,
    start: { iteration: number; random: boolean },
    fill: (head: MarginHead) => Promise<void>
  ): Promise<MarginHead> {
    if (group !== undefined && !group?.[groupTable])
      throw wrongType("a process group of 'margin-softmax/distributed'", 'group', group)
    if (group && settings.classes < group.size)
      throw wrongValue(`at least ${group.size} classes, one for each rank,`, 'classes', settings.classes)
    if (settings.weightStorage === 'bfloat16' && run.device !== cpu)
      throw wrongValue("'float32' on a GPU", 'weightStorage', settings.weightStorage)
    checkBytes(settings, Math.ceil(settings.classes / (group?.size ?? 1)), run.device === cpu)
    const shared = group && { group: group[groupTable], name: `head ${++MarginHead.#sharded}` }
    const request = { ...settings, ...encodeMargin(settings.margin), ...start, ...run, ...shared }
    if (group) await agree(group, { head: shared?.name, ...settings, ...start, precision: run.precision })
    let head: MarginHead | undefined
    try {
      const made = await together(group, 'make its share of the head', async () => {
        head = new MarginHead(succeeded(await native().headCreate(request)), settings, run, group)
        await fill(head)
        return head
      })
      if (group) made.#exchange = succeeded(await native().headConnect(made.#native, ncclLibrary()))
      return made
    } catch (error) {
      head?.dispose()
      throw error
    }
  }

  async #work(
    embeddings: FloatArray,
    labelsGiven: LabelArray,
    given: StepOptions | undefined,
    train: boolean
  ) {
    let { request, outputs } = this.#request(embeddings, labelsGiven, given, train)
    if (this.#saving) request = { ...request, input: request.input.slice(), labels: request.labels.slice() }
    while (this.#saving) await this.#saving
    const own = standIns(outputs, given)
    const running = native().headStep(this.#native, { ...request, ...own, asynchronous: true })
    const result = succeeded(await this.#track(running), 'embeddings')
    return this.#result(result, handOver(own, outputs))
  }

  #workSync(embeddings: FloatArray, labelsGiven: LabelArray, given: StepOptions | undefined, train: boolean) {
    const { request, outputs } = this.#request(embeddings, labelsGiven, given, train)
    this.#idle(train ? 'stepSync' : 'evaluateSync')
    const result = succeeded(native().headStep(this.#native, request) as NativeResult, 'embeddings')
    return this.#result(result, present(outputs))
  }

  #request(embeddings: FloatArray, labelsGiven: LabelArray, given: StepOptions | undefined, train: boolean) {
    this.#alive()
    const known = options(given, 'options', ['learningRate', 'gradInput'])
    const input = floats(embeddings, 'embeddings')
    const rows = rowsOf(input, 'embeddings', this.dim, 'dim')
    const checked = labels(labelsGiven, 'labels', rows, this.classes, this.#settings.ignoreIndex)
    const { learningRate = this.optimizer.learningRate } = known
    const outputs = {
      losses: new Float32Array(rows),
      gradInput: outputArray(known.gradInput, 'gradInput', input.length, true),
    }
    if (outputs.gradInput) apart(outputs.gradInput, 'gradInput', { embeddings: input, labels: checked })
    const request = {
      input,
      labels: checked,
      rows,
      reduction: 0,
      gradScale: 1,
      learningRate: numberFrom(learningRate, 'learningRate', 0),
      train,
      ...this.#execution,
      ...outputs,
      asynchronous: false,
    }
    return { request, outputs }
  }

  #topKRequest(embeddings: FloatArray, k: number) {
    this.#alive()
    const input = floats(embeddings, 'embeddings')
    const rows = rowsOf(input, 'embeddings', this.dim, 'dim')
    const outputs = topKArrays(rows, integerFrom(k, 'k', 1, this.classes))
    const request = {
      input,
      rows,
      dim: this.dim,
      classes: this.classes,
      k,
      ...this.#execution,
      ...outputs,
      asynchronous: false,
    }
    return { request, outputs }
  }

  #result(result: NativeResult, outputs: { losses: Float32Array; gradInput?: Float32Array }): StepResult {
    const cosines = isNormalized(this.margin)
    return {
      loss: result.loss,
      ...outputs,
      stats: {
        accuracy: result.accuracy,
        meanTargetCosine: cosines ? result.targetCosine : null,
        meanLargestOtherCosine: cosines ? result.largestOtherCosine : null,
        gradientNorm: result.gradientNorm,
        gradInputNorm: result.gradInputNorm,
        leftOut: result.leftOut,
      },
    }
  }

  #copy(name: string, length: number): Float32Array {
    this.#idle(name === 'weight' ? 'weights' : name)
    const copy = new Float32Array(length)
    succeeded(native().headRead(this.#native, name, 0, copy))
    return copy
  }

  async #write(path: string): Promise<void> {
    await Promise.allSettled(this.#pending)
    this.#alive()
    const move: Move = (name, offset, part) => {
      this.#alive()
      succeeded(native().headRead(this.#native, name, offset, part))
    }
    await writeHead(
      path,
      { settings: this.#settings, iteration: this.iteration },
      this.shard,
      move,
      this.#group
    )
  }

  #track<T>(running: T | Promise<T>): Promise<T> {
    const promise = Promise.resolve(running)
    this.#pending.add(promise)
    const forget = () => this.#pending.delete(promise)
    promise.then(forget, forget)
    return promise
  }

  #alive(): void {
    if (this.disposed)
      throw new MarginSoftmaxError('ERR_DISPOSED', 'Expected a head in use but it was disposed of')
  }

  /** Synchronous work would overtake asynchronous work that is still to run. */
  #idle(name: string): void {
    this.#alive()
    if (this.#group && name.endsWith('Sync'))
      throw new MarginSoftmaxError(
        'ERR_UNAVAILABLE',
        `Expected ${name.slice(0, -4)} in place of ${name} for a sharded head: the ranks wait for one another`
      )
    if (this.#pending.size || this.#saving)
      throw new MarginSoftmaxError(
        'ERR_BUSY',
        `Expected asynchronous work of this head to be awaited before ${name}`
      )
  }
}
