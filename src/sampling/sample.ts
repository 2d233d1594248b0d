/** One KSampler run: everything between a workflow's node and the bare UNet. */
import { LunaError } from "../kernel/index.ts";
import { type FloatTensor, floatTensor } from "../tensor/index.ts";
import { type Conditioning, prepareConditioning } from "./conditioning.ts";
import { createGuidance, type Perturbed } from "./guidance.ts";
import { type ConcatSource, noiseMaskOf, withNoiseMask } from "./inpaint.ts";
import { isMaxDenoise, type ModelSampling, scaleNoise } from "./model-sampling.ts";
import type { Forward } from "./passes.ts";
import { prepareNoise } from "./prepare-noise.ts";
import { type SamplerName, samplerOf } from "./samplers/index.ts";
import { planSigmas, type SchedulerName } from "./schedules.ts";
import { type Seed, TorchGenerator } from "./torch-generator.ts";
import { divided, scaled } from "./vector.ts";

export type StepReport = Readonly<{
  /** 1 to total. */
  step: number;
  total: number;
  sigma: number;
  /** Estimate of the clean latent and the noisy one, [b, c, h, w] as the UNet sees them (scaled). */
  denoised: FloatTensor;
  x: FloatTensor;
}>;

/** A run over given sigmas. */
export type SigmaOptions = Readonly<{
  forward: Forward;
  modelSampling: ModelSampling;
  /** [b, c, h, w], unscaled as the VAE gives it; all zeros for a new picture. */
  latent: FloatTensor;
  /** As `latent`; by default prepareNoise(latent.shape, seed). */
  noise?: FloatTensor;
  seed: Seed;
  /** Descending noise levels; none returns the latent. */
  sigmas: Float32Array;
  /** 1 is no guidance: `negative` is not looked at. */
  cfg: number;
  /** Share of the rescaled guidance (Lin et al. 2023, section 3.4), 0 by default. */
  rescaleCfg?: number;
  /** Perturbed-attention guidance: the same net with its self-attention perturbed. */
  perturbed?: Perturbed;
  samplerName: SamplerName;
  positive: readonly Conditioning[];
  negative: readonly Conditioning[];
  /** Begins from the latent as it is, which an earlier run has left noisy. */
  disableNoise?: boolean;
  /** [h, w], [n, h, w] or [n, 1, h, w] of any size; 1 is repainted, 0 kept. */
  noiseMask?: FloatTensor;
  /** Extra channels of the UNet: inpaint models (9) and pix2pix models (8). */
  concat?: "inpaint" | "pix2pix";
  /** UNet latents = VAE latents * latentScale; 1 by default. */
  latentScale?: number;
  onStep?: (report: StepReport) => void;
  signal?: AbortSignal;
}>;

/** A run as KSampler and KSamplerAdvanced describe it. */
export type SampleOptions = Omit<SigmaOptions, "sigmas"> &
  Readonly<{
    steps: number;
    schedulerName: SchedulerName;
    /** Share of the noise to begin from, 1 by default; 0 returns the latent. */
    denoise?: number;
    startStep?: number;
    lastStep?: number;
    forceFullDenoise?: boolean;
  }>;

function initialNoise({ latent, noise, seed, disableNoise }: SigmaOptions): Float32Array {
  if (disableNoise) return new Float32Array(latent.data.length);
  const { data } = noise ?? prepareNoise(latent.shape, seed);
  if (data.length === latent.data.length) return data;
  throw new LunaError(
    "REQUEST_INVALID",
    `Noise has ${data.length} values, the latent [${latent.shape.join(", ")}] has ${latent.data.length}.`,
  );
}

function concatSource(
  { concat, latentScale = 1 }: SigmaOptions,
  latent: FloatTensor,
  mask: FloatTensor | undefined,
): ConcatSource | undefined {
  return concat && { type: concat, latent, ...(mask && { mask }), latentScale };
}

/** Samples a latent [b, c, h, w] as ComfyUI's KSampler does; see `sampleSigmas`. */
export async function sample(options: SampleOptions): Promise<FloatTensor> {
  const { startStep, lastStep, denoise } = options;
  const sigmas = planSigmas(options.modelSampling, options.schedulerName, {
    steps: options.steps,
    ...(denoise !== undefined && { denoise }),
    ...(startStep !== undefined && { startStep }),
    ...(lastStep !== undefined && { lastStep }),
    isFullDenoiseForced: options.forceFullDenoise === true,
    isPenultimateDiscarded: samplerOf(options.samplerName).isPenultimateDiscarded === true,
  });
  return sampleSigmas({ ...options, sigmas });
}

/**
 * Samples a latent [b, c, h, w] down the given sigmas; the result is unscaled again. Throws
 * REQUEST_INVALID for inputs that do not fit, CANCELLED when the signal aborts, and whatever
 * `forward` throws.
 */
export async function sampleSigmas(options: SigmaOptions): Promise<FloatTensor> {
  const { modelSampling: model, seed, sigmas, latentScale = 1 } = options;
  const { shape } = floatTensor(options.latent.shape, options.latent.data);
  if (shape.length !== 4) {
    throw new LunaError("REQUEST_INVALID", `A latent is [${shape.join(", ")}]: it needs 4 axes.`);
  }
  const sampler = samplerOf(options.samplerName);
  const [sigmaFirst] = sigmas;
  if (sigmaFirst === undefined) return options.latent;

  const noise = initialNoise(options);
  const latent = { shape, data: scaled(options.latent.data, latentScale) };
  const mask = options.noiseMask && noiseMaskOf(options.noiseMask, shape);
  const concat = concatSource(options, latent, mask);
  const prompts = prepareConditioning(options, { model, shape, ...(concat && { concat }) });
  const { forward, cfg, rescaleCfg, perturbed, signal } = options;
  const guided = createGuidance({
    forward,
    model,
    shape,
    ...prompts,
    cfg,
    ...(rescaleCfg !== undefined && { rescaleCfg }),
    ...(perturbed && { perturbed }),
    ...(signal && { signal }),
  });
  const kept = (): Float32Array =>
    sampler.isInpaintNoiseFresh ? new TorchGenerator(BigInt(seed) + 1n).randn(noise.length) : noise;
  const denoise = mask
    ? withNoiseMask(guided, { mask: mask.data, latent: latent.data, noise: kept() })
    : guided;
  const total = sigmas.length - 1;
  const result = await sampler.sample({
    denoise,
    x: scaleNoise(sigmaFirst, { noise, latent: latent.data }, isMaxDenoise(model, sigmaFirst)),
    sigmas,
    seed,
    model,
    onStep: ({ index, sigma, denoised, x }) =>
      options.onStep?.({
        step: index + 1,
        total,
        sigma,
        denoised: { shape, data: denoised },
        x: { shape, data: x },
      }),
  });
  return { shape, data: divided(result, latentScale) };
}
