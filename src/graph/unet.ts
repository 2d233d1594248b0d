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
import { freeU } from "./freeu.ts";
import { GraphBuilder, type Value } from "./graph-builder.ts";
import { conv2d, groupNorm, resizeNearest, silu } from "./layers.ts";
import { int } from "./onnx.ts";
import type { BuiltGraph, OpChoices } from "./types.ts";
import {
  buildDown,
  buildEmbedding,
  buildMiddle,
  type Net,
  RES_EPSILON,
  resBlock,
  transformer,
} from "./unet-blocks.ts";

export type UNetGraphOptions = Readonly<{
  choices: OpChoices;
  /** Location of the weights, relative to the model's folder. */
  externalFile: string;
  /** LoRA inputs beside every linear and convolution layer; true by default. */
  hasAdapters?: boolean;
  /** See GraphOptions. */
  isFull?: boolean;
}>;

type UpNet = Net & Readonly<{ config: UNetConfig }>;

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
  const { h, skips } = buildDown(net, x, (value, block) =>
    addControl(b, value, `control.input.${block}`),
  );
  const middle = addControl(b, buildMiddle(net, h), "control.middle.0");
  const up = buildUp(net, middle, skips);
  const normal = silu(b, groupNorm(b, up, { name: "out.0", epsilon: RES_EPSILON }));
  const out = conv2d(b, normal, { name: "out.2" });
  b.output("out", out, { shape: ["batch", config.outChannels, "height", "width"] });
  return b.build();
}

/** Adds the ControlNet residual `name` to `h`; each of its axes is 1 or that of `h`. */
function addControl(b: GraphBuilder, h: Value, name: string): Value {
  const axes = ["batch", "channels", "height", "width"].map((axis) => `${name}.${axis}`);
  return b.node("Add", [h, b.input(name, axes)]);
}

/** The output blocks: each takes the last skip that is left. */
function buildUp(net: UpNet, input: Value, skips: Value[]): Value {
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
