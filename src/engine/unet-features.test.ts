import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  openGraph,
  relativeError,
  runGraph,
  weightFile,
} from "../../test/support/graph-session.ts";
import { seededValues, seededWeight } from "../../test/support/seeded.ts";
import { unetWeightShapes } from "../../test/support/unet-weights.ts";
import type { UNetConfig } from "../checkpoint/index.ts";
import {
  buildUNetGraph,
  lowFrequencies,
  type OpChoices,
  timestepEmbedding,
} from "../graph/index.ts";
import { packAdapters, vectorRows } from "../lora/index.ts";
import { type FloatTensor, fromFloat, parseSafetensors, toFloat } from "../tensor/index.ts";
import type { RunItem, UNetFeatures } from "./port.ts";
import { featureFeeds, hasFeatures } from "./unet-features.ts";

type Case = { size: [number, number]; features: UNetFeatures };

const goldens = parseSafetensors(
  readFileSync(new URL("../../test/fixtures/goldens/unet-features.safetensors", import.meta.url)),
);
const nets: Record<string, UNetConfig> = JSON.parse(goldens.metadata["nets"] ?? "{}");
const cases: Record<string, Case> = JSON.parse(goldens.metadata["cases"] ?? "{}");
const CHOICES: OpChoices = { attention: "fused", compute: "float32", rankMin: 0 };
/** As in test/reference/unet_features.py. */
const TIMESTEPS = Float32Array.of(999, 0.25);

const seeded = (name: string, shape: readonly number[], scale = 1): FloatTensor => {
  const count = shape.reduce((product, axis) => product * axis, 1);
  return { shape, data: seededValues(name, count, scale) };
};

async function openNet(config: UNetConfig, isFull: boolean) {
  const weights = Array.from(unetWeightShapes(config), ([name, shape]) => {
    return [name, fromFloat({ shape, data: seededWeight(name, shape) })] as const;
  });
  const file = await weightFile(new Map(weights));
  const options = { choices: CHOICES, externalFile: "w.safetensors", isFull };
  const graph = buildUNetGraph(config, file.weights, options);
  const session = await openGraph(graph, file.bytes);
  const rows = TIMESTEPS.length;
  return async (size: readonly [number, number], features: readonly UNetFeatures[] = []) => {
    const items = [0, 1].map((row): RunItem => {
      const own = features[row] ?? features[0];
      return { tensors: new Map(), loras: [], ...(own && { features: own }) };
    });
    const feeds = new Map([
      ["x", seeded("x", [rows, config.inChannels, ...size], 2)],
      [
        "timestep_embedding",
        {
          shape: [rows, config.modelChannels],
          data: timestepEmbedding(TIMESTEPS, config.modelChannels),
        },
      ],
      ["context", seeded("context", [rows, 5, config.contextDim], 2)],
      ...packAdapters(graph.adapterTargets, [[], []], CHOICES),
    ]);
    if (config.admChannels > 0) feeds.set("y", seeded("y", [rows, config.admChannels]));
    const full = isFull
      ? [
          ...vectorRows([...graph.adapterTargets, ...graph.normTargets], [[], []]),
          ...featureFeeds(session.inputNames, items, { rows: [1, 1], size }),
        ]
      : [];
    const out = (await runGraph(session, new Map([...feeds, ...full]))).get("out");
    if (out === undefined) throw new Error("no output");
    return out;
  };
}

for (const [family, config] of Object.entries(nets)) {
  test(`${family}: FreeU and PAG are ComfyUI's, neutral inputs are the bare net`, async () => {
    const run = await openNet(config, true);
    const bare = await openNet(config, false);
    const own = Object.entries(cases).filter(([name]) => name.startsWith(`${family}.`));
    expect(own).toHaveLength(7);
    for (const [name, { size, features }] of own) {
      const golden = goldens.tensors.get(name);
      if (golden === undefined) throw new Error(`no golden ${name}`);
      expect(relativeError(await run(size, [features]), toFloat(golden)), name).toBeLessThan(1e-5);
    }
    // Not bit-equal: biases of convolutions are added apart. Measured 1.3e-6 on the deeper net.
    expect(relativeError(await run([7, 9]), await bare([7, 9]))).toBeLessThan(1e-5);
    // A batch of a row with features and one without is each alone.
    const mixed = await run([8, 6], [{ pag: { blocks: ["middle.0"] } }, {}]);
    const half = mixed.data.length / 2;
    const part = (tensor: FloatTensor, begin: number): FloatTensor => ({
      shape: [half],
      data: tensor.data.slice(begin, begin + half),
    });
    const plain = await run([8, 6]);
    const perturbed = await run([8, 6], [{ pag: { blocks: ["middle.0"] } }]);
    expect(relativeError(part(mixed, 0), part(perturbed, 0))).toBeLessThan(1e-6);
    expect(relativeError(part(mixed, half), part(plain, half))).toBeLessThan(1e-6);
    await expect(run([8, 6], [{ pag: { blocks: ["input.0"] } }])).rejects.toMatchObject({
      code: "REQUEST_INVALID",
    });
  });
}

test("the low frequencies of a row of ones are the ones", () => {
  for (const size of [1, 2, 3, 8]) {
    const { cosine } = lowFrequencies(size);
    for (let m = 0; m < size; m++) {
      const sum = cosine.slice(m * size, (m + 1) * size).reduce((a, b) => a + b, 0);
      expect(sum).toBeCloseTo(1, 6);
    }
  }
});

test("features that ask for nothing are none", () => {
  const item = { tensors: new Map(), loras: [] };
  expect(hasFeatures(item)).toBe(false);
  expect(hasFeatures({ ...item, features: { pag: { blocks: ["middle.0"] } } })).toBe(true);
});
