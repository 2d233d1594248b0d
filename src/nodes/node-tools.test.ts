/** Against ComfyUI: goldens of test/reference/node-tools.py. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { FakeServices, FakeUNet, fakeInfo } from "../../test/support/fake-models.ts";
import { type FloatTensor, floatTensor } from "../tensor/index.ts";
import { NODE_DEFINITIONS, type NodeContext } from "./index.ts";

type Case = { node: string; inputs: Record<string, unknown>; outputs: number[][] };
const golden: {
  schedules: { sigmas: number[]; cases: Case[] };
  pictures: Case[];
  latents: Case[];
  rebatched: { samples: number[]; batchIndex: number[]; mask: number[] }[];
} = JSON.parse(
  readFileSync(new URL("../../test/fixtures/goldens/node-tools.json", import.meta.url), "utf8"),
);

/** The inputs of the Python script. */
function wave(shape: number[], scale = 1, offset = 0): FloatTensor {
  const length = shape.reduce((a, b) => a * b, 1);
  const data = Float32Array.from(
    { length },
    (_, i) => Math.sin(i * 0.7 + 0.01 * i * i) * scale + offset,
  );
  return floatTensor(shape, data);
}

const context: NodeContext = Object.assign(new FakeServices({}) as FakeServices & NodeContext, {
  nodeId: "1",
  signal: new AbortController().signal,
  progress: () => undefined,
  metadata: () => [],
});

async function run(node: string, inputs: Record<string, unknown>): Promise<readonly unknown[]> {
  const definition = NODE_DEFINITIONS.get(node);
  if (definition === undefined) throw new Error(`No node ${node}.`);
  return (await definition.run(inputs, context)).outputs;
}

function expectNear(actual: ArrayLike<number>, expected: readonly number[], tolerance = 2e-6) {
  expect(actual.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) {
    const distance = Math.abs(value - (actual[i] ?? Number.NaN));
    expect(distance).toBeLessThanOrEqual(tolerance * Math.max(1, Math.abs(value)));
  }
}

const label = ({ node, inputs }: Case) => `${node} ${JSON.stringify(inputs)}`;

const model = { unet: new FakeUNet(fakeInfo("m")), location: "local" };
const sigmas = Float32Array.from(golden.schedules.sigmas);
test.each(golden.schedules.cases.map((each) => [label(each), each] as const))(
  "%s",
  async (_, each) => {
    const outputs = await run(each.node, { model, sigmas, ...each.inputs });
    for (const [slot, expected] of each.outputs.entries()) {
      expectNear(outputs[slot] as Float32Array, expected);
    }
  },
);

const image = wave([2, 5, 7, 3], 0.5, 0.5);
const image2 = wave([2, 6, 4, 3], 0.4, 0.45);
const mask = wave([2, 5, 7], 0.5, 0.5);
test.each(golden.pictures.map((each) => [label(each), each] as const))("%s", async (_, each) => {
  const made = await run(each.node, { image, image1: image, image2, mask, ...each.inputs });
  for (const [slot, expected] of each.outputs.entries()) {
    expectNear((made[slot] as FloatTensor).data, expected);
  }
});

const samples_to = { samples: wave([1, 4, 6, 8]) };
const samples_from = { samples: wave([1, 4, 5, 3], 0.7) };
test.each(golden.latents.map((each) => [label(each), each] as const))("%s", async (_, each) => {
  const inputs = { samples_to, samples_from, samples1: samples_to, samples2: samples_from };
  const [out] = await run(each.node, { ...inputs, ...each.inputs });
  const { samples, batchIndex } = out as { samples: FloatTensor; batchIndex?: number[] };
  expectNear(samples.data, each.outputs[0] ?? []);
  if (each.outputs[1] !== undefined) expect(batchIndex).toEqual(each.outputs[1]);
});

test("RebatchLatents cuts as ComfyUI does", async () => {
  const latents = [
    { samples: wave([3, 4, 2, 3]), batchIndex: [4, 5, 9] },
    { samples: wave([2, 4, 2, 3], 0.5), noiseMask: wave([1, 1, 16, 24], 0.5, 0.5) },
    { samples: wave([1, 4, 2, 2]) },
  ];
  const [batches] = await run("RebatchLatents", { latents, batch_size: [2] });
  const made = batches as { samples: FloatTensor; batchIndex: number[]; noiseMask?: FloatTensor }[];
  expect(made.map(({ batchIndex }) => batchIndex)).toEqual(
    golden.rebatched.map(({ batchIndex }) => batchIndex),
  );
  for (const [i, { samples, mask }] of golden.rebatched.entries()) {
    expectNear(made[i]?.samples.data ?? [], samples);
    expectNear(
      (made[i]?.noiseMask?.data ?? new Float32Array()).filter((_, at) => at % 17 === 0),
      mask,
    );
  }
});

test("SamplerCustom with KSampler's schedule gives KSampler's latent", async () => {
  const positive = [{ context: wave([1, 77, 8]) }];
  const negative = [{ context: wave([1, 77, 8], 0.5) }];
  const latent_image = { samples: floatTensor([1, 4, 8, 8]) };
  const steps = { steps: 4, scheduler: "karras", denoise: 1 };
  const prompts = { model, positive, negative, latent_image, cfg: 5 };
  const [expected] = await run("KSampler", {
    ...prompts,
    ...steps,
    seed: 7n,
    sampler_name: "euler",
  });
  const [schedule] = await run("BasicScheduler", { model, ...steps });
  const [sampler] = await run("KSamplerSelect", { sampler_name: "euler" });
  const custom = { ...prompts, sigmas: schedule, sampler, noise_seed: 7n, add_noise: true };
  const [simple, denoised] = await run("SamplerCustom", custom);
  expect(simple).toEqual(expected);
  // Euler's last step goes to the denoised latent itself.
  const last = (denoised as { samples: FloatTensor }).samples.data;
  expectNear(last, [...(simple as { samples: FloatTensor }).samples.data], 1e-5);
  const [guider] = await run("CFGGuider", prompts);
  const [noise] = await run("RandomNoise", { noise_seed: 7n });
  const advanced = { guider, noise, sampler, sigmas: schedule, latent_image };
  expect((await run("SamplerCustomAdvanced", advanced))[0]).toEqual(expected);
  const [basic] = await run("BasicGuider", { model, conditioning: positive });
  const [unguided] = await run("SamplerCustomAdvanced", { ...advanced, guider: basic });
  const [plain] = await run("SamplerCustom", { ...custom, cfg: 1 });
  expect(unguided).toEqual(plain);
  const [empty] = await run("DisableNoise", {});
  const [still] = await run("SamplerCustomAdvanced", { ...advanced, noise: empty });
  expect(still).not.toEqual(expected);
});

test("FreeU is a feature of the model, PerturbedAttentionGuidance one more pass a step", async () => {
  const unet = new FakeUNet(fakeInfo("m"));
  const scales = { b1: 1.3, b2: 1.4, s1: 0.9, s2: 0.2 };
  const [freed] = await run("FreeU_V2", { model: { unet, location: "local" }, ...scales });
  await expect(run("FreeU", { model: freed, ...scales })).rejects.toThrow(/has a FreeU already/);
  const [patched] = await run("PerturbedAttentionGuidance", { model: freed, scale: 3 });
  const prompt = [{ context: wave([1, 77, 8]) }];
  const sampling = { seed: 7n, steps: 2, cfg: 5, sampler_name: "euler", scheduler: "karras" };
  const latent_image = { samples: floatTensor([1, 4, 8, 8]) };
  const inputs = { ...sampling, positive: prompt, negative: prompt, latent_image, denoise: 1 };
  const [plain] = await run("KSampler", { ...inputs, model: freed });
  const [guided] = await run("KSampler", { ...inputs, model: patched });
  expect(guided).not.toEqual(plain);
  const freeu = { version: 2, ...scales };
  const rows = unet.calls.map(({ x, features }) => [x.shape[0], features]);
  expect(rows.slice(0, 2)).toEqual([
    [2, { freeu }],
    [2, { freeu }],
  ]);
  expect(rows.slice(2)).toEqual(
    [0, 1].flatMap(() => [
      [2, { freeu }],
      [1, { freeu, pag: { blocks: ["middle.0"] } }],
    ]),
  );
});

test("control nodes give each step its nets, hints at the latent's size, within their range", async () => {
  const unet = new FakeUNet(fakeInfo("m"));
  const model = { unet, location: "local" };
  const [net] = await run("ControlNetLoader", { control_net_name: "canny.safetensors" });
  const [union] = await run("SetUnionControlNetType", { control_net: net, type: "tile" });
  const [auto] = await run("SetUnionControlNetType", { control_net: union, type: "auto" });
  expect([(union as { type: number }).type, auto]).toEqual([6, net]);
  const prompt = [{ context: wave([1, 77, 8]) }];
  const apply = { control_net: union, image: wave([1, 5, 7, 3], 0.5, 0.5), strength: 0.8 };
  const range = { start_percent: 0, end_percent: 0.5 };
  const both = { positive: prompt, negative: prompt };
  const off = await run("ControlNetApplyAdvanced", { ...both, ...apply, ...range, strength: 0 });
  expect(off).toEqual([prompt, prompt]);
  const [positive, negative] = await run("ControlNetApplyAdvanced", {
    ...{ ...both, ...apply, ...range },
  });
  const [chained] = await run("ControlNetApply", { ...apply, conditioning: positive, strength: 2 });
  const latent_image = { samples: floatTensor([1, 4, 6, 4]) };
  const sampling = { seed: 7n, steps: 4, cfg: 5, sampler_name: "euler", scheduler: "normal" };
  await run("KSampler", {
    ...sampling,
    model,
    positive: chained,
    negative,
    latent_image,
    denoise: 1,
  });
  const seen = unet.calls.map(({ controls = [] }) =>
    controls.map(({ model: id, strength, type, rows, hint }) => {
      return [id, strength, type, rows, hint.shape.join("x")];
    }),
  );
  const first = ["controlnet/canny.safetensors", 0.8, 6, undefined, "1x3x48x32"];
  // The positive prompt's row is the second one.
  const second = ["controlnet/canny.safetensors", 2, 6, [1], "1x3x48x32"];
  expect(seen.slice(0, 2)).toEqual([
    [first, second],
    [first, second],
  ]);
  expect(seen.at(-1)).toEqual([second]);
  expect(unet.calls[0]?.controls?.[0]?.hint).toBe(unet.calls[1]?.controls?.[0]?.hint);
});
