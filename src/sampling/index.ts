export type { Area } from "./areas.ts";
export type { Conditioning } from "./conditioning.ts";
export type { Control, ControlInput } from "./control.ts";
export type { Perturbed } from "./guidance.ts";
export {
  createContinuousSampling,
  createDiscreteSampling,
  type ModelSampling,
} from "./model-sampling.ts";
export type { Forward, ForwardInput } from "./passes.ts";
export { prepareNoise } from "./prepare-noise.ts";
export {
  type SampleOptions,
  type SigmaOptions,
  type StepReport,
  sample,
  sampleSigmas,
} from "./sample.ts";
export { isSamplerName, SAMPLER_NAMES, type SamplerName } from "./samplers/index.ts";
export {
  betaSigmas,
  calculateSigmas,
  isSchedulerName,
  SCHEDULER_NAMES,
  type SchedulerName,
} from "./schedules.ts";
export {
  exponentialSigmas,
  karrasSigmas,
  polyexponentialSigmas,
  vpSigmas,
} from "./sigma-ranges.ts";
export { type Seed, TorchGenerator } from "./torch-generator.ts";
