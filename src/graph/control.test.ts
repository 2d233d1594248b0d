/** ControlNets and T2I-Adapters against ComfyUI's: goldens of test/reference/control_nets.py. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  openGraph,
  relativeError,
  runGraph,
  weightFile,
} from "../../test/support/graph-session.ts";
import { seededValues, seededWeight } from "../../test/support/seeded.ts";
import {
  type ControlConfig,
  type ControlNetConfig,
  controlNetLayers,
  type Layer,
  layerWeights,
  openCheckpoint,
  type T2IAdapterConfig,
  t2iAdapterLayers,
} from "../checkpoint/index.ts";
import {
  type FloatTensor,
  floatTensor,
  fromFloat,
  parseSafetensors,
  toFloat,
} from "../tensor/index.ts";
import {
  buildControlHintGraph,
  buildControlNetGraph,
  buildT2IAdapterGraph,
  type OpChoices,
  pixelUnshuffle,
  timestepEmbedding,
} from "./index.ts";

type Case = { size: [number, number]; timesteps: number[]; time: number };
type Digest = { count: number; sha256: string };

const goldens = parseSafetensors(
  readFileSync(join(import.meta.dirname, "../../test/fixtures/goldens/control.safetensors")),
);
const read = <T>(name: string): Record<string, T> => JSON.parse(goldens.metadata[name] ?? "{}");
const nets = read<ControlNetConfig>("nets");
const adapters = read<T2IAdapterConfig>("adapters");
const cases = read<Case>("cases");
const names = read<{ config: ControlConfig; ldm: Digest; diffusers: Digest }>("names");
const TOLERANCE = 1e-5;
const CHOICES: OpChoices = { attention: "fused", compute: "float32", rankMin: 0 };
const OPTIONS = { choices: CHOICES, externalFile: "weights.safetensors" };
/** The script keeps every ninth value. */
const STEP = 9;

const seeded = (name: string, shape: readonly number[], scale = 1): FloatTensor =>
  floatTensor(
    shape,
    seededValues(
      name,
      shape.reduce((a, b) => a * b, 1),
      scale,
    ),
  );

function seededFile(layers: readonly Layer[]) {
  const weights = Array.from(layerWeights(layers), ([name, shape]) => {
    return [name, fromFloat({ shape, data: seededWeight(name, shape) })] as const;
  });
  return weightFile(new Map(weights));
}

/** Compares all residuals of a case with the golden ones. */
function expectGolden(title: string, residuals: ReadonlyMap<string, FloatTensor>): void {
  const expected = [...goldens.tensors].filter(([name]) => name.startsWith(`${title}/`));
  expect(residuals.size, title).toBe(expected.length);
  for (const [name, golden] of expected) {
    const own = residuals.get(name.slice(title.length + 1));
    const data = own?.data.filter((_, index) => index % STEP === 0) ?? new Float32Array();
    const error = relativeError(floatTensor([data.length], data), toFloat(golden));
    expect(error, name).toBeLessThan(TOLERANCE);
  }
}

/** Sinusoids of 1 for the type and 0 for the others. */
function typeFeeds(types: number, chosen: number, rows: number): Map<string, FloatTensor> {
  const oneHot = Float32Array.from({ length: types * rows }, (_, i) =>
    i % types === chosen ? 1 : 0,
  );
  return new Map([
    ["control_type", floatTensor([rows, types], oneHot)],
    ["control_type_embedding", floatTensor([rows, 256 * types], timestepEmbedding(oneHot, 256))],
  ]);
}

test.each(Object.entries(nets))("ControlNet %s equals ComfyUI's", async (family, config) => {
  const { encoder, hintChannels, unionTypes } = config;
  const file = await seededFile(controlNetLayers(config));
  const hintNet = await openGraph(buildControlHintGraph(config, file.weights, OPTIONS), file.bytes);
  const net = await openGraph(buildControlNetGraph(config, file.weights, OPTIONS), file.bytes);
  for (const [name, { size, timesteps, time }] of Object.entries(cases)) {
    const rows = timesteps.length;
    const [height, width] = size;
    const feeds = new Map([
      ["x", seeded("x", [rows, encoder.inChannels, height, width], 2)],
      ["context", seeded("context", [rows, time, encoder.contextDim || 1], 2)],
      ["y", seeded("y", [rows, encoder.admChannels])],
      ["hint", seeded("hint", [rows, hintChannels, 8 * height, 8 * width])],
      ["strength", floatTensor([rows, 1, 1, 1], new Float32Array(rows).fill(1))],
    ]);
    const embedding = timestepEmbedding(Float32Array.from(timesteps), encoder.modelChannels);
    feeds.set("timestep_embedding", floatTensor([rows, encoder.modelChannels], embedding));
    const kinds: [string, number][] = unionTypes
      ? [
          ["-auto", -1],
          ["-tile", 6],
        ]
      : [["", -1]];
    for (const [kind, chosen] of kinds) {
      const all = new Map([...feeds, ...typeFeeds(unionTypes, chosen, rows)]);
      const features = (await runGraph(hintNet, all)).get("features");
      expect(features?.shape).toEqual([rows, encoder.modelChannels, height, width]);
      if (features) all.set("features", features);
      const full = await runGraph(net, all);
      expectGolden(`${family}.${name}${kind}`, full);
      all.set("strength", floatTensor([rows, 1, 1, 1], new Float32Array(rows).fill(0.5)));
      for (const [place, half] of await runGraph(net, all)) {
        expect(half.data).toEqual(full.get(place)?.data.map((value) => value * 0.5));
      }
    }
  }
});

test.each(Object.entries(adapters))("T2I-Adapter %s equals ComfyUI's", async (name, config) => {
  const file = await seededFile(t2iAdapterLayers(config));
  const net = await openGraph(buildT2IAdapterGraph(config, file.weights, OPTIONS), file.bytes);
  const { unshuffle, hintChannels } = config;
  for (const [title, size] of [
    ["plain", [8, 8]],
    ["odd", [5, 7]],
  ] as const) {
    const shape = [2, hintChannels, unshuffle * size[0], unshuffle * size[1]];
    const hint = pixelUnshuffle(seeded("hint", shape), unshuffle);
    expectGolden(`${name}.${title}`, await runGraph(net, new Map([["hint", hint]])));
  }
});

function digest(shapes: ReadonlyMap<string, readonly number[]>): Digest {
  const lines = [...shapes].map(([name, shape]) => `${name} [${shape.join(", ")}]`).sort();
  return {
    count: lines.length,
    sha256: createHash("sha256").update(lines.join("\n")).digest("hex"),
  };
}

/** As files spell what layers' names have in another way. */
const spelled = (name: string): string => name.replace("task_embedding.weight", "task_embedding");

function headerOf(shapes: ReadonlyMap<string, readonly number[]>) {
  const tensors = new Map(
    Array.from(shapes, ([name, shape]) => [
      name,
      { dtype: "F16", shape, begin: 0, end: 0 } as const,
    ]),
  );
  return { metadata: {}, tensors, dataBegin: 0 };
}

test.each(Object.entries(names))("the full-size %s is read by its names", async (_, golden) => {
  const { config } = golden;
  const layers = config.kind === "controlnet" ? controlNetLayers(config) : t2iAdapterLayers(config);
  const shapesOf = (list: readonly Layer[]) =>
    new Map(Array.from(layerWeights(list), ([name, shape]) => [spelled(name), shape]));
  const ldm = shapesOf(layers);
  const theirs = shapesOf(layers.map((layer) => ({ ...layer, name: layer.diffusers })));
  const diffusers = new Map(
    Array.from(theirs, ([name, shape]) => [
      name.replace(".attn.in_proj.", ".attn.in_proj_"),
      shape,
    ]),
  );
  expect(digest(ldm)).toEqual(golden.ldm);
  expect(digest(diffusers)).toEqual(golden.diffusers);
  for (const shapes of [ldm, diffusers]) {
    const { control, unet } = await openCheckpoint(headerOf(shapes));
    expect(control?.config).toEqual(config);
    expect(control?.weights.size).toBe(ldm.size);
    expect(unet).toBeUndefined();
  }
  if (config.kind !== "controlnet") return;
  const prefixed = new Map(Array.from(ldm, ([name, shape]) => [`control_model.${name}`, shape]));
  expect((await openCheckpoint(headerOf(prefixed))).control?.config).toEqual(config);
});
