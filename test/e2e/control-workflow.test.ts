/** Workflows with control nets on an instance over a daemon with a real engine process. */
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type {
  CallOptions,
  LoraRef,
  UNetFeatures,
  UNetInputs,
  UNetModel,
} from "../../src/client/index.ts";
import {
  defineNode,
  encodePng,
  NODE_DEFINITIONS,
  type NodeDefinition,
  type NodeResult,
  output,
} from "../../src/nodes/index.ts";
import {
  type FloatTensor,
  floatTensor,
  parseSafetensors,
  serializeSafetensors,
  toFloat,
} from "../../src/tensor/index.ts";
import {
  controlOf,
  netOf,
  scaled,
  seeded,
  startControlDaemon,
  sum,
} from "../support/control-daemon.ts";
import { relativeError } from "../support/graph-session.ts";
import type { RealDaemon } from "../support/real-daemon.ts";
import { seededValues } from "../support/seeded.ts";
import { startTestInstance } from "../support/test-instance.ts";
import { TINY_TEXT_WIDTH } from "../support/tiny-checkpoint.ts";
import {
  ADAPTER,
  CONTROL_NET,
  controlledUNetTensors,
  controlTensors,
  residualsHere,
} from "../support/tiny-control.ts";

let daemon: RealDaemon;
beforeAll(async () => {
  daemon = await startControlDaemon();
});
afterAll(() => daemon.close());

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
      const { config, seed } = netOf(name);
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
function workflow(): Record<string, { class_type: string; inputs: object }> {
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
    13: node("Keep", { samples: ["12", 0] }),
  };
}

/** A node that gives one value. */
const giving = (name: string, type: "CONDITIONING" | "IMAGE", value: unknown): NodeDefinition =>
  defineNode({
    ...{ name, displayName: name, category: "test", inputs: {}, outputs: [output(type)] },
    run: () => ({ outputs: [value] }),
  });

/** Runs a prompt on an instance; the latent that its node "Keep" gets. */
async function runPrompt(prompt: object, nodes: readonly NodeDefinition[]): Promise<FloatTensor> {
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
  const instance = await startTestInstance({ daemonUrl: daemon.url, nodes: [keep, ...nodes] });
  try {
    await writeFile(join(instance.folders.input, "hint.png"), encodePng(PICTURE, 0));
    const listener = await instance.listen("control");
    const { status, json } = await instance.post("/prompt", { prompt, client_id: "control" });
    expect([status, json.node_errors]).toEqual([200, {}]);
    await listener.end(json.prompt_id);
    expect(listener.of("execution_error")).toEqual([]);
    return latents[0] ?? expect.fail("no latent");
  } finally {
    await instance.close();
  }
}

const PICTURE = floatTensor([1, 40, 100, 3], seededValues("picture", 12_000, 0.5, 0.5));

function runOn(decorate: (unet: UNetModel) => UNetModel): Promise<FloatTensor> {
  const unetLoader = NODE_DEFINITIONS.get("UNETLoader") ?? expect.fail();
  const decorated = {
    ...unetLoader,
    run: async (...given: Parameters<typeof unetLoader.run>) => {
      const { outputs } = (await unetLoader.run(...given)) as NodeResult;
      const [loaded] = outputs as [{ unet: UNetModel }];
      return { outputs: [{ ...loaded, unet: decorate(loaded.unet) }] };
    },
  };
  return runPrompt(workflow(), [decorated]);
}

test("a workflow on an instance equals the one whose residuals the client computes", async () => {
  const served = await runOn((unet) => unet);
  const sent = await runOn((unet) => new SendingUNet(unet));
  expect(served.shape).toEqual([2, 4, 6, 9]);
  expect(relativeError(served, sent)).toBeLessThan(1e-4);
  const bare = await runOn((unet) => new SendingUNet(unet, true));
  expect(relativeError(bare, sent)).toBeGreaterThan(1e-2);
});

/** The run of test/reference/control_workflow.py. */
test("a workflow on an instance equals ComfyUI's run of the same nets", async () => {
  const path = (id: string) => join(daemon.folder, id);
  const options = { seed: "reference" } as const;
  for (const [id, tensors] of [
    ["diffusion_models/seeded.safetensors", controlledUNetTensors("reference")],
    ["controlnet/seeded.safetensors", controlTensors(CONTROL_NET, options)],
    ["controlnet/seeded-adapter.safetensors", controlTensors(ADAPTER, options)],
  ] as const) {
    await writeFile(path(id), serializeSafetensors(tensors));
  }
  const prompt = {
    ...workflow(),
    2: {
      class_type: "UNETLoader",
      inputs: { unet_name: "seeded.safetensors", weight_dtype: "default" },
    },
    3: { class_type: "Positive", inputs: {} },
    4: { class_type: "Negative", inputs: {} },
    5: { class_type: "Picture", inputs: {} },
    7: { class_type: "ControlNetLoader", inputs: { control_net_name: "seeded.safetensors" } },
    8: {
      class_type: "ControlNetLoader",
      inputs: { control_net_name: "seeded-adapter.safetensors" },
    },
  };
  const context = (name: string) => [{ context: seeded(name, [1, 7, TINY_TEXT_WIDTH], 2) }];
  const latent = await runPrompt(prompt, [
    giving("Positive", "CONDITIONING", context("positive")),
    giving("Negative", "CONDITIONING", context("negative")),
    giving("Picture", "IMAGE", PICTURE),
  ]);
  const golden = parseSafetensors(
    readFileSync(new URL("../fixtures/goldens/control-workflow.safetensors", import.meta.url)),
  ).tensors;
  const expected = toFloat(golden.get("out") ?? expect.fail("no golden"));
  expect(relativeError(latent, expected)).toBeLessThan(1e-4);
});
