import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  adapterFeeds,
  type Feeds,
  openGraph,
  relativeError,
  runGraph,
  weightFile,
} from "../../test/support/graph-session.ts";
import { seededValues, seededWeight } from "../../test/support/seeded.ts";
import { unetWeightShapes } from "../../test/support/unet-weights.ts";
import type { UNetConfig } from "../checkpoint/index.ts";
import {
  type FloatTensor,
  floatTensor,
  fromFloat,
  parseSafetensors,
  type Tensor,
  toFloat,
} from "../tensor/index.ts";
import { adapterInputs, buildUNetGraph, type OpChoices, timestepEmbedding } from "./index.ts";

type Case = { size: [number, number]; timesteps: number[]; time: number; control: boolean };

const goldens = parseSafetensors(
  readFileSync(join(import.meta.dirname, "../../test/fixtures/goldens/unet.safetensors")),
);
const nets: Record<string, UNetConfig> = JSON.parse(goldens.metadata["nets"] ?? "{}");
const cases: Record<string, Case> = JSON.parse(goldens.metadata["cases"] ?? "{}");
const residuals: Record<string, Record<string, number[]>> = JSON.parse(
  goldens.metadata["residuals"] ?? "{}",
);
const FUSED: OpChoices = { attention: "fused", compute: "float32", rankMin: 0 };

function net(family: string): UNetConfig {
  const config = nets[family];
  if (config === undefined) throw new Error(`no net ${family}`);
  return config;
}

function tinyWeights(config: UNetConfig): Map<string, FloatTensor> {
  const shapes = [...unetWeightShapes(config)];
  return new Map(shapes.map(([name, shape]) => [name, { shape, data: seededWeight(name, shape) }]));
}

const stored = (weights: ReadonlyMap<string, FloatTensor>): Map<string, Tensor> =>
  new Map([...weights].map(([name, tensor]) => [name, fromFloat(tensor)]));

const seeded = (name: string, shape: readonly number[], scale = 1): FloatTensor =>
  floatTensor(
    shape,
    seededValues(
      name,
      shape.reduce((a, b) => a * b, 1),
      scale,
    ),
  );

/** The inputs of test/reference/unet.py. */
function caseFeeds(family: string, item: Case): Map<string, FloatTensor> {
  const config = net(family);
  const batch = item.timesteps.length;
  const embedding = timestepEmbedding(Float32Array.from(item.timesteps), config.modelChannels);
  const feeds = new Map([
    ["x", seeded("x", [batch, config.inChannels, ...item.size], 2)],
    ["timestep_embedding", floatTensor([batch, config.modelChannels], embedding)],
    ["context", seeded("context", [batch, item.time, config.contextDim], 2)],
  ]);
  if (config.admChannels > 0) feeds.set("y", seeded("y", [batch, config.admChannels]));
  if (!item.control) return feeds;
  for (const [name, shape] of Object.entries(residuals[family] ?? {})) {
    feeds.set(name, seeded(name, shape, 0.5));
  }
  return feeds;
}

/** Builds a tiny net of a family and returns how to run it. */
async function openNet(
  family: string,
  options: {
    weights?: ReadonlyMap<string, Tensor>;
    choices?: OpChoices;
    hasAdapters?: boolean;
  } = {},
) {
  const config = net(family);
  const file = await weightFile(options.weights ?? stored(tinyWeights(config)));
  const graph = buildUNetGraph(config, file.weights, {
    choices: options.choices ?? FUSED,
    externalFile: "weights.safetensors",
    hasAdapters: options.hasAdapters ?? true,
  });
  const session = await openGraph(graph, file.bytes);
  const run = async (feeds: Feeds): Promise<FloatTensor> => {
    const batch = feeds.get("x")?.shape[0] ?? 0;
    const neutral = adapterFeeds(graph.adapterTargets, { batch, rank: 0 });
    const out = (await runGraph(session, new Map([...neutral, ...feeds]))).get("out");
    if (out === undefined) throw new Error("no output");
    return out;
  };
  return { graph, run };
}

/** One item of a batch. */
function itemOf(feeds: Feeds, index: number): Map<string, FloatTensor> {
  const rows = [...feeds].map(([name, { shape, data }]): [string, FloatTensor] => {
    if (shape[0] === 1) return [name, { shape, data }];
    const size = data.length / (shape[0] ?? 1);
    return [
      name,
      floatTensor([1, ...shape.slice(1)], data.slice(index * size, (index + 1) * size)),
    ];
  });
  return new Map(rows);
}

for (const family of Object.keys(nets)) {
  test(`${family} equals ComfyUI's UNetModel`, async () => {
    const { run } = await openNet(family);
    for (const [name, item] of Object.entries(cases)) {
      const golden = goldens.tensors.get(`${family}.${name}`);
      if (golden === undefined) throw new Error(`no golden ${family}.${name}`);
      const error = relativeError(await run(caseFeeds(family, item)), toFloat(golden));
      console.log(family, name, error);
      expect(error, name).toBeLessThan(1e-5);
    }
  });
}
