/**
 * A picture too large for one VAE call, in tiles that overlap and are blended. As ComfyUI's
 * tiled_scale does it: for an axis of length n, tiles of t and overlap o start at
 * p = 0, t - o, 2 (t - o), ... < n - o (only at 0 when n <= t), each min(t, n - p) long. A tile's
 * result is weighted by w(y) w(x), where along an axis of m result cells, with f = o * scale
 * feathered cells (none if f >= m),
 *   w(i) = min(1, (i + 1) / f) * min(1, (m - i) / f),
 * and the result is (sum of w * tile) / (sum of w). Lengths on the result's side are multiplied
 * by `scale` (8 for a decoder, 1/8 for an encoder) and rounded. ComfyUI's VAE nodes average three
 * such passes with tiles of different proportions; one is enough here, at a third of the time.
 */
import type { FloatTensor } from "../tensor/index.ts";

export type TileAxis = Readonly<{ begin: number; length: number }>;

/** Where the tiles of one axis lie. Requires 0 <= overlap < size. */
export function planTiles(length: number, size: number, overlap: number): TileAxis[] {
  if (length <= size) return [{ begin: 0, length }];
  const tiles: TileAxis[] = [];
  for (let begin = 0; begin < length - overlap; begin += size - overlap) {
    tiles.push({ begin, length: Math.min(size, length - begin) });
  }
  return tiles;
}

/** Weight of each of `length` result cells of a tile along one axis, `feather` cells on both ends. */
export function featherWeights(length: number, feather: number): Float32Array {
  const weights = new Float32Array(length).fill(1);
  if (feather >= length) return weights;
  for (let i = 0; i < feather; i++) {
    const weight = (i + 1) / feather;
    weights[i] = (weights[i] ?? 0) * weight;
    weights[length - 1 - i] = (weights[length - 1 - i] ?? 0) * weight;
  }
  return weights;
}

export type Tiling = Readonly<{
  /** Cells of a tile along both axes, and cells shared with the next, on the input's side. */
  size: number;
  overlap: number;
  /** Result cells per input cell along an axis. */
  scale: number;
}>;

/** Runs `compute` on each tile of `input` [rows, channels, height, width] and blends the results. */
export async function computeTiled(
  input: FloatTensor,
  tiling: Tiling,
  compute: (tile: FloatTensor) => Promise<FloatTensor>,
): Promise<FloatTensor> {
  const [rows = 0, , height = 0, width = 0] = input.shape;
  const scaled = (cells: number): number => Math.round(cells * tiling.scale);
  const [outHeight, outWidth] = [scaled(height), scaled(width)];
  if (height <= tiling.size && width <= tiling.size) return compute(input);
  const weightSum = new Float32Array(outHeight * outWidth);
  let sum: FloatTensor | undefined;
  for (const vertical of planTiles(height, tiling.size, tiling.overlap)) {
    for (const horizontal of planTiles(width, tiling.size, tiling.overlap)) {
      const tile = await compute(cropTile(input, vertical, horizontal));
      const channels = tile.shape[1] ?? 0;
      sum ??= {
        shape: [rows, channels, outHeight, outWidth],
        data: new Float32Array(rows * channels * outHeight * outWidth),
      };
      const place = { top: scaled(vertical.begin), left: scaled(horizontal.begin) };
      addTile(sum, weightSum, { tile, ...place, feather: scaled(tiling.overlap) });
    }
  }
  if (sum === undefined) return input;
  const { data, shape } = sum;
  for (let i = 0; i < data.length; i++) {
    data[i] = (data[i] ?? 0) / (weightSum[i % weightSum.length] ?? 1);
  }
  return { shape, data };
}

function cropTile(input: FloatTensor, vertical: TileAxis, horizontal: TileAxis): FloatTensor {
  const [rows = 0, channels = 0, height = 0, width = 0] = input.shape;
  const data = new Float32Array(rows * channels * vertical.length * horizontal.length);
  let offset = 0;
  for (let plane = 0; plane < rows * channels; plane++) {
    for (let y = 0; y < vertical.length; y++) {
      const begin = (plane * height + vertical.begin + y) * width + horizontal.begin;
      data.set(input.data.subarray(begin, begin + horizontal.length), offset);
      offset += horizontal.length;
    }
  }
  return { shape: [rows, channels, vertical.length, horizontal.length], data };
}

/** Adds a weighted tile to `sum`, and its weights to `weightSum`, which all planes share. */
function addTile(
  sum: FloatTensor,
  weightSum: Float32Array,
  part: Readonly<{ tile: FloatTensor; top: number; left: number; feather: number }>,
): void {
  const { tile, top, left, feather } = part;
  const [rows = 0, channels = 0, height = 0, width = 0] = tile.shape;
  const [, , outHeight = 0, outWidth = 0] = sum.shape;
  const vertical = featherWeights(height, feather);
  const horizontal = featherWeights(width, feather);
  for (let plane = 0; plane < rows * channels; plane++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const weight = (vertical[y] ?? 0) * (horizontal[x] ?? 0);
        const cell = (top + y) * outWidth + left + x;
        const at = plane * outHeight * outWidth + cell;
        const value = tile.data[(plane * height + y) * width + x] ?? 0;
        sum.data[at] = (sum.data[at] ?? 0) + weight * value;
        if (plane === 0) weightSum[cell] = (weightSum[cell] ?? 0) + weight;
      }
    }
  }
}
