/**
 * One text encoder over the rows of a prompt, with ComfyUI's prompt weights: a token of weight w
 * moves to empty + (token - empty) * w, where `empty` is the empty prompt's encoding at its place.
 */
import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { END_TOKEN, START_TOKEN } from "./clip-tokenizer.ts";
import { type EncoderKind, padToken, ROW_LENGTH, type TokenRow } from "./tokenize-prompt.ts";

export type TextEncoderInputs = Readonly<{
  encoder: EncoderKind;
  tokens: readonly (readonly number[])[];
  embeddings?: readonly Readonly<{ row: number; column: number; vector: Float32Array }>[];
  layer: number;
  isLayerNormed: boolean;
}>;

/** What this room needs of a text encoder; the client's TextModel.encode is one. */
export type EncodeTokens = (inputs: TextEncoderInputs) => Promise<
  Readonly<{
    /** [rows, 77, width] */
    hidden: FloatTensor;
    /** [rows, width] */
    pooled: FloatTensor;
    /** [rows, projection] */
    projected?: FloatTensor;
  }>
>;

/** An encoded prompt: hidden [1, 77 * rows, width], pooled [1, width or projection]. */
export type EncodedRows = Readonly<{ hidden: FloatTensor; pooled: FloatTensor }>;

export type RowEncoding = Readonly<{
  encoder: EncoderKind;
  /** Width of the encoder's vectors; an embedding of another width is left out, as ComfyUI does. */
  width: number;
  layer: number;
  isLayerNormed: boolean;
  isPooledProjected: boolean;
}>;

/** Encodes all rows in one call, the empty prompt as a last row where a weight differs from 1. */
export async function encodeRows(
  rows: readonly TokenRow[],
  encoding: RowEncoding,
  encode: EncodeTokens,
): Promise<EncodedRows> {
  const { encoder, layer, isLayerNormed } = encoding;
  const hasWeights = rows.some((row) => row.some(({ weight }) => weight !== 1));
  const plain = layOut(rows, encoding);
  const tokens = hasWeights ? [...plain.tokens, emptyRow(encoder)] : plain.tokens;
  const outputs = await encode({
    encoder,
    tokens,
    layer,
    isLayerNormed,
    ...(plain.embeddings.length > 0 ? { embeddings: plain.embeddings } : {}),
  });
  const width = outputs.hidden.shape.at(-1) ?? 0;
  if (width === 0 || outputs.hidden.data.length !== tokens.length * ROW_LENGTH * width) {
    throw new LunaError(
      "ENGINE_FAILED",
      `The text encoder gave [${outputs.hidden.shape.join(", ")}] for ${tokens.length} rows of ${ROW_LENGTH} tokens.`,
    );
  }
  const hidden = outputs.hidden.data.slice(0, rows.length * ROW_LENGTH * width);
  if (hasWeights) {
    applyWeights(hidden, rows, outputs.hidden.data.subarray(rows.length * ROW_LENGTH * width));
  }
  const pooled = (encoding.isPooledProjected ? outputs.projected : undefined) ?? outputs.pooled;
  const pooledWidth = pooled.shape.at(-1) ?? 0;
  return {
    hidden: { shape: [1, rows.length * ROW_LENGTH, width], data: hidden },
    pooled: { shape: [1, pooledWidth], data: pooled.data.slice(0, pooledWidth) },
  };
}

function emptyRow(encoder: EncoderKind): number[] {
  const padding = new Array<number>(ROW_LENGTH - 2).fill(padToken(encoder));
  return [START_TOKEN, END_TOKEN, ...padding];
}

/** Under a vector: not CLIP-L's padding, which is the end token that the pooled output looks for. */
const PLACEHOLDER = 0;

type Laid = {
  tokens: number[][];
  embeddings: { row: number; column: number; vector: Float32Array }[];
};

/** Parts ids from vectors. A vector of the wrong width falls out and the row is padded at its end. */
function layOut(rows: readonly TokenRow[], { encoder, width }: RowEncoding): Laid {
  const pad = padToken(encoder);
  const laid: Laid = { tokens: [], embeddings: [] };
  for (const [row, entries] of rows.entries()) {
    const ids: number[] = [];
    for (const { token } of entries) {
      if (typeof token === "number") ids.push(token);
      else if (token.length === width) {
        laid.embeddings.push({ row, column: ids.length, vector: token });
        ids.push(PLACEHOLDER);
      }
    }
    while (ids.length < ROW_LENGTH) ids.push(pad);
    laid.tokens.push(ids);
  }
  return laid;
}

/** In float32 at each step, as PyTorch computes it. `hidden` [rows, 77, width], `empty` [77, width]. */
function applyWeights(hidden: Float32Array, rows: readonly TokenRow[], empty: Float32Array): void {
  const width = empty.length / ROW_LENGTH;
  for (const [row, entries] of rows.entries()) {
    for (const [column, { weight }] of entries.entries()) {
      if (weight === 1) continue;
      const factor = Math.fround(weight);
      for (let i = 0; i < width; i++) {
        const at = (row * ROW_LENGTH + column) * width + i;
        const base = empty[column * width + i] ?? 0;
        const difference = Math.fround((hidden[at] ?? 0) - base);
        hidden[at] = Math.fround(difference * factor) + base;
      }
    }
  }
}
