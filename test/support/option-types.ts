// The compiler holds the public types of options, which are written by hand for their doc comments, against the tables that
// check them: in both directions, names and values. This file never runs.
import type {
  ExecutionOptions,
  HeadChanges,
  LoadOptions,
  MarginHeadOptions,
  MarginLossOptions,
  ProjectedHeadOptions,
  Projection,
  ProjectionOptions,
} from '../../lib/index'
import type { LoadedName, Settings } from '../../lib/internal/head-options'
import type { LossSettings } from '../../lib/loss'

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Compiles only where both types are the same. */
const same = <A, B>(..._: Same<A, B> extends true ? [] : ['the types differ']): void => {}

type Given<Options, Name extends keyof Options> = { [N in Name]-?: Exclude<Options[N], undefined> }
type Required<Options> = {
  [N in keyof Options]-?: object extends Pick<Options, N> ? never : N
}[keyof Options]

// An option of a new head is a setting, an execution option, or one of head-start.ts, whose table satisfies the rest.
type FlatSettings = Omit<Settings, 'projection'>
same<Given<MarginHeadOptions, keyof FlatSettings>, FlatSettings>()
same<
  Given<ProjectionOptions, keyof ProjectionOptions>,
  { -readonly [N in keyof Projection]: Projection[N] }
>()
same<Required<MarginHeadOptions>, 'classes' | 'dim'>()
same<Required<ProjectedHeadOptions>, 'classes' | 'projection'>()
same<keyof ProjectedHeadOptions, keyof MarginHeadOptions>()
same<keyof HeadChanges, Exclude<keyof Settings, LoadedName> | 'classNames'>()
same<keyof LoadOptions, keyof HeadChanges | LoadedName | 'group' | 'checksums' | keyof ExecutionOptions>()
same<Required<HeadChanges> | Required<LoadOptions>, never>()

// The margin becomes what native code takes of it; the other options are arrays, which `namesOf` lists.
type Scalars = Omit<LossSettings, 'margin'>
same<Given<MarginLossOptions, keyof Scalars>, Scalars>()
same<Required<MarginLossOptions>, never>()
