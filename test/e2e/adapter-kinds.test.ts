/** Adapters of every kind through a real session: the same as their weights merged into the file. */
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as runtime from "onnxruntime-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { OnnxEngine } from "../../src/engine/onnx-engine.ts";
import type { LoraUse, RunItem } from "../../src/engine/port.ts";
import { providerNamed } from "../../src/engine/providers.ts";
import { relativeError } from "../../src/engine/self-test.ts";
import { SILENT_LOGGER } from "../../src/kernel/index.ts";
import {
  type FloatTensor,
  fromFloat,
  serializeSafetensors,
  toFloat,
} from "../../src/tensor/index.ts";
import { floatsOf, unetItem } from "../support/engine-items.ts";
import { seededValues } from "../support/seeded.ts";
import { tinyTensors } from "../support/tiny-checkpoint.ts";

const LINEAR = "input_blocks.1.1.transformer_blocks.0.attn1.to_q";
const CONV = "middle_block.0.in_layers.2";
/** In the tiny net a group norm of single channels undoes the bias of most convolutions. */
const BIASED = "middle_block.0.out_layers.3";
const NORM = "middle_block.0.in_layers.0";
const LAYER_NORM = "input_blocks.1.1.transformer_blocks.0.norm1";
const PREFIX = "model.diffusion_model.";

let folder: string;
let path: string;
let engine: OnnxEngine;
let fileCount = 0;
const base = tinyTensors({ dtype: "F32" });

function weightOf(name: string): FloatTensor {
  const tensor = base.get(`${PREFIX}${name}`);
  if (tensor === undefined) throw new Error(`no weight ${name}`);
  return toFloat(tensor);
}

const values = (name: string, shape: readonly number[], scale = 0.3): FloatTensor => {
  const count = shape.reduce((product, axis) => product * axis, 1);
  return { shape, data: seededValues(name, count, scale) };
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "luna-kinds-"));
  path = join(folder, "tiny.safetensors");
  await writeFile(path, serializeSafetensors(base));
  const provider = providerNamed("cpu");
  const options = { runtime, provider, threads: 1, logger: SILENT_LOGGER };
  engine = new OnnxEngine({ ...options, loraCacheBytesMax: 3e6 });
  await engine.load(path, "unet");
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function loraOf(
  parts: Readonly<Record<string, FloatTensor>>,
  strength: number,
): Promise<LoraUse> {
  const file = join(folder, `lora-${fileCount++}.safetensors`);
  const tensors = Object.entries(parts).map(
    ([key, tensor]) => [`diffusion_model.${key}`, fromFloat(tensor)] as const,
  );
  await writeFile(file, serializeSafetensors(new Map(tensors)));
  return { source: { type: "file", path: file, name: file, key: "1" }, strength };
}

async function run(items: readonly RunItem[], from = path): Promise<Float32Array[]> {
  const { outputs } = await engine.run(from, "unet", items);
  return outputs.map(({ tensors }) => floatsOf(tensors.get("out")));
}

const step = async (loras: readonly LoraUse[], from = path): Promise<Float32Array> => {
  const [out] = await run([unetItem({ loras, rows: 2 })], from);
  if (out === undefined) throw new Error("no output");
  return out;
};

/** One step with the weights replaced in the file. */
async function merged(weights: Readonly<Record<string, FloatTensor>>): Promise<Float32Array> {
  const file = join(folder, `merged-${fileCount++}.safetensors`);
  const changed = Object.entries(weights).map(
    ([name, tensor]) => [`${PREFIX}${name}`, fromFloat(tensor)] as const,
  );
  await writeFile(file, serializeSafetensors(new Map([...base, ...changed])));
  await engine.load(file, "unet");
  const out = await step([], file);
  await engine.unload(file);
  return out;
}

const plus = (a: FloatTensor, b: FloatTensor, strength: number): FloatTensor => ({
  shape: a.shape,
  data: a.data.map((value, i) => value + strength * (b.data[i] ?? 0)),
});

/** up down of a LoRA of a weight. */
function product(up: FloatTensor, down: FloatTensor, shape: readonly number[]): FloatTensor {
  const [rows = 0, rank = 0] = up.shape;
  const columns = down.data.length / rank;
  const data = new Float32Array(rows * columns);
  for (let i = 0; i < data.length; i++) {
    const [row, column] = [Math.floor(i / columns), i % columns];
    for (let r = 0; r < rank; r++) {
      data[i] =
        (data[i] ?? 0) + (up.data[row * rank + r] ?? 0) * (down.data[r * columns + column] ?? 0);
    }
  }
  return { shape, data };
}

/** W + s (D (W + delta) - W), D the norms over the rows (or input channels) of its base. */
function doraWeight(
  name: string,
  delta: FloatTensor,
  options: { magnitude: FloatTensor; strength: number; isRow: boolean },
): FloatTensor {
  const weight = weightOf(`${name}.weight`);
  const { magnitude, strength, isRow } = options;
  const [rows = 0, inputs = 0] = weight.shape;
  const columns = weight.data.length / rows;
  const taps = columns / inputs;
  const sum = plus(weight, delta, 1).data;
  const place = (i: number) => (isRow ? Math.floor(i / columns) : Math.floor((i % columns) / taps));
  const squares = new Float64Array(magnitude.data.length);
  for (const [i, value] of (isRow ? weight.data : sum).entries()) {
    squares[place(i)] = (squares[place(i)] ?? 0) + value * value;
  }
  const data = weight.data.map((value, i) => {
    const scale = (magnitude.data[place(i)] ?? 0) / Math.sqrt(squares[place(i)] ?? 0);
    return value + strength * (scale * (sum[i] ?? 0) - value);
  });
  return { shape: weight.shape, data };
}

type Case = Readonly<{
  parts: Readonly<Record<string, FloatTensor>>;
  weights: (strength: number) => Readonly<Record<string, FloatTensor>>;
}>;

function doraCase(name: string, isRow: boolean): Case {
  const { shape, data } = weightOf(`${name}.weight`);
  const [rows = 0, inputs = 0, ...kernel] = shape;
  const [up, down] = [values("up", [rows, 3]), values("down", [3, inputs, ...kernel])];
  const axes = isRow ? [rows, 1] : [1, inputs];
  const magnitude = values(`${name}.magnitude`, axes, 0.2);
  const norm = Math.sqrt(data.reduce((sum, v) => sum + v * v, 0) / (isRow ? rows : inputs));
  magnitude.data.forEach((value, i) => {
    magnitude.data[i] = norm * (1 + value);
  });
  const upAxes = [rows, 3, ...kernel.map(() => 1)];
  return {
    parts: {
      [`${name}.lora_up.weight`]: { ...up, shape: upAxes },
      [`${name}.lora_down.weight`]: down,
      [`${name}.dora_scale`]: { ...magnitude, shape: [...axes, ...kernel.map(() => 1)] },
    },
    weights: (strength) => ({
      [`${name}.weight`]: doraWeight(name, product(up, down, shape), {
        magnitude,
        strength,
        isRow,
      }),
    }),
  };
}

function shiftCase(key: string, name: string, scale: number): Case {
  const change = values(key, weightOf(name).shape, scale);
  return {
    parts: { [key]: change },
    weights: (strength) => ({ [name]: plus(weightOf(name), change, strength) }),
  };
}

const CASES: Record<string, () => Case> = {
  "DoRA over rows, linear": () => doraCase(LINEAR, true),
  "DoRA over columns, linear": () => doraCase(LINEAR, false),
  "DoRA over rows, convolution": () => doraCase(CONV, true),
  "DoRA over columns, convolution": () => doraCase(CONV, false),
  "bias of a convolution": () => shiftCase(`${BIASED}.diff_b`, `${BIASED}.bias`, 1),
  "weight of a group norm": () => shiftCase(`${NORM}.w_norm`, `${NORM}.weight`, 1),
  "weight of a layer norm": () => shiftCase(`${LAYER_NORM}.diff`, `${LAYER_NORM}.weight`, 1),
  "bias of a layer norm": () => shiftCase(`${LAYER_NORM}.diff_b`, `${LAYER_NORM}.bias`, 1),
  "full difference, linear": () => shiftCase(`${LINEAR}.diff`, `${LINEAR}.weight`, 0.2),
  "full difference, convolution": () => shiftCase(`${CONV}.diff`, `${CONV}.weight`, 0.1),
};

test.each(Object.keys(CASES))("%s is the weight merged", async (name) => {
  const found = CASES[name]?.();
  if (found === undefined) throw new Error("no such case");
  const bare = await step([]);
  const expected = await merged(found.weights(0.7));
  const lora = await loraOf(found.parts, 0.7);
  expect(relativeError(await step([lora]), expected)).toBeLessThan(1e-5);
  expect(relativeError(bare, expected)).toBeGreaterThan(1e-3);
  expect(await step([{ ...lora, strength: 0 }])).toEqual(bare);
  expect(await step([])).toEqual(bare);
});

test("a batch of items with and without scales, shifts and overlays is each alone", async () => {
  const parts = Object.values(CASES).map((make) => make().parts);
  const loras = await Promise.all(parts.map((each) => loraOf(each, 0.6)));
  const stacks = [[], ...loras.map((lora) => [lora]), loras.slice(0, 2), loras.slice(-3)];
  const items = stacks.map((own, seed) => unetItem({ loras: own, seed: seed + 1 }));
  const together = await run(items);
  for (const [index, item] of items.entries()) {
    const [alone] = await run([item]);
    expect(
      relativeError(together[index] ?? new Float32Array(), alone ?? new Float32Array()),
    ).toBeLessThan(1e-5);
  }
});

test("an overlay that does not fit beside the loaded models is one clear error", async () => {
  const options = { runtime, provider: providerNamed("cpu"), threads: 1, logger: SILENT_LOGGER };
  const { bytes } = await engine.load(path, "unet");
  const limits = { loraCacheBytesMax: 3e6, memoryBytesMax: bytes + 1000 };
  const small = new OnnxEngine({ ...options, ...limits });
  await small.load(path, "unet");
  const lora = await loraOf(CASES["full difference, linear"]?.().parts ?? {}, 1);
  await expect(small.run(path, "unet", [unetItem({ loras: [lora] })])).rejects.toMatchObject({
    code: "MEMORY_EXCEEDED",
  });
  await small.unload(path);
});

test("overlays stay within the memory that the loaded models leave, the one in use beyond it", async () => {
  const options = { runtime, provider: providerNamed("cpu"), threads: 1, logger: SILENT_LOGGER };
  const { bytes } = await engine.load(path, "unet");
  const overlayBytes = weightOf(`${LINEAR}.weight`).data.byteLength;
  const memoryBytesMax = bytes + 2.5 * overlayBytes;
  const tight = new OnnxEngine({ ...options, loraCacheBytesMax: 3e6, memoryBytesMax });
  await tight.load(path, "unet");
  const parts = CASES["full difference, linear"]?.().parts ?? {};
  const loras = await Promise.all([0.1, 0.2, 0.3].map((strength) => loraOf(parts, strength)));
  const items = loras.map((lora) => unetItem({ loras: [lora], rows: 2 }));
  const expected = await run(items);
  for (let turn = 0; turn < 2; turn++) {
    const { outputs } = await tight.run(path, "unet", items);
    expect(outputs.map(({ tensors }) => floatsOf(tensors.get("out")))).toEqual(expected);
    expect(tight.facts.overlays.bytes).toBeLessThanOrEqual(2.5 * overlayBytes);
    expect(tight.facts.overlays.entries).toBeGreaterThan(0);
  }
  await tight.unload(path);
  expect(tight.facts.overlays).toEqual({ entries: 0, bytes: 0 });
});

test("a file that was replaced since it was loaded has no second session", async () => {
  const other = join(folder, "replaced.safetensors");
  await writeFile(other, serializeSafetensors(base));
  await engine.load(other, "unet");
  // Renamed over it: the mapped file itself must not change.
  await writeFile(`${other}.new`, serializeSafetensors(new Map([...base].slice(1))));
  await rename(`${other}.new`, other);
  const lora = await loraOf(CASES["bias of a convolution"]?.().parts ?? {}, 1);
  await expect(step([lora], other)).rejects.toMatchObject({ code: "FILE_UNREADABLE" });
  await engine.unload(other);
});
