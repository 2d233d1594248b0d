/**
 * A prompt to conditioning, per model family: which encoders, which layer, normed or not, which
 * pooled output. SD1: CLIP-L, last layer. SD2: OpenCLIP-H, the one before. SDXL: CLIP-L and
 * OpenCLIP-G, both the one before and not normed, side by side. The refiner: OpenCLIP-G alone.
 */
import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import type { ClipTokenizer } from "./clip-tokenizer.ts";
import { type EncodedRows, type EncodeTokens, encodeRows } from "./encode-rows.ts";
import {
  type EncoderKind,
  type LoadEmbedding,
  type TokenRow,
  tokenizePrompt,
} from "./tokenize-prompt.ts";

export type TextEncoderShape = Readonly<{ kind: EncoderKind; width: number; layers: number }>;

/** A text encoder (or the pair of SDXL) and all that turns a prompt into its input. */
export type PromptEncoder = Readonly<{
  tokenizer: ClipTokenizer;
  encoders: readonly TextEncoderShape[];
  encode: EncodeTokens;
  /** Clip skip as CLIPSetLastLayer gives it: -1 last layer, -2 the one before. */
  layer?: number;
  loadEmbedding?: LoadEmbedding;
  warn?: (line: string) => void;
}>;

/** context [1, 77 * n, width] for the UNet's cross-attention and pooled [1, width]. */
export type EncodedPrompt = Readonly<{ context: FloatTensor; pooled: FloatTensor }>;

/** SDXL's two encoders may read different texts; `l` is CLIP-L's. */
export type PromptTexts = Readonly<{ l: string; g: string }>;

const PENULTIMATE = -2;

/** Throws CHECKPOINT_UNSUPPORTED for a set of encoders that no family has. */
export async function encodePrompt(
  prompt: string | PromptTexts,
  target: PromptEncoder,
): Promise<EncodedPrompt> {
  const kinds = target.encoders.map(({ kind }) => kind).join("+");
  const texts = typeof prompt === "string" ? { l: prompt, g: prompt } : prompt;
  switch (kinds) {
    case "clip-l":
      return single(texts.l, target, { layer: -1, isLayerNormed: true, isPooledProjected: false });
    case "clip-h":
      return single(texts.g, target, {
        layer: PENULTIMATE,
        isLayerNormed: true,
        isPooledProjected: true,
      });
    case "clip-g":
      return single(texts.g, target, SDXL_OUTPUTS);
    case "clip-l+clip-g":
      return pair(texts, target, typeof prompt !== "string");
    default:
      throw new LunaError(
        "CHECKPOINT_UNSUPPORTED",
        `No model family has the text encoders [${kinds}]; clip-l, clip-h, clip-g or clip-l with clip-g are served.`,
      );
  }
}

type Outputs = Readonly<{ layer: number; isLayerNormed: boolean; isPooledProjected: boolean }>;

const SDXL_OUTPUTS: Outputs = {
  layer: PENULTIMATE,
  isLayerNormed: false,
  isPooledProjected: true,
};

async function single(
  text: string,
  target: PromptEncoder,
  outputs: Outputs,
): Promise<EncodedPrompt> {
  const shape = shapeOf(target, 0);
  const { hidden, pooled } = await encodeWith(await tokenize(text, shape, target), {
    shape,
    target,
    outputs,
  });
  return { context: hidden, pooled };
}

async function pair(
  texts: PromptTexts,
  target: PromptEncoder,
  isPadded: boolean,
): Promise<EncodedPrompt> {
  const left = shapeOf(target, 0);
  const right = shapeOf(target, 1);
  const rowsL = await tokenize(texts.l, left, target);
  const rowsG = await tokenize(texts.g, right, target);
  // Where each encoder has its own text, the shorter is continued by empty prompts.
  if (isPadded) {
    const emptyL = await tokenize("", left, target);
    const emptyG = await tokenize("", right, target);
    while (rowsL.length < rowsG.length) rowsL.push(...emptyL);
    while (rowsG.length < rowsL.length) rowsG.push(...emptyG);
  }
  const l = await encodeWith(rowsL, { shape: left, target, outputs: SDXL_OUTPUTS });
  const g = await encodeWith(rowsG, { shape: right, target, outputs: SDXL_OUTPUTS });
  return { context: joinWidths(l.hidden, g.hidden), pooled: g.pooled };
}

function shapeOf(target: PromptEncoder, index: number): TextEncoderShape {
  const shape = target.encoders[index];
  if (shape === undefined) throw new LunaError("INTERNAL", `There is no text encoder ${index}.`);
  return shape;
}

function tokenize(
  text: string,
  shape: TextEncoderShape,
  { tokenizer, loadEmbedding, warn }: PromptEncoder,
): Promise<TokenRow[]> {
  return tokenizePrompt(text, {
    tokenizer,
    encoder: shape.kind,
    ...(loadEmbedding === undefined ? {} : { loadEmbedding }),
    ...(warn === undefined ? {} : { warn }),
  });
}

function encodeWith(
  rows: readonly TokenRow[],
  { shape, target, outputs }: { shape: TextEncoderShape; target: PromptEncoder; outputs: Outputs },
): Promise<EncodedRows> {
  const wished = target.layer ?? outputs.layer;
  // ComfyUI falls back to the last layer, normed in every family, where there are fewer layers.
  const isBeyond = target.layer !== undefined && Math.abs(wished) > shape.layers;
  return encodeRows(
    rows,
    {
      encoder: shape.kind,
      width: shape.width,
      layer: isBeyond ? -1 : wished,
      isLayerNormed: isBeyond || outputs.isLayerNormed,
      isPooledProjected: outputs.isPooledProjected,
    },
    target.encode,
  );
}

/** [1, a, w1] and [1, b, w2] to [1, min(a, b), w1 + w2]. */
function joinWidths(left: FloatTensor, right: FloatTensor): FloatTensor {
  const [, leftTokens = 0, leftWidth = 0] = left.shape;
  const [, rightTokens = 0, rightWidth = 0] = right.shape;
  const tokens = Math.min(leftTokens, rightTokens);
  const width = leftWidth + rightWidth;
  const data = new Float32Array(tokens * width);
  for (let i = 0; i < tokens; i++) {
    data.set(left.data.subarray(i * leftWidth, (i + 1) * leftWidth), i * width);
    data.set(right.data.subarray(i * rightWidth, (i + 1) * rightWidth), i * width + leftWidth);
  }
  return { shape: [1, tokens, width], data };
}
