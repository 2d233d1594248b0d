/**
 * UniPC (Zhao et al. 2023, arXiv 2302.04867), multistep of order 3, predicting the clean latent:
 * each step predicts with the past outputs and then corrects with the output at the new point,
 * which the next step reuses. Works on variance-preserving latents x / sqrt(1 + sigma^2), whose
 * signal scale is alpha and noise scale is deviation. Variants differ in B(h): h or e^h - 1.
 */
import { exp, expm1, log, round, sqrt, square } from "../float-math.ts";
import { addScaled, divided, mix, scaled, subtract } from "../vector.ts";
import type { Sampler, SamplerRun } from "./sampler.ts";

type Variant = "bh1" | "bh2";

const ORDER_MAX = 3;
/** Stands for the final sigma 0, whose logarithm is infinite. */
const LAST_SIGMA = round(0.001);

type Level = Readonly<{ sigma: number; alpha: number; deviation: number; lambda: number }>;
type Output = Readonly<{ level: Level; denoised: Float32Array }>;

/** alpha = 1 / sqrt(1 + sigma^2), deviation = sqrt(1 - alpha^2), lambda = log(alpha / deviation). */
function levelOf(sigma: number): Level {
  const logAlpha = round(0.5 * log(round(1 / round(square(sigma) + 1))));
  const variance = round(1 - exp(round(2 * logAlpha)));
  return {
    sigma,
    alpha: exp(logAlpha),
    deviation: sqrt(variance),
    lambda: round(logAlpha - round(0.5 * log(variance))),
  };
}

/** The model's clean latent, by way of its noise as the original computes it. */
async function predict(run: SamplerRun, x: Float32Array, level: Level): Promise<Float32Array> {
  const { sigma, alpha, deviation } = level;
  const noisy = scaled(x, sqrt(round(square(sigma) + 1)));
  const noise = divided(subtract(noisy, await run.denoise(noisy, sigma)), sigma);
  return divided(addScaled(x, -deviation, noise), alpha);
}

/** Gauss elimination without pivoting: R is a Vandermonde matrix of distinct nodes. */
function solve(matrix: readonly (readonly number[])[], right: readonly number[]): number[] {
  const rows = matrix.map((row, index) => [...row, right[index] as number]);
  const size = rows.length;
  for (const [pivotIndex, pivot] of rows.entries()) {
    for (const row of rows.slice(pivotIndex + 1)) {
      const factor = (row[pivotIndex] as number) / (pivot[pivotIndex] as number);
      for (let column = pivotIndex; column <= size; column++) {
        row[column] = (row[column] as number) - factor * (pivot[column] as number);
      }
    }
  }
  const solution = new Array<number>(size).fill(0);
  for (let index = size - 1; index >= 0; index--) {
    const row = rows[index] as number[];
    let rest = row[size] as number;
    for (let column = index + 1; column < size; column++) {
      rest -= (row[column] as number) * (solution[column] as number);
    }
    solution[index] = rest / (row[index] as number);
  }
  return solution;
}

type Coefficients = Readonly<{ phi1: number; bOfH: number; nodes: number[]; targets: number[] }>;

/** Right-hand sides b_i = i! * phi_(i+1)(h) * h / B(h) of the order conditions. */
function coefficientsOf(past: readonly Output[], to: Level, variant: Variant): Coefficients {
  const from = (past[0] as Output).level;
  const h = round(to.lambda - from.lambda);
  const phi1 = expm1(-h);
  const bOfH = variant === "bh1" ? -h : phi1;
  const earlier = past.slice(1).map(({ level }) => round(round(level.lambda - from.lambda) / h));
  const nodes = [...earlier, 1];
  let phi = round(round(phi1 / -h) - 1);
  let factorial = 1;
  const targets = nodes.map((_, index) => {
    const target = round(round(phi * factorial) / bOfH);
    factorial *= index + 2;
    phi = round(round(phi / -h) - 1 / factorial);
    return target;
  });
  return { phi1, bOfH, nodes, targets };
}

/** Weights of the first `count` nodes, from as many order conditions. */
function weightsOf({ nodes, targets }: Coefficients, count: number): number[] {
  // The one-node systems are degenerate; one half is their limit.
  if (count === 1) return [0.5];
  const used = nodes.slice(0, count);
  const matrix = used.map((_, power) => used.map((node) => round(node ** power)));
  return solve(matrix, targets.slice(0, count));
}

function weightedSum(
  terms: readonly Float32Array[],
  weights: readonly number[],
): Float32Array | undefined {
  let sum: Float32Array | undefined;
  for (const [index, term] of terms.entries()) {
    const weight = weights[index] as number;
    sum = sum ? addScaled(sum, weight, term) : scaled(term, weight);
  }
  return sum;
}

/** One step of the given order; without correction at the last one, where no output follows. */
async function update(
  run: SamplerRun,
  x: Float32Array,
  {
    past,
    to,
    variant,
    isCorrected,
  }: Readonly<{ past: readonly Output[]; to: Level; variant: Variant; isCorrected: boolean }>,
): Promise<{ x: Float32Array; denoised: Float32Array | undefined }> {
  const newest = past[0] as Output;
  const coefficients = coefficientsOf(past, to, variant);
  const differences = past
    .slice(1)
    .map(({ denoised }, index) =>
      divided(subtract(denoised, newest.denoised), coefficients.nodes[index] as number),
    );
  const base = mix(
    round(to.deviation / newest.level.deviation),
    x,
    -round(to.alpha * coefficients.phi1),
    newest.denoised,
  );
  const scale = -round(to.alpha * coefficients.bOfH);
  const predictor = weightedSum(
    differences,
    differences.length > 0 ? weightsOf(coefficients, differences.length) : [],
  );
  const predicted = predictor ? addScaled(base, scale, predictor) : base;
  if (!isCorrected) return { x: predicted, denoised: undefined };
  const denoised = await predict(run, predicted, to);
  const terms = [...differences, subtract(denoised, newest.denoised)];
  const corrector = weightedSum(terms, weightsOf(coefficients, terms.length));
  return { x: corrector ? addScaled(base, scale, corrector) : base, denoised };
}

function createUniPc(variant: Variant): Sampler {
  return async (run) => {
    const sigmas = run.sigmas.slice();
    const steps = sigmas.length - 1;
    if (sigmas[steps] === 0) sigmas[steps] = LAST_SIGMA;
    const levels = Array.from(sigmas, levelOf);
    const order = Math.min(ORDER_MAX, steps - 1);
    const [first] = levels;
    const last = levels[steps];
    if (!first || !last) return run.x;
    let x = divided(run.x, sqrt(round(1 + square(first.sigma))));
    /** The newest output first. */
    let past: Output[] = [];
    for (const [index, to] of levels.entries()) {
      if (index === 0) {
        if (steps > 0) past = [{ level: to, denoised: await predict(run, x, to) }];
      } else if (index === steps) {
        // A single step stops at its prediction, as the original's loop does.
        const used = past.slice(0, Math.min(order, 1));
        if (used.length > 0) {
          x = (await update(run, x, { past: used, to, variant, isCorrected: false })).x;
        }
      } else {
        const used = past.slice(0, Math.min(order, index, steps + 1 - index));
        const moved = await update(run, x, { past: used, to, variant, isCorrected: true });
        x = moved.x;
        if (moved.denoised)
          past = [{ level: to, denoised: moved.denoised }, ...past].slice(0, order);
      }
      report(run, { index, steps, x, newest: past[0] });
    }
    return divided(x, last.alpha);
  };
}

function report(
  run: SamplerRun,
  {
    index,
    steps,
    x,
    newest,
  }: Readonly<{ index: number; steps: number; x: Float32Array; newest: Output | undefined }>,
): void {
  if (index === steps || !newest) return;
  run.onStep({ index, sigma: newest.level.sigma, denoised: newest.denoised, x });
}

export const uniPc = createUniPc("bh1");
export const uniPcBh2 = createUniPc("bh2");
