/**
 * ControlNet (arXiv 2302.05543) in two graphs, as cldm.py of its authors computes it. What depends
 * on the hint picture alone runs once for a picture:
 *   hint [rows, channels, 8 h, 8 w], control_type [rows, types] (Union) -> features [rows, modelChannels, h, w]
 * and the rest at each step, a copy of the UNet's way down and middle:
 *   x, timestep_embedding, context, y as the UNet's; features; strength [rows, 1, 1, 1];
 *   control_type_embedding [rows, 256 types] (Union) -> control.output.N, control.middle.0
 * The outputs are named as the UNet's inputs and are multiplied by the strength.
 *
 * A Union net (xinsir's ControlNet++) is told the kind of hint: `control_type` is 1 for it and 0 for
 * others, all 0 for "auto"; the embedding has the sinusoid of each of these numbers.
 */
import assert from "node:assert";
import {
  blockPlaces,
  type ControlNetConfig,
  HINT_CONVOLUTIONS,
  UNION_TYPE_WIDTH,
  type WeightTable,
} from "../checkpoint/index.ts";
import { GraphBuilder, type Value } from "./graph-builder.ts";
import { conv2d, layerNorm, linear, quickGelu, silu } from "./layers.ts";
import { int } from "./onnx.ts";
import type { BuiltGraph, GraphOptions } from "./types.ts";
import { buildDown, buildEmbedding, buildMiddle, type Net, perceptron } from "./unet-blocks.ts";

const LAYER_NORM_EPSILON = 1e-5;

/** The convolutions over the hint. Throws CHECKPOINT_UNSUPPORTED when the weights do not fit. */
export function buildControlHintGraph(
  config: ControlNetConfig,
  weights: WeightTable,
  { choices, externalFile }: GraphOptions,
): BuiltGraph {
  const b = new GraphBuilder({
    ...{ name: "control-hint", weights, choices, externalFile },
    hasAdapters: false,
  });
  let h = b.input("hint", ["rows", config.hintChannels, "pixels.y", "pixels.x"]);
  for (const [index, [, stride]] of HINT_CONVOLUTIONS.entries()) {
    h = silu(b, conv2d(b, h, { name: `input_hint_block.${2 * index}`, stride }));
  }
  h = conv2d(b, h, { name: `input_hint_block.${2 * HINT_CONVOLUTIONS.length}` });
  const features = config.unionTypes > 0 ? tellTypes(b, h, config) : h;
  const shape = ["rows", config.encoder.modelChannels, "height", "width"];
  b.output("features", features, { shape });
  return b.build();
}

/** Adds to each channel what a small transformer makes of its mean and the kind of hint. */
function tellTypes(b: GraphBuilder, h: Value, { unionTypes }: ControlNetConfig): Value {
  const type = b.input("control_type", ["rows", unionTypes]);
  const mean = b.node("ReduceMean", [h, b.integers([2, 3])], { attributes: { keepdims: int(0) } });
  const task = b.node("MatMul", [type, b.weight("task_embedding.weight")]);
  const sequence = b.node("Unsqueeze", [b.node("Add", [mean, task]), b.integers([1])]);
  const told = unionBlock(b, sequence, "transformer_layes.0");
  const alpha = linear(b, b.node("Squeeze", [told, b.integers([1])]), {
    name: "spatial_ch_projs",
    hasTime: false,
  });
  // Nothing is added where no kind is named.
  const isTold = b.node("ReduceSum", [type, b.integers([1])], { attributes: { keepdims: int(1) } });
  const shift = b.node("Unsqueeze", [b.node("Mul", [alpha, isTold]), b.integers([2, 3])]);
  return b.node("Add", [h, shift]);
}

/** CLIP's residual block on a sequence of one: attention to the only token gives its value. */
function unionBlock(b: GraphBuilder, x: Value, name: string): Value {
  const normalize = (value: Value, norm: string): Value =>
    layerNorm(b, value, { name: `${name}.${norm}`, epsilon: LAYER_NORM_EPSILON });
  const joined = linear(b, normalize(x, "ln_1"), { name: `${name}.attn.in_proj` });
  const parts = b.nodes("Split", [joined], {
    attributes: { axis: int(-1), num_outputs: int(3) },
    outputCount: 3,
  });
  const value = parts[2];
  assert(value !== undefined);
  const h = b.node("Add", [x, linear(b, value, { name: `${name}.attn.out_proj` })]);
  const inner = linear(b, normalize(h, "ln_2"), { name: `${name}.mlp.c_fc` });
  return b.node("Add", [h, linear(b, quickGelu(b, inner), { name: `${name}.mlp.c_proj` })]);
}

/** What runs at each step. Throws CHECKPOINT_UNSUPPORTED when the weights do not fit. */
export function buildControlNetGraph(
  config: ControlNetConfig,
  weights: WeightTable,
  { choices, externalFile }: GraphOptions,
): BuiltGraph {
  const { encoder, unionTypes } = config;
  const b = new GraphBuilder({
    ...{ name: "control-net", weights, choices, externalFile },
    hasAdapters: false,
  });
  const x = b.input("x", ["batch", encoder.inChannels, "height", "width"]);
  const features = b.input("features", ["hints", encoder.modelChannels, "height", "width"]);
  const strength = b.input("strength", ["batch", 1, 1, 1]);
  const embedding = buildEmbedding(
    b,
    encoder,
    unionTypes > 0 ? [typeEmbedding(b, unionTypes)] : [],
  );
  const net: Net = {
    ...{ b, config: encoder, embedding },
    ...(encoder.contextDim > 0 && {
      context: b.input("context", ["batch", "time", encoder.contextDim]),
    }),
  };
  const { h, skips } = buildDown(net, x, (value, block) =>
    block === 0 ? b.node("Add", [value, features]) : value,
  );
  const widths = blockPlaces(encoder).map(({ width }) => width);
  const give = (value: Value, { name, zero, width = 0 }: Residual): void => {
    const residual = b.node("Mul", [conv2d(b, value, { name: zero }), strength]);
    b.output(name, residual, { shape: ["batch", width, `${name}.height`, `${name}.width`] });
  };
  for (const [index, skip] of skips.entries()) {
    const name = `control.output.${index}`;
    give(skip, { name, zero: `zero_convs.${index}.0`, width: widths[index] });
  }
  const middle = { name: "control.middle.0", zero: "middle_block_out.0", width: widths.at(-1) };
  give(buildMiddle(net, h), middle);
  return b.build();
}

type Residual = Readonly<{ name: string; zero: string; width: number | undefined }>;

function typeEmbedding(b: GraphBuilder, unionTypes: number): Value {
  const types = b.input("control_type_embedding", ["batch", UNION_TYPE_WIDTH * unionTypes]);
  const name = "control_add_embedding";
  return perceptron(b, types, [`${name}.linear_1`, `${name}.linear_2`]);
}
