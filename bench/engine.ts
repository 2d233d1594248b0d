/**
 * The engine alone, on an idle machine: `npx tsx bench/engine.ts` prints JSON. A step of a tiny
 * UNet shows what the process boundary costs; `--full` also writes a random SD1.5 UNet of 3.4 GB in
 * float32 into the temporary folder (once) and shows how long it takes to open and to run.
 */
import { existsSync } from "node:fs";
import { mkdtemp, open, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { layerWeights, type UNetConfig, unetLayers } from "../src/checkpoint/index.ts";
import { type Engine, type RunItem, startEngine } from "../src/engine/index.ts";
import { elementCount, fromFloat, serializeSafetensorsHeader } from "../src/tensor/index.ts";
import { randomFloats, unetItem } from "../test/support/engine-items.ts";
import { normalGenerator, writeTinyCheckpoint } from "../test/support/tiny-checkpoint.ts";

const WARM_UP = 100;
const STEPS = 1000;
const FULL_STEPS = 3;
const RANDOM_COUNT = 1 << 22;

const SD15: UNetConfig = {
  inChannels: 4,
  outChannels: 4,
  modelChannels: 320,
  channelMult: [1, 2, 4, 4],
  resBlocks: [2, 2, 2, 2],
  transformerDepth: [1, 1, 1, 1, 1, 1, 0, 0],
  transformerDepthMiddle: 1,
  transformerDepthOutput: [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
  contextDim: 768,
  admChannels: 0,
  heads: { count: 8 },
  isLinearProjection: false,
};

/** Weights scaled by fan-in, from one block of random numbers that is used again and again. */
async function writeFull(path: string): Promise<void> {
  const shapes = [...layerWeights(unetLayers(SD15))].map(
    ([name, shape]) => [`model.diffusion_model.${name}`, { dtype: "F32", shape }] as const,
  );
  const next = normalGenerator(1);
  const random = Float32Array.from({ length: RANDOM_COUNT }, next);
  const file = await open(`${path}.part`, "w");
  await file.write(serializeSafetensorsHeader(shapes));
  for (const [name, { shape }] of shapes) {
    const data = new Float32Array(elementCount(shape));
    const isVector = shape.length === 1;
    const scale = isVector ? 0.05 : (data.length / (shape[0] ?? 1)) ** -0.5;
    const mean = isVector && name.endsWith(".weight") ? 1 : 0;
    const begin = (data.length * 7919) % RANDOM_COUNT;
    for (let i = 0; i < data.length; i++) {
      data[i] = mean + scale * (random[(begin + i) % RANDOM_COUNT] ?? 0);
    }
    await file.write(new Uint8Array(data.buffer));
  }
  await file.close();
  await rename(`${path}.part`, path);
}

function quantiles(values: readonly number[]): { p50: number; p95: number } {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => Number((sorted[Math.floor(share * sorted.length)] ?? 0).toFixed(3));
  return { p50: at(0.5), p95: at(0.95) };
}

async function measureBoundary(engine: Engine, folder: string) {
  const path = join(folder, "tiny.safetensors");
  await writeTinyCheckpoint(path);
  await engine.load(path, "unet");
  const item = unetItem();
  const [session, overhead]: [number[], number[]] = [[], []];
  for (let step = 0; step < WARM_UP + STEPS; step++) {
    const begin = performance.now();
    const { engineMs } = await engine.run(path, "unet", [item]);
    if (step < WARM_UP) continue;
    session.push(engineMs);
    overhead.push(performance.now() - begin - engineMs);
  }
  await engine.unload(path);
  return { sessionMs: quantiles(session), overheadMs: quantiles(overhead) };
}

function fullItem(side: number): RunItem {
  return {
    loras: [],
    tensors: new Map([
      ["x", randomFloats([1, 4, side, side], 1)],
      ["timesteps", fromFloat({ shape: [1], data: Float32Array.of(500) })],
      ["context", randomFloats([1, 77, SD15.contextDim], 2)],
    ]),
  };
}

async function measureFull(engine: Engine) {
  const path = join(tmpdir(), "luna-bench-sd15.safetensors");
  if (!existsSync(path)) await writeFull(path);
  const loadMs: number[] = [];
  for (let turn = 0; turn < FULL_STEPS; turn++) {
    await engine.unload(path);
    loadMs.push((await engine.load(path, "unet")).ms);
  }
  const rssLoadedBytes = (await engine.info()).rssBytes;
  const stepMs: Record<string, number[]> = {};
  for (const side of [32, 64]) {
    const times: number[] = [];
    for (let step = 0; step < FULL_STEPS; step++) {
      times.push(Math.round((await engine.run(path, "unet", [fullItem(side)])).engineMs));
    }
    stepMs[`${side}x${side}`] = times;
  }
  return { loadMs, rssLoadedBytes, stepMs, rssBytes: (await engine.info()).rssBytes };
}

const folder = await mkdtemp(join(tmpdir(), "luna-bench-"));
const engine = await startEngine({ device: "cpu" });
const boundary = await measureBoundary(engine, folder);
const full = process.argv.includes("--full") ? await measureFull(engine) : undefined;
await engine.close();
await rm(folder, { recursive: true, force: true });
console.log(JSON.stringify({ steps: STEPS, boundary, full }, null, 2));
