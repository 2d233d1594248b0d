/**
 * ComfyUI's bislerp: like bilinear, but two latent cells are mixed on the sphere, so that the
 * mixture keeps their length. First along the width, then along the height.
 */
import { type FloatTensor, floatTensor } from "../tensor/index.ts";
import { resample, type Size } from "./resample.ts";

/** Cosines this close to 1 or -1 have no usable angle. */
const PARALLEL = 1e-5;

/** Resizes [b, c, h, w]. */
export function bislerp(image: FloatTensor, to: Size): FloatTensor {
  const [batch = 1, channels = 1, height = 1, width = 1] = image.shape;
  const wide = slerpAxis(image.data, {
    outer: batch,
    channels,
    lines: height,
    length: width,
    to: to.width,
    // [b, c, line, i]
    index: (b, c, line, i, size) => ((b * channels + c) * height + line) * size + i,
  });
  const data = slerpAxis(wide, {
    outer: batch,
    channels,
    lines: to.width,
    length: height,
    to: to.height,
    // [b, c, i, line]
    index: (b, c, line, i, size) => ((b * channels + c) * size + i) * to.width + line,
  });
  return floatTensor([batch, channels, to.height, to.width], data);
}

type Axis = Readonly<{
  outer: number;
  channels: number;
  lines: number;
  length: number;
  to: number;
  index: (b: number, c: number, line: number, i: number, size: number) => number;
}>;

function slerpAxis(source: Float32Array, axis: Axis): Float32Array {
  const { outer, channels, lines, length, to, index } = axis;
  const { first, second, ratios } = mixture(length, to);
  const result = new Float32Array(outer * channels * lines * to);
  const [a, b] = [new Float32Array(channels), new Float32Array(channels)];
  for (let row = 0; row < outer; row++) {
    for (let line = 0; line < lines; line++) {
      for (let i = 0; i < to; i++) {
        for (let c = 0; c < channels; c++) {
          a[c] = source[index(row, c, line, first[i] ?? 0, length)] ?? 0;
          b[c] = source[index(row, c, line, second[i] ?? 0, length)] ?? 0;
        }
        const mixed = slerp(a, b, ratios[i] ?? 0);
        for (let c = 0; c < channels; c++) result[index(row, c, line, i, to)] = mixed[c] ?? 0;
      }
    }
  }
  return result;
}

/** Which two cells each new cell mixes: ComfyUI interpolates the cell numbers themselves. */
function mixture(length: number, to: number) {
  const places = (next: number) => {
    const numbers = Float32Array.from({ length }, (_, i) => Math.min(i + next, length - 1));
    return resample(floatTensor([1, length], numbers), { height: 1, width: to }, "bilinear").data;
  };
  const place = places(0);
  return {
    first: place.map(Math.floor),
    second: places(1).map(Math.floor),
    ratios: place.map((p) => p - Math.floor(p)),
  };
}

function slerp(a: Float32Array, b: Float32Array, ratio: number): ArrayLike<number> {
  const [lengthA, lengthB] = [Math.hypot(...a), Math.hypot(...b)];
  const unitA = a.map((v) => (lengthA === 0 ? 0 : v / lengthA));
  const unitB = b.map((v) => (lengthB === 0 ? 0 : v / lengthB));
  const cosine = unitA.reduce((sum, v, c) => sum + v * (unitB[c] ?? 0), 0);
  if (cosine > 1 - PARALLEL) return a;
  if (cosine < PARALLEL - 1) return a.map((v, c) => v * (1 - ratio) + (b[c] ?? 0) * ratio);
  const angle = Math.acos(cosine);
  const fromA = Math.sin((1 - ratio) * angle) / Math.sin(angle);
  const fromB = Math.sin(ratio * angle) / Math.sin(angle);
  const length = lengthA * (1 - ratio) + lengthB * ratio;
  return unitA.map((v, c) => (fromA * v + fromB * (unitB[c] ?? 0)) * length);
}
