/**
 * DPM-Solver++ for the reverse diffusion SDE: after each exponential step, noise of a Brownian path
 * over the sigmas is added (Lu et al. 2022; k-diffusion's 2M and 3M variants), eta = 1.
 */
import { brownianNoise } from "../brownian-noise.ts";
import { exp, expm1, log, round, sqrt } from "../float-math.ts";
import { addScaled, divided, mix, scaled, subtract } from "../vector.ts";
import { ancestralStep, denoiseStep, type Sampler, type Step, stepsOf } from "./sampler.ts";

type Interval = Readonly<{ h: number; hEta: number; alpha: number }>;

/** Length of a step in lambda = -log sigma, doubled by eta = 1; alpha is sigma * e^lambda, near 1. */
function intervalOf(step: Step): Interval {
  const lambdaNext = -log(step.next);
  const h = round(lambdaNext + log(step.sigma));
  return { h, hEta: round(h * 2), alpha: round(step.next * exp(lambdaNext)) };
}

function firstOrder(
  x: Float32Array,
  denoised: Float32Array,
  { step, interval }: Readonly<{ step: Step; interval: Interval }>,
): Float32Array {
  const kept = round(round(step.next / step.sigma) * exp(-interval.h));
  return mix(kept, x, round(interval.alpha * -expm1(-interval.hEta)), denoised);
}

function addNoise(
  x: Float32Array,
  noise: Float32Array,
  { step, interval }: Readonly<{ step: Step; interval: Interval }>,
): Float32Array {
  return addScaled(x, sqrt(-expm1(round(-2 * interval.h))), scaled(noise, step.next));
}

export const dpmpp2mSde: Sampler = async (run) => {
  const noise = brownianNoise(run);
  let { x } = run;
  let previous: { denoised: Float32Array; h: number } | undefined;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    if (step.next === 0) {
      x = denoised;
      continue;
    }
    const interval = intervalOf(step);
    x = firstOrder(x, denoised, { step, interval });
    if (previous) {
      const r = round(previous.h / interval.h);
      const weight = round(
        round(round(0.5 * interval.alpha) * -expm1(-interval.hEta)) * round(1 / r),
      );
      x = addScaled(x, weight, subtract(denoised, previous.denoised));
    }
    x = addNoise(x, noise(step.sigma, step.next), { step, interval });
    previous = { denoised, h: interval.h };
  }
  return x;
};

type Past = Readonly<{ denoised: Float32Array; h: number }>;

/** Second- and third-order terms from the one or two steps before. */
function addHigherOrder(
  x: Float32Array,
  denoised: Float32Array,
  { interval, past }: Readonly<{ interval: Interval; past: readonly Past[] }>,
): Float32Array {
  const [last, before] = past;
  if (!last) return x;
  const { alpha, h, hEta } = interval;
  const phi2 = round(round(expm1(-hEta) / hEta) + 1);
  const r0 = round(last.h / h);
  const newest = divided(subtract(denoised, last.denoised), r0);
  if (!before) return addScaled(x, round(alpha * phi2), newest);
  const r1 = round(before.h / h);
  const older = divided(subtract(last.denoised, before.denoised), r1);
  const bend = subtract(newest, older);
  const both = round(r0 + r1);
  const first = mix(1, newest, 1, divided(scaled(bend, r0), both));
  const second = divided(bend, both);
  const phi3 = round(round(phi2 / hEta) - 0.5);
  const moved = addScaled(x, round(alpha * phi2), first);
  return addScaled(moved, -round(alpha * phi3), second);
}

export const dpmpp3mSde: Sampler = async (run) => {
  const noise = brownianNoise(run);
  let { x } = run;
  let past: readonly Past[] = []; // The newest first.
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    if (step.next === 0) {
      x = denoised;
      continue;
    }
    const interval = intervalOf(step);
    x = firstOrder(x, denoised, { step, interval });
    x = addHigherOrder(x, denoised, { interval, past });
    x = addNoise(x, noise(step.sigma, step.next), { step, interval });
    past = [{ denoised, h: interval.h }, ...past].slice(0, 2);
  }
  return x;
};

/** One of the two stages of dpmpp_sde: an ancestral exponential step to `to`, then its noise. */
function stage(
  x: Float32Array,
  denoised: Float32Array,
  { from, to, noise }: Readonly<{ from: number; to: number; noise: Float32Array }>,
): Float32Array {
  const lambdaFrom = -log(from);
  const lambdaTo = -log(to);
  const { down, up } = ancestralStep(exp(-lambdaFrom), exp(-lambdaTo));
  const h = round(-log(down) - lambdaFrom);
  const alphaFrom = round(from * exp(lambdaFrom));
  const alphaTo = round(to * exp(lambdaTo));
  const kept = round(round(alphaTo / alphaFrom) * exp(-h));
  const moved = mix(kept, x, -round(alphaTo * expm1(-h)), denoised);
  return addScaled(moved, up, scaled(noise, alphaTo));
}

export const dpmppSde: Sampler = async (run) => {
  const noise = brownianNoise(run);
  let { x } = run;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    if (step.next === 0) {
      x = denoised;
      continue;
    }
    const { sigma, next } = step;
    const lambda = -log(sigma);
    const middle = exp(-round(lambda + round(round(-log(next) - lambda) * 0.5)));
    const halfway = stage(x, denoised, { from: sigma, to: middle, noise: noise(sigma, middle) });
    const denoisedHalfway = await run.denoise(halfway, middle);
    x = stage(x, denoisedHalfway, { from: sigma, to: next, noise: noise(sigma, next) });
  }
  return x;
};
