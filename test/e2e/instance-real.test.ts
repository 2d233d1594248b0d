/** An instance on a real daemon: ONNX Runtime, a tiny checkpoint, several prompts at once. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { taesdLayers } from "../../src/checkpoint/index.ts";
import { startDaemon } from "../../src/daemon.ts";
import { readConfig } from "../../src/kernel/index.ts";
import { readPictureFile } from "../../src/nodes/index.ts";
import { fromFloat, serializeSafetensors } from "../../src/tensor/index.ts";
import { type Frame, type Json, startTestInstance } from "../support/test-instance.ts";
import {
  normalGenerator,
  randomWeights,
  TINY_VAE,
  writeTinyCheckpoint,
} from "../support/tiny-checkpoint.ts";

const text = (words: string) => ({
  class_type: "CLIPTextEncode",
  inputs: { text: words, clip: ["4", 1] },
});
const graph = (noise_seed: number): Json => ({
  4: { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: "tiny.safetensors" } },
  5: { class_type: "EmptyLatentImage", inputs: { width: 64, height: 64, batch_size: 1 } },
  6: text("a rocket"),
  7: text(""),
  s: { class_type: "KSamplerSelect", inputs: { sampler_name: "dpmpp_2m" } },
  b: {
    class_type: "BasicScheduler",
    inputs: { model: ["4", 0], scheduler: "karras", steps: 3, denoise: 1 },
  },
  g: {
    class_type: "CFGGuider",
    inputs: { model: ["4", 0], positive: ["6", 0], negative: ["7", 0], cfg: 3 },
  },
  n: { class_type: "RandomNoise", inputs: { noise_seed } },
  3: {
    class_type: "SamplerCustomAdvanced",
    inputs: {
      ...{ noise: ["n", 0], guider: ["g", 0], sampler: ["s", 0], sigmas: ["b", 0] },
      latent_image: ["5", 0],
    },
  },
  8: { class_type: "VAEDecode", inputs: { samples: ["3", 1], vae: ["4", 2] } },
  9: { class_type: "SaveImage", inputs: { images: ["8", 0], filename_prefix: `s${noise_seed}` } },
});

test("four prompts at once give the pictures that they give alone", async () => {
  const folder = await mkdtemp(join(tmpdir(), "luna-real-"));
  await mkdir(join(folder, "checkpoints"));
  await writeTinyCheckpoint(join(folder, "checkpoints", "tiny.safetensors"));
  const flags = { models: [folder], port: "0", socket: "off", threads: "1", device: "cpu" };
  const daemon = await startDaemon(readConfig({ flags }));
  const here = await startTestInstance({ daemonUrl: daemon.listening.url, concurrency: 4 });
  try {
    const run = async (seed: number): Promise<Buffer> => {
      const client_id = `${seed}-${Math.random()}`;
      const listener = await here.listen(client_id, { supports_preview_metadata: true });
      const { json } = await here.post("/prompt", { prompt: graph(seed), client_id });
      await listener.end(json.prompt_id);
      const { status, outputs } = (await here.get(`/history/${json.prompt_id}`))[json.prompt_id];
      expect(status.messages.at(-1)?.[0]).toBe("execution_success");
      const frames = listener.messages.filter(({ type }) => type === "frame");
      if (listener.of("progress").length > 0) expect(frames.length).toBe(3);
      return readFile(join(here.folders.output, outputs["9"].images[0].filename));
    };
    const together = await Promise.all([1, 2, 3, 4].map(run));
    await here.post("/free", { free_memory: true });
    const alone: Buffer[] = [];
    for (const seed of [1, 2, 3, 4]) alone.push(await run(seed));
    expect(together.map((bytes, i) => bytes.equals(alone[i] as Buffer))).toEqual(
      Array.from({ length: 4 }, () => true),
    );
    expect(new Set(together.map((bytes) => bytes.toString("base64"))).size).toBe(4);
  } finally {
    await here.close();
    await daemon.close();
    await rm(folder, { recursive: true, force: true });
  }
});

/** As taesd_decoder.safetensors has it: one nn.Sequential, its first layer at 1. */
function taesdDecoder(): Uint8Array {
  const config = {
    ...TINY_VAE,
    kind: "taesd",
    widths: [64],
    resBlocks: 3,
    hasEncoder: false,
  } as const;
  const weights = [...randomWeights(taesdLayers(config), normalGenerator(3))];
  return serializeSafetensors(
    new Map(weights.map(([name, value]) => [name.replace("decoder.", ""), fromFloat(value)])),
  );
}

test("previews are TAESD's where the folder vae_approx has its file, in the form each client takes", async () => {
  const folder = await mkdtemp(join(tmpdir(), "luna-taesd-"));
  for (const name of ["checkpoints", "vae_approx"]) await mkdir(join(folder, name));
  await writeTinyCheckpoint(join(folder, "checkpoints", "tiny.safetensors"));
  await writeFile(join(folder, "vae_approx", "taesd_decoder.safetensors"), taesdDecoder());
  const flags = { models: [folder], port: "0", socket: "off", threads: "1", device: "cpu" };
  const daemon = await startDaemon(readConfig({ flags }));
  const here = await startTestInstance({ daemonUrl: daemon.listening.url, previewMethod: "none" });
  try {
    expect(await here.get("/models/vae_approx")).toEqual(["taesd_decoder.safetensors"]);
    const endless = graph(1);
    endless.b.inputs.steps = 5000;
    /** The first preview as large as the picture: the linear one has a pixel a latent cell. */
    const previewOf = async (client_id: string, flags?: Json, head = 8) => {
      const listener = await here.listen(client_id, flags);
      const body = { prompt: endless, client_id, extra_data: { preview_method: "taesd" } };
      const { json } = await here.post("/prompt", body);
      const found = await vi.waitFor(
        async () => {
          const frame = listener.messages.findLast((m): m is Frame => m.type === "frame");
          const at = head === 8 ? 8 : 8 + (frame?.bytes.readUInt32BE(4) ?? 0);
          const png = frame?.bytes.subarray(at) ?? Buffer.alloc(0);
          const { width, height } = await readPictureFile(png, "preview");
          expect([width, height]).toEqual([64, 64]);
          return { frame: frame as Frame, at };
        },
        { timeout: 30_000 },
      );
      await here.post("/interrupt", {});
      await listener.end(json.prompt_id);
      return { ...found, id: json.prompt_id };
    };
    const older = await previewOf("older");
    // Kind 1, a preview; format 2, PNG.
    expect([older.frame.bytes.readUInt32BE(0), older.frame.bytes.readUInt32BE(4)]).toEqual([1, 2]);
    const newer = await previewOf("newer", { supports_preview_metadata: true }, 0);
    expect(newer.frame.bytes.readUInt32BE(0)).toBe(4);
    expect(JSON.parse(newer.frame.bytes.subarray(8, newer.at).toString())).toEqual({
      ...{ node_id: "3", prompt_id: newer.id, display_node_id: "3", parent_node_id: null },
      ...{ real_node_id: "3", image_type: "image/png" },
    });
  } finally {
    await here.close();
    await daemon.close();
    await rm(folder, { recursive: true, force: true });
  }
});
