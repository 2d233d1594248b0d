import { LunaError } from "../kernel/index.ts";
import { elementCount, type FloatTensor } from "../tensor/index.ts";
import { BATCH_INDEX_MAX } from "./limits.ts";
import { type Seed, TorchGenerator } from "./torch-generator.ts";

/**
 * Initial noise [b, c, h, w] of a seed, as comfy.sample.prepare_noise: one draw for the whole
 * batch, or, with `batchIndices`, row i is the draw number batchIndices[i] of single latents, so
 * that one picture of a batch can be made again alone. Throws REQUEST_INVALID.
 */
export function prepareNoise(
  shape: readonly number[],
  seed: Seed,
  batchIndices?: readonly number[],
): FloatTensor {
  const generator = new TorchGenerator(seed);
  if (!batchIndices) return { shape, data: generator.randn(elementCount(shape)) };
  for (const index of batchIndices) {
    if (Number.isInteger(index) && index >= 0 && index <= BATCH_INDEX_MAX) continue;
    throw new LunaError(
      "REQUEST_INVALID",
      `A batch index is ${index}: give a whole number from 0 to ${BATCH_INDEX_MAX}.`,
    );
  }
  const rest = shape.slice(1);
  const rowCount = elementCount(rest);
  const draws = Array.from({ length: Math.max(-1, ...batchIndices) + 1 }, () =>
    generator.randn(rowCount),
  );
  const data = new Float32Array(rowCount * batchIndices.length);
  for (const [row, index] of batchIndices.entries()) {
    data.set(draws[index] as Float32Array, row * rowCount);
  }
  return { shape: [batchIndices.length, ...rest], data };
}
