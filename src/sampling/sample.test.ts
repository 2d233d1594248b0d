import { expect, test } from "vitest";
import type { FloatTensor } from "../tensor/index.ts";
import { createDiscreteSampling } from "./model-sampling.ts";
import type { ForwardInput } from "./passes.ts";
import { prepareNoise } from "./prepare-noise.ts";
import { type SampleOptions, type StepReport, sample } from "./sample.ts";
import { isSamplerName, SAMPLER_NAMES } from "./samplers/index.ts";

const SHAPE = [1, 4, 8, 8];
const prompt = { context: { shape: [1, 2, 3], data: new Float32Array(6) } };

/** eps = x / 2: cheap, and different at every step. */
const forward = async ({ x }: ForwardInput): Promise<FloatTensor> => {
  const [rows = 1, , height = 1, width = 1] = x.shape;
  const length = x.data.length / rows;
  const data = new Float32Array(rows * 4 * height * width);
  for (let row = 0; row < rows; row++) {
    const own = x.data.subarray(row * length, row * length + 4 * height * width);
    data.set(
      own.map((value) => value / 2),
      row * 4 * height * width,
    );
  }
  return { shape: [rows, 4, height, width], data };
};

function run(overrides: Partial<SampleOptions>): Promise<FloatTensor> {
  return sample({
    forward,
    modelSampling: createDiscreteSampling({ prediction: "eps" }),
    latent: { shape: SHAPE, data: new Float32Array(256) },
    seed: 3,
    steps: 4,
    cfg: 2,
    samplerName: "euler",
    schedulerName: "normal",
    positive: [prompt],
    negative: [prompt],
    ...overrides,
  });
}

test.each(SAMPLER_NAMES)("%s reports every step once and returns a finite latent", async (name) => {
  const reports: StepReport[] = [];
  const result = await run({ samplerName: name, onStep: (report) => reports.push(report) });
  expect(reports.map(({ step, total }) => [step, total])).toEqual([
    [1, 4],
    [2, 4],
    [3, 4],
    [4, 4],
  ]);
  expect(reports[0]?.denoised.shape).toEqual(SHAPE);
  expect(result.data.every(Number.isFinite)).toBe(true);
  expect(isSamplerName(name)).toBe(true);
});

test("the same seed gives the same latent, another seed another", async () => {
  const first = await run({ samplerName: "dpmpp_2m_sde" });
  expect(await run({ samplerName: "dpmpp_2m_sde" })).toEqual(first);
  expect(await run({ samplerName: "dpmpp_2m_sde", seed: 4 })).not.toEqual(first);
  expect(await run({ samplerName: "dpmpp_2m_sde", noise: prepareNoise(SHAPE, 3) })).toEqual(first);
});

test("what a noise mask leaves out comes back unchanged", async () => {
  const latent = prepareNoise(SHAPE, 9);
  const mask = new Float32Array(64);
  mask.fill(1, 0, 32);
  const noiseMask = { shape: [8, 8], data: mask };
  const result = await run({ latent, noiseMask, samplerName: "ddim", denoise: 0.7 });
  expect(result.data.subarray(32, 64)).toEqual(latent.data.subarray(32, 64));
  expect(result.data.subarray(0, 32)).not.toEqual(latent.data.subarray(0, 32));
});

test("inpaint models get a mask and a latent as five channels more", async () => {
  const channels = new Set<number | undefined>();
  const watching = async (input: ForwardInput): Promise<FloatTensor> => {
    channels.add(input.x.shape[1]);
    return forward(input);
  };
  await run({ forward: watching, concat: "inpaint" });
  await run({ forward: watching, concat: "pix2pix" });
  expect([...channels]).toEqual([9, 8]);
});

test("denoise 0 returns the latent itself", async () => {
  const latent = prepareNoise(SHAPE, 9);
  expect(await run({ latent, denoise: 0 })).toBe(latent);
});

test("cancelling in the middle ends the run", async () => {
  const controller = new AbortController();
  const running = run({
    signal: controller.signal,
    onStep: ({ step }) => {
      if (step === 2) controller.abort();
    },
  });
  await expect(running).rejects.toMatchObject({ code: "CANCELLED" });
});

test("inputs that do not fit are refused with their shapes", async () => {
  const invalid = { code: "REQUEST_INVALID" };
  await expect(run({ noise: prepareNoise([1, 4, 4, 4], 0) })).rejects.toMatchObject(invalid);
  await expect(run({ steps: 0 })).rejects.toMatchObject(invalid);
  const flat = { shape: [256], data: new Float32Array(256) };
  await expect(run({ latent: flat })).rejects.toMatchObject(invalid);
  const wide = { shape: [1, 3, 8, 8], data: new Float32Array(192) };
  const concatPrompt = { ...prompt, concatLatent: wide };
  const concatRun = run({ concat: "pix2pix", positive: [concatPrompt] });
  await expect(concatRun).rejects.toMatchObject(invalid);
  expect(() => prepareNoise(SHAPE, 0, [-1])).toThrow(/batch index/);
  const short = async (): Promise<FloatTensor> => flat;
  await expect(run({ forward: short })).rejects.toMatchObject({ code: "ENGINE_FAILED" });
});
