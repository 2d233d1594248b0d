/**
 * Three ways to feed the LoRAs of a mixed batch into the UNet, on an idle machine:
 *   rows    factors of its own for each batch row: down [batch, rank, in], up [batch, rank, out]
 *   shared  one pair that joins all LoRAs of the batch, and a scale for each row (src/graph/adapters.ts)
 *   bank    all LoRAs in one pair [slots, rank, ...], each row's gathered by their slots
 * `npx tsx bench/lora-feeds.ts [--full] [--side N] [--ranks 4,16] [--rows 1,8] [--stacks 1,4] [--turns N]`
 * prints a table; each figure is the time of a step over that of the same batch without LoRAs.
 * LoRAs act on all linear layers of the transformers; a convolution cannot have weights for each row.
 * `--full`: SD1.5 at full width instead of the embedded model, in the file of bench/engine.ts.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { link, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import * as ort from "onnxruntime-node";
import { openCheckpointFile, type UNetConfig } from "../src/checkpoint/index.ts";
import { FULL_SD15, writeUnet } from "../src/cli/bench/models.ts";
import { textTable } from "../src/cli/table.ts";
import { providerNamed } from "../src/engine/providers.ts";
import { GraphBuilder, type Value } from "../src/graph/graph-builder.ts";
import { type AdapterTarget, adapterInputs, buildUNetGraph } from "../src/graph/index.ts";

const FORMS = ["rows", "shared", "bank"] as const;
type Form = (typeof FORMS)[number];
type Batch = Readonly<{ rank: number; rows: number; stack: number }>;
type Feeds = Record<string, ort.Tensor>;

const EMBEDDED = fileURLToPath(
  new URL("../assets/checkpoints/luna-emoji-v1.safetensors", import.meta.url),
);
const { values: flags } = parseArgs({
  options: {
    full: { type: "boolean", default: false },
    side: { type: "string", default: "16" },
    ranks: { type: "string", default: "4,16,64,128" },
    rows: { type: "string", default: "1,2,4,8" },
    stacks: { type: "string", default: "1,2,4" },
    turns: { type: "string", default: "5" },
  },
});
const numbers = (list: string): number[] => list.split(",").map(Number);
const side = Number(flags.side);
const { choices, sessionOptions } = providerNamed("cpu");

const isInTransformer = ({ kind, name }: AdapterTarget): boolean =>
  kind === "linear" && name.includes("transformer_blocks");

/** The factor a graph of that form reads: its input as the shared form names it, shape open. */
function factorInput(b: GraphBuilder, form: Form, name: string): Value {
  const own = GraphBuilder.prototype;
  const [, layer = "", part] = /^lora\.(.*)\.(down|up)$/.exec(name) ?? [];
  const isBanked = form === "bank" && layer.includes("transformer_blocks");
  if (!isBanked) return declare.call(b, name, "unknown");
  const [outputs = 0, inputs = 0] = b.weightRef(`${layer}.weight`).shape;
  const bank = declare.call(b, name, ["slots", "rank", part === "down" ? inputs : outputs]);
  const slots = b.hasInput("slots")
    ? "slots"
    : declare.call(b, "slots", ["batch", "stack"], "int64");
  // [batch, stack, rank, channels] -> [batch, stack * rank, channels]
  const picked = own.node.call(b, "Gather", [bank, slots]);
  const channels = part === "down" ? inputs : outputs;
  return own.node.call(b, "Reshape", [picked, b.integers([0, -1, channels])]);
}

const declare = GraphBuilder.prototype.input;

function buildForm(
  form: Form,
  config: UNetConfig,
  weights: Parameters<typeof buildUNetGraph>[1],
): ReturnType<typeof buildUNetGraph> {
  const isFactor = (name: string) => name.endsWith(".down") || name.endsWith(".up");
  GraphBuilder.prototype.input = function (name, shape, type) {
    const isAdapter = name.startsWith("lora.") && isFactor(name);
    return isAdapter ? factorInput(this, form, name) : declare.call(this, name, shape, type);
  };
  try {
    return buildUNetGraph(config, weights, { choices, externalFile: "weights" });
  } finally {
    GraphBuilder.prototype.input = declare;
  }
}

const random = Float32Array.from({ length: 1 << 22 }, (_, i) => Math.sin(i * i) * 0.05);

/** Values of LoRA `lora` for one factor: the same in all forms. */
function fill(into: Float32Array, at: number, lora: number, count: number): void {
  const begin = (lora * 7919) % (random.length - count);
  into.set(random.subarray(begin, begin + count), at);
}

const float = (data: Float32Array, shape: readonly number[]) =>
  new ort.Tensor("float32", data, shape);

/** Row i uses the LoRAs i * stack ... i * stack + stack - 1. */
function loraFeeds(form: Form, targets: readonly AdapterTarget[], batch: Batch): Feeds {
  const { rank, rows, stack } = batch;
  const count = rank === 0 ? 0 : rows * stack;
  const feeds: Feeds = {};
  const scales = scaleFeeds(form, batch);
  for (const target of targets) {
    const names = adapterInputs(target.name);
    const { inputs, outputs, kernel, kind } = target;
    const has = isInTransformer(target) && rank > 0;
    for (const [name, channels] of [
      [names.down, inputs],
      [names.up, outputs],
    ] as const) {
      const data = new Float32Array(has ? count * rank * channels : 0);
      for (let lora = 0; has && lora < count; lora++) {
        fill(data, lora * rank * channels, lora, rank * channels);
      }
      const axes = kind === "conv" && name === names.down ? [channels, ...kernel] : [channels];
      if (!has) feeds[name] = float(data, [0, ...axes]);
      else if (form === "shared") feeds[name] = float(data, [count * rank, channels]);
      else if (form === "rows") feeds[name] = float(data, [rows, stack * rank, channels]);
      else feeds[name] = float(data, [count, rank, channels]);
    }
    const none = kind === "conv" ? [rows, 0, 1, 1] : [rows, 1, 0];
    feeds[names.scale] = has ? scales : float(new Float32Array(0), none);
  }
  if (form === "bank") {
    const slots = BigInt64Array.from({ length: rows * stack }, (_, i) => BigInt(i));
    feeds["slots"] = new ort.Tensor("int64", slots, [rows, stack]);
  }
  return feeds;
}

function scaleFeeds(form: Form, { rank, rows, stack }: Batch): ort.Tensor {
  const own = stack * rank;
  if (form !== "shared") return float(new Float32Array(rows * own).fill(0.7), [rows, 1, own]);
  const data = new Float32Array(rows * rows * own);
  for (let row = 0; row < rows; row++) {
    const begin = row * rows * own + row * own;
    data.fill(0.7, begin, begin + own);
  }
  return float(data, [rows, 1, rows * own]);
}

function inputs(config: UNetConfig, rows: number, names: readonly string[]): Feeds {
  const wave = (shape: readonly number[], scale: number) => {
    const count = shape.reduce((product, axis) => product * axis, 1);
    return float(
      Float32Array.from({ length: count }, (_, i) => scale * Math.sin(i * 1.7)),
      shape,
    );
  };
  const feeds: Feeds = {
    x: wave([rows, config.inChannels, side, side], 1),
    timestep_embedding: wave([rows, config.modelChannels], 1),
    context: wave([rows, 77, config.contextDim], 1),
  };
  for (const name of names) {
    if (name.startsWith("control.")) feeds[name] = float(new Float32Array(1), [1, 1, 1, 1]);
  }
  return feeds;
}

const median = (list: number[]): number => list.sort((a, b) => a - b)[list.length >> 1] ?? 0;

function relativeError(a: Float32Array, b: Float32Array): number {
  let [difference, size] = [0, 0];
  for (const [i, value] of a.entries()) {
    difference += (value - (b[i] ?? 0)) ** 2;
    size += value ** 2;
  }
  return Math.sqrt(difference / size);
}

const folder = await mkdtemp(join(tmpdir(), "luna-lora-feeds-"));
try {
  let path = EMBEDDED;
  if (flags.full) {
    path = join(tmpdir(), "luna-bench-sd15.safetensors");
    if (!existsSync(path)) await writeUnet(path, FULL_SD15);
  }
  const { unet } = await openCheckpointFile(path);
  assert(unet, "The checkpoint has a UNet.");
  const { config, weights } = unet;
  // Two names of one file: ONNX Runtime wants weights beside the graph.
  await link(path, join(folder, "weights")).catch(async () => {
    const { copyFile } = await import("node:fs/promises");
    await copyFile(path, join(folder, "weights"));
  });
  const sessions = new Map<Form, ort.InferenceSession>();
  let targets: readonly AdapterTarget[] = [];
  for (const form of FORMS) {
    const graph = buildForm(form, config, weights);
    targets = graph.adapterTargets;
    const file = join(folder, `${form}.onnx`);
    await writeFile(file, graph.model);
    sessions.set(form, await ort.InferenceSession.create(file, sessionOptions));
  }
  const table: string[][] = [];
  for (const stack of numbers(flags.stacks)) {
    for (const rank of numbers(flags.ranks)) {
      for (const rows of numbers(flags.rows)) {
        // More than some GB of factors: no batch that anybody runs.
        if (rank * rows * stack > 1024) continue;
        table.push(await measure({ rank, rows, stack }));
        console.error(table.at(-1)?.join(" | "));
      }
    }
  }
  const head = ["LoRAs", "rank", "stack", "no LoRA ms", ...FORMS, "worst error"];
  console.log(textTable(head, table));

  async function measure(batch: Batch): Promise<string[]> {
    const { rank, rows, stack } = batch;
    const step = async (form: Form, feeds: Feeds) => {
      const session = sessions.get(form);
      assert(session);
      const begin = performance.now();
      const { out } = await session.run(feeds);
      return { ms: performance.now() - begin, out: out?.data as Float32Array };
    };
    const names = sessions.get("shared")?.inputNames ?? [];
    const bare = inputs(config, rows, names);
    const none = { ...bare, ...loraFeeds("shared", targets, { ...batch, rank: 0 }) };
    const feeds = new Map(
      FORMS.map((form) => [form, { ...bare, ...loraFeeds(form, targets, batch) }]),
    );
    const times = new Map<string, number[]>();
    const outputs = new Map<Form, Float32Array>();
    for (let turn = -1; turn < Number(flags.turns); turn++) {
      const { ms } = await step("shared", none);
      if (turn >= 0) times.set("none", [...(times.get("none") ?? []), ms]);
      for (const [form, own] of feeds) {
        const result = await step(form, own);
        outputs.set(form, result.out);
        if (turn >= 0) times.set(form, [...(times.get(form) ?? []), result.ms]);
      }
    }
    const noneMs = median(times.get("none") ?? []);
    const shared = outputs.get("shared") ?? new Float32Array();
    const errors = FORMS.map((form) => relativeError(shared, outputs.get(form) ?? shared));
    const ratios = FORMS.map((form) => (median(times.get(form) ?? []) / noneMs).toFixed(2));
    const cells = [rows, rank, stack].map(String);
    return [...cells, noneMs.toFixed(1), ...ratios, Math.max(...errors).toExponential(0)];
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
