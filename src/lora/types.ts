/**
 * One adapter on one weight, strength apart: W' = W + strength * up^T-product. `down` is
 * [rank, inputs * kernelHeight * kernelWidth], `up` is [rank, outputs] (transposed lora_up with
 * alpha / rank folded in), both row-major, so that stacking adapters is joining rows.
 */
export type LowRank = Readonly<{ rank: number; down: Float32Array; up: Float32Array }>;

/** A parsed adapter file, by canonical layer name, for the net and the text encoders. */
export type ParsedLora = Readonly<{
  format: string;
  unet: ReadonlyMap<string, LowRank>;
  /** By kind of text encoder: "clip-l", "clip-g", "clip-h". */
  text: ReadonlyMap<string, ReadonlyMap<string, LowRank>>;
  /** Keys that name no layer of the model; reported once, with an example. */
  unmatchedKeys: readonly string[];
  /** Bytes held by the factors. */
  bytes: number;
}>;
