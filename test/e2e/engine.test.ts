/** The real engine process over tiny checkpoints: LoRAs, crashes, and what it leaves behind. */
import { spawn } from "node:child_process";
import { copyFile, mkdtemp, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  type Engine,
  type LoraUse,
  SupervisedEngine,
  startEngine,
} from "../../src/engine/index.ts";
import { createLogger } from "../../src/kernel/index.ts";
import {
  type FloatTensor,
  fromFloat,
  serializeSafetensors,
  toFloat,
} from "../../src/tensor/index.ts";
import { floatsOf, randomFloats, textItem, unetItem } from "../support/engine-items.ts";
import { relativeError } from "../support/graph-session.ts";
import { tinyTensors } from "../support/tiny-checkpoint.ts";

const TARGET = "input_blocks.1.1.transformer_blocks.0.attn1.to_q";
const WIDTH = 32;
const RANK = 3;
const ALPHA = 6;

let folder: string;
let path: string;
let engine: Engine;
const events: { event: string; [field: string]: unknown }[] = [];
const down = randomFloats([RANK, WIDTH], 7);
const up = randomFloats([WIDTH, RANK], 8);

const lora = (name: string, strength: number, key = "1"): LoraUse => ({
  source: { type: "file", path: join(folder, name), name, key },
  strength,
});

async function step(loras: readonly LoraUse[] = [], from = path): Promise<Float32Array> {
  const { outputs } = await engine.run(from, "unet", [unetItem({ loras })]);
  return floatsOf(outputs[0]?.tensors.get("out"));
}

const error = (actual: Float32Array, expected: Float32Array): number =>
  relativeError(vector(actual), vector(expected));
const vector = (data: Float32Array): FloatTensor => ({ shape: [data.length], data });

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** The checkpoint with the LoRA at a strength folded into its weight. */
function mergedTensors(strength: number) {
  const tensors = tinyTensors({ dtype: "F32" });
  const name = `model.diffusion_model.${TARGET}.weight`;
  const weight = tensors.get(name);
  if (weight === undefined) throw new Error(`The tiny checkpoint has no ${name}.`);
  const [w, a, b] = [toFloat(weight).data.slice(), toFloat(down).data, toFloat(up).data];
  for (let row = 0; row < WIDTH; row++) {
    for (let column = 0; column < WIDTH; column++) {
      let sum = 0;
      for (let r = 0; r < RANK; r++) sum += (b[row * RANK + r] ?? 0) * (a[r * WIDTH + column] ?? 0);
      const at = row * WIDTH + column;
      w[at] = (w[at] ?? 0) + (strength * ALPHA * sum) / RANK;
    }
  }
  return tensors.set(name, fromFloat({ shape: [WIDTH, WIDTH], data: w }));
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "luna-engine-test-"));
  path = join(folder, "tiny.safetensors");
  await writeFile(path, serializeSafetensors(tinyTensors({ dtype: "F32" })));
  const kohya = `lora_unet_${TARGET.replaceAll(".", "_")}`;
  const tensors = new Map([
    [`${kohya}.lora_down.weight`, down],
    [`${kohya}.lora_up.weight`, up],
    [`${kohya}.alpha`, fromFloat({ shape: [], data: Float32Array.of(ALPHA) })],
  ]);
  await writeFile(join(folder, "good.safetensors"), serializeSafetensors(tensors));
  tensors.set("lora_unet_no_such_layer.lora_down.weight", down);
  await writeFile(join(folder, "extra.safetensors"), serializeSafetensors(tensors));
  await writeFile(join(folder, "broken.safetensors"), "this is no safetensors file");
  const logger = createLogger((line) => events.push(JSON.parse(line)), "debug");
  engine = await startEngine({ device: "cpu", threads: 1, logger });
  await engine.load(path, "unet");
});

afterAll(async () => {
  await engine.close();
  await rm(folder, { recursive: true, force: true });
});

test("a LoRA gives what its merge into the weights gives; strength 0 and a run after it are bare", async () => {
  const bare = await step();
  const merged = join(folder, "merged.safetensors");
  await writeFile(merged, serializeSafetensors(mergedTensors(0.8)));
  await engine.load(merged, "unet");
  const expected = await step([], merged);
  const actual = await step([lora("good.safetensors", 0.8)]);
  expect(error(expected, bare)).toBeGreaterThan(1e-3);
  expect(error(actual, expected)).toBeLessThan(1e-5);
  expect(await step([lora("good.safetensors", 0)])).toEqual(bare);
  expect(await step()).toEqual(bare);
  expect(events).toContainEqual(
    expect.objectContaining({ event: "lora.applied", lora: "good.safetensors", strength: 0.8 }),
  );
  await engine.unload(merged);
});

test("factors a client has sent act as the file does, and are sent once", async () => {
  const scaled = toFloat(up).data.map((value) => (value * ALPHA) / RANK);
  const transposed = new Float32Array(scaled.length);
  for (let i = 0; i < scaled.length; i++) {
    transposed[(i % RANK) * WIDTH + Math.floor(i / RANK)] = scaled[i] ?? 0;
  }
  const tensors = new Map([
    [`${TARGET}.down`, down],
    [`${TARGET}.up`, fromFloat({ shape: [RANK, WIDTH], data: transposed })],
  ]);
  const use: LoraUse = { source: { type: "factors", digest: "d1/unet", tensors }, strength: 0.8 };
  const sent = await step([use]);
  expect(error(sent, await step([lora("good.safetensors", 0.8)]))).toBeLessThan(1e-6);
  expect(await step([use])).toEqual(sent);
});

test("a mixed batch is each item alone", async () => {
  const stacks = [[lora("good.safetensors", 0.8)], [], [lora("good.safetensors", -0.5)]];
  const items = stacks.map((loras) => unetItem({ loras }));
  const { outputs } = await engine.run(path, "unet", items);
  for (const [index, loras] of stacks.entries()) {
    const alone = await step(loras);
    expect(error(floatsOf(outputs[index]?.tensors.get("out")), alone)).toBeLessThan(1e-5);
  }
});

test("contexts of different lengths share a batch, repeated to a common length", async () => {
  const items = [77, 154, 231].map((tokens, at) => unetItem({ tokens, seed: at + 1, rows: 2 }));
  for (const pair of [items.slice(0, 2), items.slice(1)]) {
    const { outputs } = await engine.run(path, "unet", pair);
    for (const [index, item] of pair.entries()) {
      const alone = (await engine.run(path, "unet", [item])).outputs[0]?.tensors.get("out");
      const actual = floatsOf(outputs[index]?.tensors.get("out"));
      expect(error(actual, floatsOf(alone))).toBeLessThan(1e-6);
    }
  }
});

test("controls act on the items that have them", async () => {
  const control = new Map([["control.middle.0", randomFloats([1, 32, 4, 4], 9)]]);
  const items = [unetItem({ control }), unetItem()];
  const { outputs } = await engine.run(path, "unet", items);
  const [withControl, without] = outputs.map(({ tensors }) => floatsOf(tensors.get("out")));
  const bare = await step();
  expect(error(without ?? bare, bare)).toBeLessThan(1e-5);
  expect(error(withControl ?? bare, bare)).toBeGreaterThan(1e-3);
  const typo = unetItem({ control: new Map([["control.midle.0", randomFloats([1], 9)]]) });
  await expect(engine.run(path, "unet", [typo])).rejects.toMatchObject({
    code: "TENSOR_MALFORMED",
  });
});

test("a missing LoRA is skipped, unknown keys are told once, a broken file is named", async () => {
  const run = async (use: LoraUse) =>
    (await engine.run(path, "unet", [unetItem({ loras: [use] })])).outputs[0];
  const missing = await run(lora("gone.safetensors", 1));
  expect(floatsOf(missing?.tensors.get("out"))).toEqual(await step());
  expect(missing?.warnings).toEqual([expect.stringContaining("gone.safetensors")]);
  const first = await run(lora("extra.safetensors", 1));
  expect(first?.warnings).toEqual([expect.stringMatching(/extra.*1 keys?.*no_such_layer/)]);
  expect((await run(lora("extra.safetensors", 1)))?.warnings).toEqual([]);
  await expect(run(lora("broken.safetensors", 1))).rejects.toMatchObject({
    code: "LORA_MALFORMED",
    message: expect.stringContaining("broken.safetensors"),
  });
});

test("clip skip and embeddings reach the text encoder; tiles agree with one piece", async () => {
  await engine.load(path, "clip-l");
  await engine.load(path, "vae-decoder");
  const words = textItem([320, 1125, 539]);
  const encode = async (item: typeof words) =>
    floatsOf((await engine.run(path, "clip-l", [item])).outputs[0]?.tensors.get("hidden"));
  const last = await encode(words);
  expect(error(await encode({ ...words, layer: -2 }), last)).toBeGreaterThan(1e-3);
  const embeddings: [string, ReturnType<typeof randomFloats>][] = [
    ["embeddings", randomFloats([1, 8], 3)],
    ["embedding_positions", fromFloat({ shape: [1, 2], data: Float32Array.of(0, 2) })],
  ];
  const inverted = { ...words, tensors: new Map([...words.tensors, ...embeddings]) };
  expect(error(await encode(inverted), last)).toBeGreaterThan(1e-3);
  const latent = new Map([["latent", randomFloats([1, 4, 20, 20], 4)]]);
  const decode = async (tile?: { size: number; overlap: number }) => {
    const item = { loras: [], tensors: latent, ...(tile === undefined ? {} : { tile }) };
    return floatsOf(
      (await engine.run(path, "vae-decoder", [item])).outputs[0]?.tensors.get("image"),
    );
  };
  const whole = await decode();
  const tiled = await decode({ size: 16, overlap: 8 });
  expect(tiled).toHaveLength(whole.length);
  // Group norms see the tile and not the picture, so tiles are near, not equal.
  expect(error(tiled, whole)).toBeLessThan(0.3);
  expect(await decode({ size: 32, overlap: 8 })).toEqual(whole);
});

test("kill -9 in the middle of a run: the same bytes, only later", async () => {
  const item = unetItem({ rows: 4, side: 32 });
  const run = () => engine.run(path, "unet", [item]);
  const expected = (await run()).outputs[0]?.tensors.get("out")?.bytes;
  const { pid, restarts } = await engine.info();
  let isDone = false;
  const interrupted = run().finally(() => {
    isDone = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(isDone).toBe(false);
  process.kill(pid, "SIGKILL");
  const { outputs } = await interrupted;
  expect(outputs[0]?.tensors.get("out")?.bytes).toEqual(expected);
  const after = await engine.info();
  expect(after.restarts).toBe(restarts + 1);
  expect(after.pid).not.toBe(pid);
  expect(isAlive(pid)).toBe(false);
});

test("a file cut short or of another kind is one clear error", async () => {
  const cut = join(folder, "cut.safetensors");
  await copyFile(path, cut);
  await truncate(cut, 100_000);
  await expect(engine.load(cut, "unet")).rejects.toMatchObject({ code: "FILE_UNREADABLE" });
  await expect(engine.load(join(folder, "none"), "unet")).rejects.toMatchObject({
    code: "FILE_UNREADABLE",
  });
  await expect(engine.load(join(folder, "good.safetensors"), "unet")).rejects.toMatchObject({
    code: "CHECKPOINT_UNSUPPORTED",
    message: expect.stringContaining("good.safetensors: This file holds"),
  });
});

test("a file cut short while it is mapped ends in one clear error, and others are served", async () => {
  const cut = join(folder, "mapped.safetensors");
  await copyFile(path, cut);
  await engine.load(cut, "unet");
  const before = await step();
  await truncate(cut, 8192);
  // Reading past the end of a mapped file takes the process down; the next one cannot open it.
  await expect(step([], cut)).rejects.toMatchObject({ code: "FILE_UNREADABLE" });
  expect(await step()).toEqual(before);
});

test("a device that is not there says why and what to do", async () => {
  const outcome = await startEngine({ device: "cuda" }).catch((reason: unknown) => reason);
  if (outcome instanceof SupervisedEngine) return await outcome.close(); // This machine has one.
  expect(outcome).toMatchObject({
    code: "DEVICE_UNAVAILABLE",
    message: expect.stringContaining("ONNXRUNTIME_NODE_INSTALL=cuda12"),
  });
});

test("nothing is left: no folder while it runs, no process after close or after its owner died", async () => {
  const { pid } = await engine.info();
  const left = (await readdir(tmpdir())).filter((name) => name.startsWith(`luna-engine-${pid}-`));
  expect(left).toEqual([]);
  const owner = spawn(
    process.execPath,
    ["--import", "tsx", join(import.meta.dirname, "../support/engine-owner.ts")],
    { stdio: ["ignore", "pipe", "ignore"] },
  );
  const lines = createInterface({ input: owner.stdout });
  const [line] = (await new Promise((resolve) =>
    lines.once("line", (text) => resolve([text])),
  )) as [string];
  const orphan = Number(line);
  expect(isAlive(orphan)).toBe(true);
  owner.kill("SIGKILL");
  await expect.poll(() => isAlive(orphan), { timeout: 10_000 }).toBe(false);
  await engine.close();
  expect(isAlive(pid)).toBe(false);
});
