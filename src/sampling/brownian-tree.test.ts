import fc from "fast-check";
import { expect, test } from "vitest";
import { BrownianTree } from "./brownian-tree.ts";

const RANGE = { start: 0.0291675, end: 14.614642, size: 24 };
const time = fc.double({ min: RANGE.start, max: RANGE.end, noNaN: true });

test("increments do not depend on what was asked before", () => {
  const property = fc.property(fc.array(fc.tuple(time, time), { maxLength: 4 }), (others) => {
    const asked = new BrownianTree(5, RANGE);
    for (const [a, b] of others) asked.increment(Math.min(a, b), Math.max(a, b));
    expect(asked.increment(1.25, 3.5)).toEqual(new BrownianTree(5, RANGE).increment(1.25, 3.5));
  });
  fc.assert(property, { numRuns: 30 });
});

test("increments of neighbouring intervals add up", () => {
  const tree = new BrownianTree(6, RANGE);
  const property = fc.property(time, time, time, (...times) => {
    const [a = 0, b = 0, c = 0] = times.sort((first, second) => first - second);
    const whole = tree.increment(a, c);
    const [left, right] = [tree.increment(a, b), tree.increment(b, c)];
    for (const [index, value] of whole.entries()) {
      expect((left[index] ?? 0) + (right[index] ?? 0)).toBeCloseTo(value, 4);
    }
  });
  fc.assert(property, { numRuns: 50 });
});

test("an empty interval has no increment, and times are held to the range", () => {
  const tree = new BrownianTree(7, RANGE);
  expect(tree.increment(2, 2)).toEqual(new Float32Array(24));
  expect(tree.increment(-5, 99)).toEqual(tree.increment(RANGE.start, RANGE.end));
});
