/**
 * The losses, heads and functions; every public name stands in this file.
 * @module margin-softmax
 */

export {
  type Calibration,
  type CalibrationCost,
  type CalibrationOptions,
  calibrationCost,
  fitCalibration,
} from './calibration'
export { type Device, type DeviceName, devices, type Precision } from './devices'
export { MarginSoftmaxError } from './errors'
export type { ExecutionOptions } from './execution'
export { Gallery, type GalleryOptions, type SearchOptions, type SearchResult } from './gallery'
export { MarginHead } from './head'
export {
  type IdentificationIntervals,
  type IdentificationResult,
  type Interval,
  identify,
  identifySync,
} from './identification'
export type { FloatArray, LabelArray, ParametersOf } from './internal/check'
export { type ClassMeansOptions, classMeans } from './internal/class-means'
export type { WeightStorage } from './internal/head-options'
export type {
  AddedClasses,
  EvaluateResult,
  HeadChanges,
  LoadOptions,
  MarginHeadOptions,
  ProjectedHeadOptions,
  SignalOptions,
  StepOptions,
  StepResult,
  StepStatistics,
} from './internal/head-settings'
export type { ClassRun } from './internal/head-shards'
export type { OpenSetPoint } from './internal/identification-figures'
export type { IdentificationBatch, IdentificationOptions } from './internal/identification-request'
export { type Exchange, instructionSets, type LeftOut } from './internal/native'
export type { Projection, ProjectionOptions } from './internal/projection'
export type { Answers, PairList, ScoreOptions, VerificationOptions } from './internal/verification-request'
export {
  type Batch,
  type MarginLossOptions,
  type MarginLossResult,
  marginLoss,
  marginLossSync,
  type Reduction,
} from './loss'
export {
  type ArcFaceMargin,
  arcface,
  type CombinedMargin,
  type CosFaceMargin,
  type CurricularFaceMargin,
  combined,
  cosface,
  curricularface,
  type Margin,
  type MVSoftmaxMargin,
  mvsoftmax,
  type NormFaceMargin,
  normface,
  type SoftmaxMargin,
  type SphereFaceMargin,
  softmaxMargin,
  sphereface,
} from './margins'
export { type AdamWOptimizer, adamW, type Optimizer, type SgdOptimizer, sgd } from './optimizers'
export type { Gradient, GradientChoice } from './outputs'
export {
  type CrossEntropyLossOptions,
  type CrossEntropyLossResult,
  crossEntropy,
  crossEntropyLoss,
  type ElementwiseOptions,
  entropy,
  informationContent,
  klDivergence,
  logSoftmax,
  type RowExecution,
  type RowOptions,
  softmax,
} from './probability'
export { type AsNormBatch, type AsNormOptions, asNorm, asNormSync } from './score-normalization'
export { type TopKBatch, type TopKOptions, type TopKResult, topK, topKSync } from './topk'
export {
  type Folds,
  type OperatingPoint,
  type VerificationResult,
  verification,
  verificationFromScores,
  verificationFromScoresSync,
  verificationSync,
} from './verification'
export {
  type VerificationIntervalOptions,
  type VerificationIntervals,
  verificationIntervals,
  verificationIntervalsSync,
} from './verification-intervals'
