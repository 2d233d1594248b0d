/**
 * What an adapter costs that is more than a sum of low rank, at SD1.5's full width:
 * `npx tsx bench/lora-variants.ts [--side N] [--turns N]` prints JSON. Steps with no adapter, with a LoRA, and with the
 * same LoRA as a DoRA (full graph, neutral and used), memory beside the loaded net, and first uses.
 */
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import * as runtime from "onnxruntime-node";
import { unetLayers } from "../src/checkpoint/index.ts";
import { FULL_SD15, writeLora, writeUnet } from "../src/cli/bench/models.ts";
import { OnnxEngine } from "../src/engine/onnx-engine.ts";
import type { LoraUse, RunItem } from "../src/engine/port.ts";
import { providerNamed } from "../src/engine/providers.ts";
import { SILENT_LOGGER } from "../src/kernel/index.ts";
import {
  floatTensor,
  fromFloat,
  parseSafetensors,
  serializeSafetensors,
} from "../src/tensor/index.ts";
import { randomFloats } from "../test/support/engine-items.ts";

const { values: flags } = parseArgs({
  options: {
    side: { type: "string", default: "16" },
    turns: { type: "string", default: "5" },
    rank: { type: "string", default: "16" },
  },
});
const side = Number(flags.side);
const rank = Number(flags.rank);

const itemOf = (loras: readonly LoraUse[]): RunItem => ({
  loras,
  tensors: new Map([
    ["x", randomFloats([1, 4, side, side], 1)],
    ["timesteps", fromFloat({ shape: [1], data: Float32Array.of(500) })],
    ["context", randomFloats([1, 77, FULL_SD15.contextDim], 2)],
  ]),
});
const median = (list: number[]): number => list.sort((a, b) => a - b)[list.length >> 1] ?? 0;
const round = (value: number): number => Number(value.toFixed(2));

const folder = await mkdtemp(join(tmpdir(), "luna-variants-"));
try {
  const path = join(tmpdir(), "luna-bench-sd15.safetensors");
  if (!existsSync(path)) await writeUnet(path, FULL_SD15);
  const lora = join(folder, "lora.safetensors");
  await writeLora(lora, FULL_SD15, { rank, seed: 1 });
  const dora = join(folder, "dora.safetensors");
  const { tensors } = parseSafetensors(await readFile(lora));
  const magnitudes = unetLayers(FULL_SD15)
    .filter(({ name, weight }) => weight.length === 2 && name.includes("transformer_blocks"))
    .map(({ name, weight: [outputs = 1] }) => {
      const data = new Float32Array(outputs).fill(1.01);
      const key = `lora_unet_${name.replaceAll(".", "_")}.dora_scale`;
      return [key, fromFloat(floatTensor([outputs, 1], data), "F16")] as const;
    });
  await writeFile(dora, serializeSafetensors(new Map([...tensors, ...magnitudes])));
  const use = (file: string, strength = 0.7): LoraUse => ({
    source: { type: "file", path: file, name: file, key: "1" },
    strength,
  });

  const engine = new OnnxEngine({
    ...{ runtime, provider: providerNamed("cpu"), logger: SILENT_LOGGER },
    loraCacheBytesMax: 4e9,
  });
  // Mapped weights count once for each session, but are the same memory: what is private is not.
  const memoryNow = async () => {
    const text = await readFile("/proc/self/smaps_rollup", "utf8").catch(() => "");
    const mega = (name: string) =>
      Math.round(Number(new RegExp(`${name}:\\s+(\\d+)`).exec(text)?.[1] ?? 0) / 1e3);
    return { rssMB: mega("Rss"), privateMB: mega("Private_Dirty") };
  };
  await engine.load(path, "unet");
  const step = async (loras: readonly LoraUse[]): Promise<number> => {
    const begin = performance.now();
    await engine.run(path, "unet", [itemOf(loras)]);
    return performance.now() - begin;
  };
  await step([]);
  const memory: Record<string, object> = { loaded: await memoryNow() };
  const firstMs: Record<string, number> = {};
  const firstOf = async (name: string, loras: readonly LoraUse[]) => {
    firstMs[name] = Math.round(await step(loras));
    memory[name] = await memoryNow();
  };
  await firstOf("lora", [use(lora)]);
  await firstOf("dora", [use(dora)]);
  await firstOf("loraThenDora", [use(lora), use(dora)]);
  const times: Record<string, number[]> = { none: [], lora: [], dora: [], mixed: [] };
  for (let turn = 0; turn < Number(flags.turns); turn++) {
    times["none"]?.push(await step([]));
    times["lora"]?.push(await step([use(lora)]));
    times["dora"]?.push(await step([use(dora)]));
    times["mixed"]?.push(await step([use(lora), use(dora)]));
  }
  const none = median(times["none"] ?? []);
  const ratios = Object.fromEntries(
    Object.entries(times).map(([name, list]) => [name, round(median(list) / none)]),
  );
  console.log(
    JSON.stringify({ side, rank, noneMs: Math.round(none), ratios, firstMs, memory }, null, 2),
  );
} finally {
  await rm(folder, { recursive: true, force: true });
}
