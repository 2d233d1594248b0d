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
import { layerWeights, taesdLayers, type VaeConfig, vaeLayers } from "../checkpoint/index.ts";
import {
  type FloatTensor,
  floatTensor,
  fromFloat,
  parseSafetensors,
  toFloat,
} from "../tensor/index.ts";
import { buildVaeDecoderGraph, buildVaeEncoderGraph, type OpChoices } from "./index.ts";

const goldens = parseSafetensors(
  readFileSync(join(import.meta.dirname, "../../test/fixtures/goldens/vae.safetensors")),
);
const facts = (name: string) => JSON.parse(goldens.metadata[name] ?? "null");
const configs: Record<string, VaeConfig> = { kl: facts("kl"), taesd: facts("taesd") };
const latentScale: number = facts("latentScale");
const FUSED: OpChoices = { attention: "fused", compute: "float32", rankMin: 0 };
const PLAIN: OpChoices = { ...FUSED, attention: "plain" };

async function openNet(kind: string, build: typeof buildVaeDecoderGraph, choices: OpChoices) {
  const config = configs[kind];
  if (config === undefined) throw new Error(`no net ${kind}`);
  const shapes = layerWeights(kind === "kl" ? vaeLayers(config) : taesdLayers(config));
  const weights = [...shapes].map(
    ([name, shape]) => [name, fromFloat({ shape, data: seededWeight(name, shape) })] as const,
  );
  const file = await weightFile(new Map(weights));
  const graph = build(config, file.weights, {
    choices,
    externalFile: "w.safetensors",
    latentScale,
  });
  return openGraph(graph, file.bytes);
}

function seeded(name: string, shape: readonly number[], scale: number): FloatTensor {
  return floatTensor(
    shape,
    seededValues(
      name,
      shape.reduce((a, b) => a * b, 1),
      scale,
    ),
  );
}

function golden(name: string): FloatTensor {
  const tensor = goldens.tensors.get(name);
  if (tensor === undefined) throw new Error(`no golden ${name}`);
  return toFloat(tensor);
}

const SIZES = [
  [5, 6],
  [3, 1],
] as const;

test.each([
  { kind: "kl", choices: FUSED },
  { kind: "kl", choices: PLAIN },
  { kind: "taesd", choices: FUSED },
])(
  "$kind decoder and encoder equal ComfyUI's, attention $choices.attention",
  async ({ kind, choices }) => {
    const decoder = await openNet(kind, buildVaeDecoderGraph, choices);
    const encoder = await openNet(kind, buildVaeEncoderGraph, choices);
    for (const [height, width] of SIZES) {
      const latent = seeded("latent", [2, 4, height, width], 4);
      const image = seeded("image", [2, 3, 8 * height, 8 * width], 1);
      const decoded = (await runGraph(decoder, new Map([["latent", latent]]))).get("image");
      const encoded = (await runGraph(encoder, new Map([["image", image]]))).get("latent");
      if (decoded === undefined || encoded === undefined) throw new Error("no output");
      const place = `${kind}.${height}x${width}`;
      expect(relativeError(decoded, golden(`${place}.image`)), place).toBeLessThan(1e-5);
      expect(relativeError(encoded, golden(`${place}.latent`)), place).toBeLessThan(1e-5);
    }
  },
);
