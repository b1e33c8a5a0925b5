/** The options of `train` that make a projection, and classes that judge it. */
import { Misuse } from '../terminal'
import type { TrainingSettings } from './settings'

export interface ProjectionChoice {
  project?: number
  projectLayers: number
  projectHidden?: number
  batchNorm?: boolean
  dropout: number
  validation: number
  validationClasses: number
}

const belongsToProjection = ['projectLayers', 'projectHidden', 'batchNorm', 'dropout'] as const

/**
 * @param typed without the defaults
 * @param optionNamed the flag of an option
 */
export function checkProjectionChoice(
  all: ProjectionChoice,
  typed: Partial<ProjectionChoice>,
  optionNamed: (name: keyof ProjectionChoice) => string | undefined
): void {
  for (const name of belongsToProjection)
    if (typed[name] !== undefined && all.project === undefined)
      throw new Misuse(`Expected --project with ${optionNamed(name)}`)
  if (typed.projectHidden !== undefined && all.projectLayers !== 2)
    throw new Misuse(`Expected --project-layers 2 with --project-hidden but received ${all.projectLayers}`)
  if (!all.validationClasses) return
  // docs/command-line.md, "What a validation can say"
  if (all.project === undefined)
    throw new Misuse(
      `Expected --project with --validation-classes ${all.validationClasses}: without it the embeddings are given and stay as they are, so classes that are not trained on judge them alone, with one figure for every epoch, which verify gives`
    )
  if (typed.validation)
    throw new Misuse('Expected either --validation or --validation-classes but received both')
}

/** The projection that was asked for, and the dimension of the head above it. */
export function projectionOf(
  { project, projectLayers, projectHidden, batchNorm, dropout }: ProjectionChoice,
  from: number
): Pick<TrainingSettings['head'], 'dim' | 'projection'> {
  if (project === undefined) return { dim: from }
  const layers = projectLayers as 1 | 2
  return {
    dim: project,
    projection: {
      from,
      to: project,
      layers,
      hidden: projectHidden ?? from,
      batchNorm: batchNorm ?? false,
      dropout,
    },
  }
}
