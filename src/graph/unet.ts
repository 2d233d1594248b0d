/**
 * The LDM UNet (openaimodel.py of the CompVis and Stability repositories) for SD1, SD2, SDXL and
 * its refiner: any width, depth and latent size. The bare net: no prediction type, no scaling.
 *
 * Inputs: x [batch, in, height, width], timestep_embedding [batch, modelChannels] (see
 * timestepEmbedding), context [batch, time, contextDim], y [batch, adm] where the net takes one,
 * ControlNet residuals, broadcast (a zero [1, 1, 1, 1] where there is none):
 *   control.input.N   T2I-Adapter: added to h after input block N, before it is kept as a skip;
 *   control.middle.0  added after the middle block;
 *   control.output.N  ControlNet: added to the skip of input block N when an output block takes it;
 * and three for every adapter target (adapters.ts). A full graph (`isFull`) also has the vectors of
 * adapters.ts, the inputs of freeu.ts and, for each self-attention, pag.BLOCK [batch, 1, 1], BLOCK as
 * "middle.0.I" or "input.N.I", I the transformer block: above 0.5 the attention gives its values as
 * they are, as PerturbedAttentionGuidance wants it. Output: out [batch, out, height, width].
 */
import assert from "node:assert";
import type { UNetConfig, WeightTable } from "../checkpoint/index.ts";
import { LunaError } from "../kernel/index.ts";
import { freeU } from "./freeu.ts";
import { GraphBuilder, type Value } from "./graph-builder.ts";
import {
  attention,
  conv2d,
  geglu,
  groupNorm,
  layerNorm,
  linear,
  resizeNearest,
  silu,
} from "./layers.ts";
import { int, ints } from "./onnx.ts";
import type { BuiltGraph, OpChoices } from "./types.ts";

const RES_EPSILON = 1e-5;
const TRANSFORMER_EPSILON = 1e-6;
const LAYER_NORM_EPSILON = 1e-5;

export type UNetGraphOptions = Readonly<{
  choices: OpChoices;
  /** Location of the weights, relative to the model's folder. */
  externalFile: string;
  /** LoRA inputs beside every linear and convolution layer; true by default. */
  hasAdapters?: boolean;
  /** See GraphOptions. */
  isFull?: boolean;
}>;

/** What every block of one graph needs. */
type Net = Readonly<{
  b: GraphBuilder;
  config: UNetConfig;
  context: Value;
  /** SiLU of the time (and label) embedding, [batch, 4 * modelChannels]. */
  embedding: Value;
}>;

/** Builds the graph. Throws CHECKPOINT_UNSUPPORTED when the weights do not fit the config. */
export function buildUNetGraph(
  config: UNetConfig,
  weights: WeightTable,
  options: UNetGraphOptions,
): BuiltGraph {
  const { choices, externalFile, hasAdapters = true, isFull = false } = options;
  const base = { name: "unet", weights, choices, externalFile };
  const b = new GraphBuilder({ ...base, hasAdapters, isFull });
  const x = b.input("x", ["batch", config.inChannels, "height", "width"]);
  const embedding = buildEmbedding(b, config);
  const context = b.input("context", ["batch", "time", config.contextDim]);
  const net = { b, config, context, embedding };
  const { h, skips } = buildDown(net, x);
  const up = buildUp(net, buildMiddle(net, h), skips);
  const normal = silu(b, groupNorm(b, up, { name: "out.0", epsilon: RES_EPSILON }));
  const out = conv2d(b, normal, { name: "out.2" });
  b.output("out", out, { shape: ["batch", config.outChannels, "height", "width"] });
  return b.build();
}

function buildEmbedding(b: GraphBuilder, config: UNetConfig): Value {
  const perceptron = (x: Value, name: string): Value => {
    const inner = silu(b, linear(b, x, { name: `${name}.0`, hasTime: false }));
    return linear(b, inner, { name: `${name}.2`, hasTime: false });
  };
  const timestep = b.input("timestep_embedding", ["batch", config.modelChannels]);
  const time = perceptron(timestep, "time_embed");
  if (config.admChannels === 0) return silu(b, time);
  const y = b.input("y", ["batch", config.admChannels]);
  return silu(b, b.node("Add", [time, perceptron(y, "label_emb.0")]));
}

/** Adds the ControlNet residual `name` to `h`; each of its axes is 1 or that of `h`. */
function addControl(b: GraphBuilder, h: Value, name: string): Value {
  const axes = ["batch", "channels", "height", "width"].map((axis) => `${name}.${axis}`);
  return b.node("Add", [h, b.input(name, axes)]);
}

/** The input blocks; `skips` holds what each of them gave. */
function buildDown(net: Net, x: Value): { h: Value; skips: Value[] } {
  const { b, config } = net;
  const skips: Value[] = [];
  const keep = (value: Value): Value => {
    const h = addControl(b, value, `control.input.${skips.length}`);
    skips.push(h);
    return h;
  };
  let h = keep(conv2d(b, x, { name: "input_blocks.0.0" }));
  let part = 0;
  for (const [level, count] of config.resBlocks.entries()) {
    for (let index = 0; index < count; index++, part++) {
      const name = `input_blocks.${skips.length}`;
      h = resBlock(net, h, `${name}.0`);
      const depth = config.transformerDepth[part] ?? 0;
      if (depth > 0) h = transformer(net, h, { name: `${name}.1`, depth });
      h = keep(h);
    }
    if (level === config.resBlocks.length - 1) continue;
    h = keep(conv2d(b, h, { name: `input_blocks.${skips.length}.0.op`, stride: 2 }));
  }
  return { h, skips };
}

/** The middle block: its depth is -1 where only one residual block is left of it, -2 for none. */
function buildMiddle(net: Net, input: Value): Value {
  const depth = net.config.transformerDepthMiddle;
  let h = input;
  if (depth >= -1) h = resBlock(net, h, "middle_block.0");
  if (depth >= 0) {
    h = transformer(net, h, { name: "middle_block.1", depth });
    h = resBlock(net, h, "middle_block.2");
  }
  return addControl(net.b, h, "control.middle.0");
}

/** The output blocks: each takes the last skip that is left. */
function buildUp(net: Net, input: Value, skips: Value[]): Value {
  const { b, config } = net;
  let h = input;
  let block = 0;
  let width = config.modelChannels * (config.channelMult.at(-1) ?? 1);
  for (const [level, count] of [...config.resBlocks.entries()].reverse()) {
    for (let index = 0; index <= count; index++, block++) {
      const name = `output_blocks.${block}`;
      const skip = skips.pop();
      assert(skip !== undefined, "every output block has a skip");
      const controlled = addControl(b, skip, `control.output.${skips.length}`);
      const joined = freeU(b, { config, h, skip: controlled, width, level });
      h = b.node("Concat", [joined.h, joined.skip], { attributes: { axis: int(1) } });
      width = config.modelChannels * (config.channelMult[level] ?? 1);
      h = resBlock(net, h, `${name}.0`);
      const depth = config.transformerDepthOutput[block] ?? 0;
      if (depth > 0) h = transformer(net, h, { name: `${name}.1`, depth });
      const next = skips.at(-1);
      if (level === 0 || index < count || next === undefined) continue;
      h = upsample(b, h, { name: `${name}.${depth > 0 ? 2 : 1}.conv`, like: next });
    }
  }
  return h;
}

/** Enlarges to the height and width of the next skip: an odd size is not twice its half. */
function upsample(b: GraphBuilder, h: Value, layer: { name: string; like: Value }): Value {
  const outer = b.node("Shape", [h], { attributes: { start: int(0), end: int(2) } });
  const inner = b.node("Shape", [layer.like], { attributes: { start: int(2), end: int(4) } });
  const sizes = b.node("Concat", [outer, inner], { attributes: { axis: int(0) } });
  return conv2d(b, resizeNearest(b, h, sizes), { name: layer.name });
}

function resBlock(net: Net, x: Value, name: string): Value {
  const { b, embedding } = net;
  const normalize = (h: Value, norm: string): Value =>
    silu(b, groupNorm(b, h, { name: `${name}.${norm}`, epsilon: RES_EPSILON }));
  const time = linear(b, embedding, { name: `${name}.emb_layers.1`, hasTime: false });
  let h = conv2d(b, normalize(x, "in_layers.0"), { name: `${name}.in_layers.2` });
  h = b.node("Add", [h, b.node("Unsqueeze", [time, b.integers([2, 3])])]);
  h = conv2d(b, normalize(h, "out_layers.0"), { name: `${name}.out_layers.3` });
  const skip = `${name}.skip_connection`;
  return b.node("Add", [b.hasWeight(`${skip}.weight`) ? conv2d(b, x, { name: skip }) : x, h]);
}

/** Attention over the cells of the picture, its rows as one axis of time. */
function transformer(net: Net, x: Value, layer: { name: string; depth: number }): Value {
  const { b } = net;
  const { name, depth } = layer;
  const { shape } = b.weightRef(`${name}.norm.weight`);
  const width = shape[0] ?? 0;
  const swap = { attributes: { perm: ints([0, 2, 1]) } };
  const normal = groupNorm(b, x, { name: `${name}.norm`, epsilon: TRANSFORMER_EPSILON });
  const flat = b.node("Reshape", [normal, b.integers([0, width, -1])]);
  let h = linear(b, b.node("Transpose", [flat], swap), { name: `${name}.proj_in` });
  for (let index = 0; index < depth; index++) {
    h = transformerBlock(net, h, { name: `${name}.transformer_blocks.${index}`, width });
  }
  const back = b.node("Transpose", [linear(b, h, { name: `${name}.proj_out` })], swap);
  return b.node("Add", [b.node("Reshape", [back, b.node("Shape", [x])]), x]);
}

function transformerBlock(net: Net, x: Value, layer: { name: string; width: number }): Value {
  const { b, context } = net;
  const { name, width } = layer;
  const normalize = (h: Value, norm: string): Value =>
    layerNorm(b, h, { name: `${name}.${norm}`, epsilon: LAYER_NORM_EPSILON });
  const self = normalize(x, "norm1");
  let h = b.node("Add", [attend(net, { name: `${name}.attn1`, width, from: self, to: self }), x]);
  const from = normalize(h, "norm2");
  h = b.node("Add", [attend(net, { name: `${name}.attn2`, width, from, to: context }), h]);
  const inner = geglu(b, linear(b, normalize(h, "norm3"), { name: `${name}.ff.net.0.proj` }));
  return b.node("Add", [linear(b, inner, { name: `${name}.ff.net.2` }), h]);
}

function attend(net: Net, layer: { name: string; width: number; from: Value; to: Value }): Value {
  const { b, config } = net;
  const { name, width, from, to } = layer;
  const heads = "count" in config.heads ? config.heads.count : width / config.heads.channels;
  if (!Number.isInteger(heads) || width % heads !== 0) {
    throw new LunaError(
      "CHECKPOINT_UNSUPPORTED",
      `"${name}" is ${width} wide: that is not a whole number of equal attention heads.`,
    );
  }
  const query = linear(b, from, { name: `${name}.to_q` });
  const key = linear(b, to, { name: `${name}.to_k` });
  const value = linear(b, to, { name: `${name}.to_v` });
  const attended = attention(b, { query, key, value, heads, width });
  const out = from === to ? perturb(b, name, { attended, value }) : attended;
  return linear(b, out, { name: `${name}.to_out.0` });
}

/** The values instead of the attention where `pag.BLOCK` says so, in a full graph. */
function perturb(
  b: GraphBuilder,
  name: string,
  { attended, value }: { attended: Value; value: Value },
): Value {
  const match = /^(input|middle|output)_blocks?\.(\d+).*\.(\d+)\.attn1$/.exec(name);
  if (!b.isFull || match === null) return attended;
  const [, side, block, index] = match;
  const isMiddle = side === "middle"; // Its one block is number 0; the number there is the layer's.
  const pag = b.input(`pag.${side}.${isMiddle ? 0 : block}.${index}`, ["batch", 1, 1]);
  return b.node("Where", [b.node("Greater", [pag, b.floats([0.5])]), value, attended]);
}
