/**
 * Classifier-free guidance over lists of prompts. Each list's output is the average of its prompts'
 * outputs, weighted by strength, mask and area.
 */
import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import type { Box } from "./areas.ts";
import type { Prompt } from "./conditioning.ts";
import { round } from "./float-math.ts";
import { calculateDenoised, inputDivisor, type ModelSampling } from "./model-sampling.ts";
import {
  buildInput,
  createPlanner,
  cutBox,
  type Forward,
  type Pass,
  type PromptJob,
  type Side,
} from "./passes.ts";
import { combineRescaled } from "./rescale-cfg.ts";

/** A net that is worse on purpose, and how far a step goes away from what it says. */
export type Perturbed = Readonly<{ forward: Forward; scale: number }>;

export type GuidanceOptions = Readonly<{
  forward: Forward;
  model: ModelSampling;
  /** [b, c, H, W] */
  shape: readonly number[];
  positive: readonly Prompt[];
  negative: readonly Prompt[];
  cfg: number;
  rescaleCfg?: number;
  /** Perturbed-attention guidance (arXiv 2403.17377): one more pass of the positive prompts. */
  perturbed?: Perturbed;
  signal?: AbortSignal;
}>;

type Part = Readonly<{ prompt: Prompt; denoised: Float32Array }>;

/** Adds values times weights to a box of one plane; either is 1 where it is left out. */
function addToPlane(
  target: Float32Array,
  { box, width, begin }: Readonly<{ box: Box; width: number; begin: number }>,
  { values, weights }: Readonly<{ values?: Float32Array; weights?: Float32Array }>,
): void {
  let cell = 0;
  for (let y = 0; y < box.height; y++) {
    let place = begin + (box.y + y) * width + box.x;
    for (let x = 0; x < box.width; x++) {
      const weight = weights ? (weights[cell] as number) : 1;
      const value = values ? round((values[cell] as number) * weight) : weight;
      target[place] = (target[place] as number) + value;
      place += 1;
      cell += 1;
    }
  }
}

/** Weighted average of a list's denoised boxes over the whole latent, [b, c, H, W]. */
function average(parts: readonly Part[], shape: readonly number[]): Float32Array {
  const [only] = parts;
  if (only && parts.length === 1 && only.prompt.isWhole && !only.prompt.multiplier) {
    return only.denoised; // The sum of one output times 1, divided by 1.
  }
  const [batch = 1, channels = 1, height = 1, width = 1] = shape;
  const plane = height * width;
  const sum = new Float32Array(batch * channels * plane);
  // Where no prompt applies the average is 0 / tiny, as in the original.
  const total = new Float32Array(batch * plane).fill(1e-37);
  for (const { prompt, denoised } of parts) {
    const { box, multiplier } = prompt;
    const size = box.height * box.width;
    const maskRows = multiplier ? multiplier.length / size : 1;
    for (let row = 0; row < batch; row++) {
      const first = (row % maskRows) * size;
      const weights = multiplier && { weights: multiplier.subarray(first, first + size) };
      addToPlane(total, { box, width, begin: row * plane }, { ...weights });
      for (let index = row * channels; index < (row + 1) * channels; index++) {
        const values = denoised.subarray(index * size, (index + 1) * size);
        addToPlane(sum, { box, width, begin: index * plane }, { values, ...weights });
      }
    }
  }
  for (let index = 0; index < batch * channels; index++) {
    const totalBegin = Math.floor(index / channels) * plane;
    for (let cell = 0; cell < plane; cell++) {
      const at = index * plane + cell;
      sum[at] = (sum[at] as number) / (total[totalBegin + cell] as number);
    }
  }
  return sum;
}

type PassOptions = Pick<GuidanceOptions, "model" | "forward" | "signal"> &
  Readonly<{ sigma: number }>;

async function runPass(
  pass: Pass,
  latent: FloatTensor,
  { model, forward, sigma, signal }: PassOptions,
): Promise<Float32Array[]> {
  const input = buildInput(pass, latent, {
    divisor: inputDivisor(model, sigma),
    timestep: model.timestep(sigma),
    sigma,
  });
  const output = await forward(input, signal);
  const length = output.data.length / pass.jobs.length;
  const [batch = 1, channels = 1] = latent.shape;
  return pass.jobs.map(({ prompt }, index) => {
    const { box } = prompt;
    const count = batch * channels * box.height * box.width;
    if (length !== count) {
      throw new LunaError(
        "ENGINE_FAILED",
        `The UNet returned [${output.shape.join(", ")}] for an input of [${input.x.shape.join(", ")}]: expected ${channels} channels.`,
      );
    }
    const x = new Float32Array(count);
    cutBox(latent, box, { target: x, row: 0, channel: 0, channels });
    const values = output.data.subarray(index * count, (index + 1) * count);
    return calculateDenoised(model, sigma, { output: values, x });
  });
}

/** negative + (positive - negative) * cfg */
function combine(positive: Float32Array, negative: Float32Array, cfg: number): Float32Array {
  const scale = round(cfg);
  const guided = new Float32Array(positive.length);
  for (let index = 0; index < positive.length; index++) {
    const base = negative[index] as number;
    guided[index] = base + round(round((positive[index] as number) - base) * scale);
  }
  return guided;
}

/** Runs the passes of one step; what each prompt's rows gave. */
async function predict(
  passes: readonly Pass[],
  latent: FloatTensor,
  options: PassOptions,
): Promise<Record<Side, Part[]>> {
  const parts: Record<Side, Part[]> = { positive: [], negative: [] };
  for (const pass of passes) {
    if (options.signal?.aborted) {
      const { reason: cause } = options.signal;
      throw new LunaError("CANCELLED", "Sampling was cancelled.", { cause });
    }
    const outputs = await runPass(pass, latent, options);
    for (const [index, job] of pass.jobs.entries()) {
      const denoised = outputs[index] as Float32Array;
      parts[job.side].push({ prompt: job.prompt, denoised });
    }
  }
  return parts;
}

/** The guided denoiser of a run: [b, c, H, W] data at a sigma to its denoised estimate. */
export function createGuidance(
  options: GuidanceOptions,
): (x: Float32Array, sigma: number) => Promise<Float32Array> {
  const { shape, cfg, model, forward, perturbed, rescaleCfg, signal } = options;
  const rows = shape[0] ?? 1;
  // Guidance of 1 is the positive output alone; the negative pass is left out.
  const isGuided = Math.abs(cfg - 1) > 1e-9 * Math.max(Math.abs(cfg), 1);
  const jobsOf = (side: Side) => options[side].map((prompt): PromptJob => ({ prompt, side }));
  const positive = jobsOf("positive");
  const passesAt = createPlanner(isGuided ? [...positive, ...jobsOf("negative")] : positive, rows);
  const perturbedAt = createPlanner(positive, rows);
  const isPerturbed = perturbed !== undefined && perturbed.scale !== 0;
  return async (x, sigma) => {
    const latent = { shape, data: x };
    const run = { model, sigma, ...(signal && { signal }) };
    const [parts, other] = await Promise.all([
      predict(passesAt(sigma), latent, { ...run, forward }),
      isPerturbed && predict(perturbedAt(sigma), latent, { ...run, forward: perturbed.forward }),
    ]);
    const wanted = average(parts.positive, shape);
    let guided = wanted;
    if (isGuided) {
      const sides = { positive: wanted, negative: average(parts.negative, shape) };
      guided =
        rescaleCfg === undefined
          ? combine(wanted, sides.negative, cfg)
          : combineRescaled(sides, { x, sigma, rows, cfg, share: rescaleCfg });
    }
    if (!isPerturbed || !other) return guided;
    const apart = { from: average(other.positive, shape), to: wanted };
    return pushed(guided, apart, perturbed.scale);
  };
}

/** guided + (to - from) * scale */
function pushed(
  guided: Float32Array,
  { from, to }: Readonly<{ from: Float32Array; to: Float32Array }>,
  scale: number,
): Float32Array {
  const factor = round(scale);
  return guided.map((value, i) => {
    const difference = round((to[i] as number) - (from[i] as number));
    return value + round(difference * factor);
  });
}
