/**
 * Half of `unet.py --full`: runs the UNet of FOLDER/unet.safetensors, described by config.json, on
 * case.safetensors and compares with its "expected". Prints one line of JSON.
 */
import { open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { argv, stdout } from "node:process";
import { InferenceSession } from "onnxruntime-node";
import type { UNetConfig } from "../../src/checkpoint/index.ts";
import { buildUNetGraph, timestepEmbedding } from "../../src/graph/index.ts";
import {
  type FloatTensor,
  floatTensor,
  parseSafetensors,
  readSafetensorsHeader,
  toFloat,
} from "../../src/tensor/index.ts";
import { adapterFeeds, relativeError, runGraph } from "../support/graph-session.ts";

const folder = argv[2] ?? ".";
const externalFile = "unet.safetensors";
const config: UNetConfig = JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
const given = parseSafetensors(await readFile(join(folder, "case.safetensors"))).tensors;

function floats(name: string): FloatTensor {
  const tensor = given.get(name);
  if (tensor === undefined) throw new Error(`case.safetensors has no "${name}"`);
  return toFloat(tensor);
}

const file = await open(join(folder, externalFile));
const readAt = async (position: number, length: number): Promise<Uint8Array> => {
  const { buffer, bytesRead } = await file.read(new Uint8Array(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
};
const header = await readSafetensorsHeader(readAt, (await file.stat()).size);
await file.close();

const begin = performance.now();
const graph = buildUNetGraph(config, header.tensors, {
  choices: { attention: "fused", compute: "float32", rankMin: 0 },
  externalFile,
});
const path = join(folder, "unet.onnx");
await writeFile(path, graph.model);
const session = await InferenceSession.create(path, { graphOptimizationLevel: "extended" });
const createMs = Math.round(performance.now() - begin);

const timesteps = floats("timesteps").data;
const embedding = timestepEmbedding(timesteps, config.modelChannels);
const feeds = new Map([
  ["x", floats("x")],
  ["timestep_embedding", floatTensor([timesteps.length, config.modelChannels], embedding)],
  ["context", floats("context")],
  ...adapterFeeds(graph.adapterTargets, { batch: timesteps.length, rank: 0 }),
]);
if (config.admChannels > 0) feeds.set("y", floats("y"));
const runMs: number[] = [];
let out = floats("expected");
for (let index = 0; index < 2; index++) {
  const start = performance.now();
  const outputs = await runGraph(session, feeds);
  runMs.push(Math.round(performance.now() - start));
  out = outputs.get("out") ?? floatTensor([0]);
}
const result = {
  error: relativeError(out, floats("expected")),
  createMs,
  runMs,
  graphBytes: graph.model.byteLength,
  targets: graph.adapterTargets.length,
  rssBytes: process.memoryUsage().rss,
};
stdout.write(`${JSON.stringify(result)}\n`);
