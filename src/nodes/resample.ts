/**
 * Resizing of planes as torch.nn.functional.interpolate does it (align_corners false, no
 * antialiasing), one axis after the other: each output cell is a weighted sum of input cells.
 */
import { type FloatTensor, floatTensor } from "../tensor/index.ts";

export type Size = Readonly<{ height: number; width: number }>;
export type ResampleMethod = "nearest-exact" | "bilinear" | "area" | "bicubic";

/** For each output cell `count` source cells and their weights; unused ones weigh 0. */
type Taps = Readonly<{ count: number; cells: Int32Array; weights: Float32Array }>;

/** Keys' cubic with a = -0.75, as PyTorch and OpenCV have it. */
const CUBIC = -0.75;

/** Resizes the last two axes of [..., h, w]. */
export function resample(image: FloatTensor, to: Size, method: ResampleMethod): FloatTensor {
  const [height = 1, width = 1] = image.shape.slice(-2);
  const across = transform(image.data, { length: width, taps: tapsOf(width, to.width, method) });
  const turned = transpose(across, { height, width: to.width });
  const down = transform(turned, { length: height, taps: tapsOf(height, to.height, method) });
  const data = transpose(down, { height: to.width, width: to.height });
  return floatTensor([...image.shape.slice(0, -2), to.height, to.width], data);
}

/** Applies taps to every run of `length` values. */
function transform(
  source: Float32Array,
  { length, taps }: { length: number; taps: Taps },
): Float32Array {
  const { count, cells, weights } = taps;
  const size = cells.length / count;
  const lines = source.length / length;
  const result = new Float32Array(lines * size);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < size; i++) {
      let sum = 0;
      for (let tap = i * count; tap < (i + 1) * count; tap++) {
        sum += (source[line * length + (cells[tap] ?? 0)] ?? 0) * (weights[tap] ?? 0);
      }
      result[line * size + i] = sum;
    }
  }
  return result;
}

/** Swaps the axes of every plane. */
function transpose(planes: Float32Array, { height, width }: Size): Float32Array {
  const result = new Float32Array(planes.length);
  const cells = height * width;
  for (let begin = 0; begin < planes.length; begin += cells) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        result[begin + x * height + y] = planes[begin + y * width + x] ?? 0;
      }
    }
  }
  return result;
}

function tapsOf(from: number, to: number, method: ResampleMethod): Taps {
  // PyTorch computes the scale and the positions in float32, and rounding decides nearest cells.
  const scale = Math.fround(from / to);
  const last = from - 1;
  const pairs = (i: number): (readonly [number, number])[] => {
    switch (method) {
      case "nearest-exact":
        return [[Math.floor(Math.fround(Math.fround(i + 0.5) * scale)), 1]];
      case "bilinear": {
        const place = Math.max(Math.fround(Math.fround(scale * (i + 0.5)) - 0.5), 0);
        const cell = Math.min(Math.floor(place), last);
        return [
          [cell, 1 - (place - cell)],
          [cell + 1, place - cell],
        ];
      }
      case "bicubic":
        return cubicTaps(Math.fround(Math.fround(scale * (i + 0.5)) - 0.5));
      case "area": {
        const begin = Math.floor((i * from) / to);
        const end = Math.ceil(((i + 1) * from) / to);
        return Array.from({ length: end - begin }, (_, k) => [begin + k, 1 / (end - begin)]);
      }
    }
  };
  const all = Array.from({ length: to }, (_, i) => pairs(i));
  const count = all.reduce((most, taps) => Math.max(most, taps.length), 1);
  const cells = new Int32Array(to * count);
  const weights = new Float32Array(to * count);
  for (const [i, taps] of all.entries()) {
    for (const [k, [cell, weight]] of taps.entries()) {
      cells[i * count + k] = Math.min(Math.max(cell, 0), last);
      weights[i * count + k] = weight;
    }
  }
  return { count, cells, weights };
}

function cubicTaps(place: number): (readonly [number, number])[] {
  const cell = Math.floor(place);
  const t = place - cell;
  const near = (x: number) => ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1;
  const far = (x: number) => ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC;
  return [
    [cell - 1, far(t + 1)],
    [cell, near(t)],
    [cell + 1, near(1 - t)],
    [cell + 2, far(2 - t)],
  ];
}
