import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { boxOfMask, isInside, multiplierOf, resolveArea } from "./areas.ts";

const SIZE = { height: 16, width: 12 };

test("fractions become cells, at least one, rounded half to even", () => {
  const area = { type: "fraction", height: 0.5, width: 0.01, y: 0.25, x: 0.375 } as const;
  expect(resolveArea(area, SIZE)).toEqual({ height: 8, width: 1, y: 4, x: 4 });
});

test("a mask's box is its non-zero part, at least eight cells a side", () => {
  const data = new Float32Array(2 * 16 * 12);
  data[3 * 12 + 2] = 0.5;
  data[16 * 12 + 14 * 12 + 5] = -1;
  expect(boxOfMask({ shape: [2, 16, 12], data })).toEqual({ height: 12, width: 8, y: 3, x: 2 });
  const empty = new Float32Array(16 * 12);
  expect(boxOfMask({ shape: [1, 16, 12], data: empty })).toEqual({
    height: 8,
    width: 8,
    y: 0,
    x: 0,
  });
});

test("an area fades in only at edges inside the latent", () => {
  const box = { height: 8, width: 12, y: 0, x: 0 };
  const { multiplier } = multiplierOf({ box, strength: 2 }, SIZE);
  const column = Array.from({ length: 8 }, (_, row) => multiplier?.[row * 12 + 5]);
  expect(column).toEqual([2, 2, 2, 2, 2, 2, 2, 1]);
});

test("an area is cut at the end of the latent and refused outside it", () => {
  const box = { height: 64, width: 64, y: 10, x: 5 };
  expect(multiplierOf({ box }, SIZE).box).toEqual({ height: 6, width: 7, y: 10, x: 5 });
  expect(() => multiplierOf({ box: { ...box, y: 16 } }, SIZE)).toThrow(LunaError);
  expect(() => multiplierOf({ box: { ...box, x: -1 } }, SIZE)).toThrow(/outside the latent/);
});

test("masks weigh by place, mask strength and strength", () => {
  const data = new Float32Array(16 * 12).fill(0.5);
  const mask = { shape: [1, 16, 12], data };
  const { multiplier } = multiplierOf({ mask, maskStrength: 0.5, strength: 4 }, SIZE);
  expect(new Set(multiplier)).toEqual(new Set([1]));
  expect(multiplierOf({}, SIZE).multiplier).toBeUndefined();
});

test("a box lies inside itself and inside larger ones only", () => {
  const box = { height: 4, width: 4, y: 2, x: 2 };
  expect(isInside(box, box)).toBe(true);
  expect(isInside(box, { height: 6, width: 6, y: 0, x: 0 })).toBe(true);
  expect(isInside(box, { height: 6, width: 3, y: 0, x: 2 })).toBe(false);
});
