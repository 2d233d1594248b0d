/** LMS: Adams-Bashforth steps over the last four slopes, weights from the uneven sigmas. */
import { addScaled, mix, slope } from "../vector.ts";
import { denoiseStep, type Sampler, stepsOf } from "./sampler.ts";

const ORDER = 4;
/** Nodes of the two-point Gauss rule on [-1, 1], exact for the cubics integrated here. */
const GAUSS_NODE = 1 / Math.sqrt(3);

/** Integral over [from, to] of the Lagrange polynomial that is 1 at nodes[which], 0 at the others. */
function lagrangeIntegral(
  nodes: readonly number[],
  which: number,
  range: [number, number],
): number {
  const [from, to] = range;
  const centre = (from + to) / 2;
  const half = (to - from) / 2;
  const own = nodes[which] as number;
  const valueAt = (sigma: number): number =>
    nodes.reduce(
      (product, node, index) =>
        index === which ? product : (product * (sigma - node)) / (own - node),
      1,
    );
  return half * (valueAt(centre - half * GAUSS_NODE) + valueAt(centre + half * GAUSS_NODE));
}

export const lms: Sampler = async (run) => {
  let { x } = run;
  /** The newest first. */
  let history: { sigma: number; direction: Float32Array }[] = [];
  for (const step of stepsOf(run.sigmas)) {
    const denoised = await denoiseStep(run, step, x);
    const direction = slope(x, denoised, step.sigma);
    history = [{ sigma: step.sigma, direction }, ...history].slice(0, ORDER);
    if (step.next === 0) {
      x = denoised;
      continue;
    }
    const nodes = history.map((entry) => entry.sigma);
    const weights = nodes.map((_, index) =>
      lagrangeIntegral(nodes, index, [step.sigma, step.next]),
    );
    let move: Float32Array | undefined;
    for (const [index, entry] of history.entries()) {
      const weight = weights[index] as number;
      move = move ? addScaled(move, weight, entry.direction) : mix(weight, entry.direction, 0, x);
    }
    if (move) x = addScaled(x, 1, move);
  }
  return x;
};
