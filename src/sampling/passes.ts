/**
 * Forward passes of one step: prompts of equal size share one, and its rows stand in ComfyUI's
 * order: the last prompt first, so negative before positive.
 */
import type { FloatTensor } from "../tensor/index.ts";
import type { Box } from "./areas.ts";
import type { Prompt } from "./conditioning.ts";
import { type ControlInput, joinControls, type RowsOfControl } from "./control.ts";
import { CONTEXT_REPEATS_MAX } from "./limits.ts";
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
  /** In the order in which they add up. */
  controls?: readonly ControlInput[];
}>;

/** The bare UNet: eps, v or F as its weights give it, [rows, latent channels, h, w]. */
export type Forward = (input: ForwardInput, signal?: AbortSignal) => Promise<FloatTensor>;

export type Side = "positive" | "negative";
export type PromptJob = Readonly<{ prompt: Prompt; side: Side }>;

/** One forward pass: its rows, and the inputs that stay the same from step to step. */
export type Pass = Readonly<{
  jobs: readonly PromptJob[];
  context: FloatTensor;
  y?: FloatTensor;
  controls: readonly RowsOfControl[];
}>;

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

/** Splits the jobs of a batch of latents into forward passes. */
function planPasses(jobs: readonly PromptJob[], batch: number): Pass[] {
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
      controls: joinControls(
        together.map((job) => job.prompt.controls),
        batch,
      ),
    });
    rest = rest.filter((job) => !canShare(job.prompt, prompt));
  }
  return passes;
}

/** The passes of each noise level: prompts come and go, and contexts stay the same tensors meanwhile. */
export function createPlanner(
  all: readonly PromptJob[],
  batch: number,
): (sigma: number) => readonly Pass[] {
  let planned: Readonly<{ jobs: readonly PromptJob[]; passes: Pass[] }> = { jobs: [], passes: [] };
  return (sigma) => {
    const jobs = all.filter(({ prompt }) => applies(prompt, sigma));
    if (jobs.length !== planned.jobs.length || jobs.some((job, i) => job !== planned.jobs[i])) {
      planned = { jobs, passes: planPasses(jobs, batch) };
    }
    return planned.passes;
  };
}

function applies(prompt: Prompt, sigma: number): boolean {
  return sigma <= prompt.sigmaStart && sigma >= prompt.sigmaEnd;
}

/** Copies a box of [b, c, H, W] into [rows, channels, box] from the given row and channel on. */
export function cutBox(
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

/** What the net gets for the latent [b, c, H, W] at one noise level. */
export function buildInput(
  { jobs, context, y, controls }: Pass,
  latent: FloatTensor,
  { divisor, timestep, sigma }: Readonly<{ divisor: number; timestep: number; sigma: number }>,
): ForwardInput {
  const [batch = 1, own = 1] = latent.shape;
  const { box, concat } = (jobs[0] as PromptJob).prompt;
  const channels = own + (concat?.shape[1] ?? 0);
  const rows = jobs.length * batch;
  const data = new Float32Array(rows * channels * box.height * box.width);
  const scaledLatent = { ...latent, data: divided(latent.data, divisor) };
  for (const [index, { prompt }] of jobs.entries()) {
    const place = { target: data, row: index * batch, channels };
    cutBox(scaledLatent, prompt.box, { ...place, channel: 0 });
    if (prompt.concat) cutBox(prompt.concat, prompt.box, { ...place, channel: own });
  }
  const active = controls.flatMap(({ control, input }) =>
    sigma <= control.sigmaStart && sigma >= control.sigmaEnd ? [input] : [],
  );
  return {
    x: { shape: [rows, channels, box.height, box.width], data },
    timesteps: new Float32Array(rows).fill(timestep),
    context,
    ...(y && { y }),
    ...(active.length > 0 && { controls: active }),
  };
}
