/** Progress of the demo: a bar for each training in a terminal, two plain lines in a pipe or a log file. */
import { Presets, SingleBar } from 'cli-progress'
import { duration } from '../cli/terminal'
import type { Progress } from './experiment'

export class ProgressBars {
  #bar: SingleBar | undefined
  #title = ''
  #half = false

  /** `title` names the training that begins. */
  start(title: string): void {
    this.#title = title
    this.#half = false
    if (!process.stdout.isTTY) return
    // 68 columns for the words; cli-progress cuts off what the terminal has no room for, which is the time for all.
    const barsize = Math.max(8, Math.min(24, process.stdout.columns - 68))
    const format = '{title} {bar} {percentage} %  {summary}'
    this.#bar = new SingleBar({ format, barsize, fps: 8, forceRedraw: true }, Presets.shades_classic)
    this.#bar.start(1, 0, { title: title.padEnd(16), summary: '' })
  }

  /** `secondsLeftOfAll` is the time that this training and those after it are going to take. */
  update(progress: Progress, secondsLeftOfAll: number): void {
    const summary = [
      `loss ${progress.loss.toFixed(3)}`,
      `${(progress.accuracy * 100).toFixed(1)} % right`,
      `${Math.round(progress.imagesPerSecond).toLocaleString('en')} images/s`,
      `${duration(progress.secondsLeft)} left (all ${duration(secondsLeftOfAll)})`,
    ]
    if (this.#bar) {
      this.#bar.setTotal(progress.steps)
      this.#bar.update(progress.step, { summary: summary.join('  ') })
      return
    }
    const atEnd = progress.step === progress.steps
    if (!atEnd && (this.#half || progress.step < progress.steps / 2)) return
    this.#half = true
    const percent = Math.round((100 * progress.step) / progress.steps)
    console.log([`${this.#title}: ${percent} %`, ...summary].join(', '))
  }

  /** Ends the bar and gives the terminal back as it was. */
  stop(): void {
    this.#bar?.stop()
    this.#bar = undefined
  }
}
