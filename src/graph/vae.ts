/**
 * Stable Diffusion's autoencoder (AutoencoderKL of the CompVis repository), or TAESD (taesd.ts) in
 * its place. Latents are raw: the UNet's scale is the caller's. Images are -1..1, not clamped.
 *   decoder: latent [batch, 4, height, width] -> image [batch, 3, 8 height, 8 width]
 *   encoder: image [batch, 3, height, width] -> latent, the mean, [batch, 4, height / 8, width / 8]
 */
import assert from "node:assert";
import type { VaeConfig, WeightTable } from "../checkpoint/index.ts";
import { GraphBuilder, type Value } from "./graph-builder.ts";
import { attention, conv2d, groupNorm, linear, resizeNearest, silu } from "./layers.ts";
import { int, ints } from "./onnx.ts";
import { buildTaesdDecoder, buildTaesdEncoder } from "./taesd.ts";
import type { BuiltGraph, GraphOptions } from "./types.ts";

const EPSILON = 1e-6;

export type VaeGraphOptions = GraphOptions &
  Readonly<{
    /** Latents the UNet sees = raw latents * this; TAESD was trained on those. */
    latentScale: number;
  }>;

const LATENT_AXES = ["latent_height", "latent_width"];
const IMAGE_AXES = ["height", "width"];

/** Builds the decoder. Throws CHECKPOINT_UNSUPPORTED when the weights do not fit the config. */
export function buildVaeDecoderGraph(
  config: VaeConfig,
  weights: WeightTable,
  options: VaeGraphOptions,
): BuiltGraph {
  const { latentScale, ...rest } = options;
  const b = new GraphBuilder({ name: "vae-decoder", weights, hasAdapters: false, ...rest });
  const latent = b.input("latent", ["batch", config.latentChannels, ...LATENT_AXES]);
  const image =
    config.kind === "taesd"
      ? buildTaesdDecoder(b, latent, latentScale)
      : buildKlDecoder(b, latent, config);
  b.output("image", image, { shape: ["batch", config.imageChannels, ...IMAGE_AXES] });
  return b.build();
}

/** Builds the encoder. Throws CHECKPOINT_UNSUPPORTED when the weights do not fit the config. */
export function buildVaeEncoderGraph(
  config: VaeConfig,
  weights: WeightTable,
  options: VaeGraphOptions,
): BuiltGraph {
  const { latentScale, ...rest } = options;
  const b = new GraphBuilder({ name: "vae-encoder", weights, hasAdapters: false, ...rest });
  const image = b.input("image", ["batch", config.imageChannels, ...IMAGE_AXES]);
  const latent =
    config.kind === "taesd"
      ? buildTaesdEncoder(b, image, latentScale)
      : buildKlEncoder(b, image, config);
  b.output("latent", latent, { shape: ["batch", config.latentChannels, ...LATENT_AXES] });
  return b.build();
}

function buildKlDecoder(b: GraphBuilder, latent: Value, config: VaeConfig): Value {
  const levels = config.widths.length - 1;
  let h = conv2d(b, latent, { name: "post_quant_conv" });
  h = middle(b, conv2d(b, h, { name: "decoder.conv_in" }), "decoder.mid");
  for (let level = levels - 1; level >= 0; level--) {
    const name = `decoder.up.${level}`;
    for (let j = 0; j <= config.resBlocks; j++) h = resBlock(b, h, `${name}.block.${j}`);
    if (level === 0) continue;
    const sizes = b.node("Mul", [b.node("Shape", [h]), b.integers([1, 1, 2, 2])]);
    h = conv2d(b, resizeNearest(b, h, sizes), { name: `${name}.upsample.conv` });
  }
  return conv2d(b, normedSilu(b, h, "decoder.norm_out"), { name: "decoder.conv_out" });
}

function buildKlEncoder(b: GraphBuilder, image: Value, config: VaeConfig): Value {
  const levels = config.widths.length - 1;
  let h = conv2d(b, image, { name: "encoder.conv_in" });
  for (let level = 0; level < levels; level++) {
    const name = `encoder.down.${level}`;
    for (let j = 0; j < config.resBlocks; j++) h = resBlock(b, h, `${name}.block.${j}`);
    if (level === levels - 1) continue;
    // The original pads at the right and the bottom only.
    h = conv2d(b, h, { name: `${name}.downsample.conv`, stride: 2, pads: [0, 0, 1, 1] });
  }
  h = normedSilu(b, middle(b, h, "encoder.mid"), "encoder.norm_out");
  const moments = conv2d(b, conv2d(b, h, { name: "encoder.conv_out" }), { name: "quant_conv" });
  const [mean] = b.nodes("Split", [moments], {
    attributes: { axis: int(1), num_outputs: int(2) },
    outputCount: 2,
  });
  assert(mean !== undefined);
  return mean;
}

function normedSilu(b: GraphBuilder, x: Value, name: string): Value {
  return silu(b, groupNorm(b, x, { name, epsilon: EPSILON }));
}

function resBlock(b: GraphBuilder, x: Value, name: string): Value {
  let h = conv2d(b, normedSilu(b, x, `${name}.norm1`), { name: `${name}.conv1` });
  h = conv2d(b, normedSilu(b, h, `${name}.norm2`), { name: `${name}.conv2` });
  const shortcut = `${name}.nin_shortcut`;
  const skip = b.hasWeight(`${shortcut}.weight`) ? conv2d(b, x, { name: shortcut }) : x;
  return b.node("Add", [skip, h]);
}

function middle(b: GraphBuilder, x: Value, name: string): Value {
  const h = attentionBlock(b, resBlock(b, x, `${name}.block_1`), `${name}.attn_1`);
  return resBlock(b, h, `${name}.block_2`);
}

/** One head over all positions. x [batch, channels, height, width]. */
function attentionBlock(b: GraphBuilder, x: Value, name: string): Value {
  const [channels = 0] = b.weightRef(`${name}.norm.weight`).shape;
  const swap = { attributes: { perm: ints([0, 2, 1]) } };
  const normed = groupNorm(b, x, { name: `${name}.norm`, epsilon: EPSILON });
  const flat = b.node("Reshape", [normed, b.integers([0, channels, -1])]);
  const rows = b.node("Transpose", [flat], swap); // [batch, height * width, channels]
  const project = (part: string): Value => linear(b, rows, { name: `${name}.${part}` });
  const seen = attendInParts(
    b,
    { query: project("q"), key: project("k"), value: project("v") },
    channels,
  );
  const out = linear(b, seen, { name: `${name}.proj_out` });
  const image = b.node("Reshape", [b.node("Transpose", [out], swap), b.node("Shape", [x])]);
  return b.node("Add", [x, image]);
}

/** 1024x1024 pixels are 16,384 positions: their scores are 1 GB, an eighth of them 134 MB. */
const PARTS = 8;

/**
 * Attention with one head. The fused operator works in tiles and never holds all scores; the plain
 * one does, so it takes the queries in parts, after rows of padding that make the parts equal.
 */
function attendInParts(
  b: GraphBuilder,
  { query, key, value }: { query: Value; key: Value; value: Value },
  width: number,
): Value {
  const attend = (rows: Value): Value => attention(b, { query: rows, key, value, heads: 1, width });
  if (b.choices.attention === "fused") return attend(query);
  const count = b.node("Shape", [query], { attributes: { start: int(1), end: int(2) } });
  const parts = b.integers([PARTS]);
  const rest = b.node("Sub", [
    b.node("Mul", [b.node("Div", [b.node("Add", [count, b.integers([PARTS - 1])]), parts]), parts]),
    count,
  ]);
  const zeros = b.integers([0, 0, 0, 0]);
  const pads = b.node("Concat", [zeros, rest, b.integers([0])], { attributes: { axis: int(0) } });
  const pieces = b.nodes("Split", [b.node("Pad", [query, pads])], {
    attributes: { axis: int(1), num_outputs: int(PARTS) },
    outputCount: PARTS,
  });
  const joined = b.node("Concat", pieces.map(attend), { attributes: { axis: int(1) } });
  return b.node("Slice", [joined, b.integers([0]), count, b.integers([1])]);
}
