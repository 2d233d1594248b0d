/** The blocks that UNets and ControlNets are made of: the way down, the middle, and their layers. */
import assert from "node:assert";
import type { EncoderConfig } from "../checkpoint/index.ts";
import { LunaError } from "../kernel/index.ts";
import type { GraphBuilder, Value } from "./graph-builder.ts";
import { attention, conv2d, geglu, groupNorm, layerNorm, linear, silu } from "./layers.ts";
import { ints } from "./onnx.ts";

export const RES_EPSILON = 1e-5;
const TRANSFORMER_EPSILON = 1e-6;
const LAYER_NORM_EPSILON = 1e-5;

/** What every block of one graph needs. */
export type Net = Readonly<{
  b: GraphBuilder;
  config: EncoderConfig;
  /** None where no block has cross-attention. */
  context?: Value;
  /** SiLU of the sum of the embeddings, [batch, 4 * modelChannels]. */
  embedding: Value;
}>;

/** Two layers with SiLU between, "NAME.0" and "NAME.2" unless named otherwise. */
export function perceptron(
  b: GraphBuilder,
  x: Value,
  [first, second]: readonly [string, string],
): Value {
  const inner = silu(b, linear(b, x, { name: first, hasTime: false }));
  return linear(b, inner, { name: second, hasTime: false });
}

/** SiLU of the time embedding, `more` and the label embedding, where the net has one. */
export function buildEmbedding(
  b: GraphBuilder,
  config: EncoderConfig,
  more: readonly Value[] = [],
): Value {
  const timestep = b.input("timestep_embedding", ["batch", config.modelChannels]);
  const parts = [perceptron(b, timestep, ["time_embed.0", "time_embed.2"]), ...more];
  if (config.admChannels > 0) {
    const y = b.input("y", ["batch", config.admChannels]);
    parts.push(perceptron(b, y, ["label_emb.0.0", "label_emb.0.2"]));
  }
  return silu(
    b,
    parts.reduce((sum, part) => b.node("Add", [sum, part])),
  );
}

/** The input blocks; `after` gives what becomes of each one's result, and `skips` holds that. */
export function buildDown(
  net: Net,
  x: Value,
  after: (h: Value, block: number) => Value,
): { h: Value; skips: Value[] } {
  const { b, config } = net;
  const skips: Value[] = [];
  const keep = (value: Value): Value => {
    const h = after(value, skips.length);
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
export function buildMiddle(net: Net, input: Value): Value {
  const depth = net.config.transformerDepthMiddle;
  let h = input;
  if (depth >= -1) h = resBlock(net, h, "middle_block.0");
  if (depth >= 0) {
    h = transformer(net, h, { name: "middle_block.1", depth });
    h = resBlock(net, h, "middle_block.2");
  }
  return h;
}

export function resBlock(net: Net, x: Value, name: string): Value {
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
export function transformer(net: Net, x: Value, layer: { name: string; depth: number }): Value {
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
  assert(context !== undefined, "A net with cross-attention has a context.");
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
