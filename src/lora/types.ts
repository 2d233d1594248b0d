import type { TextEncoderKind, UNetConfig } from "../checkpoint/index.ts";
import type { AdapterTarget } from "../graph/index.ts";

/**
 * One adapter on one weight, strength apart: W' = W + strength * up^T down. `down` is
 * [rank, inputs * kernelHeight * kernelWidth], `up` is [rank, outputs] (transposed lora_up with
 * alpha / rank folded in), both row-major, so that stacking adapters is joining rows.
 */
export type LowRank = Readonly<{ rank: number; down: Float32Array; up: Float32Array }>;

/** Where adapters may act. `text` holds every text encoder of the checkpoint, or none. */
export type LoraModel = Readonly<{
  unet?: Readonly<{ config: UNetConfig; targets: readonly AdapterTarget[] }>;
  text: ReadonlyMap<TextEncoderKind, readonly AdapterTarget[]>;
}>;

/** A parsed adapter file, by canonical layer name, for the net and the text encoders. */
export type ParsedLora = Readonly<{
  /** Kinds of adapter in the file, joined by "+": "lora", "lora+lokr". */
  format: string;
  unet: ReadonlyMap<string, LowRank>;
  text: ReadonlyMap<TextEncoderKind, ReadonlyMap<string, LowRank>>;
  /** Keys that name no layer of the model; reported once, with an example. */
  unmatchedKeys: readonly string[];
  /** Bytes held by the factors. */
  bytes: number;
}>;

/** An adapter's factors on one net; `id` names their content: a file's key or a digest. */
export type Adapter = Readonly<{ id: string; factors: ReadonlyMap<string, LowRank> }>;

/** One adapter as one row of a batch uses it. */
export type Applied = Adapter & Readonly<{ strength: number }>;
