/**
 * Opens FOLDER/weights.safetensors as the daemon does, runs one net on the feeds of
 * FOLDER/case.safetensors and prints the relative L2 error of each output as JSON.
 */
import assert from "node:assert";
import { open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { InferenceSession } from "onnxruntime-node";
import { type Checkpoint, openCheckpoint } from "../../src/checkpoint/index.ts";
import {
  type BuiltGraph,
  buildClipGraph,
  buildVaeDecoderGraph,
  buildVaeEncoderGraph,
  type OpChoices,
} from "../../src/graph/index.ts";
import {
  type FloatTensor,
  parseSafetensors,
  readSafetensorsHeader,
  toFloat,
} from "../../src/tensor/index.ts";
import { adapterFeeds, relativeError, runGraph } from "../support/graph-session.ts";

type Case = { component: string; config: unknown; attention?: OpChoices["attention"] };

async function readCheckpoint(path: string): Promise<Checkpoint> {
  const file = await open(path);
  const readAt = async (offset: number, length: number): Promise<Uint8Array> => {
    const bytes = new Uint8Array(length);
    await file.read(bytes, 0, length, offset);
    return bytes;
  };
  const header = await readSafetensorsHeader(readAt, (await file.stat()).size);
  await file.close();
  return openCheckpoint(header);
}

function buildGraph(checkpoint: Checkpoint, { component, config, attention }: Case): BuiltGraph {
  const choices: OpChoices = { attention: attention ?? "fused", compute: "float32", rankMin: 0 };
  const options = { choices, externalFile: "weights.safetensors" };
  if (!component.startsWith("vae")) {
    const [text] = checkpoint.textEncoders;
    assert(text !== undefined);
    assert.deepEqual(text.config, config);
    return buildClipGraph(text.config, text.weights, options);
  }
  const { vae, latentScale } = checkpoint;
  assert(vae !== undefined);
  assert.deepEqual(vae.config, config);
  const build = component === "vae-decoder" ? buildVaeDecoderGraph : buildVaeEncoderGraph;
  return build(vae.config, vae.weights, { ...options, latentScale });
}

const [, , folder = "."] = process.argv;
const item: Case = JSON.parse(await readFile(join(folder, "case.json"), "utf8"));
const parts = parseSafetensors(await readFile(join(folder, "case.safetensors")));
const graph = buildGraph(await readCheckpoint(join(folder, "weights.safetensors")), item);
const part = (prefix: string): Map<string, FloatTensor> =>
  new Map(
    [...parts.tensors]
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, tensor]) => [name.slice(prefix.length), toFloat(tensor)]),
  );

const begin = performance.now();
const model = join(folder, "net.onnx");
await writeFile(model, graph.model);
const session = await InferenceSession.create(model, {
  graphOptimizationLevel: "extended",
  executionProviders: ["cpu"],
});
const createMs = Math.round(performance.now() - begin);
const feeds = part("feed.");
const batch = feeds.values().next().value?.shape[0] ?? 1;
for (const [name, feed] of adapterFeeds(graph.adapterTargets, { batch, rank: 0 })) {
  feeds.set(name, feed);
}
const runMs: number[] = [];
let outputs = new Map<string, FloatTensor>();
for (let run = 0; run < 2; run++) {
  const start = performance.now();
  outputs = await runGraph(session, feeds);
  runMs.push(Math.round(performance.now() - start));
}
const errors: Record<string, number> = {};
for (const [name, expected] of part("expected.")) {
  const actual = outputs.get(name);
  assert(actual !== undefined, name);
  errors[name] = relativeError(actual, expected);
}
const rssMb = Math.round(process.memoryUsage().rss / 1e6);
process.stdout.write(`${JSON.stringify({ errors, createMs, runMs, rssMb })}\n`);
