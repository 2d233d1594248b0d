/** Resizing and repeating of masks and latents, as ComfyUI does before sampling. */
import type { FloatTensor } from "../tensor/index.ts";
import { round, roundHalfEven } from "./float-math.ts";

export type Size = Readonly<{ height: number; width: number }>;
type Window = Size & Readonly<{ y: number; x: number }>;

/** Last two axes of a tensor. */
export function sizeOf(tensor: FloatTensor): Size {
  return { height: tensor.shape.at(-2) ?? 1, width: tensor.shape.at(-1) ?? 1 };
}

type Taps = Readonly<{ low: Int32Array; high: Int32Array; weight: Float32Array }>;

/** Source cells and weights of one axis: half-pixel centres, edges held. */
function tapsOf(from: number, to: number): Taps {
  const scale = round(from / to);
  const low = new Int32Array(to);
  const high = new Int32Array(to);
  const weight = new Float32Array(to);
  for (let index = 0; index < to; index++) {
    const source = Math.max(round(round(scale * (index + 0.5)) - 0.5), 0);
    const cell = Math.min(Math.floor(source), from - 1);
    low[index] = cell;
    high[index] = Math.min(cell + 1, from - 1);
    weight[index] = source - cell;
  }
  return { low, high, weight };
}

/** The largest centred window of the target's aspect. */
function centreWindow({ height, width }: Size, to: Size): Window {
  const aspect = width / height;
  const wanted = to.width / to.height;
  const x = aspect > wanted ? roundHalfEven((width - width * (wanted / aspect)) / 2) : 0;
  const y = aspect < wanted ? roundHalfEven((height - height * (aspect / wanted)) / 2) : 0;
  return { height: height - 2 * y, width: width - 2 * x, y, x };
}

/**
 * torch.nn.functional.interpolate(mode="bilinear") over the last two axes, after an optional crop
 * to the target's aspect. The tensor itself when nothing changes.
 */
export function resizeBilinear(tensor: FloatTensor, to: Size, crop?: "centre"): FloatTensor {
  const from = sizeOf(tensor);
  const window = crop === "centre" ? centreWindow(from, to) : { ...from, y: 0, x: 0 };
  if (from.height === to.height && from.width === to.width) return tensor;
  const rows = tapsOf(window.height, to.height);
  const columns = tapsOf(window.width, to.width);
  const planes = tensor.data.length / (from.height * from.width);
  const data = new Float32Array(planes * to.height * to.width);
  const { data: source } = tensor;
  let index = 0;
  for (let plane = 0; plane < planes; plane++) {
    const origin = (plane * from.height + window.y) * from.width + window.x;
    for (let row = 0; row < to.height; row++) {
      const top = origin + (rows.low[row] as number) * from.width;
      const bottom = origin + (rows.high[row] as number) * from.width;
      const down = rows.weight[row] as number;
      for (let column = 0; column < to.width; column++) {
        const left = columns.low[column] as number;
        const right = columns.high[column] as number;
        const across = columns.weight[column] as number;
        const upper =
          (source[top + left] as number) * (1 - across) + (source[top + right] as number) * across;
        const lower =
          (source[bottom + left] as number) * (1 - across) +
          (source[bottom + right] as number) * across;
        data[index++] = upper * (1 - down) + lower * down;
      }
    }
  }
  return { shape: [...tensor.shape.slice(0, -2), to.height, to.width], data };
}

/** Rows of a batch chosen by `rowAt`, which maps a new row to an old one. */
function pickRows(tensor: FloatTensor, batch: number, rowAt: (row: number) => number): FloatTensor {
  const [, ...rest] = tensor.shape;
  const length = tensor.data.length / (tensor.shape[0] ?? 1);
  const data = new Float32Array(batch * length);
  for (let row = 0; row < batch; row++) {
    const begin = rowAt(row) * length;
    data.set(tensor.data.subarray(begin, begin + length), row * length);
  }
  return { shape: [batch, ...rest], data };
}

/** Rows repeated in order, or cut, to fill a batch. */
export function repeatToBatch(tensor: FloatTensor, batch: number): FloatTensor {
  const rows = tensor.shape[0] ?? 1;
  return rows === batch ? tensor : pickRows(tensor, batch, (row) => row % rows);
}

/** Rows spread evenly over a batch, as frames of a video would be. */
export function spreadToBatch(tensor: FloatTensor, batch: number): FloatTensor {
  const rows = tensor.shape[0] ?? 1;
  if (rows === batch) return tensor;
  if (batch <= 1) return pickRows(tensor, batch, (row) => row);
  return pickRows(tensor, batch, (row) => {
    if (batch < rows) return Math.min(roundHalfEven((row * (rows - 1)) / (batch - 1)), rows - 1);
    return Math.min(Math.floor(((row + 0.5) * rows) / batch), rows - 1);
  });
}
