/** What travels along the links of a workflow. */
import type { LoraRef, ModelInfo, TextModel, UNetModel, VaeModel } from "../client/index.ts";
import type { Area, Control, ModelSampling, SamplerName } from "../sampling/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import type { SizeConditioning } from "../text/index.ts";

/** Where a net computes: in the shared daemon, or in this instance's own engine. */
export type Location = "daemon" | "local";

export type Model = Readonly<{
  unet: UNetModel;
  location: Location;
  /** What a node has set in place of the checkpoint's own training: ModelSamplingDiscrete. */
  sampling?: ModelSampling;
  /** Share of the rescaling of guided latents, 0..1: RescaleCFG. */
  rescaleCfg?: number;
  /** How far steps go away from what the net says with perturbed attention: PerturbedAttentionGuidance. */
  pagScale?: number;
}>;

/** A text encoder (or SDXL's two) with its clip skip; `layer` counts from the end, -1 is the last. */
export type Clip = Readonly<{ text: TextModel; location: Location; layer?: number }>;

export type Vae = Readonly<{ vae: VaeModel; location: Location }>;

/** What is known of a ControlNet or T2I-Adapter. */
export type ControlInfo = Readonly<{ id: string }> & NonNullable<ModelInfo["control"]>;

/** A control net as its loader gives it; `type` is the kind of hint that a Union net is told. */
export type ControlNet = Readonly<{ info: ControlInfo; type?: number }>;

/** One part of a conditioning; percentages, pixels and latent cells as in ComfyUI. */
export type ConditioningPart = Readonly<{
  /** [1, tokens, width] */
  context: FloatTensor;
  /** [1, width] */
  pooled?: FloatTensor;
  /** Where the part holds: latent cells, or fractions of the picture. */
  area?: Area;
  strength?: number;
  /** [b, h, w], any size: it is scaled to the latent. */
  mask?: FloatTensor;
  maskStrength?: number;
  isAreaMaskBounds?: boolean;
  /** Parts of the sampling, 0 the beginning and 1 the end. */
  startPercent?: number;
  endPercent?: number;
  /** SDXL: what the training picture was like, in pixels. */
  size?: SizeConditioning;
  /** Inpainting models: latent [b, 4, h, w] and mask [b, 1, H, W] that the net sees beside x. */
  concatLatent?: FloatTensor;
  concatMask?: FloatTensor;
  /** Control nets, the one that was applied first first. */
  controls?: readonly Control[];
  /** They act on negative prompts without any, too. */
  isControlShared?: boolean;
}>;

export type Conditioning = readonly ConditioningPart[];

/** Raw latents (the sampler scales them) and, for inpainting, where noise is put. */
export type Latent = Readonly<{
  /** [b, channels, h, w] */
  samples: FloatTensor;
  /** [b, 1, H, W], 1 where the sampler may change the picture. */
  noiseMask?: FloatTensor;
  /** Which noise of a larger batch each row gets. */
  batchIndex?: readonly number[];
}>;

export type LoraStack = readonly LoraRef[];

/** Where a run's noise comes from. */
export type Noise = Readonly<{ seed: bigint; isEmpty: boolean }>;

/** A model with its prompts: the negative ones are left out where there is no guidance. */
export type Guider = Readonly<{
  model: Model;
  positive: Conditioning;
  negative: Conditioning;
  cfg: number;
}>;

/** Types of links and the values they carry. */
export type SocketValues = {
  MODEL: Model;
  CLIP: Clip;
  VAE: Vae;
  CONTROL_NET: ControlNet;
  CONDITIONING: Conditioning;
  LATENT: Latent;
  /** [b, h, w, 3], 0..1 */
  IMAGE: FloatTensor;
  /** [b, h, w], 0..1 */
  MASK: FloatTensor;
  LORA_STACK: LoraStack;
  SAMPLER: SamplerName;
  /** Noise levels, descending. */
  SIGMAS: Float32Array;
  NOISE: Noise;
  GUIDER: Guider;
};

export type SocketType = keyof SocketValues;
