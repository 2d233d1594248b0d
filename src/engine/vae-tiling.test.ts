import fc from "fast-check";
import { expect, test } from "vitest";
import type { FloatTensor } from "../tensor/index.ts";
import { computeTiled, featherWeights, planTiles } from "./vae-tiling.ts";

const image = (height: number, width: number, channels = 2): FloatTensor => ({
  shape: [1, channels, height, width],
  data: Float32Array.from({ length: channels * height * width }, (_, i) => Math.sin(i)),
});

/** Each cell repeated `scale` times along both axes. */
function enlarge({ shape, data }: FloatTensor, scale: number): FloatTensor {
  const [rows = 0, channels = 0, height = 0, width = 0] = shape;
  const out = new Float32Array(data.length * scale * scale);
  for (let i = 0; i < out.length; i++) {
    const x = Math.floor((i % (width * scale)) / scale);
    const y = Math.floor((Math.floor(i / (width * scale)) % (height * scale)) / scale);
    const plane = Math.floor(i / (width * height * scale * scale));
    out[i] = data[(plane * height + y) * width + x] ?? 0;
  }
  return { shape: [rows, channels, height * scale, width * scale], data: out };
}

test("tiles cover an axis, overlap as asked, and fit", () => {
  const sizes = fc.integer({ min: 2, max: 20 }).chain((size) =>
    fc.record({
      size: fc.constant(size),
      overlap: fc.integer({ min: 0, max: size - 1 }),
      length: fc.integer({ min: 1, max: 100 }),
    }),
  );
  const property = fc.property(sizes, ({ length, size, overlap }) => {
    const tiles = planTiles(length, size, overlap);
    const covered = new Set(
      tiles.flatMap((tile) => Array.from({ length: tile.length }, (_, i) => tile.begin + i)),
    );
    expect(covered.size).toBe(length);
    expect(tiles.every((tile) => tile.length <= size)).toBe(true);
  });
  fc.assert(property);
  expect(planTiles(10, 4, 1)).toEqual([
    { begin: 0, length: 4 },
    { begin: 3, length: 4 },
    { begin: 6, length: 4 },
  ]);
});

test("weights rise from both ends over the feather", () => {
  expect([...featherWeights(6, 2)]).toEqual([0.5, 1, 1, 1, 1, 0.5]);
  expect([...featherWeights(3, 3)]).toEqual([1, 1, 1]);
});

test("what acts on cells alone is the same in tiles as in one piece", async () => {
  const input = image(13, 17);
  const tiling = { size: 6, overlap: 2, scale: 2 };
  const tiled = await computeTiled(input, tiling, async (tile) => enlarge(tile, 2));
  const whole = enlarge(input, 2);
  expect(tiled.shape).toEqual(whole.shape);
  for (const [i, value] of whole.data.entries()) expect(tiled.data[i]).toBeCloseTo(value, 5);
});

test("an input of one tile is computed in one piece", async () => {
  let calls = 0;
  const input = image(4, 6);
  const result = await computeTiled(input, { size: 6, overlap: 2, scale: 1 }, async (tile) => {
    calls++;
    return tile;
  });
  expect([result, calls]).toEqual([input, 1]);
});

test("tiles that differ are blended as ComfyUI's tiled_scale blends them", async () => {
  // comfy.utils.tiled_scale(x, lambda t: t - t.mean(), 4, 4, overlap=2, upscale_amount=1,
  // out_channels=1) of x[i] = i over 5 x 6 cells, ComfyUI 0.18.1.
  const input = { shape: [1, 1, 5, 6], data: Float32Array.from({ length: 30 }, (_, i) => i) };
  const result = await computeTiled(input, { size: 4, overlap: 2, scale: 1 }, async (tile) => {
    const mean = tile.data.reduce((sum, value) => sum + value, 0) / tile.data.length;
    return { shape: tile.shape, data: tile.data.map((value) => value - mean) };
  });
  expect([...result.data].map((value) => Number(value.toFixed(4)))).toEqual(EXPECTED);
});

const EXPECTED: readonly number[] = [
  -10.5, -9.5, -9.1667, -8.8333, -8.5, -7.5, -4.5, -3.5, -3.1667, -2.8333, -2.5, -1.5, -1.5, -0.5,
  -0.1667, 0.1667, 0.5, 1.5, 1.5, 2.5, 2.8333, 3.1667, 3.5, 4.5, 4.5, 5.5, 5.8333, 6.1667, 6.5, 7.5,
];
