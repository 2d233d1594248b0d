/**
 * Classifier-free guidance over lists of prompts. Each list's output is the average of its prompts'
 * outputs, weighted by strength, mask and area; prompts of equal size share one forward pass, and
 * its rows stand in ComfyUI's order: the last prompt first, so negative before positive.
 */
import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import type { Box } from "./areas.ts";
import type { Prompt } from "./conditioning.ts";
import { round } from "./float-math.ts";
import { CONTEXT_REPEATS_MAX } from "./limits.ts";
import { calculateDenoised, inputDivisor, type ModelSampling } from "./model-sampling.ts";
import { combineRescaled } from "./rescale-cfg.ts";
import { divided } from "./vector.ts";

export type ForwardInput = Readonly<{
  /** [rows, channels, h, w] as the net sees it: scaled, with concatenated channels. */
  x: FloatTensor;
  /** [rows] */
  timesteps: Float32Array;
  /** [rows, tokens, contextDim]; the same object at every step with the same prompts, as is `y`. */
  context: FloatTensor;
  /** [rows, admChannels] */
  y?: FloatTensor;
}>;

/** The bare UNet: eps, v or F as its weights give it, [rows, latent channels, h, w]. */
export type Forward = (input: ForwardInput, signal?: AbortSignal) => Promise<FloatTensor>;

export type GuidanceOptions = Readonly<{
  forward: Forward;
  model: ModelSampling;
  /** [b, c, H, W] */
  shape: readonly number[];
  positive: readonly Prompt[];
  negative: readonly Prompt[];
  cfg: number;
  rescaleCfg?: number;
  signal?: AbortSignal;
}>;

type Side = "positive" | "negative";
type Job = Readonly<{ prompt: Prompt; side: Side }>;

/** One forward pass: its rows, and the inputs that stay the same from step to step. */
type Pass = Readonly<{ jobs: readonly Job[]; context: FloatTensor; y?: FloatTensor }>;

function leastCommonMultiple(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y > 0) [x, y] = [y, x % y];
  return (a / x) * b;
}

function hasSameShape(a: FloatTensor | undefined, b: FloatTensor | undefined): boolean {
  if (!a || !b) return a === b;
  return a.shape.length === b.shape.length && a.shape.every((axis, i) => axis === b.shape[i]);
}

/** Contexts of different length share a pass when repetition makes them equal cheaply. */
function canShareContext(a: FloatTensor, b: FloatTensor): boolean {
  const [first = 1, second = 1] = [a.shape[1], b.shape[1]];
  if (a.shape[2] !== b.shape[2]) return false;
  return leastCommonMultiple(first, second) / Math.min(first, second) <= CONTEXT_REPEATS_MAX;
}

function canShare(a: Prompt, b: Prompt): boolean {
  return (
    a.box.height === b.box.height &&
    a.box.width === b.box.width &&
    hasSameShape(a.y, b.y) &&
    // Concatenated channels are cut to the box, so only their count matters.
    a.concat?.shape[1] === b.concat?.shape[1] &&
    canShareContext(a.context, b.context)
  );
}

/** Splits the jobs into forward passes. */
function planPasses(jobs: readonly Job[]): Pass[] {
  const passes: Pass[] = [];
  let rest = jobs;
  while (rest[0]) {
    const { prompt } = rest[0];
    const together = rest.filter((job) => canShare(job.prompt, prompt)).reverse();
    const vectors = together.flatMap((job) => job.prompt.y ?? []);
    passes.push({
      jobs: together,
      context: joinContexts(together.map((job) => job.prompt.context)),
      ...(vectors.length > 0 && { y: joinRows(vectors) }),
    });
    rest = rest.filter((job) => !canShare(job.prompt, prompt));
  }
  return passes;
}

/** Copies a box of [b, c, H, W] into [rows, channels, box] from the given row and channel on. */
function cutBox(
  source: FloatTensor,
  box: Box,
  {
    target,
    row,
    channel,
    channels,
  }: Readonly<{
    target: Float32Array;
    row: number;
    channel: number;
    channels: number;
  }>,
): void {
  const [batch = 1, own = 1, height = 1, width = 1] = source.shape;
  const plane = box.height * box.width;
  for (let index = 0; index < batch; index++) {
    for (let c = 0; c < own; c++) {
      let end = ((row + index) * channels + channel + c) * plane;
      const origin = (index * own + c) * height * width + box.x;
      for (let y = box.y; y < box.y + box.height; y++) {
        const begin = origin + y * width;
        target.set(source.data.subarray(begin, begin + box.width), end);
        end += box.width;
      }
    }
  }
}

/** Rows [b, t, d] repeated along the tokens until they are `tokens` long, one after another. */
function joinContexts(contexts: readonly FloatTensor[]): FloatTensor {
  const tokens = contexts.reduce(
    (length, context) => leastCommonMultiple(length, context.shape[1] ?? 1),
    1,
  );
  const [first] = contexts;
  const [batch = 1, , width = 1] = first?.shape ?? [];
  const data = new Float32Array(contexts.length * batch * tokens * width);
  let end = 0;
  for (const context of contexts) {
    const length = (context.shape[1] ?? 1) * width;
    for (let row = 0; row < batch; row++) {
      const values = context.data.subarray(row * length, (row + 1) * length);
      for (let repeat = 0; repeat < tokens * width; repeat += length) {
        data.set(values, end);
        end += length;
      }
    }
  }
  return { shape: [contexts.length * batch, tokens, width], data };
}

function joinRows(parts: readonly FloatTensor[]): FloatTensor {
  const rows = parts.reduce((sum, part) => sum + (part.shape[0] ?? 1), 0);
  const data = new Float32Array(parts.reduce((sum, part) => sum + part.data.length, 0));
  let end = 0;
  for (const part of parts) {
    data.set(part.data, end);
    end += part.data.length;
  }
  return { shape: [rows, ...(parts[0]?.shape.slice(1) ?? [])], data };
}

function buildInput(
  { jobs, context, y }: Pass,
  latent: FloatTensor,
  { divisor, timestep }: Readonly<{ divisor: number; timestep: number }>,
): ForwardInput {
  const [batch = 1, own = 1] = latent.shape;
  const { box, concat } = (jobs[0] as Job).prompt;
  const channels = own + (concat?.shape[1] ?? 0);
  const rows = jobs.length * batch;
  const data = new Float32Array(rows * channels * box.height * box.width);
  const scaledLatent = { ...latent, data: divided(latent.data, divisor) };
  for (const [index, { prompt }] of jobs.entries()) {
    const place = { target: data, row: index * batch, channels };
    cutBox(scaledLatent, prompt.box, { ...place, channel: 0 });
    if (prompt.concat) cutBox(prompt.concat, prompt.box, { ...place, channel: own });
  }
  return {
    x: { shape: [rows, channels, box.height, box.width], data },
    timesteps: new Float32Array(rows).fill(timestep),
    context,
    ...(y && { y }),
  };
}

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

function applies(prompt: Prompt, sigma: number): boolean {
  return sigma <= prompt.sigmaStart && sigma >= prompt.sigmaEnd;
}

async function runPass(
  pass: Pass,
  latent: FloatTensor,
  { options, sigma }: Readonly<{ options: GuidanceOptions; sigma: number }>,
): Promise<Float32Array[]> {
  const { model, forward, signal } = options;
  const input = buildInput(pass, latent, {
    divisor: inputDivisor(model, sigma),
    timestep: model.timestep(sigma),
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

/** The guided denoiser of a run: [b, c, H, W] data at a sigma to its denoised estimate. */
export function createGuidance(
  options: GuidanceOptions,
): (x: Float32Array, sigma: number) => Promise<Float32Array> {
  const { shape, cfg } = options;
  // Guidance of 1 is the positive output alone; the negative pass is left out.
  const isGuided = Math.abs(cfg - 1) > 1e-9 * Math.max(Math.abs(cfg), 1);
  const used: readonly Side[] = isGuided ? ["positive", "negative"] : ["positive"];
  const all = used.flatMap((side) => options[side].map((prompt): Job => ({ prompt, side })));
  let planned: Readonly<{ jobs: readonly Job[]; passes: Pass[] }> = { jobs: [], passes: [] };
  return async (x, sigma) => {
    const jobs = all.filter(({ prompt }) => applies(prompt, sigma));
    // Prompts come and go rarely, and a context that stays the same tensor is sent only once.
    if (jobs.length !== planned.jobs.length || jobs.some((job, i) => job !== planned.jobs[i])) {
      planned = { jobs, passes: planPasses(jobs) };
    }
    const parts: Record<Side, Part[]> = { positive: [], negative: [] };
    for (const pass of planned.passes) {
      if (options.signal?.aborted) {
        throw new LunaError("CANCELLED", "Sampling was cancelled.", {
          cause: options.signal.reason,
        });
      }
      const outputs = await runPass(pass, { shape, data: x }, { options, sigma });
      for (const [index, job] of pass.jobs.entries()) {
        const denoised = outputs[index] as Float32Array;
        parts[job.side].push({ prompt: job.prompt, denoised });
      }
    }
    const positive = average(parts.positive, shape);
    if (!isGuided) return positive;
    const sides = { positive, negative: average(parts.negative, shape) };
    const { rescaleCfg } = options;
    if (rescaleCfg === undefined) return combine(positive, sides.negative, cfg);
    return combineRescaled(sides, { x, sigma, rows: shape[0] ?? 1, cfg, share: rescaleCfg });
  };
}
