/**
 * Lanczos resizing of 8-bit pictures as Pillow does it, to the bit: weights in fixed point, the
 * horizontal pass rounded to bytes before the vertical one. (Pillow 13 turns the passes round for
 * some sizes that shrink in height, which moves a few pixels by rounding and cut-off overshoot.)
 */
import { type FloatTensor, floatTensor } from "../tensor/index.ts";
import type { Size } from "./resample.ts";

const SUPPORT = 3;
/** Bits after the point: 32 less 8 of the pixel and 2 for negative lobes and overshoot. */
const PRECISION_BITS = 22;

type Window = Readonly<{ begin: number; weights: Int32Array }>;

/** Resizes planes [b, c, h, w] of 0..1; values are cut to 8 bits first, as ComfyUI does. */
export function resampleLanczos(image: FloatTensor, to: Size): FloatTensor {
  const [batch = 1, channels = 1, height = 1, width = 1] = image.shape;
  const bytes = Uint8Array.from(image.data, (v) =>
    Math.trunc(Math.min(Math.max(Math.fround(v * 255), 0), 255)),
  );
  const columns = windowsOf(width, to.width);
  const rows = windowsOf(height, to.height);
  const data = new Float32Array(batch * channels * to.height * to.width);
  for (let plane = 0; plane < batch * channels; plane++) {
    const source = bytes.subarray(plane * height * width, (plane + 1) * height * width);
    const across = new Uint8Array(height * to.width);
    for (let y = 0; y < height; y++) {
      for (const [x, window] of columns.entries()) {
        across[y * to.width + x] = convolve(source, window, { offset: y * width, step: 1 });
      }
    }
    for (const [y, window] of rows.entries()) {
      for (let x = 0; x < to.width; x++) {
        const value = convolve(across, window, { offset: x, step: to.width });
        data[(plane * to.height + y) * to.width + x] = value / 255;
      }
    }
  }
  return floatTensor([batch, channels, to.height, to.width], data);
}

function convolve(
  source: Uint8Array,
  { begin, weights }: Window,
  { offset, step }: { offset: number; step: number },
): number {
  let sum = 1 << (PRECISION_BITS - 1);
  for (let k = 0; k < weights.length; k++) {
    sum += (source[offset + (begin + k) * step] ?? 0) * (weights[k] ?? 0);
  }
  return Math.min(Math.max(sum >> PRECISION_BITS, 0), 255);
}

function windowsOf(from: number, to: number): Window[] {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = SUPPORT * stretch;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const begin = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), from);
    const raw = Array.from({ length: end - begin }, (_, k) =>
      lanczos((k + begin - centre + 0.5) * (1 / stretch)),
    );
    const total = raw.reduce((sum, weight) => sum + weight, 0);
    const fixed = raw.map((weight) => {
      const exact = (weight / total) * (1 << PRECISION_BITS);
      return Math.trunc(exact < 0 ? exact - 0.5 : exact + 0.5);
    });
    return { begin, weights: Int32Array.from(fixed) };
  });
}

function lanczos(x: number): number {
  if (x < -SUPPORT || x >= SUPPORT) return 0;
  return sinc(x) * sinc(x / SUPPORT);
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}
