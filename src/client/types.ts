import type { Family, Prediction } from "../checkpoint/index.ts";
import type { Features } from "../protocol/index.ts";
import type { FloatTensor } from "../tensor/index.ts";

/** What a client knows of a served checkpoint: enough to sample, encode and decode. */
export type ModelInfo = Readonly<{
  /** Stable handle, "<folder kind>/<relative path>", such as "checkpoints/luna-emoji-v1.safetensors". */
  id: string;
  family?: Family;
  prediction: Prediction;
  isZeroTerminalSnr: boolean;
  latentScale: number;
  dtype: string;
  bytes: number;
  unet?: Readonly<{
    inChannels: number;
    outChannels: number;
    contextDim: number;
    admChannels: number;
    modelChannels: number;
  }>;
  textEncoders: readonly Readonly<{
    kind: "clip-l" | "clip-h" | "clip-g";
    width: number;
    layers: number;
    projection: number;
  }>[];
  vae?: Readonly<{
    kind: "kl" | "taesd";
    latentChannels: number;
    downscale: number;
    hasEncoder: boolean;
    hasDecoder: boolean;
  }>;
  /** Hint pictures have 8 pixels a latent cell along each side, rounded up to the multiple. */
  control?: Readonly<{
    kind: "controlnet" | "t2i-adapter";
    hintChannels: number;
    hintMultiple: number;
    /** Kinds of hints that a Union net is told apart; 0 for others. */
    unionTypes: number;
  }>;
}>;

/** LoRA as a request names it; applied in order, strengths independent for net and text encoder. */
export type LoraRef = Readonly<{ name: string; strengthModel: number; strengthClip: number }>;

/** What ComfyUI's FreeU, FreeU_V2 and PerturbedAttentionGuidance do inside the net. */
export type UNetFeatures = Readonly<Features>;

/** Residuals as a ControlNet or T2I-Adapter yields them; docs/protocol.md says where each is added. */
export type Control = Readonly<{
  input: readonly (FloatTensor | undefined)[];
  middle: readonly (FloatTensor | undefined)[];
  output: readonly (FloatTensor | undefined)[];
}>;

/** A control net that the far side runs; its residuals stay there. */
export type ControlInput = Readonly<{
  /** Id of its file, as ModelInfo has it. */
  model: string;
  /** [n, hintChannels, pixels, pixels], 0..1; row r of x has the hint r % n. Sent once, then named by digest. */
  hint: FloatTensor;
  strength: number;
  /** Kind of hint, for a Union net; none is "auto". */
  type?: number;
  /** Rows of x that it acts on; all where not given. */
  rows?: readonly number[];
}>;

export type UNetInputs = Readonly<{
  /** [b, inChannels, h, w], as the net sees it: already scaled by the client. */
  x: FloatTensor;
  /** [b]; fractional and negative values are legal. */
  timesteps: readonly number[] | Float32Array;
  /** [b, t, contextDim]; sent once, then named by digest. */
  context: FloatTensor;
  /** [b, admChannels]; SDXL only. */
  y?: FloatTensor;
  control?: Control;
  /** Their residuals and those of `control` add up. */
  controls?: readonly ControlInput[];
}>;

export type CallOptions = Readonly<{
  signal?: AbortSignal;
  /** No result by then is DEADLINE_EXCEEDED, here and in the daemon's queue. */
  deadlineMs?: number;
  /** Share of the engine while others wait; "normal" when not given. */
  priority?: "interactive" | "normal" | "bulk";
}>;

export type TextInputs = Readonly<{
  encoder: "clip-l" | "clip-h" | "clip-g";
  /** Rows of 77 token ids, start and end tokens and padding included. */
  tokens: readonly (readonly number[])[];
  /** Textual inversion: vectors that stand at [row, column] in place of the token. */
  embeddings?: readonly Readonly<{ row: number; column: number; vector: Float32Array }>[];
  /** -1 last layer, -2 the one before ("clip skip 2"), ... */
  layer: number;
  /** Apply the final layer norm to that layer's output (SD1, SD2: yes; SDXL: no). */
  isLayerNormed: boolean;
}>;

export type TextOutputs = Readonly<{
  /** [rows, 77, width] */
  hidden: FloatTensor;
  /** [rows, width]: the last layer, normed, at the end-of-text token; not projected. */
  pooled: FloatTensor;
  /** [rows, projection] where the encoder has a text_projection. */
  projected?: FloatTensor;
}>;

/** A UNet somewhere else; `clone` and LoRAs as in ComfyUI's ModelPatcher. DaemonModel implements it. */
export interface UNetModel {
  readonly info: ModelInfo;
  readonly loras: readonly LoraRef[];
  readonly features: UNetFeatures;
  forward(inputs: UNetInputs, options?: CallOptions): Promise<FloatTensor>;
  withLora(lora: LoraRef): UNetModel;
  /** Another model with these features beside its own; one of the same name takes its place. */
  withFeatures(features: UNetFeatures): UNetModel;
}

export interface TextModel {
  readonly info: ModelInfo;
  readonly loras: readonly LoraRef[];
  encode(inputs: TextInputs, options?: CallOptions): Promise<TextOutputs>;
  withLora(lora: LoraRef): TextModel;
}

export interface VaeModel {
  readonly info: ModelInfo;
  /** Unscaled latent [b, 4, h, w] to an image [b, 3, 8h, 8w] in -1..1 (not clamped). */
  decode(
    latent: FloatTensor,
    options?: CallOptions & { tile?: { size: number; overlap: number } },
  ): Promise<FloatTensor>;
  /** Image [b, 3, 8h, 8w] in -1..1 to the mode of the latent [b, 4, h, w], unscaled. */
  encode(
    image: FloatTensor,
    options?: CallOptions & { tile?: { size: number; overlap: number } },
  ): Promise<FloatTensor>;
}
