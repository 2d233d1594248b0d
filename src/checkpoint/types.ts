import type { DType } from "../tensor/index.ts";

/** Model families the daemon serves, told apart by keys and shapes alone. */
export type Family = "sd1" | "sd2" | "sdxl" | "sdxl-refiner";

/** Which quantity the UNet's output is; the client turns it into a denoised latent. */
export type Prediction = "eps" | "v" | "edm";

/** A weight under its canonical (LDM) name: a contiguous part of the checkpoint file. */
export type WeightRef = Readonly<{
  dtype: DType;
  /** Canonical shape; the stored bytes have it, except when `isTransposed`. */
  shape: readonly number[];
  /** Absolute offset of the first byte in the file. A slice of a fused tensor starts inside it. */
  begin: number;
  end: number;
  /** Two axes only: the file holds the transpose of `shape` (OpenCLIP text_projection). */
  isTransposed?: boolean;
  /** The bytes lie in another file than the rest of the table: an overlay's. */
  file?: string;
}>;

/** Canonical name without the component's prefix ("input_blocks.0.0.weight") to its place. */
export type WeightTable = ReadonlyMap<string, WeightRef>;

/** The way down and the middle of an LDM UNet: what shapes alone tell, conventions filled in. */
export type EncoderConfig = Readonly<{
  inChannels: number;
  modelChannels: number;
  channelMult: readonly number[];
  /** Residual blocks of each level on the way down; one more on the way up. */
  resBlocks: readonly number[];
  /** Transformer depth of each residual block on the way down, flattened; 0 is none. */
  transformerDepth: readonly number[];
  /** -1: the middle is its first residual block only, -2: there is no middle (distilled SDXL). */
  transformerDepthMiddle: number;
  contextDim: number;
  /** Width of `y`, or 0. */
  admChannels: number;
  /** SD1 has 8 heads at every width, the later families heads of 64 channels. */
  heads: Readonly<{ count: number } | { channels: number }>;
  /** proj_in and proj_out are Linear (SD2, SDXL) and not 1x1 convolutions (SD1). */
  isLinearProjection: boolean;
}>;

/** Everything the LDM UNet's forward needs. */
export type UNetConfig = EncoderConfig &
  Readonly<{
    outChannels: number;
    /** As transformerDepth, on the way up, in the order of output_blocks. */
    transformerDepthOutput: readonly number[];
  }>;

/**
 * A ControlNet: a copy of a UNet's way down and middle, to which convolutions over a hint picture
 * are added after the first block, and whose blocks each give a residual.
 */
export type ControlNetConfig = Readonly<{
  kind: "controlnet";
  encoder: EncoderConfig;
  hintChannels: number;
  /** Kinds of hints that a Union net is told apart; 0 for a net of one kind. */
  unionTypes: number;
}>;

/** A T2I-Adapter: residuals from the hint picture alone, the same at every step. */
export type T2IAdapterConfig = Readonly<{
  kind: "t2i-adapter";
  isLight: boolean;
  /** Pixels along each side that become channels of one cell: 16 in SDXL's. */
  unshuffle: 8 | 16;
  hintChannels: number;
  /** Of its levels, finest first. */
  widths: readonly number[];
  resBlocks: number;
  /** Kernel of all convolutions but the first of each residual block. */
  kernel: 1 | 3;
  /** Halves with a convolution and not by averaging. */
  hasConvDown: boolean;
}>;

export type ControlConfig = ControlNetConfig | T2IAdapterConfig;

/** CLIP-L, OpenCLIP-H or OpenCLIP-G, in the canonical (transformers' CLIPTextModel) layout. */
export type TextEncoderKind = "clip-l" | "clip-h" | "clip-g";

export type TextEncoderConfig = Readonly<{
  kind: TextEncoderKind;
  width: number;
  layers: number;
  /** width / 64. */
  heads: number;
  vocabulary: number;
  positions: number;
  activation: "quick_gelu" | "gelu";
  /** Width of the projected pooled output, or 0 without a text_projection. */
  projection: number;
}>;

export type VaeConfig = Readonly<{
  kind: "kl" | "taesd";
  latentChannels: number;
  imageChannels: number;
  /** Pixels per latent cell along each axis, 8. */
  downscale: number;
  /** Base width and per-level widths, residual blocks a level (KL only). */
  widths: readonly number[];
  resBlocks: number;
  hasEncoder: boolean;
  hasDecoder: boolean;
}>;

export type Component<Config> = Readonly<{ config: Config; weights: WeightTable }>;

/** What one .safetensors file holds. */
export type Checkpoint = Readonly<{
  family?: Family;
  prediction: Prediction;
  /** Zero terminal SNR, the `ztsnr` key. */
  isZeroTerminalSnr: boolean;
  unet?: Component<UNetConfig>;
  /** In the order their outputs are concatenated: clip-l before clip-g. */
  textEncoders: readonly Component<TextEncoderConfig>[];
  vae?: Component<VaeConfig>;
  control?: Component<ControlConfig>;
  /** 0.18215 for SD1 and SD2, 0.13025 for SDXL: latents the UNet sees = raw latents * scale. */
  latentScale: number;
  /** Element type of most weights. */
  dtype: DType;
}>;

/** A net that is loaded and run by itself: one ONNX session each. */
export type ComponentName =
  | "unet"
  | TextEncoderKind
  | "vae-encoder"
  | "vae-decoder"
  /** What a control net makes of the hint alone, once for each picture. */
  | "control-hint"
  /** The rest of a ControlNet, which runs at every step. */
  | "control-net";
