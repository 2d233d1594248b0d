import { expect, test } from "vitest";
import type { FloatTensor } from "../tensor/index.ts";
import { type Conditioning, prepareConditioning } from "./conditioning.ts";
import { createGuidance } from "./guidance.ts";
import { createDiscreteSampling } from "./model-sampling.ts";
import type { ForwardInput } from "./passes.ts";

const model = createDiscreteSampling({ prediction: "eps" });
const SHAPE = [1, 4, 16, 16];

/** A context whose values name the prompt. */
const prompt = (name: number, tokens = 2): Conditioning => ({
  context: { shape: [1, tokens, 3], data: new Float32Array(tokens * 3).fill(name) },
});

/** One guided step with a UNet whose output is its context's first value; the passes it saw. */
async function guide(
  positive: readonly Conditioning[],
  negative: readonly Conditioning[],
  { cfg = 2, signal }: { cfg?: number; signal?: AbortSignal } = {},
) {
  const passes: ForwardInput[] = [];
  const forward = async (input: ForwardInput): Promise<FloatTensor> => {
    passes.push(input);
    const [rows = 1] = input.x.shape;
    const length = input.x.data.length / rows;
    const words = input.context.data.length / rows;
    const data = input.x.data.map((_, index) => {
      return input.context.data[Math.floor(index / length) * words] ?? 0;
    });
    return { shape: input.x.shape, data };
  };
  const prompts = prepareConditioning({ positive, negative }, { model, shape: SHAPE });
  const options = { forward, model, shape: SHAPE, ...prompts, cfg, ...(signal && { signal }) };
  // With x = 0 and sigma = 1 the denoised latent is minus the output.
  const denoised = await createGuidance(options)(new Float32Array(1024), 1);
  return { passes, denoised };
}

test("positive and negative share one pass, the negative row first", async () => {
  const { passes, denoised } = await guide([prompt(5)], [prompt(3)]);
  expect(passes).toHaveLength(1);
  expect(passes[0]?.x.shape).toEqual([2, 4, 16, 16]);
  expect([...(passes[0]?.context.data ?? [])]).toEqual([3, 3, 3, 3, 3, 3, 5, 5, 5, 5, 5, 5]);
  expect(passes[0]?.timesteps).toEqual(new Float32Array(2).fill(model.timestep(1)));
  expect(denoised[0]).toBe(-3 + (-5 + 3) * 2);
});

test("an unchanged context is the same tensor at every step", async () => {
  const seen = new Set<FloatTensor>();
  const forward = async ({ x, context }: ForwardInput): Promise<FloatTensor> => {
    seen.add(context);
    return x;
  };
  const lists = { positive: [prompt(5), { ...prompt(1), endPercent: 0.5 }], negative: [prompt(3)] };
  const prompts = prepareConditioning(lists, { model, shape: SHAPE });
  const denoise = createGuidance({ forward, model, shape: SHAPE, ...prompts, cfg: 2 });
  for (const sigma of [14, 12, 10, 0.5, 0.1]) await denoise(new Float32Array(1024), sigma);
  expect(seen.size).toBe(2);
});

test("guidance of 1 leaves the negative prompt out", async () => {
  const { passes, denoised } = await guide([prompt(5)], [prompt(3)], { cfg: 1 });
  expect(passes[0]?.x.shape[0]).toBe(1);
  expect(denoised[0]).toBe(-5);
});

test("contexts are repeated to a common length, or run apart where that costs too much", async () => {
  const near = await guide([prompt(5, 2)], [prompt(3, 3)]);
  expect(near.passes.map((pass) => pass.context.shape)).toEqual([[2, 6, 3]]);
  const far = await guide([prompt(5, 2)], [prompt(3, 11)]);
  expect(far.passes.map((pass) => pass.context.shape)).toEqual([
    [1, 2, 3],
    [1, 11, 3],
  ]);
});

test("prompts of one list are averaged by strength", async () => {
  const { denoised } = await guide([prompt(4), { ...prompt(1), strength: 0.5 }], [], { cfg: 1 });
  expect(denoised[0]).toBeCloseTo(-(4 + 0.5) / 1.5, 6);
});

test("an area gets a partner of the same area in the other list", async () => {
  const area = { type: "cells", height: 8, width: 8, y: 0, x: 0 } as const;
  const { passes } = await guide([{ ...prompt(5), area }], [prompt(3)]);
  expect(passes.map((pass) => pass.x.shape)).toEqual([
    [2, 4, 8, 8],
    [1, 4, 16, 16],
  ]);
});

test("a prompt outside its percent range does not run, and no prompt at all gives 0", async () => {
  const early = { ...prompt(5), startPercent: 0, endPercent: 0.1 };
  const { passes, denoised } = await guide([early], [], { cfg: 1 });
  expect(passes).toHaveLength(0);
  expect(new Set(denoised)).toEqual(new Set([0]));
});

test("an aborted run stops before the next pass", async () => {
  const run = guide([prompt(5)], [prompt(3)], { signal: AbortSignal.abort() });
  await expect(run).rejects.toMatchObject({ code: "CANCELLED" });
});
