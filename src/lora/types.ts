import type { TextEncoderKind, UNetConfig } from "../checkpoint/index.ts";
import type { AdapterTarget } from "../graph/index.ts";

/**
 * One adapter on one layer, its strength s apart:
 *   W' = diag(1 + s row) W diag(1 + s column) + s up^T down, bias' = bias + s `bias`.
 * `down` is [rank, inputs * kernelHeight * kernelWidth], `up` is [rank, outputs] (transposed lora_up
 * with alpha / rank folded in), both row-major, so that stacking adapters is joining rows. `row` and
 * `bias` have an entry for each output, `column` for each input channel. A norm has rank 0 and may
 * have `gain` (added to its weight) and `bias`.
 */
export type LowRank = Readonly<{
  rank: number;
  down: Float32Array;
  up: Float32Array;
  row?: Float32Array;
  column?: Float32Array;
  bias?: Float32Array;
  gain?: Float32Array;
}>;

/** A change that has no factors: the layer's weight as a whole. `values` have the weight's shape. */
export type DensePatch =
  | Readonly<{ type: "difference"; values: Float32Array }>
  | Readonly<{ type: "replacement"; values: Float32Array }>
  /** OFT (one stage) and BOFT: orthogonal blocks, [stages, count, size, size], each R - I with ComfyUI's R. */
  | Readonly<{ type: "oft"; rotations: Float32Array; count: number; size: number }>
  | Readonly<{
      type: "boft";
      rotations: Float32Array;
      stages: number;
      count: number;
      size: number;
      rescale?: Float32Array;
    }>;

/**
 * One adapter on one layer as its file gives it. What the additive form cannot say yet, because it
 * depends on the weight it finds, in this order:
 *   multiply   W <- multiply * W
 *   inner      the low-rank part gains W a1 a2 (GLoRA), a1 [inputs, rank], a2 [rank, inputs], over channels
 *   dense      instead of the low-rank part
 *   magnitude  DoRA: W + delta gets these norms along its rows or columns. Beside a dense part the
 *              delta is multiplied by `deltaFactor` first, which is the limit of OFT and BOFT
 */
export type LayerPatch = LowRank &
  Readonly<{
    multiply?: number;
    inner?: Readonly<{ rank: number; a1: Float32Array; a2: Float32Array }>;
    dense?: DensePatch;
    magnitude?: Readonly<{ axis: "row" | "column"; values: Float32Array; deltaFactor?: number }>;
  }>;

/** Where adapters may act. `text` holds every text encoder of the checkpoint, or none. */
export type LoraModel = Readonly<{
  unet?: Readonly<{ config: UNetConfig; targets: readonly AdapterTarget[] }>;
  text: ReadonlyMap<TextEncoderKind, readonly AdapterTarget[]>;
}>;

/** A parsed adapter file, by canonical layer name, for the net and the text encoders. */
export type ParsedLora = Readonly<{
  /** Kinds of adapter in the file, joined by "+": "lora", "lora+lokr". */
  format: string;
  unet: ReadonlyMap<string, LayerPatch>;
  text: ReadonlyMap<TextEncoderKind, ReadonlyMap<string, LayerPatch>>;
  /** Keys that name no layer of the model; reported once, with an example. */
  unmatchedKeys: readonly string[];
  /** Bytes of all memory that the factors keep. */
  bytes: number;
}>;

/** An adapter's factors on one net; `id` names their content: a file's key or a digest. */
export type Adapter = Readonly<{ id: string; factors: ReadonlyMap<string, LowRank> }>;

/** One adapter as one row of a batch uses it. */
export type Applied = Adapter & Readonly<{ strength: number }>;
