/** Weights of a loaded net as its file has them, for adapters that depend on them. */
import { stat } from "node:fs/promises";
import type { WeightTable } from "../checkpoint/index.ts";
import { LunaError } from "../kernel/index.ts";
import { toFloat } from "../tensor/index.ts";
import { readRange } from "./model-folder.ts";

/** Names a file's content as far as its size and time do; `file` is another name of `path`. */
export async function fileKeyOf(file: string, path: string): Promise<string> {
  const { size, mtimeMs } = await stat(file);
  return `${path}@${size}-${mtimeMs}`;
}

/** Throws FILE_UNREADABLE when the file at `path` is not the one that was loaded any more. */
export async function expectUnchanged(path: string, fileKey: string): Promise<void> {
  const now = await fileKeyOf(path, path).catch(() => undefined);
  if (now === fileKey) return;
  throw new LunaError(
    "FILE_UNREADABLE",
    `${path} was replaced or removed since it was loaded: unload the model and load it again.`,
  );
}

/** Reads a layer's weight in float32, [outputs, inputs * kernel]. */
export function baseWeights(
  path: string,
  weights: WeightTable,
  fileKey: string,
): (layer: string) => Promise<Float32Array> {
  return async (layer) => {
    const ref = weights.get(`${layer}.weight`);
    if (ref === undefined) {
      throw new LunaError("LORA_MALFORMED", `The model's layer "${layer}" has no weight.`);
    }
    await expectUnchanged(path, fileKey);
    const bytes = await readRange(path, ref.begin, ref.end);
    const { data } = toFloat({ dtype: ref.dtype, shape: ref.shape, bytes });
    if (ref.isTransposed !== true) return data;
    const [rows = 0, columns = 0] = ref.shape;
    return data.map((_, i) => data[(i % columns) * rows + Math.floor(i / columns)] as number);
  };
}
