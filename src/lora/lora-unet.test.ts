import { describe, expect, test } from "vitest";
import {
  type Feeds,
  openGraph,
  relativeError,
  runGraph,
  weightFile,
} from "../../test/support/graph-session.ts";
import { denseDelta, loraFile, loraModel, scalar } from "../../test/support/lora-models.ts";
import { seededValues, seededWeight } from "../../test/support/seeded.ts";
import {
  layerWeights,
  type UNetConfig,
  unetDiffusersNames,
  unetLayers,
} from "../checkpoint/index.ts";
import { type AdapterTarget, buildUNetGraph, type OpChoices } from "../graph/index.ts";
import { type FloatTensor, floatTensor, fromFloat, type Tensor } from "../tensor/index.ts";
import { packAdapters, parseLora } from "./index.ts";
import type { Applied, ParsedLora } from "./types.ts";

const CHOICES: OpChoices = { attention: "fused", compute: "float32", rankMin: 0 };
const CONFIG: UNetConfig = {
  inChannels: 4,
  outChannels: 4,
  modelChannels: 32,
  channelMult: [1, 2],
  resBlocks: [1, 1],
  transformerDepth: [1, 1],
  transformerDepthMiddle: 1,
  transformerDepthOutput: [1, 1, 1, 1],
  contextDim: 24,
  admChannels: 0,
  heads: { count: 8 },
  isLinearProjection: false,
};
const BASE = new Map(
  [...layerWeights(unetLayers(CONFIG))].map(([name, shape]): [string, FloatTensor] => [
    name,
    { shape, data: seededWeight(name, shape) },
  ]),
);
/** Layers as files shape them: SD1's proj_in is a 1x1 convolution there, a linear target in the graph. */
const FILE_TARGETS = loraModel(CONFIG).unet?.targets ?? [];
const DIFFUSERS = new Map([...unetDiffusersNames(CONFIG)].map(([name, own]) => [own, name]));

/** x, times and context of a batch; row i is the same in every batch. */
function inputs(rows: readonly number[]): Map<string, FloatTensor> {
  const join = (name: string, shape: readonly number[]): FloatTensor => {
    const count = shape.reduce((product, axis) => product * axis, 1);
    const data = rows.map((row) => seededValues(`${name}.${row}`, count, 2));
    return floatTensor([rows.length, ...shape], Float32Array.from(data.flatMap((d) => [...d])));
  };
  return new Map([
    ["x", join("x", [4, 8, 6])],
    ["timestep_embedding", join("time", [CONFIG.modelChannels])],
    ["context", join("context", [5, CONFIG.contextDim])],
  ]);
}

type Net = { targets: readonly AdapterTarget[]; run(feeds: Feeds): Promise<FloatTensor> };

async function openNet(
  weights: ReadonlyMap<string, FloatTensor>,
  hasAdapters: boolean,
): Promise<Net> {
  const file = await weightFile(new Map([...weights].map(([name, t]) => [name, fromFloat(t)])));
  const options = { choices: CHOICES, externalFile: "w.safetensors", hasAdapters };
  const graph = buildUNetGraph(CONFIG, file.weights, options);
  const session = await openGraph(graph, file.bytes);
  const run = async (feeds: Feeds): Promise<FloatTensor> => {
    const out = (await runGraph(session, feeds)).get("out");
    if (out === undefined) throw new Error("no output");
    return out;
  };
  return { targets: graph.adapterTargets, run };
}

const NET = await openNet(BASE, true);

function mergedWeights(lora: ParsedLora, strength: number): Map<string, FloatTensor> {
  const weights = new Map(BASE);
  for (const [name, factors] of lora.unet) {
    const base = BASE.get(`${name}.weight`);
    if (base === undefined) throw new Error(`no weight ${name}`);
    const delta = denseDelta(factors);
    const data = base.data.map((value, i) => value + strength * (delta[i] ?? 0));
    weights.set(`${name}.weight`, { shape: base.shape, data });
  }
  return weights;
}

type Parts = Record<string, readonly number[] | Tensor>;
const isSpatial = ({ kernel }: AdapterTarget): boolean => kernel[0] > 1;

/** A file with the tensors `parts` gives for each target that has some. */
function fileOf(
  parts: (target: AdapterTarget) => Parts | undefined,
  nameOf = (name: string) => `lora_unet_${(DIFFUSERS.get(name) ?? name).replaceAll(".", "_")}`,
): ParsedLora {
  const tensors: Parts = {};
  for (const target of FILE_TARGETS) {
    for (const [suffix, value] of Object.entries(parts(target) ?? {})) {
      tensors[`${nameOf(target.name)}.${suffix}`] = value;
    }
  }
  const unet = { config: CONFIG, targets: NET.targets };
  const parsed = parseLora(loraFile(tensors), { unet, text: new Map() });
  expect(parsed.unmatchedKeys).toEqual([]);
  return parsed;
}

const alpha = scalar(0.2);
const linearParts = ({ outputs, inputs }: AdapterTarget): Parts => ({
  "lora_up.weight": [outputs, 4],
  "lora_down.weight": [4, inputs],
  alpha,
});

/** Without an alpha the factors themselves must be small, or the net's output is chaos. */
const small = (name: string, shape: readonly [number, number]): Tensor =>
  fromFloat({ shape, data: seededValues(name, shape[0] * shape[1], 0.1) });

const FORMATS: Record<string, () => ParsedLora> = {
  "kohya, linear and 1x1": () =>
    fileOf((target) => (isSpatial(target) ? undefined : linearParts(target))),
  "kohya, LDM names": () =>
    fileOf(
      (target) => (isSpatial(target) ? undefined : linearParts(target)),
      (name) => `lora_unet_${name.replaceAll(".", "_")}`,
    ),
  "kohya, every layer": () =>
    fileOf((target) =>
      target.kind === "linear"
        ? linearParts(target)
        : {
            "lora_up.weight": [target.outputs, 3, 1, 1],
            "lora_down.weight": [3, target.inputs, ...target.kernel],
            alpha,
          },
    ),
  "kohya, Tucker": () =>
    fileOf((target) =>
      isSpatial(target)
        ? {
            "lora_up.weight": [target.outputs, 3, 1, 1],
            "lora_mid.weight": [3, 3, 3, 3],
            "lora_down.weight": [3, target.inputs, 1, 1],
            alpha,
          }
        : undefined,
    ),
  PEFT: () =>
    fileOf(
      ({ name, outputs, inputs }) =>
        /attn|ff/.test(name)
          ? { "lora_B.weight": [outputs, 2], "lora_A.weight": small(name, [2, inputs]) }
          : undefined,
      (name) => `unet.${DIFFUSERS.get(name)}`,
    ),
  LoHa: () =>
    fileOf(({ outputs, inputs, kernel }) => ({
      hada_w1_a: [outputs, 2],
      hada_w1_b: [2, inputs * kernel[0] * kernel[1]],
      hada_w2_a: [outputs, 2],
      hada_w2_b: [2, inputs * kernel[0] * kernel[1]],
      alpha,
    })),
  LoKr: () =>
    fileOf(({ outputs, inputs, kernel }) => ({
      lokr_w1: [2, 2],
      lokr_w2_a: [outputs / 2, 2],
      lokr_w2_b: [2, (inputs / 2) * kernel[0] * kernel[1]],
      alpha,
    })),
};
const parsedFormat = (name: string): ParsedLora => {
  const make = FORMATS[name];
  if (make === undefined) throw new Error(`no format ${name}`);
  return make();
};
const use = (id: string, lora: ParsedLora, strength: number): Applied => ({
  id,
  factors: lora.unet,
  strength,
});

describe("a LoRA as an input of the UNet", () => {
  const runRows = (rows: readonly number[], stacks: readonly (readonly Applied[])[]) =>
    NET.run(new Map([...inputs(rows), ...packAdapters(NET.targets, stacks, CHOICES)]));

  test.each(Object.keys(FORMATS))(
    "is the same LoRA merged into the weights: %s",
    async (format) => {
      const lora = FORMATS[format]?.();
      if (lora === undefined) throw new Error("no such format");
      const merged = await openNet(mergedWeights(lora, 0.7), false);
      const expected = await merged.run(inputs([0, 1]));
      const stack = [use("a", lora, 0.7)];
      const actual = await runRows([0, 1], [stack, stack]);
      expect(relativeError(actual, expected)).toBeLessThan(1e-5);
      const plain = await runRows([0, 1], [[], []]);
      expect(relativeError(plain, expected)).toBeGreaterThan(0.03);
    },
  );

  test("a mixed batch is each row alone", async () => {
    const a = parsedFormat("kohya, every layer");
    const b = parsedFormat("LoKr");
    const stacks = [
      [use("a", a, 0.7)],
      [],
      [use("b", b, -0.5), use("a", a, 0.3)],
      [use("b", b, 1)],
    ];
    const mixed = await runRows([0, 1, 2, 3], stacks);
    const size = mixed.data.length / stacks.length;
    for (const [row, stack] of stacks.entries()) {
      const alone = await runRows([row], [stack]);
      const data = mixed.data.slice(row * size, (row + 1) * size);
      expect(relativeError(floatTensor(alone.shape, data), alone)).toBeLessThan(1e-5);
    }
  });

  test("strength 0 is bit-equal to none, also after runs with the LoRA", async () => {
    const lora = parsedFormat("kohya, every layer");
    const before = await runRows([0], [[]]);
    for (let i = 0; i < 3; i++) await runRows([0], [[use("a", lora, 1)]]);
    expect(await runRows([0], [[use("a", lora, 0)]])).toEqual(before);
    expect(await runRows([0], [[]])).toEqual(before);
  });
});
