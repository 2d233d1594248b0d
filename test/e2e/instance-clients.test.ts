/** Clients that other people wrote for ComfyUI, unchanged, run prompts on an instance. */
import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk";
import { Client } from "@stable-canvas/comfyui-client";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebSocket } from "ws";
import { readPngText } from "../../src/nodes/index.ts";
import { createTestDaemon, type TestDaemon } from "../support/test-daemon.ts";
import { startTestInstance, type TestInstance } from "../support/test-instance.ts";

let daemon: TestDaemon;
let here: TestInstance;
/** Sends previews to every client, as ComfyUI does when it is started with a preview method. */
let showing: TestInstance;

beforeAll(async () => {
  daemon = await createTestDaemon();
  const { url } = await daemon.listen();
  here = await startTestInstance({ daemonUrl: url });
  showing = await startTestInstance({ daemonUrl: url, previewMethod: "latent2rgb" });
});
afterAll(async () => {
  await here.close();
  await showing.close();
  await daemon.close();
});

const text = (words: string) => ({
  class_type: "CLIPTextEncode",
  inputs: { text: words, clip: ["4", 1] },
});

/** Text to picture, as ComfyUI's default graph. */
const graph = (seed: number) => ({
  "3": {
    class_type: "KSampler",
    inputs: {
      ...{ seed, steps: 3, cfg: 2, sampler_name: "euler", scheduler: "normal", denoise: 1 },
      model: ["4", 0],
      positive: ["6", 0],
      negative: ["7", 0],
      latent_image: ["5", 0],
    },
  },
  "4": { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: "test.safetensors" } },
  "5": { class_type: "EmptyLatentImage", inputs: { width: 64, height: 64, batch_size: 1 } },
  "6": text("a rocket"),
  "7": text(""),
  "8": { class_type: "VAEDecode", inputs: { samples: ["3", 0], vae: ["4", 2] } },
  "9": { class_type: "SaveImage", inputs: { images: ["8", 0], filename_prefix: "client" } },
});

test("@saintno/comfyui-sdk: connects, runs, shows progress and previews, finds the picture", async () => {
  const api = new ComfyApi(showing.instance.url, "saintno", {
    customWebSocketImpl: WebSocket as never,
  });
  await new Promise<void>((resolve) => {
    api.on("connected", () => resolve());
    api.init();
  });
  await api.waitForReady();
  const prompt = new PromptBuilder(graph(1) as never, ["seed"], ["images"])
    .setInputNode("seed", "3.inputs.seed" as never)
    .setOutputNode("images", "9" as never);
  const progress: number[] = [];
  let previews = 0;
  const result = await new Promise<Record<string, unknown>>((resolve, reject) => {
    void new CallWrapper(api, prompt.input("seed", 5 as never))
      .onProgress(({ value }) => void progress.push(value))
      .onPreview(() => void previews++)
      .onFinished((data) => resolve(data as Record<string, unknown>))
      .onFailed(reject)
      .run();
  });
  const { images } = result["images"] as { images: { filename: string; type: string }[] };
  expect(images[0]).toMatchObject({ type: "output" });
  const url = api.getPathImage(images[0] as never);
  const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
  expect(readPngText(bytes).map(([key]) => key)).toEqual(["prompt"]);
  expect(progress).toEqual([1, 2, 3]);
  expect(previews).toBe(3);
  expect(await api.getCheckpoints()).toEqual(["test.safetensors"]);
  api.destroy();
});

test("@stable-canvas/comfyui-client: connects, runs, gets the picture", async () => {
  const { host } = new URL(here.instance.url);
  const client = new Client({
    api_host: host,
    WebSocket: WebSocket as never,
    fetch: fetch as never,
  });
  await client.connect();
  const progress: number[] = [];
  const result = await client.enqueue(graph(2) as never, {
    progress: ({ value }) => void progress.push(value),
  });
  expect(result.images.length).toBe(1);
  expect(progress).toEqual([1, 2, 3]);
  const polled = await client.enqueue_polling(graph(3) as never);
  expect(polled.images.length).toBe(1);
  expect(await client.getSDModels()).toEqual(["test.safetensors"]);
  expect(await client.getSamplers()).toContain("dpmpp_2m");
  expect((await client.getSystemStats()).devices.length).toBeGreaterThan(0);
  client.close();
});

test("@stable-canvas/comfyui-client is told what is wrong with a prompt", async () => {
  const { host } = new URL(here.instance.url);
  const client = new Client({
    api_host: host,
    WebSocket: WebSocket as never,
    fetch: fetch as never,
  });
  await client.connect();
  const bad = { ...graph(4), "9": { class_type: "SaveImage", inputs: { filename_prefix: "x" } } };
  await expect(client.enqueue(bad as never)).rejects.toThrow(/400 Bad Request/);
  client.close();
});
