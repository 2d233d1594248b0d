/** Samplers that step through predictions and fresh noise alone: DDPM (Ho et al. 2020) and LCM. */
import { round, sqrt, square } from "../float-math.ts";
import { scaleNoise } from "../model-sampling.ts";
import { addScaled, divided, scaled, slope } from "../vector.ts";
import { denoiseStep, type Sampler, stepNoise, stepsOf } from "./sampler.ts";

const alphaBarOf = (sigma: number): number => round(1 / round(square(sigma) + 1));

/** Ancestral steps with the posterior variance, on variance-preserving latents. */
export const ddpm: Sampler = async (run) => {
  const noise = stepNoise(run);
  let { x } = run;
  for (const step of stepsOf(run.sigmas)) {
    const { sigma, next } = step;
    const denoised = await denoiseStep(run, step, x);
    const predictedNoise = slope(x, denoised, sigma);
    const alphaBar = alphaBarOf(sigma);
    const alphaBarNext = alphaBarOf(next);
    const alpha = round(alphaBar / alphaBarNext);
    const beta = round(1 - alpha);
    const preserved = divided(x, sqrt(round(1 + square(sigma))));
    const removed = divided(scaled(predictedNoise, beta), sqrt(round(1 - alphaBar)));
    x = scaled(addScaled(preserved, -1, removed), sqrt(round(1 / alpha)));
    if (next === 0) continue;
    const variance = round(round(beta * round(1 - alphaBarNext)) / round(1 - alphaBar));
    x = addScaled(x, sqrt(variance), noise());
    x = scaled(x, sqrt(round(1 + square(next))));
  }
  return x;
};

/** Consistency models: jump to the denoised latent, then noise it to the next level. */
export const lcm: Sampler = async (run) => {
  const noise = stepNoise(run);
  let { x } = run;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    x = step.next > 0 ? scaleNoise(step.next, { noise: noise(), latent: denoised }) : denoised;
  }
  return x;
};
