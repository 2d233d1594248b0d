import { round, sqrt, square } from "../float-math.ts";
import type { ModelSampling } from "../model-sampling.ts";
import { type Seed, TorchGenerator } from "../torch-generator.ts";

/** What a sampler works with; x and denoised are whole batches, row-major. */
export type SamplerRun = Readonly<{
  /** Guided denoised latent at a noise level. */
  denoise: (x: Float32Array, sigma: number) => Promise<Float32Array>;
  /** The noisy latent to begin with. */
  x: Float32Array;
  /** Descending noise levels, float32; one step fewer than their count. */
  sigmas: Float32Array;
  seed: Seed;
  model: ModelSampling;
  /** Called once a step, with the latent the step began from. */
  onStep: (step: SampledStep) => void;
}>;

export type SampledStep = Readonly<{
  index: number;
  sigma: number;
  denoised: Float32Array;
  x: Float32Array;
}>;

/** Takes the noisy latent down the sigmas. */
export type Sampler = (run: SamplerRun) => Promise<Float32Array>;

export type Step = Readonly<{ index: number; sigma: number; next: number }>;

/** The moves from each sigma to the one after it. */
export function stepsOf(sigmas: Float32Array): Step[] {
  return Array.from({ length: Math.max(sigmas.length - 1, 0) }, (_, index) => ({
    index,
    sigma: sigmas[index] as number,
    next: sigmas[index + 1] as number,
  }));
}

/** Denoises a step's latent and reports it. */
export async function denoiseStep(
  run: SamplerRun,
  { index, sigma }: Step,
  x: Float32Array,
): Promise<Float32Array> {
  const denoised = await run.denoise(x, sigma);
  run.onStep({ index, sigma, denoised, x });
  return denoised;
}

/** Where an ancestral step goes down to, and how much new noise brings it up to `to` again. */
export function ancestralStep(from: number, to: number): Readonly<{ down: number; up: number }> {
  const toSquared = square(to);
  const fromSquared = square(from);
  const variance = round(round(toSquared * round(fromSquared - toSquared)) / fromSquared);
  const up = Math.min(to, sqrt(variance));
  return { down: sqrt(round(toSquared - square(up))), up };
}

/**
 * Fresh noise of a step. ComfyUI seeds its own generator with seed + 1 on a CPU, so that the first
 * draw is not the initial noise again.
 */
export function stepNoise({ seed, x }: SamplerRun): () => Float32Array {
  const generator = new TorchGenerator(BigInt(seed) + 1n);
  return () => generator.randn(x.length);
}
