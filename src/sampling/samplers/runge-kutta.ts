/** Euler, Heun and DPM-Solver-2 steps down the probability flow (Karras et al. 2022, algorithm 1). */
import { geometricMean, round } from "../float-math.ts";
import { addScaled, mix, scaled, slope } from "../vector.ts";
import { ancestralStep, denoiseStep, type Sampler, stepNoise, stepsOf } from "./sampler.ts";

export const euler: Sampler = async (run) => {
  let { x } = run;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    x = addScaled(x, round(step.next - step.sigma), slope(x, denoised, step.sigma));
  }
  return x;
};

export const eulerAncestral: Sampler = async (run) => {
  const noise = stepNoise(run);
  let { x } = run;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    const { down, up } = ancestralStep(step.sigma, step.next);
    if (down === 0) {
      x = denoised;
      continue;
    }
    x = addScaled(x, round(down - step.sigma), slope(x, denoised, step.sigma));
    x = addScaled(x, up, noise());
  }
  return x;
};

export const heun: Sampler = async (run) => {
  let { x } = run;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    const direction = slope(x, denoised, step.sigma);
    const move = round(step.next - step.sigma);
    const ahead = addScaled(x, move, direction);
    if (step.next === 0) {
      x = ahead;
      continue;
    }
    const directionAhead = slope(ahead, await run.denoise(ahead, step.next), step.next);
    x = addScaled(x, move, scaled(mix(1, direction, 1, directionAhead), 0.5));
  }
  return x;
};

export const dpm2: Sampler = async (run) => {
  let { x } = run;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    const direction = slope(x, denoised, step.sigma);
    if (step.next === 0) {
      x = addScaled(x, round(step.next - step.sigma), direction);
      continue;
    }
    const middle = geometricMean(step.sigma, step.next);
    const halfway = addScaled(x, round(middle - step.sigma), direction);
    const directionHalfway = slope(halfway, await run.denoise(halfway, middle), middle);
    x = addScaled(x, round(step.next - step.sigma), directionHalfway);
  }
  return x;
};

export const dpm2Ancestral: Sampler = async (run) => {
  const noise = stepNoise(run);
  let { x } = run;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    const { down, up } = ancestralStep(step.sigma, step.next);
    const direction = slope(x, denoised, step.sigma);
    if (down === 0) {
      x = addScaled(x, round(down - step.sigma), direction);
      continue;
    }
    const middle = geometricMean(step.sigma, down);
    const halfway = addScaled(x, round(middle - step.sigma), direction);
    const directionHalfway = slope(halfway, await run.denoise(halfway, middle), middle);
    x = addScaled(x, round(down - step.sigma), directionHalfway);
    x = addScaled(x, up, noise());
  }
  return x;
};
