import fc from "fast-check";
import { expect, test } from "vitest";
import { repeatToBatch, resizeBilinear, spreadToBatch } from "./resize.ts";

const rows = (...values: number[]) => ({
  shape: [values.length, 1, 1, 1],
  data: Float32Array.from(values),
});

test("a picture of its own size is not touched, a constant one stays constant", () => {
  const side = fc.integer({ min: 1, max: 20 });
  const property = fc.property(side, side, side, side, (height, width, toHeight, toWidth) => {
    const tensor = { shape: [1, height, width], data: new Float32Array(height * width).fill(0.75) };
    const resized = resizeBilinear(tensor, { height: toHeight, width: toWidth }, "centre");
    expect(resized.shape).toEqual([1, toHeight, toWidth]);
    for (const value of resized.data) expect(value).toBeCloseTo(0.75, 6);
    expect(resizeBilinear(tensor, { height, width })).toBe(tensor);
  });
  fc.assert(property);
});

test("halving averages the two cells beside each new centre", () => {
  const tensor = { shape: [1, 1, 4], data: Float32Array.of(0, 1, 2, 4) };
  expect([...resizeBilinear(tensor, { height: 1, width: 2 }).data]).toEqual([0.5, 3]);
});

test("batches repeat in order or spread evenly", () => {
  expect([...repeatToBatch(rows(1, 2), 5).data]).toEqual([1, 2, 1, 2, 1]);
  expect([...repeatToBatch(rows(1, 2, 3), 2).data]).toEqual([1, 2]);
  expect([...spreadToBatch(rows(1, 2), 4).data]).toEqual([1, 1, 2, 2]);
  expect([...spreadToBatch(rows(1, 2, 3, 4, 5), 3).data]).toEqual([1, 3, 5]);
  expect([...spreadToBatch(rows(1, 2, 3), 1).data]).toEqual([1]);
});
