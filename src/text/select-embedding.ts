import { LunaError } from "../kernel/index.ts";
import { type FloatTensor, type Safetensors, type Tensor, toFloat } from "../tensor/index.ts";
import { EMBEDDING_VECTORS_MAX } from "./limits.ts";
import type { EncoderKind } from "./tokenize-prompt.ts";

/** How files of several encoders (SDXL) name theirs. */
const KEYS = { "clip-l": "clip_l", "clip-h": "clip_h", "clip-g": "clip_g" } as const;

/**
 * The vectors [n, width] of a textual inversion file for one encoder: its own key, or vectors
 * bundled by a LoRA ("bundle_emb.NAME.string_to_param.*"), or else the first tensor.
 * Throws TENSOR_MALFORMED for anything that is no list of vectors.
 */
export function selectEmbedding(file: Safetensors, encoder: EncoderKind): FloatTensor | undefined {
  const key = KEYS[encoder];
  const own = file.tensors.get(key);
  if (own !== undefined) return vectors([own]);
  for (const suffix of [".string_to_param.*", `.${key}`]) {
    const bundled = [...file.tensors]
      .filter(([name]) => name.startsWith("bundle_emb.") && name.endsWith(suffix))
      .map(([, tensor]) => tensor);
    if (bundled.length > 0) return vectors(bundled);
  }
  const first = file.tensors.values().next().value;
  return first === undefined ? undefined : vectors([first]);
}

function vectors(tensors: readonly Tensor[]): FloatTensor {
  const parts = tensors.map(toFloat);
  const width = parts[0]?.shape.at(-1) ?? 0;
  const shapes = parts.map(({ shape }) => `[${shape.join(", ")}]`).join(" and ");
  const isList = parts.every(
    ({ shape }) => shape.length >= 1 && shape.length <= 2 && shape.at(-1) === width,
  );
  if (!isList || width === 0) {
    throw new LunaError("TENSOR_MALFORMED", `An embedding is ${shapes}; vectors [n, width] are.`);
  }
  const count = parts.reduce((sum, { data }) => sum + data.length / width, 0);
  if (count > EMBEDDING_VECTORS_MAX) {
    throw new LunaError(
      "LIMIT_EXCEEDED",
      `An embedding has ${count} vectors, limit ${EMBEDDING_VECTORS_MAX}.`,
    );
  }
  const data = new Float32Array(count * width);
  let at = 0;
  for (const part of parts) {
    data.set(part.data, at);
    at += part.data.length;
  }
  return { shape: [count, width], data };
}
