/**
 * What a checkpoint's training says about noise levels: its table of sigmas, the map between sigma
 * and timestep, and how the UNet's output becomes a denoised latent (k-diffusion's "denoiser"
 * wrapper; Karras et al. 2022, section 5). A noisy latent is x = latent + sigma * noise.
 */
import { exp, log, round, sqrt, square } from "./float-math.ts";

/** x0: the net gives the denoised latent itself; lcm: eps with a consistency model's boundary. */
export type PredictionType = "eps" | "v" | "edm" | "x0" | "lcm";

export interface ModelSampling {
  readonly prediction: PredictionType;
  /** Standard deviation of clean latents, 1 for Stable Diffusion. */
  readonly sigmaData: number;
  /** float32, ascending: what schedulers pick from. */
  readonly sigmas: Float32Array;
  readonly sigmaMin: number;
  readonly sigmaMax: number;
  /** What the UNet is told for a noise level. */
  timestep(sigma: number): number;
  /** Inverse of `timestep`; fractional timesteps interpolate log sigma. */
  sigma(timestep: number): number;
  /** Sampling progress 0..1 to a noise level; at or below 0 above every sigma, from 1 on 0. */
  percentToSigma(percent: number): number;
}

export type DiscreteOptions = Readonly<{
  prediction: "eps" | "v" | "x0" | "lcm";
  /** Rescales the schedule so that the last step is pure noise (Lin et al. 2023). */
  isZeroTerminalSnr?: boolean;
}>;

const TIMESTEPS = 1000;
/** Steps that a latent consistency model was distilled for (arXiv 2310.04378). */
const LCM_TIMESTEPS = 50;
/** Sigma of data and scale of timesteps in a consistency model's boundary condition. */
const LCM_SIGMA_DATA = 0.5;
const LCM_TIMESTEP_SCALE = 10;
const BETA_START = 0.00085;
const BETA_END = 0.012;
/** Stands for an infinite sigma in percent ranges, as ComfyUI has it. */
const SIGMA_BEYOND = 999999999.9;
/** alpha-bar of the last step after the rescaling, small instead of 0 so that sigma stays finite. */
const ZERO_SNR_ALPHA_BAR = 4.8973451890853435e-8;

/** Betas whose square roots are evenly spaced, to sigma = sqrt((1 - alphaBar) / alphaBar). */
function trainedSigmas(): Float64Array {
  const from = Math.sqrt(BETA_START);
  const to = Math.sqrt(BETA_END);
  const step = (to - from) / (TIMESTEPS - 1);
  const sigmas = new Float64Array(TIMESTEPS);
  let alphaBar = 1;
  for (let index = 0; index < TIMESTEPS; index++) {
    const root = index < TIMESTEPS / 2 ? from + step * index : to - step * (TIMESTEPS - 1 - index);
    alphaBar *= 1 - root * root;
    sigmas[index] = Math.sqrt((1 - alphaBar) / alphaBar);
  }
  return sigmas;
}

/** Shifts and scales sqrt(alphaBar) so that it keeps its first value and ends at zero. */
function rescaleZeroTerminalSnr(sigmas: Float64Array): Float64Array {
  const roots = sigmas.map((sigma) => Math.sqrt(1 / (sigma * sigma + 1)));
  const first = roots[0] as number;
  const last = roots[TIMESTEPS - 1] as number;
  const scale = first / (first - last);
  const bars = roots.map((root) => ((root - last) * scale) ** 2);
  bars[TIMESTEPS - 1] = ZERO_SNR_ALPHA_BAR;
  return bars.map((bar) => Math.sqrt((1 - bar) / bar));
}

/** Sampling of SD1, SD2 and SDXL: a thousand trained noise levels, eps- or v-prediction. */
export function createDiscreteSampling(options: DiscreteOptions): ModelSampling {
  const trained = trainedSigmas();
  const all = options.isZeroTerminalSnr ? rescaleZeroTerminalSnr(trained) : trained;
  const stride = options.prediction === "lcm" ? TIMESTEPS / LCM_TIMESTEPS : 1;
  const exact = all.filter((_, index) => index % stride === stride - 1);
  const sigmas = Float32Array.from(exact);
  // A distilled schedule is cut out of the float32 table, so its logarithms start from there.
  const logSigmas = Float32Array.from(stride === 1 ? exact : sigmas, Math.log);
  const last = exact.length - 1;
  const sigmaOf = (timestep: number): number => {
    const t = Math.min(Math.max(round(round(timestep - (stride - 1)) / stride), 0), last);
    const low = logSigmas[Math.floor(t)] as number;
    const high = logSigmas[Math.ceil(t)] as number;
    const weight = t - Math.floor(t);
    return exp(round(round(round(1 - weight) * low) + round(weight * high)));
  };
  return {
    prediction: options.prediction,
    sigmaData: 1,
    sigmas,
    sigmaMin: sigmas[0] as number,
    sigmaMax: sigmas[last] as number,
    timestep: (sigma) => nearestIndex(logSigmas, log(sigma)) * stride + (stride - 1),
    sigma: sigmaOf,
    percentToSigma: (percent) => {
      if (percent <= 0) return SIGMA_BEYOND;
      return percent >= 1 ? 0 : sigmaOf((1 - percent) * (TIMESTEPS - 1));
    },
  };
}

/** First index with the smallest float32 distance, as argmin finds it. */
function nearestIndex(ascending: Float32Array, value: number): number {
  let nearest = 0;
  let smallest = Number.POSITIVE_INFINITY;
  for (let index = 0; index < ascending.length; index++) {
    const distance = Math.abs(round(value - (ascending[index] as number)));
    if (distance >= smallest) continue;
    smallest = distance;
    nearest = index;
  }
  return nearest;
}

export type ContinuousOptions = Readonly<{
  prediction: "v" | "edm";
  sigmaMin: number;
  sigmaMax: number;
  sigmaData: number;
}>;

/** Sampling of models trained on a range of sigmas (EDM); timestep = ln(sigma) / 4. */
export function createContinuousSampling(options: ContinuousOptions): ModelSampling {
  const logMin = round(Math.log(options.sigmaMin));
  const logMax = round(Math.log(options.sigmaMax));
  const count = TIMESTEPS;
  const step = round(round(logMax - logMin) / (count - 1));
  const sigmas = Float32Array.from({ length: count }, (_, index) =>
    exp(round(index < count / 2 ? logMin + step * index : logMax - step * (count - 1 - index))),
  );
  const sigmaMin = sigmas[0] as number;
  const sigmaMax = sigmas[count - 1] as number;
  return {
    prediction: options.prediction,
    sigmaData: options.sigmaData,
    sigmas,
    sigmaMin,
    sigmaMax,
    timestep: (sigma) => round(0.25 * log(sigma)),
    sigma: (timestep) => exp(round(timestep / 0.25)),
    percentToSigma: (percent) => {
      if (percent <= 0) return SIGMA_BEYOND;
      if (percent >= 1) return 0;
      const from = Math.log(sigmaMin);
      return Math.exp((Math.log(sigmaMax) - from) * (1 - percent) + from);
    },
  };
}

/** The factor that brings a noisy latent to the variance the UNet was trained on: divide by it. */
export function inputDivisor(model: ModelSampling, sigma: number): number {
  return sqrt(round(square(sigma) + model.sigmaData ** 2));
}

/** Denoised latent from the UNet's output for one row or batch at the same sigma. */
export function calculateDenoised(
  model: ModelSampling,
  sigma: number,
  { output, x }: Readonly<{ output: Float32Array; x: Float32Array }>,
): Float32Array {
  if (model.prediction === "x0") return output;
  const denoised = new Float32Array(x.length);
  if (model.prediction === "lcm") {
    const time = round(model.timestep(sigma) * LCM_TIMESTEP_SCALE);
    const total = round(square(time) + LCM_SIGMA_DATA ** 2);
    const [skip, out] = [round(LCM_SIGMA_DATA ** 2 / total), round(time / sqrt(total))];
    for (let index = 0; index < x.length; index++) {
      const clean = round((x[index] as number) - round((output[index] as number) * sigma));
      denoised[index] = round(out * clean) + round(skip * (x[index] as number));
    }
    return denoised;
  }
  if (model.prediction === "eps") {
    for (let index = 0; index < x.length; index++) {
      denoised[index] = (x[index] as number) - round((output[index] as number) * sigma);
    }
    return denoised;
  }
  const data = model.sigmaData;
  const dataSquared = round(data ** 2);
  const variance = round(square(sigma) + data ** 2);
  const deviation = sqrt(variance);
  const factor = round(data);
  const sign = model.prediction === "v" ? -1 : 1;
  for (let index = 0; index < x.length; index++) {
    const kept = round(round((x[index] as number) * dataSquared) / variance);
    const predicted = round(round(round((output[index] as number) * sigma) * factor) / deviation);
    denoised[index] = kept + sign * predicted;
  }
  return denoised;
}

/** latent + noise * sigma; from the highest sigma on, the noise is scaled to the full variance. */
export function scaleNoise(
  sigma: number,
  { noise, latent }: Readonly<{ noise: Float32Array; latent: Float32Array }>,
  isMaxDenoise = false,
): Float32Array {
  const scale = isMaxDenoise ? sqrt(round(1 + square(sigma))) : sigma;
  const scaled = new Float32Array(noise.length);
  for (let index = 0; index < noise.length; index++) {
    scaled[index] = round((noise[index] as number) * scale) + (latent[index] as number);
  }
  return scaled;
}

/** Whether sampling begins at (or above) the highest sigma the model knows. */
export function isMaxDenoise(model: ModelSampling, sigma: number): boolean {
  const max = model.sigmaMax;
  return sigma > max || Math.abs(max - sigma) <= 1e-5 * Math.max(max, sigma);
}
