/**
 * DPM-Solver++ without Brownian noise (Lu et al. 2022): steps in lambda = -log sigma, where the
 * denoised latent is extrapolated. Also res_multistep, the second-order exponential integrator of
 * arXiv 2308.02157.
 */
import { exp, expm1, log, round } from "../float-math.ts";
import { addScaled, mix, slope } from "../vector.ts";
import { ancestralStep, denoiseStep, type Sampler, stepNoise, stepsOf } from "./sampler.ts";

/** Exponential step of length h in lambda: (sigma ratio) * x - (e^-h - 1) * denoised. */
function exponentialStep(
  x: Float32Array,
  denoised: Float32Array,
  { from, to, h }: Readonly<{ from: number; to: number; h: number }>,
): Float32Array {
  // The sigmas are taken from lambda again, as the original does: e^-(-log sigma).
  return mix(round(exp(-to) / exp(-from)), x, -expm1(-h), denoised);
}

export const dpmpp2m: Sampler = async (run) => {
  let { x } = run;
  let previous: { denoised: Float32Array; lambda: number } | undefined;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    const lambda = -log(step.sigma);
    const lambdaNext = -log(step.next);
    const h = round(lambdaNext - lambda);
    let target = denoised;
    if (previous && step.next !== 0) {
      const r = round(round(lambda - previous.lambda) / h);
      const extra = round(1 / round(2 * r));
      target = mix(round(1 + extra), denoised, -extra, previous.denoised);
    }
    x = exponentialStep(x, target, { from: lambda, to: lambdaNext, h });
    previous = { denoised, lambda };
  }
  return x;
};

export const dpmpp2sAncestral: Sampler = async (run) => {
  const noise = stepNoise(run);
  let { x } = run;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    const { down, up } = ancestralStep(step.sigma, step.next);
    if (down === 0) {
      x = addScaled(x, round(down - step.sigma), slope(x, denoised, step.sigma));
    } else {
      const from = -log(step.sigma);
      const to = -log(down);
      const h = round(to - from);
      const half = round(h * 0.5);
      const middle = round(from + half);
      const halfway = exponentialStep(x, denoised, { from, to: middle, h: half });
      const denoisedHalfway = await run.denoise(halfway, exp(-middle));
      x = exponentialStep(x, denoisedHalfway, { from, to, h });
    }
    if (step.next > 0) x = addScaled(x, up, noise());
  }
  return x;
};

export const resMultistep: Sampler = async (run) => {
  let { x } = run;
  let previous: { denoised: Float32Array; lambda: number } | undefined;
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    const lambda = -log(step.sigma);
    if (step.next === 0 || !previous) {
      x = addScaled(x, round(step.next - step.sigma), slope(x, denoised, step.sigma));
    } else {
      const h = round(-log(step.next) - lambda);
      const c2 = round(round(previous.lambda - lambda) / h);
      const phi1 = round(expm1(-h) / -h);
      const phi2 = round(round(phi1 - 1) / -h);
      // Two equal sigmas in a row make both coefficients 0 / 0; the original drops them.
      const old = round(phi2 / c2);
      const b1 = orZero(round(phi1 - old));
      const b2 = orZero(old);
      x = addScaled(mix(exp(-h), x, 0, x), h, mix(b1, denoised, b2, previous.denoised));
    }
    previous = { denoised, lambda };
  }
  return x;
};

function orZero(value: number): number {
  return Number.isNaN(value) ? 0 : value;
}
