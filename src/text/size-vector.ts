/**
 * SDXL's vector conditioning `y`: the pooled prompt and one sinusoidal embedding of 256 for each
 * number that described the training picture (Podell et al. 2023, section 2.2).
 */
import type { FloatTensor } from "../tensor/index.ts";

const EMBEDDING_WIDTH = 256;
const MAX_PERIOD = 10_000;

/** Pixels; all of them optional in a conditioning, `width` and `height` default to the picture's. */
export type SizeConditioning = Readonly<{
  width: number;
  height: number;
  cropWidth?: number;
  cropHeight?: number;
  targetWidth?: number;
  targetHeight?: number;
  aestheticScore?: number;
}>;

/** Aesthetic scores that the refiner was made for: what is wanted and what is not. */
const AESTHETIC_POSITIVE = 6;
const AESTHETIC_NEGATIVE = 2.5;

/** SDXL's `y` [1, pooled + 6 * 256]. */
export function sdxlVector(pooled: FloatTensor, size: SizeConditioning): FloatTensor {
  return joinNumbers(pooled, [
    size.height,
    size.width,
    size.cropHeight ?? 0,
    size.cropWidth ?? 0,
    size.targetHeight ?? size.height,
    size.targetWidth ?? size.width,
  ]);
}

/** The refiner's `y` [1, pooled + 5 * 256]. */
export function refinerVector(
  pooled: FloatTensor,
  size: SizeConditioning,
  isNegative: boolean,
): FloatTensor {
  const score = size.aestheticScore ?? (isNegative ? AESTHETIC_NEGATIVE : AESTHETIC_POSITIVE);
  return joinNumbers(pooled, [
    size.height,
    size.width,
    size.cropHeight ?? 0,
    size.cropWidth ?? 0,
    score,
  ]);
}

function joinNumbers(pooled: FloatTensor, numbers: readonly number[]): FloatTensor {
  const width = pooled.data.length;
  const data = new Float32Array(width + numbers.length * EMBEDDING_WIDTH);
  data.set(pooled.data);
  for (const [i, value] of numbers.entries()) {
    writeSinusoid(data.subarray(width + i * EMBEDDING_WIDTH), value);
  }
  return { shape: [1, data.length], data };
}

/** Cosines, then sines; frequencies in float32 as PyTorch has them. */
function writeSinusoid(target: Float32Array, value: number): void {
  const half = EMBEDDING_WIDTH / 2;
  const step = -Math.log(MAX_PERIOD);
  for (let i = 0; i < half; i++) {
    const exponent = Math.fround(Math.fround(step * i) / half);
    const angle = Math.fround(Math.fround(value) * Math.fround(Math.exp(exponent)));
    target[i] = Math.cos(angle);
    target[half + i] = Math.sin(angle);
  }
}
