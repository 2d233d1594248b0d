/** Whole workflows over fake models: stock nodes, Luna nodes, LoRAs, the four daemon/local combinations. */
import { PNG } from "pngjs";
import { expect, test } from "vitest";
import { type FakeOptions, FakeServices } from "../../test/support/fake-models.ts";
import { LunaError } from "../kernel/index.ts";
import { encodePng, NODE_DEFINITIONS, readPngText } from "../nodes/index.ts";
import { floatTensor } from "../tensor/index.ts";
import { createWorkflowRunner, type WorkflowEvent } from "./index.ts";

const node = (class_type: string, inputs: Record<string, unknown>) => ({ class_type, inputs });

function sampler(from: Record<string, unknown>, changes: Record<string, unknown> = {}) {
  return node("KSampler", {
    seed: 5,
    steps: 4,
    cfg: 3,
    sampler_name: "euler",
    scheduler: "normal",
    denoise: 1,
    ...from,
    ...changes,
  });
}

/** ComfyUI's default graph at 16x16 pixels. */
function textToImage(changes: Record<string, unknown> = {}, loras: Record<string, unknown> = {}) {
  return {
    4: node("CheckpointLoaderSimple", { ckpt_name: "tiny.safetensors" }),
    5: node("EmptyLatentImage", { width: 16, height: 16, batch_size: 2 }),
    6: node("CLIPTextEncode", { text: "a (cat:1.2)", clip: ["4", 1] }),
    7: node("CLIPTextEncode", { text: "", clip: ["4", 1] }),
    3: sampler(
      { model: ["4", 0], positive: ["6", 0], negative: ["7", 0], latent_image: ["5", 0] },
      changes,
    ),
    8: node("VAEDecode", { samples: ["3", 0], vae: ["4", 2] }),
    9: node("SaveImage", { images: ["8", 0], filename_prefix: "cat" }),
    ...loras,
  };
}

async function run(prompt: Record<string, unknown>, options: FakeOptions = {}) {
  const services = new FakeServices(options);
  const events: WorkflowEvent[] = [];
  const runner = createWorkflowRunner({ definitions: NODE_DEFINITIONS, services });
  const result = await runner.run(JSON.stringify(prompt), { onEvent: (e) => events.push(e) });
  return { services, events, result };
}

const pixels = (bytes: Uint8Array | undefined) => PNG.sync.read(Buffer.from(bytes ?? [])).data;

test("ComfyUI's default graph makes two pictures with the prompt inside", async () => {
  const { services, events, result } = await run(textToImage());
  expect(result.outputs.get("9")).toEqual({
    images: ["cat_00001_.png", "cat_00002_.png"].map((filename) => ({
      filename,
      subfolder: "",
      type: "output",
    })),
  });
  const file = services.files.get("output//cat_00001_.png");
  expect(readPngText(file ?? new Uint8Array())[0]?.[1]).toContain(
    '"3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 4, "cfg": 3.0, "sampler_name": "euler"',
  );
  expect(events.filter(({ type }) => type === "progress")).toMatchObject(
    [1, 2, 3, 4].map((value) => ({ node: "3", value, max: 4 })),
  );
  // Both prompts and both pictures are one forward pass a step.
  expect(services.unet.calls.map(({ x }) => x.shape)).toEqual(new Array(4).fill([4, 4, 2, 2]));
});

test("the same seed gives the same pictures, another seed others", async () => {
  const files = async (seed: number) => {
    const { services } = await run(textToImage({ seed }));
    return [...services.files.values()].map((bytes) => [...pixels(bytes)].join());
  };
  const [first, again, other] = [await files(7), await files(7), await files(8)];
  expect(again).toEqual(first);
  expect(other).not.toEqual(first);
});

test("stock LoRA nodes change the picture, say so, and skip what is not there", async () => {
  const lora = (lora_name: string) => ({
    10: node("LoraLoader", {
      model: ["4", 0],
      clip: ["4", 1],
      lora_name,
      strength_model: 0.8,
      strength_clip: 0,
    }),
  });
  const linked = (name: string) => textToImage({ model: ["10", 0] }, lora(name));
  const plain = await run(textToImage());
  const with_ = await run(linked("blue.safetensors"), { loras: ["blue.safetensors"] });
  expect(with_.services.lines).toEqual([
    "[LoraLoader] LoRA 'blue' → daemon (model=0.8, clip=0.0)",
    "[DaemonModel] Added LoRA 'blue' (model_str=0.8), stack size: 1",
    "[DaemonModel] Applied LoRA 'blue' (strength=0.8)",
    "[DaemonModel] Base weights were not touched (LoRAs are inputs of each step)",
  ]);
  const picture = ({ services }: { services: FakeServices }) =>
    [...pixels(services.files.get("output//cat_00001_.png"))].join();
  expect(picture(with_)).not.toBe(picture(plain));
  const missing = await run(linked("gone.safetensors"));
  expect(missing.services.lines).toEqual(["[LoraLoader] Warning: LoRA 'gone' not found"]);
  expect(picture(missing)).toBe(picture(plain));
});

/** Luna's nodes; model and clip may come from different routers. */
function luna(modelMode: string, clipMode: string, prompt: string) {
  return {
    1: node("LunaModelRouter", { ckpt_name: "tiny.safetensors", daemon_mode: modelMode }),
    2: node("LunaModelRouter", { ckpt_name: "tiny.safetensors", daemon_mode: clipMode }),
    3: node("LunaLoraStack", { lora_name: "pixel", strength_model: 0.5, strength_clip: 1 }),
    4: node("LunaConfigGateway", {
      model: ["1", 0],
      clip: ["2", 1],
      positive_prompt: prompt,
      negative_prompt: "bad",
      clip_skip: -2,
      lora_stack: ["3", 0],
    }),
    5: node("EmptyLatentImage", { width: 16, height: 16, batch_size: 1 }),
    6: {
      ...sampler({
        model: ["4", 0],
        positive: ["4", 2],
        negative: ["4", 3],
        latent_image: ["5", 0],
      }),
      class_type: "LunaKSampler",
    },
    7: node("VAEDecode", { samples: ["6", 0], vae: ["1", 2] }),
    8: node("PreviewImage", { images: ["7", 0] }),
  };
}

test("the gateway sends each LoRA to where model and text encoder compute", async () => {
  const loras = ["pixel.safetensors", "sub/blue.safetensors"];
  const linesFor = async (model: string, clip: string) => {
    const prompt = "a cat <lora:blue:0.8:0.25> <lora:none:1>";
    const { services } = await run(luna(model, clip, prompt), { loras });
    expect(services.unet.calls.length).toBe(4);
    expect(services.text.calls.every(({ layer }) => layer === -2)).toBe(true);
    return services.lines;
  };
  const both = await linesFor("auto", "auto");
  expect(both).toContain("[LunaModelRouter] ✓ Model registered with daemon: tiny (3.0 MB)");
  expect(both).toContain(
    "[LunaModelRouter] ✓ Using DaemonModel proxy - inference routes through daemon",
  );
  const gateway = (lines: string[]) =>
    lines.filter((line) => /Gateway\] (Daemon|LoRA|Warn)/.test(line)).map((line) => line.slice(20));
  const warning = "Warning: LoRA 'none' not found";
  const detected = "DaemonModel detected - UNet LoRAs via daemon";
  expect(gateway(both)).toEqual([
    detected,
    "LoRA 'pixel' → daemon (model=0.5, clip=1.0)",
    "LoRA 'blue' → daemon (model=0.8, clip=0.25)",
    warning,
  ]);
  expect(both.filter((line) => line.startsWith("[DaemonModel] Added"))).toEqual([
    "[DaemonModel] Added LoRA 'pixel' (model_str=0.5), stack size: 1",
    "[DaemonModel] Added LoRA 'blue' (model_str=0.8), stack size: 2",
  ]);
  expect(gateway(await linesFor("force_daemon", "force_local"))).toEqual([
    detected,
    "LoRA 'pixel' → daemon (model=0.5, clip=0.0)",
    "LoRA 'pixel' → local (model=0.0, clip=1.0)",
    "LoRA 'blue' → daemon (model=0.8, clip=0.0)",
    "LoRA 'blue' → local (model=0.0, clip=0.25)",
    warning,
  ]);
  expect(gateway(await linesFor("force_local", "force_daemon"))[0]).toBe(
    "LoRA 'pixel' → daemon (model=0.0, clip=1.0)",
  );
  const local = await linesFor("force_local", "force_local");
  expect(gateway(local)).toEqual([
    "LoRA 'pixel' → local (model=0.5, clip=1.0)",
    "LoRA 'blue' → local (model=0.8, clip=0.25)",
    warning,
  ]);
  expect(local).toContain(
    "[LocalModel] Base weights were not touched (LoRAs are inputs of each step)",
  );
});

test("force_daemon without a daemon is that error, auto goes local", async () => {
  const error = await run(luna("force_daemon", "auto", "a"), { isDaemonRunning: false }).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(LunaError);
  expect(error).toMatchObject({
    code: "DAEMON_NOT_RUNNING",
    details: { nodeType: "LunaModelRouter" },
  });
  const { services } = await run(luna("auto", "auto", "a"), { isDaemonRunning: false });
  expect(services.lines).toContain(
    "[LunaModelRouter] Using the local engine - inference stays in this instance",
  );
});

test("a part that a file lacks is named where it is used", async () => {
  await expect(run(textToImage(), { hasOnlyUNet: true })).rejects.toMatchObject({
    code: "CHECKPOINT_UNSUPPORTED",
    message: expect.stringMatching(/^Node [67] \(CLIPTextEncode\): Input clip is empty/),
  });
});

test("a picture and a mask are repainted; what the mask leaves out stays", async () => {
  const input = floatTensor([1, 16, 16, 3], new Float32Array(768).fill(0.75));
  const inputs = new Map([["in.png", encodePng(input, 0)]]);
  const graph = {
    ...textToImage({ latent_image: ["13", 0], denoise: 0.5 }),
    11: node("LoadImage", { image: "in.png" }),
    12: node("VAEEncode", { pixels: ["11", 0], vae: ["4", 2] }),
    // LoadImage's mask of an opaque picture: nothing may change.
    13: node("SetLatentNoiseMask", { samples: ["12", 0], mask: ["11", 1] }),
  };
  const { services } = await run(graph, { inputs });
  const out = pixels(services.files.get("output//cat_00001_.png"));
  // 0.75 as a byte is 191; the sampler's float arithmetic may cost one.
  expect(Math.abs((out[0] ?? 0) - 191)).toBeLessThanOrEqual(1);
});

test("two samplers share the steps as one would", async () => {
  const half = (changes: Record<string, unknown>) =>
    node("KSamplerAdvanced", {
      model: ["4", 0],
      add_noise: "enable",
      noise_seed: 5,
      steps: 4,
      cfg: 3,
      sampler_name: "euler",
      scheduler: "normal",
      positive: ["6", 0],
      negative: ["7", 0],
      latent_image: ["5", 0],
      start_at_step: 0,
      end_at_step: 10000,
      return_with_leftover_noise: "disable",
      ...changes,
    });
  const whole = await run(textToImage());
  const split = await run({
    ...textToImage(),
    20: half({ end_at_step: 2, return_with_leftover_noise: "enable" }),
    3: half({ latent_image: ["20", 0], add_noise: "disable", start_at_step: 2 }),
  });
  const [a, b] = [whole, split].map(({ services }) =>
    pixels(services.files.get("output//cat_00001_.png")),
  );
  const worst = Math.max(...[...(a ?? [])].map((v, i) => Math.abs(v - (b?.[i] ?? 0))));
  expect(worst).toBeLessThanOrEqual(1);
});

test("SDXL gets its vector: pooled prompt and six sizes", async () => {
  const info = {
    family: "sdxl" as const,
    unet: { inChannels: 4, outChannels: 4, contextDim: 16, admChannels: 1544, modelChannels: 32 },
    textEncoders: [
      { kind: "clip-l" as const, width: 8, layers: 3, projection: 0 },
      { kind: "clip-g" as const, width: 8, layers: 3, projection: 8 },
    ],
  };
  const graph = {
    ...textToImage(),
    6: node("CLIPTextEncodeSDXL", {
      clip: ["4", 1],
      width: 32,
      height: 16,
      crop_w: 0,
      crop_h: 0,
      target_width: 16,
      target_height: 16,
      text_g: "a",
      text_l: "b",
    }),
  };
  const { services } = await run(graph, { info });
  const [call] = services.unet.calls;
  expect(call?.context.shape).toEqual([4, 77, 16]);
  expect(call?.y?.shape).toEqual([4, 8 + 6 * 256]);
  // Rows: negative twice, then positive twice; the first number is the height, its first value cos(height).
  const first = (row: number, number: number) => call?.y?.data[row * 1544 + 8 + number * 256];
  expect(first(2, 1)).toBeCloseTo(Math.cos(32), 5);
  expect(first(0, 1)).toBeCloseTo(Math.cos(16), 5);
});

test("an inpainting model sees mask and masked picture beside the latent", async () => {
  const inputs = new Map([["in.png", encodePng(floatTensor([1, 16, 16, 3]), 0)]]);
  const info = {
    unet: { inChannels: 9, outChannels: 4, contextDim: 8, admChannels: 0, modelChannels: 32 },
  };
  const graph = {
    ...textToImage({ positive: ["12", 0], negative: ["12", 1], latent_image: ["12", 2] }),
    11: node("LoadImage", { image: "in.png" }),
    12: node("InpaintModelConditioning", {
      positive: ["6", 0],
      negative: ["7", 0],
      vae: ["4", 2],
      pixels: ["11", 0],
      mask: ["11", 1],
      noise_mask: false,
    }),
  };
  const { services } = await run(graph, { inputs, info });
  expect(services.unet.calls[0]?.x.shape).toEqual([2, 9, 2, 2]);
});

test("the daemon's state is asked anew in every run", async () => {
  const services = new FakeServices();
  const runner = createWorkflowRunner({ definitions: NODE_DEFINITIONS, services });
  const prompt = JSON.stringify({ 1: node("LunaDaemonStatus", {}) });
  const first = await runner.run(prompt);
  expect(first.outputs.get("1")?.["text"]).toEqual([
    "Daemon is running at 127.0.0.1:19283\ncheckpoints/tiny.safetensors: 3.0 MB\n0 LoRAs",
  ]);
  expect((await runner.run(prompt)).executed).toEqual(["1"]);
  const { outputs } = await createWorkflowRunner({
    definitions: NODE_DEFINITIONS,
    services: new FakeServices({ isDaemonRunning: false }),
  }).run(prompt);
  expect(outputs.get("1")?.["text"]).toEqual([expect.stringContaining("npx luna serve")]);
});

test("a changed input picture is noticed, an unchanged one is not loaded again", async () => {
  const inputs = new Map([["in.png", encodePng(floatTensor([1, 8, 8, 3]), 0)]]);
  const services = new FakeServices({ inputs });
  const runner = createWorkflowRunner({ definitions: NODE_DEFINITIONS, services });
  const prompt = JSON.stringify({
    1: node("LoadImage", { image: "in.png" }),
    2: node("PreviewImage", { images: ["1", 0] }),
  });
  expect((await runner.run(prompt)).executed).toEqual(["1", "2"]);
  expect((await runner.run(prompt)).executed).toEqual([]);
  inputs.set("in.png", encodePng(floatTensor([1, 8, 8, 3], new Float32Array(192).fill(1)), 0));
  expect((await runner.run(prompt)).executed).toEqual(["1", "2"]);
});
