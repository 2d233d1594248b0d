/**
 * Sigma schedules: from a number of steps to the noise levels a sampler visits, descending and
 * (all of these) ending with 0. Arithmetic is ComfyUI 0.18's: float32 where it has tensors.
 */
import { LunaError } from "../kernel/index.ts";
import { betaQuantile } from "./beta-quantile.ts";
import { linspace, round, roundHalfEven } from "./float-math.ts";
import { SCHEDULE_STEPS_MAX, STEPS_MAX } from "./limits.ts";
import type { ModelSampling } from "./model-sampling.ts";
import { exponentialSigmas, karrasSigmas, type SigmaRange } from "./sigma-ranges.ts";

type Schedule = (model: ModelSampling, steps: number) => Iterable<number>;

/** Rho of Karras et al. 2022, equation 5. */
const KARRAS_RHO = 7;
/** Alpha and beta of the beta schedule (Lee et al. 2024, arXiv 2407.12173). */
const BETA_SHAPE = 0.6;

/** Evenly spaced timesteps, the last one included ("normal") or left out ("sgm_uniform"). */
function uniformTimesteps(model: ModelSampling, steps: number, isEndIncluded: boolean): number[] {
  const start = model.timestep(model.sigmaMax);
  const end = model.timestep(model.sigmaMin);
  const timesteps = linspace(start, end, isEndIncluded ? steps : steps + 1).subarray(0, steps);
  return [...Array.from(timesteps, (timestep) => model.sigma(timestep)), 0];
}

/** Every (1000 / steps)-th sigma of the table, from the highest down. */
function simple(model: ModelSampling, steps: number): number[] {
  const { sigmas } = model;
  const stride = sigmas.length / steps;
  const picked = Array.from(
    { length: steps },
    (_, index) => sigmas[sigmas.length - 1 - Math.trunc(index * stride)] as number,
  );
  return [...picked, 0];
}

/** Whole strides from the second-lowest sigma up; yields more than `steps` where they do not divide. */
function ddimUniform(model: ModelSampling, steps: number): number[] {
  const { sigmas } = model;
  const stride = Math.max(Math.floor(sigmas.length / steps), 1);
  const picked = [0];
  for (let index = 1; index < sigmas.length; index += stride) picked.push(sigmas[index] as number);
  return picked.reverse();
}

function rangeOf({ sigmaMin, sigmaMax }: ModelSampling, steps: number): SigmaRange {
  return { steps, sigmaMin, sigmaMax };
}

/** Table indices at the quantiles of a beta distribution; equal neighbours merge. */
export function betaSigmas(
  model: ModelSampling,
  steps: number,
  { alpha, beta }: Readonly<{ alpha: number; beta: number }>,
): Float32Array {
  checkSteps(steps, SCHEDULE_STEPS_MAX);
  const last = model.sigmas.length - 1;
  const picked: number[] = [];
  let previous = -1;
  for (let index = 0; index < steps; index++) {
    const quantile = betaQuantile(1 - index / steps, alpha, beta);
    const timestep = roundHalfEven(quantile * last);
    if (timestep !== previous) picked.push(model.sigmas[timestep] as number);
    previous = timestep;
  }
  return Float32Array.from([...picked, 0]);
}

/** Evenly spaced arc tangents of sigma (Sabour et al. 2024). */
function klOptimal(model: ModelSampling, steps: number): number[] {
  const low = round(Math.atan(model.sigmaMin));
  const high = round(Math.atan(model.sigmaMax));
  const sigmas = Array.from({ length: steps }, (_, index) => {
    // A single step is 0 / 0 in the original; the highest sigma is what it should begin with.
    const share = steps > 1 ? round(index / (steps - 1)) : 0;
    return Math.tan(round(round(share * low) + round(round(1 - share) * high)));
  });
  return [...sigmas, 0];
}

/** In ComfyUI's order: the first is what a new node shows. */
const SCHEDULES = {
  simple,
  sgm_uniform: (model, steps) => uniformTimesteps(model, steps, false),
  karras: (model, steps) => karrasSigmas({ ...rangeOf(model, steps), rho: KARRAS_RHO }),
  exponential: (model, steps) => exponentialSigmas(rangeOf(model, steps)),
  ddim_uniform: ddimUniform,
  beta: (model, steps) => betaSigmas(model, steps, { alpha: BETA_SHAPE, beta: BETA_SHAPE }),
  normal: (model, steps) => uniformTimesteps(model, steps, true),
  kl_optimal: klOptimal,
} as const satisfies Record<string, Schedule>;

export type SchedulerName = keyof typeof SCHEDULES;

export const SCHEDULER_NAMES = Object.keys(SCHEDULES) as readonly SchedulerName[];

export function isSchedulerName(name: string): name is SchedulerName {
  return Object.hasOwn(SCHEDULES, name);
}

function checkSteps(steps: number, max: number): void {
  if (Number.isInteger(steps) && steps >= 1 && steps <= max) return;
  throw new LunaError(
    "REQUEST_INVALID",
    `Sampling steps are ${steps}: give a whole number from 1 to ${max}.`,
  );
}

/** Sigmas of a scheduler, normally `steps` of them and the final 0. Throws REQUEST_INVALID. */
export function calculateSigmas(
  model: ModelSampling,
  scheduler: SchedulerName,
  steps: number,
): Float32Array {
  checkSteps(steps, SCHEDULE_STEPS_MAX);
  return Float32Array.from(SCHEDULES[scheduler](model, steps));
}

export type StepOptions = Readonly<{
  steps: number;
  /** Below 1 the schedule is made for steps / denoise and only its last `steps` are run. */
  denoise?: number;
  startStep?: number;
  lastStep?: number;
  /** Sets the last sigma of a run that ends early to 0. */
  isFullDenoiseForced?: boolean;
  /** One extra step whose second-to-last sigma is dropped (second-order samplers end badly on it). */
  isPenultimateDiscarded?: boolean;
}>;

/**
 * The sigmas one KSampler or KSamplerAdvanced run visits; empty or one long when nothing is to be
 * done (denoise 0, or a start at or after the last step).
 */
export function planSigmas(
  model: ModelSampling,
  scheduler: SchedulerName,
  options: StepOptions,
): Float32Array {
  const { steps, denoise = 1, startStep, lastStep } = options;
  const build = (count: number): Float32Array => {
    if (!options.isPenultimateDiscarded) return calculateSigmas(model, scheduler, count);
    const sigmas = calculateSigmas(model, scheduler, count + 1);
    sigmas[sigmas.length - 2] = sigmas[sigmas.length - 1] as number;
    return sigmas.slice(0, -1);
  };
  checkSteps(steps, STEPS_MAX);
  if (denoise <= 0) return new Float32Array(0);
  let sigmas =
    denoise > 0.9999 ? build(steps) : build(Math.trunc(steps / denoise)).slice(-(steps + 1));
  if (lastStep !== undefined && lastStep < sigmas.length - 1) {
    sigmas = sigmas.slice(0, lastStep + 1);
    if (options.isFullDenoiseForced) sigmas[sigmas.length - 1] = 0;
  }
  if (startStep === undefined) return sigmas;
  return startStep < sigmas.length - 1 ? sigmas.slice(startStep) : new Float32Array(0);
}
