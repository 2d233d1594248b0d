import { BrownianTree } from "./brownian-tree.ts";
import { round, sqrt } from "./float-math.ts";
import type { Seed } from "./torch-generator.ts";
import { divided, scaled } from "./vector.ts";

/**
 * Noise of SDE samplers: the increment of one Brownian path between two sigmas, normalized to unit
 * variance, so that more steps refine the same path (k-diffusion's BrownianTreeNoiseSampler).
 * The path runs from the lowest sigma above 0 to the highest.
 */
export function brownianNoise({
  seed,
  x,
  sigmas,
}: Readonly<{ seed: Seed; x: Float32Array; sigmas: Float32Array }>): (
  sigma: number,
  next: number,
) => Float32Array {
  const positive = sigmas.filter((sigma) => sigma > 0);
  const start = positive.reduce(
    (lowest, sigma) => Math.min(lowest, sigma),
    Number.POSITIVE_INFINITY,
  );
  const end = positive.reduce((highest, sigma) => Math.max(highest, sigma), 0);
  // A run of one positive sigma has no interval to draw from and asks for none.
  const tree = start < end ? new BrownianTree(seed, { start, end, size: x.length }) : undefined;
  return (sigma, next) => {
    if (!tree) return new Float32Array(x.length);
    const increment = tree.increment(Math.min(sigma, next), Math.max(sigma, next));
    const direction = sigma < next ? 1 : -1;
    return divided(scaled(increment, direction), sqrt(Math.abs(round(next - sigma))));
  };
}
