/**
 * Guidance whose result keeps the spread of the positive prediction, against pictures that guidance
 * overexposes (Lin et al. 2023, arXiv 2305.08891, section 3.4): computed on v-predictions, mixed
 * with plain guidance by `share`.
 */
import { round, sqrt, square } from "./float-math.ts";

export type RescaleOptions = Readonly<{
  /** The noisy latent, rows of equal length. */
  x: Float32Array;
  sigma: number;
  rows: number;
  cfg: number;
  share: number;
}>;

/** Both sides are denoised latents, and so is the result. */
export function combineRescaled(
  { positive, negative }: Readonly<{ positive: Float32Array; negative: Float32Array }>,
  { x, sigma, rows, cfg, share }: RescaleOptions,
): Float32Array {
  const variance = round(square(sigma) + 1);
  const deviation = sqrt(variance);
  const length = x.length / rows;
  const result = new Float32Array(x.length);
  for (let begin = 0; begin < x.length; begin += length) {
    const velocity = (denoised: Float32Array, index: number): number => {
      const kept = (x[index] as number) / variance;
      return ((kept - (denoised[index] as number)) * deviation) / sigma;
    };
    const wanted = new Float32Array(length);
    const guided = new Float32Array(length);
    for (let i = 0; i < length; i++) {
      const base = velocity(negative, begin + i);
      wanted[i] = velocity(positive, begin + i);
      guided[i] = base + cfg * ((wanted[i] as number) - base);
    }
    const ratio = spread(wanted) / spread(guided);
    for (let i = 0; i < length; i++) {
      const v = (guided[i] as number) * (share * ratio + 1 - share);
      const kept = (x[begin + i] as number) / variance;
      result[begin + i] = kept - (v * sigma) / deviation;
    }
  }
  return result;
}

/** Standard deviation of a sample. */
function spread(values: Float32Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1));
}
