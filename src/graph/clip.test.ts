import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  adapterFeeds,
  openGraph,
  relativeError,
  runGraph,
  weightFile,
} from "../../test/support/graph-session.ts";
import { seededValues, seededWeight } from "../../test/support/seeded.ts";
import { layerWeights, type TextEncoderConfig, textLayers } from "../checkpoint/index.ts";
import {
  type FloatTensor,
  floatTensor,
  fromFloat,
  parseSafetensors,
  type Tensor,
  toFloat,
} from "../tensor/index.ts";
import { adapterInputs, buildClipGraph, type OpChoices } from "./index.ts";

const goldens = parseSafetensors(
  readFileSync(join(import.meta.dirname, "../../test/fixtures/goldens/clip.safetensors")),
);
const facts = (name: string) => JSON.parse(goldens.metadata[name] ?? "null");
const nets: Record<string, TextEncoderConfig> = facts("nets");
const tokens: number[][] = facts("tokens");
const ends: number[] = facts("ends");
const [overrideRow, overrideColumn]: [number, number] = facts("override");
const layers: number[] = facts("layers");
const FUSED: OpChoices = { attention: "fused", compute: "float32", rankMin: 0 };
const PLAIN: OpChoices = { ...FUSED, attention: "plain" };
const TIME = tokens[0]?.length ?? 0;

function net(kind: string): TextEncoderConfig {
  const config = nets[kind];
  if (config === undefined) throw new Error(`no net ${kind}`);
  return config;
}

async function openNet(config: TextEncoderConfig, choices = FUSED, dtype: "F32" | "F16" = "F32") {
  const shapes = layerWeights(textLayers(config));
  const weights = [...shapes].map(
    ([name, shape]) =>
      [name, fromFloat({ shape, data: seededWeight(name, shape) }, dtype)] as const,
  );
  const file = await weightFile(new Map(weights));
  const graph = buildClipGraph(config, file.weights, { choices, externalFile: "w.safetensors" });
  return { graph, session: await openGraph(graph, file.bytes) };
}

/** The inputs of test/reference/clip.py. */
function feedsOf(config: TextEncoderConfig, layer: number): Map<string, FloatTensor> {
  const { width } = config;
  const override = floatTensor([2, TIME, width]);
  const mask = floatTensor([2, TIME, 1]);
  const at = overrideRow * TIME + overrideColumn;
  override.data.set(seededValues("vector", width), at * width);
  mask.data[at] = 1;
  return new Map([
    ["tokens", floatTensor([2, TIME], Float32Array.from(tokens.flat()))],
    ["end_position", floatTensor([2], Float32Array.from(ends))],
    ["layer", floatTensor([1], Float32Array.of(layer))],
    ["embedding_override", override],
    ["embedding_mask", mask],
  ]);
}

function golden(name: string): FloatTensor {
  const tensor = goldens.tensors.get(name);
  if (tensor === undefined) throw new Error(`no golden ${name}`);
  return toFloat(tensor);
}

test.each(
  Object.keys(nets).flatMap((kind) => [FUSED, PLAIN].map((choices) => ({ kind, choices }))),
)("$kind equals ComfyUI's encoder, attention $choices.attention", async ({ kind, choices }) => {
  const { graph, session } = await openNet(net(kind), choices);
  const neutral = adapterFeeds(graph.adapterTargets, { batch: 2, rank: 0 });
  for (const layer of layers) {
    const outputs = await runGraph(session, new Map([...neutral, ...feedsOf(net(kind), layer)]));
    const names = [...goldens.tensors.keys()].filter((name) =>
      name.startsWith(`${kind}.${layer}.`),
    );
    expect(names.length).toBeGreaterThan(1);
    for (const name of names) {
      const actual = outputs.get(name.split(".")[2] ?? "");
      if (actual === undefined) throw new Error(`no output ${name}`);
      expect(relativeError(actual, golden(name)), name).toBeLessThan(1e-5);
    }
  }
});

test("half-precision weights are read in place, token rows included", async () => {
  const config = net("clip-l");
  const { graph, session } = await openNet(config, FUSED, "F16");
  const neutral = adapterFeeds(graph.adapterTargets, { batch: 2, rank: 0 });
  const outputs = await runGraph(session, new Map([...neutral, ...feedsOf(config, 3)]));
  const hidden = outputs.get("hidden");
  if (hidden === undefined) throw new Error("no hidden");
  expect(relativeError(hidden, golden("clip-l.3.hidden"))).toBeLessThan(2e-3);
});

test.each(["F8_E4M3", "F8_E5M2"] as const)("%s weights compute as their values", async (dtype) => {
  const config = net("clip-l");
  const tensors = [...layerWeights(textLayers(config))].map(([name, shape]) => {
    const codes = seededValues(
      name,
      shape.reduce((a, b) => a * b, 1),
      40,
    );
    const bytes = Uint8Array.from(codes, (code) => (code < 0 ? 128 : 0) + Math.abs(code));
    return [name, { dtype, shape, bytes }] as const;
  });
  const run = async (weights: ReadonlyMap<string, Tensor>) => {
    const file = await weightFile(weights);
    const options = { choices: FUSED, externalFile: "w.safetensors", hasAdapters: false };
    const graph = buildClipGraph(config, file.weights, options);
    const session = await openGraph(graph, file.bytes);
    return (await runGraph(session, feedsOf(config, 3))).get("hidden") ?? floatTensor([0]);
  };
  const wide = tensors.map(([name, tensor]) => [name, fromFloat(toFloat(tensor))] as const);
  expect(relativeError(await run(new Map(tensors)), await run(new Map(wide)))).toBeLessThan(1e-6);
});

test("an adapter on every linear layer equals weights with it merged in", async () => {
  const config = net("clip-g");
  const { graph, session } = await openNet(config);
  expect(graph.adapterTargets.map(({ name }) => name)).toHaveLength(6 * config.layers + 1);
  const rank = 2;
  const value = (name: string, shape: number[]): FloatTensor => {
    const count = shape.reduce((a, b) => a * b, 1);
    const isScale = name.endsWith(".scale");
    return floatTensor(
      shape,
      isScale ? new Float32Array(count).fill(0.5) : seededValues(name, count, 0.1),
    );
  };
  const adapters = adapterFeeds(graph.adapterTargets, { batch: 2, rank, value });
  const actual = await runGraph(session, new Map([...adapters, ...feedsOf(config, 2)]));
  const merged = layerWeights(textLayers(config));
  const tensors = new Map(
    [...merged].map(([name, shape]) => {
      const data = seededWeight(name, shape);
      const inputs = adapterInputs(name.replace(/\.weight$/, ""));
      const down = adapters.get(inputs.down)?.data;
      const up = adapters.get(inputs.up)?.data;
      const [rows = 0, columns = 0] = shape;
      for (let i = 0; down !== undefined && up !== undefined && i < data.length; i++) {
        for (let r = 0; r < rank; r++) {
          const row = Math.floor(i / columns);
          data[i] =
            (data[i] ?? 0) +
            0.5 * (up[r * rows + row] ?? 0) * (down[r * columns + (i % columns)] ?? 0);
        }
      }
      return [name, fromFloat({ shape, data })] as const;
    }),
  );
  const file = await weightFile(tensors);
  const plain = buildClipGraph(config, file.weights, {
    choices: FUSED,
    externalFile: "w.safetensors",
    hasAdapters: false,
  });
  const expected = await runGraph(await openGraph(plain, file.bytes), feedsOf(config, 2));
  expect([...expected.keys()]).toEqual(["hidden", "hidden_normed", "pooled", "projected"]);
  for (const [name, tensor] of expected) {
    const output = actual.get(name);
    if (output === undefined) throw new Error(`no output ${name}`);
    expect(relativeError(output, tensor), name).toBeLessThan(1e-5);
  }
});
