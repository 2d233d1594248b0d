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
import {
  type AdapterTarget,
  adapterInputs,
  buildUNetGraph,
  type OpChoices,
  timestepEmbedding,
} from "./index.ts";

type Case = { size: [number, number]; timesteps: number[]; time: number; control: boolean };

const goldens = parseSafetensors(
  readFileSync(join(import.meta.dirname, "../../test/fixtures/goldens/unet.safetensors")),
);
const nets: Record<string, UNetConfig> = JSON.parse(goldens.metadata["nets"] ?? "{}");
const cases: Record<string, Case> = JSON.parse(goldens.metadata["cases"] ?? "{}");
const residuals: Record<string, Record<string, number[]>> = JSON.parse(
  goldens.metadata["residuals"] ?? "{}",
);
const TOLERANCE = 1e-5;
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

/** Every kind of layer, as small as the layout allows. */
const SMALL: UNetConfig = {
  inChannels: 4,
  outChannels: 4,
  modelChannels: 32,
  channelMult: [1, 2],
  resBlocks: [1, 1],
  transformerDepth: [0, 1],
  transformerDepthMiddle: 0,
  transformerDepthOutput: [0, 0, 0, 0],
  contextDim: 24,
  admChannels: 16,
  heads: { channels: 32 },
  isLinearProjection: true,
};
const ITEM: Case = { size: [8, 8], timesteps: [700, 20.5], time: 77, control: false };

/** The nearest lower 8-bit float of each value, found among all 256. */
function eightBit({ shape, data }: FloatTensor, dtype: "F8_E4M3" | "F8_E5M2"): Tensor {
  const codes = Uint8Array.from({ length: 128 }, (_, code) => code);
  const values = toFloat({ dtype, shape: [128], bytes: codes }).data.filter(Number.isFinite);
  const bytes = Uint8Array.from(data, (value) => {
    const above = values.findIndex((known) => known > Math.abs(value));
    return (value < 0 ? 128 : 0) + (above < 0 ? values.length : above) - 1;
  });
  return { dtype, shape, bytes };
}

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
function caseFeeds(config: UNetConfig, item: Case): Map<string, FloatTensor> {
  const batch = item.timesteps.length;
  const embedding = timestepEmbedding(Float32Array.from(item.timesteps), config.modelChannels);
  const feeds = new Map([
    ["x", seeded("x", [batch, config.inChannels, ...item.size], 2)],
    ["timestep_embedding", floatTensor([batch, config.modelChannels], embedding)],
    ["context", seeded("context", [batch, item.time, config.contextDim], 2)],
  ]);
  if (config.admChannels > 0) feeds.set("y", seeded("y", [batch, config.admChannels]));
  return feeds;
}

/** Builds a tiny net and returns how to run it. */
async function openNet(
  config: UNetConfig,
  options: {
    weights?: ReadonlyMap<string, Tensor>;
    choices?: OpChoices;
    hasAdapters?: boolean;
  } = {},
) {
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

/** One item of a batch; the factors of adapters belong to all of them. */
function itemOf(feeds: Feeds, index: number): Map<string, FloatTensor> {
  const rows = [...feeds].map(([name, { shape, data }]): [string, FloatTensor] => {
    if (/\.(down|up)$/.test(name)) return [name, { shape, data }];
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
    const config = net(family);
    const { run } = await openNet(config);
    for (const [name, item] of Object.entries(cases)) {
      const golden = goldens.tensors.get(`${family}.${name}`);
      if (golden === undefined) throw new Error(`no golden ${family}.${name}`);
      const feeds = caseFeeds(config, item);
      for (const [residual, shape] of Object.entries(residuals[family] ?? {})) {
        if (item.control) feeds.set(residual, seeded(residual, shape, 0.5));
      }
      const error = relativeError(await run(feeds), toFloat(golden));
      expect(error, name).toBeLessThan(TOLERANCE);
    }
  });
}

/** Feeds for every adapter target: rank rows each, `scale` the same for all items of the batch. */
function loraFeeds(
  targets: readonly AdapterTarget[],
  options: { batch: number; rank: number; scale: number },
): Map<string, FloatTensor> {
  return adapterFeeds(targets, {
    ...options,
    value: (name, shape) => {
      const count = shape.reduce((product, axis) => product * axis, 1);
      if (name.endsWith(".scale")) {
        return floatTensor(shape, new Float32Array(count).fill(options.scale));
      }
      return floatTensor(shape, seededValues(name, count, 0.1));
    },
  });
}

/** The weights with scale * up^T down added to every target. */
function merged(
  weights: ReadonlyMap<string, FloatTensor>,
  targets: readonly AdapterTarget[],
  options: { feeds: Feeds; rank: number; scale: number },
): Map<string, FloatTensor> {
  const result = new Map(weights);
  for (const { name, outputs } of targets) {
    const weight = weights.get(`${name}.weight`);
    const inputs = adapterInputs(name);
    const down = options.feeds.get(inputs.down)?.data ?? [];
    const up = options.feeds.get(inputs.up)?.data ?? [];
    if (weight === undefined) throw new Error(`target ${name} has no weight`);
    const width = weight.data.length / outputs;
    const data = weight.data.map((value, index) => {
      const output = Math.floor(index / width);
      let sum = 0;
      for (let row = 0; row < options.rank; row++) {
        sum += (up[row * outputs + output] ?? 0) * (down[row * width + (index % width)] ?? 0);
      }
      return value + options.scale * sum;
    });
    result.set(`${name}.weight`, { shape: weight.shape, data });
  }
  return result;
}

test("every linear and convolution layer is an adapter target of the right kind and size", () => {
  const config = net("sdxl");
  const shapes = unetWeightShapes(config);
  const weights = new Map(
    [...shapes].map(([name, shape]) => [name, { dtype: "F32", shape, begin: 0, end: 0 } as const]),
  );
  const options = { choices: FUSED, externalFile: "weights.safetensors" };
  const { adapterTargets } = buildUNetGraph(config, weights, options);
  const layers = [...shapes].filter(
    ([name, shape]) => name.endsWith(".weight") && shape.length > 1,
  );
  expect(new Map(adapterTargets.map((target) => [`${target.name}.weight`, target]))).toEqual(
    new Map(
      layers.map(([name, [outputs, inputs, ...kernel]]) => [
        name,
        {
          name: name.slice(0, -".weight".length),
          kind: kernel.length === 2 ? "conv" : "linear",
          inputs,
          outputs,
          kernel: kernel.length === 2 ? kernel : [1, 1],
        },
      ]),
    ),
  );
});

test("adapters of every target as inputs equal the same adapters merged into the weights", async () => {
  for (const config of [net("sd1"), SMALL]) {
    const weights = tinyWeights(config);
    const feeds = caseFeeds(config, { ...ITEM, size: [7, 9] });
    const { graph, run } = await openNet(config);
    const plain = await run(feeds);
    const options = { batch: 2, rank: 3, scale: 0.75 };
    const lora = loraFeeds(graph.adapterTargets, options);
    const adapted = await run(new Map([...feeds, ...lora]));
    const weightsMerged = merged(weights, graph.adapterTargets, { ...options, feeds: lora });
    const other = await openNet(config, { weights: stored(weightsMerged), hasAdapters: false });
    expect(relativeError(adapted, plain)).toBeGreaterThan(0.1);
    expect(relativeError(adapted, await other.run(feeds))).toBeLessThan(TOLERANCE);
  }
});

test("each kind of target alone equals its merged weight", async () => {
  const targets = {
    linear: "input_blocks.3.1.transformer_blocks.0.attn2.to_k",
    "time embedding": "time_embed.0",
    "label embedding": "label_emb.0.2",
    "embedding of a block": "middle_block.0.emb_layers.1",
    "convolution 3x3": "input_blocks.1.0.in_layers.2",
    "convolution with stride 2": "input_blocks.2.0.op",
    "convolution 1x1": "output_blocks.0.0.skip_connection",
  };
  const weights = tinyWeights(SMALL);
  const feeds = caseFeeds(SMALL, { ...ITEM, size: [5, 6] });
  const { graph, run } = await openNet(SMALL);
  const plain = await run(feeds);
  for (const [kind, name] of Object.entries(targets)) {
    const chosen = graph.adapterTargets.filter((target) => target.name === name);
    expect(chosen, kind).toHaveLength(1);
    const options = { batch: 2, rank: 2, scale: 3 };
    const lora = loraFeeds(chosen, options);
    const adapted = await run(new Map([...feeds, ...lora]));
    const weightsMerged = merged(weights, chosen, { ...options, feeds: lora });
    const other = await openNet(SMALL, { weights: stored(weightsMerged), hasAdapters: false });
    expect(relativeError(adapted, plain), kind).toBeGreaterThan(1e-3);
    expect(relativeError(adapted, await other.run(feeds)), kind).toBeLessThan(TOLERANCE);
  }
});

test("rank 0, and any rank with scale 0, equal a graph without adapters bit for bit", async () => {
  for (const config of [net("sd1"), SMALL]) {
    const feeds = caseFeeds(config, ITEM);
    const bare = await openNet(config, { hasAdapters: false });
    const { graph, run } = await openNet(config);
    const expected = await bare.run(feeds);
    expect((await run(feeds)).data).toEqual(expected.data);
    const zero = loraFeeds(graph.adapterTargets, { batch: 2, rank: 4, scale: 0 });
    expect((await run(new Map([...feeds, ...zero]))).data).toEqual(expected.data);
  }
});

test("rank 0 stays exact in memory that earlier runs have used", async () => {
  const feeds = caseFeeds(SMALL, ITEM);
  const { graph, run } = await openNet(SMALL);
  const expected = (await run(feeds)).data;
  const huge = loraFeeds(graph.adapterTargets, { batch: 2, rank: 8, scale: 1e6 });
  for (let round = 0; round < 4; round++) {
    await run(new Map([...feeds, ...huge]));
    expect((await run(feeds)).data).toEqual(expected);
  }
});

test("an item of a batch with its own adapters equals the item alone", async () => {
  const feeds = caseFeeds(SMALL, ITEM);
  const { graph, run } = await openNet(SMALL);
  const lora = loraFeeds(graph.adapterTargets, { batch: 2, rank: 4, scale: 1 });
  // Rows 0 and 1 belong to the first item, rows 2 and 3 to the second.
  for (const [name, { data }] of lora) {
    if (name.endsWith(".scale")) data.set([1, 0.5, 0, 0, 0, 0, -0.7, 1]);
  }
  const batch = await run(new Map([...feeds, ...lora]));
  const size = batch.data.length / 2;
  const plain = await run(feeds);
  for (const index of [0, 1]) {
    const alone = await run(itemOf(new Map([...feeds, ...lora]), index));
    const rows = (tensor: FloatTensor): FloatTensor =>
      floatTensor(alone.shape, tensor.data.slice(index * size, (index + 1) * size));
    expect(relativeError(rows(batch), alone)).toBeLessThan(TOLERANCE);
    expect(relativeError(rows(plain), alone)).toBeGreaterThan(1e-3);
  }
});

test("plain attention equals fused attention", async () => {
  const feeds = caseFeeds(SMALL, ITEM);
  const fused = await openNet(SMALL);
  const plain = await openNet(SMALL, { choices: { ...FUSED, attention: "plain" } });
  expect(relativeError(await plain.run(feeds), await fused.run(feeds))).toBeLessThan(TOLERANCE);
});

test("half, brain and 8-bit weights compute as their float32 values", async () => {
  const feeds = caseFeeds(SMALL, ITEM);
  const floats = [...tinyWeights(SMALL)];
  const narrow: Record<string, (tensor: FloatTensor) => Tensor> = {
    F16: (tensor) => fromFloat(tensor, "F16"),
    BF16: (tensor) => fromFloat(tensor, "BF16"),
    F8_E4M3: (tensor) => eightBit(tensor, "F8_E4M3"),
    F8_E5M2: (tensor) => eightBit(tensor, "F8_E5M2"),
  };
  for (const [dtype, encode] of Object.entries(narrow)) {
    const weights = new Map(floats.map(([name, tensor]) => [name, encode(tensor)]));
    const widened = new Map([...weights].map(([name, tensor]) => [name, toFloat(tensor)]));
    const actual = await (await openNet(SMALL, { weights })).run(feeds);
    const expected = await (await openNet(SMALL, { weights: stored(widened) })).run(feeds);
    expect(relativeError(actual, expected), dtype).toBeLessThan(TOLERANCE);
  }
});

test("a weight that is missing or of an integer type is one clear error", async () => {
  const config = net("sd1");
  const { weights } = await weightFile(stored(tinyWeights(config)));
  const options = { choices: FUSED, externalFile: "weights.safetensors" };
  const name = "middle_block.1.proj_in.weight";
  const missing = new Map(weights);
  missing.delete(name);
  expect(() => buildUNetGraph(config, missing, options)).toThrow(`no weight "${name}"`);
  const ref = weights.get(name);
  if (ref === undefined) throw new Error("no such weight");
  const integer = new Map([...weights, [name, { ...ref, dtype: "I8" as const }]]);
  expect(() => buildUNetGraph(config, integer, options)).toThrow("stored as I8");
  expect(() => buildUNetGraph({ ...config, heads: { channels: 48 } }, weights, options)).toThrow(
    "attention heads",
  );
});
