/**
 * The same workflow and seed on a real ComfyUI and on an instance, both with the embedded model on
 * the CPU: how far apart are the latents and the pictures? Needs COMFYUI_PATH, and COMFYUI_PYTHON
 * where python3 is not the one that runs it.
 */
import { link, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PNG } from "pngjs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startDaemon } from "../../src/daemon.ts";
import { readConfig } from "../../src/kernel/index.ts";
import { ASSETS } from "../../src/model-paths.ts";
import { defineNode } from "../../src/nodes/index.ts";
import { parseSafetensors, toFloat } from "../../src/tensor/index.ts";
import { type ComfyUi, startComfyUi } from "../support/comfyui-server.ts";
import { writeEmojiLora } from "../support/emoji-lora.ts";
import { type Json, startTestInstance, type TestInstance } from "../support/test-instance.ts";

const comfyui = process.env["COMFYUI_PATH"];
if (comfyui === undefined) {
  process.stderr.write("Comparison with ComfyUI skipped: COMFYUI_PATH is not set.\n");
}

const SIDE = 128;
/** ComfyUI writes it into a file; here it is kept. */
const latents: Float32Array[] = [];
const saveLatent = defineNode({
  name: "SaveLatent",
  displayName: "SaveLatent",
  category: "test",
  isOutput: true,
  inputs: { samples: { type: "LATENT" }, filename_prefix: { type: "STRING" } },
  outputs: [],
  run({ samples }) {
    latents.push(samples.samples.data);
    return { outputs: [] };
  },
});

let theirs: ComfyUi;
let ours: TestInstance;
let daemon: Awaited<ReturnType<typeof startDaemon>>;
let models: string;
let checkpoint: string;
const rows: string[] = [];

beforeAll(async () => {
  if (comfyui === undefined) return;
  models = await mkdtemp(join(tmpdir(), "luna-models-"));
  for (const name of ["checkpoints", "loras"]) await mkdir(join(models, name));
  [checkpoint = ""] = await readdir(join(ASSETS, "checkpoints"));
  await link(join(ASSETS, "checkpoints", checkpoint), join(models, "checkpoints", checkpoint));
  await writeEmojiLora(join(models, "loras", "seeded.safetensors"), "a");
  const flags = { models: [models], port: "0", socket: "off", device: "cpu" };
  daemon = await startDaemon(readConfig({ flags, environment: {} }));
  ours = await startTestInstance({ daemonUrl: daemon.listening.url, nodes: [saveLatent] });
  theirs = await startComfyUi(comfyui, { models, nodes: import.meta.dirname });
  const picture = new PNG({ width: SIDE, height: SIDE });
  for (let i = 0; i < SIDE * SIDE; i++) {
    const [x, y] = [i % SIDE, Math.floor(i / SIDE)];
    const isDisc = Math.hypot(x - 64, y - 64) < 40;
    picture.data.set(isDisc ? [230, 90, 2 * y, 90] : [255 - x, 200, 255, 255], 4 * i);
  }
  const bytes = PNG.sync.write(picture);
  for (const folder of [theirs.input, ours.folders.input]) {
    await writeFile(join(folder, "disc.png"), bytes);
  }
}, 400_000);

afterAll(async () => {
  if (comfyui === undefined) return;
  const head =
    "| case | latent, max / largest | picture, max of 255 | mean of 255 |\n|---|---|---|---|";
  process.stdout.write(`${head}\n${rows.join("\n")}\n`);
  await theirs?.close();
  await ours.close();
  await daemon.close();
  await rm(models, { recursive: true, force: true });
});

const node = (class_type: string, inputs: Json): Json => ({ class_type, inputs });

/** Text to picture; `changes` replaces or adds nodes. */
function workflow(sampling: Json, changes: Json = {}): Json {
  return {
    model: node("CheckpointLoaderSimple", { ckpt_name: checkpoint }),
    positive: node("CLIPTextEncode", { text: "a (red:1.3) rocket", clip: ["model", 1] }),
    negative: node("CLIPTextEncode", { text: "blue", clip: ["model", 1] }),
    empty: node("EmptyLatentImage", { width: SIDE, height: SIDE, batch_size: 1 }),
    sampler: node("KSampler", {
      ...{ model: ["model", 0], positive: ["positive", 0], negative: ["negative", 0] },
      ...{ latent_image: ["empty", 0], seed: 42, steps: 10, cfg: 3, denoise: 1 },
      ...{ sampler_name: "euler", scheduler: "normal", ...sampling },
    }),
    decoded: node("VAEDecode", { samples: ["sampler", 0], vae: ["model", 2] }),
    picture: node("SaveImage", { images: ["decoded", 0], filename_prefix: "compared" }),
    latent: node("SaveLatent", { samples: ["sampler", 0], filename_prefix: "compared" }),
    ...changes,
  };
}

const disc = {
  loaded: node("LoadImage", { image: "disc.png" }),
  encoded: node("VAEEncode", { pixels: ["loaded", 0], vae: ["model", 2] }),
};
const masked = node("VAEEncodeForInpaint", {
  ...{ pixels: ["loaded", 0], mask: ["loaded", 1], vae: ["model", 2], grow_mask_by: 6 },
});
const lora = node("LoraLoader", {
  ...{ model: ["model", 0], clip: ["model", 1], lora_name: "seeded.safetensors" },
  ...{ strength_model: 0.8, strength_clip: 1 },
});
const onDisc = { latent_image: ["encoded", 0], denoise: 0.6 };

const cases: readonly (readonly [name: string, sampling: Json, changes?: Json])[] = [
  ["euler, normal", {}],
  ["dpmpp_2m, karras", { sampler_name: "dpmpp_2m", scheduler: "karras" }],
  ["euler_ancestral, normal", { sampler_name: "euler_ancestral" }],
  ["dpmpp_2m_sde, exponential", { sampler_name: "dpmpp_2m_sde", scheduler: "exponential" }],
  ["uni_pc, simple", { sampler_name: "uni_pc", scheduler: "simple" }],
  ["image to image", { ...onDisc, sampler_name: "dpmpp_2m", scheduler: "karras" }, disc],
  ["inpainting", { ...onDisc, denoise: 1 }, { ...disc, encoded: masked }],
  ["LoRA at 0.8", { model: ["lora", 0] }, { lora }],
];

test.skipIf(comfyui === undefined).each(cases)("%s", async (name, sampling, changes) => {
  const prompt = workflow(sampling, changes);
  // ComfyUI's own loader knows no model of this size; its modules are the same.
  const model = { ...prompt.model, class_type: "LoadEmbeddedModel" };
  const reference = await theirs.run({ ...prompt, model });
  latents.length = 0;
  const listener = await ours.listen(name);
  const { json } = await ours.post("/prompt", { prompt, client_id: name });
  expect(json.node_errors).toEqual({});
  await listener.end(json.prompt_id);
  const entry = (await ours.get(`/history/${json.prompt_id}`))[json.prompt_id];
  expect(entry.status.messages.at(-1)).toMatchObject(["execution_success", {}]);
  const [file] = entry.outputs.picture.images;
  const picture = await readFile(join(ours.folders.output, file.filename));
  const tensor = parseSafetensors(reference.get("latent") as Buffer).tensors.get("latent_tensor");
  if (tensor === undefined) throw new Error("ComfyUI's file has no latent_tensor.");
  const latent = difference(latents[0] ?? [], toFloat(tensor).data);
  const pixels = difference(readPixels(picture), readPixels(reference.get("picture") as Buffer));
  const relative = latent.max / latent.largest;
  rows.push(
    `| ${name} | ${relative.toExponential(1)} | ${pixels.max} | ${pixels.mean.toFixed(4)} |`,
  );
  // Both sum in float32, in different orders; a value at the border between two bytes may fall on either side.
  expect(relative).toBeLessThan(1e-4);
  expect(pixels.max).toBeLessThanOrEqual(2);
  expect(pixels.mean).toBeLessThan(0.01);
});

function readPixels(bytes: Uint8Array): Uint8Array {
  return PNG.sync.read(Buffer.from(bytes)).data;
}

function difference(mine: ArrayLike<number>, reference: ArrayLike<number>) {
  expect(mine.length).toBe(reference.length);
  let [max, sum, largest] = [0, 0, 0];
  for (let i = 0; i < mine.length; i++) {
    const distance = Math.abs((mine[i] ?? 0) - (reference[i] ?? 0));
    max = Math.max(max, distance);
    sum += distance;
    largest = Math.max(largest, Math.abs(reference[i] ?? 0));
  }
  return { max, mean: sum / mine.length, largest };
}
