/**
 * Control nets of the daemon against the same residuals sent by the client: a real engine process,
 * every kind of net, mixed batches.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ControlConfig } from "../../src/checkpoint/index.ts";
import type {
  CallOptions,
  Control,
  ControlInput,
  DaemonModel,
  LoraRef,
  LunaClient,
  UNetFeatures,
  UNetInputs,
  UNetModel,
} from "../../src/client/index.ts";
import { defineNode, encodePng, NODE_DEFINITIONS } from "../../src/nodes/index.ts";
import { type FloatTensor, floatTensor, serializeSafetensors } from "../../src/tensor/index.ts";
import { relativeError } from "../support/graph-session.ts";
import { type RealDaemon, startRealDaemon } from "../support/real-daemon.ts";
import { seededValues } from "../support/seeded.ts";
import { startTestInstance } from "../support/test-instance.ts";
import { TINY_TEXT_WIDTH } from "../support/tiny-checkpoint.ts";
import {
  ADAPTER,
  CONTROL_NET,
  controlledUNetTensors,
  controlTensors,
  residualsHere,
  UNION_NET,
} from "../support/tiny-control.ts";

const NETS: Readonly<Record<string, { config: ControlConfig; seed: number; type?: number }>> = {
  canny: { config: CONTROL_NET, seed: 2 },
  diffusers: { config: CONTROL_NET, seed: 3 },
  union: { config: UNION_NET, seed: 4, type: 2 },
  auto: { config: UNION_NET, seed: 4 },
  adapter: { config: ADAPTER, seed: 5 },
  t2i_shuffle: { config: CONTROL_NET, seed: 2 },
};
const FILES: Readonly<Record<string, Parameters<typeof controlTensors>>> = {
  canny: [CONTROL_NET, { seed: 2, prefix: "control_model." }],
  diffusers: [CONTROL_NET, { seed: 3, isDiffusers: true }],
  union: [UNION_NET, { seed: 4, isDiffusers: true }],
  adapter: [ADAPTER, { seed: 5, isDiffusers: true }],
  t2i_shuffle: [CONTROL_NET, { seed: 2 }],
};
const idOf = (name: string) => `controlnet/${name === "auto" ? "union" : name}.safetensors`;
const [ROWS, HEIGHT, WIDTH] = [2, 6, 9];

let daemon: RealDaemon;
let client: LunaClient;
let model: DaemonModel;
beforeAll(async () => {
  // Not measured: rows of several clients are to meet in one run.
  daemon = await startRealDaemon({ batchRows: "16" });
  for (const folder of ["diffusion_models", "controlnet"]) await mkdir(join(daemon.folder, folder));
  const unet = serializeSafetensors(controlledUNetTensors());
  await writeFile(join(daemon.folder, "diffusion_models/wide.safetensors"), unet);
  for (const [name, options] of Object.entries(FILES)) {
    const path = join(daemon.folder, idOf(name));
    await writeFile(path, serializeSafetensors(controlTensors(...options)));
  }
  client = await daemon.client("control");
  const served = await client.registerModelByPath({ name: "diffusion_models/wide.safetensors" });
  if (served.model === undefined) throw new Error("The file has a UNet.");
  model = served.model;
});
afterAll(() => daemon.close());

const seeded = (name: string, shape: readonly number[], scale = 1): FloatTensor =>
  floatTensor(
    shape,
    seededValues(
      name,
      shape.reduce((a, b) => a * b, 1),
      scale,
    ),
  );

const step = {
  x: seeded("x", [ROWS, 4, HEIGHT, WIDTH], 2),
  timesteps: [700, 20.5],
  context: seeded("context", [ROWS, 7, TINY_TEXT_WIDTH], 2),
};

function hintOf(name: string, rows = ROWS): FloatTensor {
  const { config } = NETS[name] ?? expect.fail(name);
  return seeded(`hint ${name}`, [rows, config.hintChannels, 8 * HEIGHT, 8 * WIDTH]);
}

const inputOf = (name: string, changes: Partial<ControlInput> = {}): ControlInput => {
  const { type } = NETS[name] ?? expect.fail(name);
  return {
    ...{ model: idOf(name), hint: hintOf(name), strength: 1 },
    ...(type !== undefined && { type }),
    ...changes,
  };
};

/** What a client would send itself. */
async function residuals(name: string, hint = hintOf(name)): Promise<Map<string, FloatTensor>> {
  const { config, seed, type } = NETS[name] ?? expect.fail(name);
  const own = { ...step, hint, ...(type !== undefined && { type }) };
  return residualsHere(config, seed, own);
}

function controlOf(all: ReadonlyMap<string, FloatTensor>): Control {
  const list = (side: string) => {
    const found: (FloatTensor | undefined)[] = [];
    for (const [name, tensor] of all) {
      const [, own, index] = name.split(".");
      if (own === side) found[Number(index)] = tensor;
    }
    return Array.from(found);
  };
  return { input: list("input"), middle: list("middle"), output: list("output") };
}

const scaled = (all: ReadonlyMap<string, FloatTensor>, scales: readonly number[]) =>
  new Map(
    Array.from(all, ([name, { shape, data }]) => {
      const row = data.length / (shape[0] ?? 1);
      const values = data.map((value, i) => value * (scales[Math.floor(i / row)] ?? 0));
      return [name, floatTensor(shape, values)] as const;
    }),
  );

function sum(maps: readonly ReadonlyMap<string, FloatTensor>[]): Map<string, FloatTensor> {
  const result = new Map<string, FloatTensor>();
  for (const [name, { shape, data }] of maps.flatMap((each) => [...each])) {
    const known = result.get(name);
    const values = data.map((value, i) => value + (known?.data[i] ?? 0));
    result.set(name, floatTensor(shape, values));
  }
  return result;
}

test.each(["canny", "diffusers", "union", "auto", "adapter"])(
  "%s in the daemon equals its residuals sent",
  async (name) => {
    const own = await residuals(name);
    const bare = await model.forward(step);
    for (const strength of [1, 0.3]) {
      const control = controlOf(scaled(own, [strength, strength]));
      const sent = await model.forward({ ...step, control });
      const served = await model.forward({ ...step, controls: [inputOf(name, { strength })] });
      expect(relativeError(served, sent)).toBeLessThan(1e-5);
      expect(relativeError(sent, bare)).toBeGreaterThan(1e-3);
    }
  },
);

test("nets of a chain add up, each on its rows, beside residuals that are sent", async () => {
  const [first, second, third] = [
    await residuals("canny"),
    await residuals("adapter"),
    await residuals("union"),
  ];
  const control = controlOf(
    sum([
      scaled(first, [0.8, 0.8]),
      scaled(second, [0, 1.5]),
      scaled(third, [0.4, 0]),
      scaled(first, [0, 0.25]),
    ]),
  );
  const sent = await model.forward({ ...step, control });
  const controls = [
    inputOf("canny", { strength: 0.8 }),
    inputOf("adapter", { strength: 1.5, rows: [1] }),
    inputOf("union", { strength: 0.4, rows: [0] }),
    inputOf("canny", { strength: 0.25, rows: [1] }),
  ];
  expect(relativeError(await model.forward({ ...step, controls }), sent)).toBeLessThan(1e-5);
  const rest = controls.slice(1);
  const part = controlOf(scaled(first, [0.8, 0.8]));
  const both = await model.forward({ ...step, control: part, controls: rest });
  expect(relativeError(both, sent)).toBeLessThan(1e-5);
});

test("one hint serves all rows, and a shuffle net acts by its means", async () => {
  const hint = hintOf("canny", 1);
  const twice = floatTensor(
    [2, ...hint.shape.slice(1)],
    Float32Array.from([...hint.data, ...hint.data]),
  );
  const own = await residuals("canny", twice);
  const sent = await model.forward({ ...step, control: controlOf(own) });
  const served = await model.forward({ ...step, controls: [inputOf("canny", { hint })] });
  expect(relativeError(served, sent)).toBeLessThan(1e-5);
  const means = new Map(
    Array.from(own, ([name, { shape, data }]) => {
      const [rows = 0, channels = 0, height = 1, width = 1] = shape;
      const size = height * width;
      const values = Float32Array.from({ length: rows * channels }, (_, i) => {
        return data.subarray(i * size, (i + 1) * size).reduce((a, b) => a + b, 0) / size;
      });
      return [name, floatTensor([rows, channels, 1, 1], values)] as const;
    }),
  );
  const shuffled = await model.forward({ ...step, controls: [inputOf("t2i_shuffle", { hint })] });
  const pooled = await model.forward({ ...step, control: controlOf(means) });
  expect(relativeError(shuffled, pooled)).toBeLessThan(1e-5);
});

test("steps with and without control share a run, and each is as if alone", async () => {
  const others = await Promise.all(["a", "b", "c"].map((name) => daemon.client(name)));
  const place = { name: "diffusion_models/wide.safetensors" };
  const models = await Promise.all(
    others.map(async (each) => (await each.registerModelByPath(place)).model ?? expect.fail()),
  );
  const changes = [
    { controls: [inputOf("canny", { strength: 0.7 })] },
    {},
    { controls: [inputOf("adapter"), inputOf("canny", { rows: [0] })] },
  ];
  const alone: FloatTensor[] = [];
  for (const [index, each] of models.entries()) {
    alone.push(await each.forward({ ...step, ...changes[index] }));
  }
  for (let round = 0; round < 3; round++) {
    const together = await Promise.all(
      models.map((each, index) => each.forward({ ...step, ...changes[index] })),
    );
    for (const [index, result] of together.entries()) {
      expect(relativeError(result, alone[index] ?? result)).toBeLessThan(1e-5);
    }
  }
  const clients = models.flatMap(({ steps }) => steps.map(({ batchClients }) => batchClients));
  expect(Math.max(...clients)).toBeGreaterThan(1);
});

test("control nets are listed, described, counted and unloaded like other models", async () => {
  const { models } = await client.list();
  expect(models.map(({ id }) => id)).toContain("controlnet/canny.safetensors");
  const { info } = await client.registerModelByPath({ name: "controlnet/union.safetensors" });
  expect(info.control).toEqual({
    ...{ kind: "controlnet", hintChannels: 3, hintMultiple: 8, unionTypes: 4 },
  });
  const nets = async () => (await client.status()).models.find(({ id }) => id === idOf("canny"));
  expect(await nets()).toMatchObject({
    ...{ copies: 1, users: 0, components: ["control-hint", "control-net"] },
  });
  await client.unload(idOf("canny"));
  expect((await nets())?.copies ?? 0).toBe(0);
  const served = await model.forward({ ...step, controls: [inputOf("canny")] });
  const sent = await model.forward({ ...step, control: controlOf(await residuals("canny")) });
  expect(relativeError(served, sent)).toBeLessThan(1e-5);
});

/** A UNet that computes residuals of control nets here, from the same weights, and sends them. */
class SendingUNet implements UNetModel {
  readonly #inner: UNetModel;
  readonly #isBare: boolean;

  /** `isBare` leaves them out. */
  constructor(inner: UNetModel, isBare = false) {
    this.#inner = inner;
    this.#isBare = isBare;
  }

  get info() {
    return this.#inner.info;
  }

  get loras() {
    return this.#inner.loras;
  }

  get features() {
    return this.#inner.features;
  }

  async forward({ controls = [], ...inputs }: UNetInputs, options?: CallOptions) {
    const { x, context, timesteps } = inputs;
    const rows = x.shape[0] ?? 1;
    const parts: Map<string, FloatTensor>[] = [];
    for (const { model: id, hint, strength, type, rows: own } of controls) {
      const name = id.slice("controlnet/".length, -".safetensors".length);
      const { config, seed } = NETS[name] ?? expect.fail(name);
      const all = repeated(hint, rows);
      const step = {
        x,
        context,
        timesteps: [...timesteps],
        hint: all,
        ...(type !== undefined && { type }),
      };
      const acts = Array.from({ length: rows }, (_, row) => {
        return own === undefined || own.includes(row) ? strength : 0;
      });
      parts.push(scaled(await residualsHere(config, seed, step), acts));
    }
    const control = parts.length > 0 && !this.#isBare ? { control: controlOf(sum(parts)) } : {};
    return this.#inner.forward({ ...inputs, ...control }, options);
  }

  withLora(lora: LoraRef): UNetModel {
    return new SendingUNet(this.#inner.withLora(lora));
  }

  withFeatures(features: UNetFeatures): UNetModel {
    return new SendingUNet(this.#inner.withFeatures(features));
  }
}

function repeated({ shape, data }: FloatTensor, rows: number): FloatTensor {
  const [own = 1, ...inner] = shape;
  const size = data.length / own;
  const values = Float32Array.from({ length: rows * size }, (_, i) => {
    return data[(Math.floor(i / size) % own) * size + (i % size)] ?? 0;
  });
  return floatTensor([rows, ...inner], values);
}

/** A workflow with a Union net on both prompts for a part of the steps, and an adapter on one. */
function workflow(kept: string): Record<string, { class_type: string; inputs: object }> {
  const node = (class_type: string, inputs: object) => ({ class_type, inputs });
  const apply = { strength: 0.9, start_percent: 0, end_percent: 0.6 };
  const sampling = { seed: 5, steps: 4, cfg: 4, sampler_name: "dpmpp_2m", scheduler: "karras" };
  return {
    1: node("CheckpointLoaderSimple", { ckpt_name: "tiny.safetensors" }),
    2: node("UNETLoader", { unet_name: "wide.safetensors", weight_dtype: "default" }),
    3: node("CLIPTextEncode", { clip: ["1", 1], text: "a hot air balloon" }),
    4: node("CLIPTextEncode", { clip: ["1", 1], text: "text" }),
    5: node("LoadImage", { image: "hint.png" }),
    6: node("ControlNetLoader", { control_net_name: "union.safetensors" }),
    7: node("SetUnionControlNetType", { control_net: ["6", 0], type: "hed/pidi/scribble/ted" }),
    8: node("ControlNetLoader", { control_net_name: "adapter.safetensors" }),
    9: node("ControlNetApplyAdvanced", {
      ...{
        positive: ["3", 0],
        negative: ["4", 0],
        control_net: ["7", 0],
        image: ["5", 0],
        ...apply,
      },
    }),
    10: node("ControlNetApply", {
      ...{ conditioning: ["9", 0], control_net: ["8", 0], image: ["5", 0], strength: 0.7 },
    }),
    11: node("EmptyLatentImage", { width: 72, height: 48, batch_size: 2 }),
    12: node("KSampler", {
      ...{ model: ["2", 0], positive: ["10", 0], negative: ["9", 1], latent_image: ["11", 0] },
      ...{ ...sampling, denoise: 1 },
    }),
    13: node(kept, { samples: ["12", 0] }),
  };
}

async function runOn(url: string, decorate: (unet: UNetModel) => UNetModel): Promise<FloatTensor> {
  const latents: FloatTensor[] = [];
  const keep = defineNode({
    ...{ name: "Keep", displayName: "Keep", category: "test", isOutput: true },
    inputs: { samples: { type: "LATENT" } },
    outputs: [],
    run({ samples }) {
      latents.push(samples.samples);
      return { outputs: [] };
    },
  });
  const unetLoader = NODE_DEFINITIONS.get("UNETLoader") ?? expect.fail();
  const decorated = {
    ...unetLoader,
    run: async (...given: Parameters<typeof unetLoader.run>) => {
      const { outputs } = await unetLoader.run(...given);
      const [loaded] = outputs as [{ unet: UNetModel }];
      return { outputs: [{ ...loaded, unet: decorate(loaded.unet) }] };
    },
  };
  const instance = await startTestInstance({ daemonUrl: url, nodes: [keep, decorated] });
  try {
    const picture = floatTensor(
      [1, 40, 100, 3],
      seeded("picture", [12000], 0.5).data.map((v) => v + 0.5),
    );
    await writeFile(join(instance.folders.input, "hint.png"), encodePng(picture, 0));
    const listener = await instance.listen("control");
    const { status, json } = await instance.post("/prompt", {
      ...{ prompt: workflow("Keep"), client_id: "control" },
    });
    expect([status, json.node_errors]).toEqual([200, {}]);
    await listener.end(json.prompt_id);
    expect(listener.of("execution_error")).toEqual([]);
    return latents[0] ?? expect.fail("no latent");
  } finally {
    await instance.close();
  }
}

test("a workflow on an instance equals the one whose residuals the client computes", async () => {
  const served = await runOn(daemon.url, (unet) => unet);
  const sent = await runOn(daemon.url, (unet) => new SendingUNet(unet));
  expect(served.shape).toEqual([2, 4, 6, 9]);
  expect(relativeError(served, sent)).toBeLessThan(1e-4);
  const bare = await runOn(daemon.url, (unet) => new SendingUNet(unet, true));
  expect(relativeError(bare, sent)).toBeGreaterThan(1e-2);
});

test("what does not fit is one clear error", async () => {
  const forward = (changes: Partial<ControlInput>, name = "canny") =>
    model.forward({ ...step, controls: [inputOf(name, changes)] });
  await expect(forward({ model: "controlnet/none.safetensors" })).rejects.toMatchObject({
    code: "MODEL_UNKNOWN",
  });
  await expect(forward({ model: "checkpoints/tiny.safetensors" })).rejects.toThrow(
    /has no control/,
  );
  await expect(forward({ hint: seeded("h", [1, 3, 48, 48]) })).rejects.toThrow(
    /"hint.0" is \[1, 3/,
  );
  await expect(forward({ rows: [2] })).rejects.toThrow(/row 2 of 2/);
  await expect(forward({ type: 9 }, "union")).rejects.toThrow(/knows 4 kinds of hints/);
  const { model: other } = await client.registerModelByPath({
    name: "checkpoints/tiny.safetensors",
  });
  await expect(other?.forward({ ...step, controls: [inputOf("canny")] })).rejects.toThrow(
    /does not fit this UNet/,
  );
});
