/**
 * Tiny full checkpoints with random weights in the true layout of each family: UNet, text encoders
 * and VAE (latents an eighth of the picture); in F16 SD1 is 2.5 MB, the others up to 4.8 MB. The same options give the same
 * bytes. Weights are scaled by fan-in, so that activations keep their size from layer to layer.
 */
import { writeFile } from "node:fs/promises";
import {
  type Family,
  type Layer,
  layerWeights,
  type TextEncoderConfig,
  type TextEncoderKind,
  textLayers,
  type UNetConfig,
  unetLayers,
  type VaeConfig,
  vaeLayers,
} from "../../src/checkpoint/index.ts";
import { fromFloat, serializeSafetensors, type Tensor } from "../../src/tensor/index.ts";

export type TinyOptions = Readonly<{
  family?: Family;
  seed?: number;
  dtype?: "F32" | "F16" | "BF16";
  prediction?: "eps" | "v";
  /** 9 inpainting, 8 pix2pix. */
  inChannels?: 4 | 8 | 9;
}>;

/** Narrow, because every encoder has the whole vocabulary of 49,408 tokens. */
export const TINY_TEXT_WIDTH = 8;
const PROJECTION = TINY_TEXT_WIDTH;

/** 128x128 pictures have 16x16 latents. */
export const TINY_VAE: VaeConfig = {
  kind: "kl",
  latentChannels: 4,
  imageChannels: 3,
  downscale: 8,
  widths: [32, 32, 32, 32, 32],
  resBlocks: 1,
  hasEncoder: true,
  hasDecoder: true,
};

const UNET_BASE = {
  outChannels: 4,
  modelChannels: 32,
  resBlocks: [1, 1],
  transformerDepthMiddle: 1,
} as const;

/** The UNet of each tiny family; `inChannels` as the options say. */
export function tinyUNetConfig({ family = "sd1", inChannels = 4 }: TinyOptions = {}): UNetConfig {
  const width = TINY_TEXT_WIDTH;
  const heads64 = { heads: { channels: 64 }, isLinearProjection: true } as const;
  const low = { transformerDepth: [0, 1], transformerDepthOutput: [1, 1, 0, 0] };
  const all = { transformerDepth: [1, 1], transformerDepthOutput: [1, 1, 1, 1] };
  switch (family) {
    case "sd1":
      return {
        ...UNET_BASE,
        ...all,
        inChannels,
        channelMult: [1, 1],
        contextDim: width,
        admChannels: 0,
        heads: { count: 8 },
        isLinearProjection: false,
      };
    case "sd2":
      return {
        ...UNET_BASE,
        ...all,
        ...heads64,
        inChannels,
        channelMult: [2, 2],
        contextDim: width,
        admChannels: 0,
      };
    case "sdxl":
      return {
        ...UNET_BASE,
        ...low,
        ...heads64,
        inChannels,
        channelMult: [1, 2],
        contextDim: 2 * width,
        admChannels: PROJECTION + 6 * 256,
      };
    case "sdxl-refiner":
      return {
        ...UNET_BASE,
        ...low,
        ...heads64,
        inChannels,
        channelMult: [1, 2],
        contextDim: width,
        admChannels: PROJECTION + 5 * 256,
      };
  }
}

/** A tiny encoder; `kind` decides activation and projection as in the published ones. */
export function tinyTextConfig(kind: TextEncoderKind): TextEncoderConfig {
  return {
    kind,
    width: TINY_TEXT_WIDTH,
    layers: 3,
    heads: 1,
    vocabulary: 49_408,
    positions: 77,
    activation: kind === "clip-l" ? "quick_gelu" : "gelu",
    projection: kind === "clip-l" ? 0 : PROJECTION,
  };
}

type Weights = Map<string, Readonly<{ shape: readonly number[]; data: Float32Array }>>;

/** mulberry32, a 32-bit generator in the public domain, and Box and Muller's normal numbers. */
export function normalGenerator(seed: number): () => number {
  let state = seed >>> 0;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4_294_967_296;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** Random weights of the layers: matrices by fan-in, norms near 1, biases and shifts near 0. */
export function randomWeights(layers: readonly Layer[], normal: () => number): Weights {
  const weights: Weights = new Map();
  for (const [name, shape] of layerWeights(layers)) {
    const [rows = 0, ...rest] = shape;
    const fanIn = rest.reduce((product, axis) => product * axis, 1);
    const data = new Float32Array(rows * fanIn);
    const isVector = shape.length === 1;
    const isEmbedding = name.endsWith("_embedding.weight");
    const scale = isVector || isEmbedding ? 0.05 : fanIn ** -0.5;
    const mean = isVector && name.endsWith(".weight") ? 1 : 0;
    for (let i = 0; i < data.length; i++) data[i] = mean + scale * normal();
    weights.set(name, { shape, data });
  }
  return weights;
}

/** OpenCLIP's layout of a canonical text encoder: q, k, v as one matrix, the projection transposed. */
export function toOpenClip(weights: Weights): Weights {
  const stored: Weights = new Map();
  for (const [name, weight] of weights) {
    if (/self_attn\.[kv]_proj/.test(name)) continue;
    if (name.includes("self_attn.q_proj")) {
      const parts = ["q", "k", "v"].map((p) => weights.get(name.replace("q_proj", `${p}_proj`)));
      const data = Float32Array.from(parts.flatMap((part) => [...(part?.data ?? [])]));
      const [rows = 0, ...rest] = weight.shape;
      stored.set(openClipName(name), { shape: [3 * rows, ...rest], data });
    } else if (name === "text_projection.weight") {
      const [rows = 0, columns = 0] = weight.shape;
      const data = weight.data.map(
        (_, i) => weight.data[(i % rows) * columns + Math.floor(i / rows)] ?? 0,
      );
      stored.set("text_projection", { shape: [columns, rows], data });
    } else {
      stored.set(openClipName(name), weight);
    }
  }
  return stored;
}

function openClipName(name: string): string {
  return name
    .replace("text_model.embeddings.token_embedding", "token_embedding")
    .replace("text_model.embeddings.position_embedding.weight", "positional_embedding")
    .replace("text_model.final_layer_norm", "ln_final")
    .replace("text_model.encoder.layers", "transformer.resblocks")
    .replace("layer_norm", "ln_")
    .replace("mlp.fc1", "mlp.c_fc")
    .replace("mlp.fc2", "mlp.c_proj")
    .replace("self_attn.out_proj", "attn.out_proj")
    .replace("self_attn.q_proj.", "attn.in_proj_");
}

type TextPlace = readonly [kind: TextEncoderKind, prefix: string];

const TEXT_PLACES: Readonly<Record<Family, readonly TextPlace[]>> = {
  sd1: [["clip-l", "cond_stage_model.transformer."]],
  sd2: [["clip-h", "cond_stage_model.model."]],
  sdxl: [
    ["clip-l", "conditioner.embedders.0.transformer."],
    ["clip-g", "conditioner.embedders.1.model."],
  ],
  "sdxl-refiner": [["clip-g", "conditioner.embedders.0.model."]],
};

function withPrefix(prefix: string, weights: Weights): Weights {
  return new Map([...weights].map(([name, weight]) => [prefix + name, weight]));
}

/** SD2's prediction is told by the spread of one bias. */
function spreadBias(weights: Weights, config: UNetConfig): void {
  const last = config.transformerDepthOutput.length - 1;
  const bias = weights.get(`output_blocks.${last}.1.transformer_blocks.0.norm1.bias`);
  bias?.data.forEach((value, i, all) => {
    all[i] = 4 * value;
  });
}

/** All tensors of a tiny checkpoint under the names a real one has. */
export function tinyTensors(options: TinyOptions = {}): Map<string, Tensor> {
  const { family = "sd1", seed = 1, dtype = "F16", prediction = "eps" } = options;
  const normal = normalGenerator(seed);
  const config = tinyUNetConfig(options);
  const unet = randomWeights(unetLayers(config), normal);
  if (family === "sd2" && prediction === "v") spreadBias(unet, config);
  const parts: Weights[] = [withPrefix("model.diffusion_model.", unet)];
  for (const [kind, prefix] of TEXT_PLACES[family]) {
    const text = randomWeights(textLayers(tinyTextConfig(kind)), normal);
    parts.push(withPrefix(prefix, kind === "clip-l" ? text : toOpenClip(text)));
  }
  const vae = randomWeights(vaeLayers(TINY_VAE), normal);
  for (const [name, weight] of vae) {
    // LDM stores the attention's projections as 1x1 convolutions.
    if (!/attn_1\.(q|k|v|proj_out)\.weight$/.test(name)) continue;
    vae.set(name, { ...weight, shape: [...weight.shape, 1, 1] });
  }
  parts.push(withPrefix("first_stage_model.", vae));
  const tensors = new Map<string, Tensor>();
  for (const part of parts) {
    for (const [name, weight] of part) tensors.set(name, fromFloat(weight, dtype));
  }
  if (family === "sdxl" && prediction === "v") {
    tensors.set("v_pred", { dtype: "F32", shape: [0], bytes: new Uint8Array(0) });
  }
  return tensors;
}

/** Writes a tiny checkpoint (SD1 in F16 unless the options say otherwise). */
export async function writeTinyCheckpoint(path: string, options: TinyOptions = {}): Promise<void> {
  await writeFile(path, serializeSafetensors(tinyTensors(options), { format: "pt" }));
}
