/**
 * One batch with every kind of adapter in it, each on a linear layer, a 3x3 convolution and both
 * places of the time embedding: each item as if alone. It prints the numbers of docs/fidelity.md.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as runtime from "onnxruntime-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { layerWeights, type UNetConfig, unetLayers } from "../../src/checkpoint/index.ts";
import { OnnxEngine } from "../../src/engine/onnx-engine.ts";
import type { LoraUse, RunItem } from "../../src/engine/port.ts";
import { providerNamed } from "../../src/engine/providers.ts";
import { relativeError } from "../../src/engine/self-test.ts";
import { SILENT_LOGGER } from "../../src/kernel/index.ts";
import { fromFloat, serializeSafetensors, type Tensor, toFloat } from "../../src/tensor/index.ts";
import { floatsOf, unetItem } from "../support/engine-items.ts";
import { seededValues, seededWeight } from "../support/seeded.ts";
import { tinyUNetConfig } from "../support/tiny-checkpoint.ts";

const LAYERS = {
  linear: "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
  convolution: "middle_block.0.in_layers.2",
  "time embedding": "time_embed.0",
  "time in a block": "middle_block.0.emb_layers.1",
} as const;
/** Two channels to a group in the middle: a norm of single channels would undo what the time embedding adds. */
const config: UNetConfig = { ...tinyUNetConfig(), channelMult: [1, 2] };
const base = new Map(
  [...layerWeights(unetLayers(config))].map(([name, shape]): [string, Tensor] => [
    `model.diffusion_model.${name}`,
    fromFloat({ shape, data: seededWeight(name, shape) }),
  ]),
);

type Parts = Record<string, Tensor>;
type Shape = Readonly<{ outputs: number; inputs: number; kernel: readonly number[] }>;
const values = (key: string, shape: readonly number[], scale = 0.3): Tensor => {
  const count = shape.reduce((product, axis) => product * axis, 1);
  return fromFloat({ shape, data: seededValues(key, count, scale) });
};
const alpha = fromFloat({ shape: [], data: Float32Array.of(2) });

function weightOf(layer: string): Float32Array {
  const tensor = base.get(`model.diffusion_model.${layer}.weight`);
  if (tensor === undefined) throw new Error(`no weight ${layer}`);
  return toFloat(tensor).data;
}

/** Norms near those of the weight's rows, as a trained DoRA has them. */
function magnitude(layer: string, { outputs, kernel }: Shape): Tensor {
  const weight = weightOf(layer);
  const columns = weight.length / outputs;
  const near = seededValues(`${layer}.magnitude`, outputs, 0.2);
  const data = near.map((value, row) => {
    const own = weight.subarray(row * columns, (row + 1) * columns);
    return (1 + value) * Math.hypot(...own);
  });
  return fromFloat({ shape: [outputs, 1, ...kernel.map(() => 1)], data });
}

const flat = ({ inputs, kernel }: Shape): number => kernel.reduce((a, b) => a * b, inputs);
const lora = (layer: string, { outputs, inputs, kernel }: Shape): Parts => ({
  "lora_up.weight": values(`${layer}.up`, [outputs, 4, ...kernel.map(() => 1)]),
  "lora_down.weight": values(`${layer}.down`, [4, inputs, ...kernel]),
  alpha,
});

/** Parts of one layer by kind of adapter; none where the kind does not act on such a layer. */
const KINDS: Record<string, (layer: string, shape: Shape) => Parts | undefined> = {
  LoRA: (layer, shape) => (shape.kernel.length === 0 ? lora(layer, shape) : undefined),
  LoCon: lora,
  Tucker: (layer, shape) =>
    shape.kernel.length === 0
      ? lora(layer, shape)
      : {
          "lora_up.weight": values(`${layer}.up`, [shape.outputs, 3, 1, 1]),
          "lora_mid.weight": values(`${layer}.mid`, [3, 3, ...shape.kernel]),
          "lora_down.weight": values(`${layer}.down`, [3, shape.inputs, 1, 1]),
          alpha,
        },
  LoHa: (layer, shape) => ({
    hada_w1_a: values(`${layer}.1a`, [shape.outputs, 2]),
    hada_w1_b: values(`${layer}.1b`, [2, flat(shape)]),
    hada_w2_a: values(`${layer}.2a`, [shape.outputs, 2]),
    hada_w2_b: values(`${layer}.2b`, [2, flat(shape)]),
    alpha,
  }),
  LoKr: (layer, shape) => ({
    lokr_w1: values(`${layer}.1`, [2, 2]),
    lokr_w2_a: values(`${layer}.2a`, [shape.outputs / 2, 2]),
    lokr_w2_b: values(`${layer}.2b`, [2, flat(shape) / 2]),
    alpha,
  }),
  DoRA: (layer, shape) => ({ ...lora(layer, shape), dora_scale: magnitude(layer, shape) }),
  GLoRA: (layer, { outputs, inputs, kernel }) =>
    kernel.length > 0
      ? undefined
      : {
          "a1.weight": values(`${layer}.a1`, [inputs, 3]),
          "a2.weight": values(`${layer}.a2`, [3, inputs]),
          "b1.weight": values(`${layer}.b1`, [outputs, 3]),
          "b2.weight": values(`${layer}.b2`, [3, inputs]),
          alpha,
        },
  diff: (layer, { outputs, inputs, kernel }) => ({
    diff: values(`${layer}.diff`, [outputs, inputs, ...kernel], 0.1),
  }),
  OFT: (layer, { outputs }) => ({
    oft_blocks: values(`${layer}.oft`, [outputs / 4, 4, 4], 0.2),
  }),
  BOFT: (layer, { outputs }) => ({
    oft_blocks: values(`${layer}.boft`, [2, outputs / 4, 4, 4], 0.2),
    alpha, // Without it ComfyUI's BOFT does nothing.
  }),
  bias: (layer, { outputs }) => ({ diff_b: values(`${layer}.bias`, [outputs], 0.5) }),
};

let folder: string;
let path: string;
let engine: OnnxEngine;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "luna-mixed-"));
  path = join(folder, "tiny.safetensors");
  await writeFile(path, serializeSafetensors(base));
  const options = { runtime, provider: providerNamed("cpu"), threads: 1, logger: SILENT_LOGGER };
  engine = new OnnxEngine({ ...options, loraCacheBytesMax: 1e8 });
  await engine.load(path, "unet");
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function fileOf(kind: string, layers: readonly string[]): Promise<LoraUse | undefined> {
  const tensors = new Map<string, Tensor>();
  for (const layer of layers) {
    const [outputs = 0, inputs = 0, ...kernel] =
      base.get(`model.diffusion_model.${layer}.weight`)?.shape ?? [];
    const parts = KINDS[kind]?.(layer, { outputs, inputs, kernel }) ?? {};
    for (const [part, tensor] of Object.entries(parts)) {
      tensors.set(`diffusion_model.${layer}.${part}`, tensor);
    }
  }
  if (tensors.size === 0) return undefined;
  const name = `${kind} ${layers.length}.safetensors`;
  const file = join(folder, `${kind}-${layers.join("-")}.safetensors`);
  await writeFile(file, serializeSafetensors(tensors));
  return { source: { type: "file", path: file, name, key: "1" }, strength: 0.8 };
}

async function run(items: readonly RunItem[]): Promise<Float32Array[]> {
  const { outputs } = await engine.run(path, "unet", items);
  return outputs.map(({ tensors }) => floatsOf(tensors.get("out")));
}

test("a batch of every kind of adapter on every kind of layer is each item alone", async ({
  annotate,
}) => {
  const cases: { kind: string; layer: string; use?: LoraUse }[] = [{ kind: "none", layer: "" }];
  for (const kind of Object.keys(KINDS)) {
    for (const [layer, name] of Object.entries(LAYERS)) {
      const use = await fileOf(kind, [name]);
      if (use !== undefined) cases.push({ kind, layer, use });
    }
    const use = await fileOf(kind, Object.values(LAYERS));
    if (use !== undefined) cases.push({ kind, layer: "all", use });
  }
  const itemOf = ({ use }: { use?: LoraUse }) => unetItem({ loras: use ? [use] : [], rows: 1 });
  const items = cases.map(itemOf);
  const together = await run(items);
  const [bare = new Float32Array()] = await run([unetItem()]);
  const table = new Map<string, { error: number; effect: number }>();
  for (const [index, { kind, layer }] of cases.entries()) {
    const mixed = together[index] ?? new Float32Array();
    const [alone = new Float32Array()] = await run([items[index] ?? unetItem()]);
    const error = relativeError(mixed, alone);
    const effect = relativeError(bare, alone);
    expect(error, `${kind} ${layer}`).toBeLessThan(1e-5);
    if (kind !== "none") expect(effect, `${kind} ${layer}`).toBeGreaterThan(1e-4);
    const known = table.get(kind) ?? { error: 0, effect: 0 };
    table.set(kind, {
      error: Math.max(known.error, error),
      effect: Math.max(known.effect, effect),
    });
  }
  const rows = Array.from(table, ([kind, { error, effect }]) =>
    [kind, error.toExponential(1), effect.toFixed(3)].join(" | "),
  );
  await annotate(`\n${rows.join("\n")}`);
});

test("strengths, stacks and rows of other kinds change nothing of an item either", async () => {
  const layers = Object.values(LAYERS);
  const uses = await Promise.all(Object.keys(KINDS).map((kind) => fileOf(kind, layers)));
  const known = uses.flatMap((use) => use ?? []);
  const stacks = known.map((use, i) => [
    { ...use, strength: -0.4 },
    { ...(known[(i + 1) % known.length] ?? use), strength: 0.3 },
    { ...(known[(i + 4) % known.length] ?? use), strength: 0 },
  ]);
  const items = stacks.map((loras, i) => unetItem({ loras, rows: 1 + (i % 2), seed: i + 1 }));
  const together = await run(items);
  for (const [index, item] of items.entries()) {
    const [alone = new Float32Array()] = await run([item]);
    expect(relativeError(together[index] ?? new Float32Array(), alone)).toBeLessThan(1e-5);
  }
});
