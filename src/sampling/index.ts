export type { Area } from "./areas.ts";
export type { Conditioning } from "./conditioning.ts";
export type { Forward, ForwardInput } from "./guidance.ts";
export {
  createContinuousSampling,
  createDiscreteSampling,
  type ModelSampling,
} from "./model-sampling.ts";
export { prepareNoise } from "./prepare-noise.ts";
export { type SampleOptions, type StepReport, sample } from "./sample.ts";
export { isSamplerName, SAMPLER_NAMES, type SamplerName } from "./samplers/index.ts";
export {
  calculateSigmas,
  isSchedulerName,
  SCHEDULER_NAMES,
  type SchedulerName,
} from "./schedules.ts";
export { type Seed, TorchGenerator } from "./torch-generator.ts";
