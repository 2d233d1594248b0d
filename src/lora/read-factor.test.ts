import fc from "fast-check";
import { expect, test } from "vitest";
import { FACTOR_PIECE_BYTES } from "./limits.ts";
import { FactorMemory, readFactor, readTransposed } from "./read-factor.ts";

const PIECE = FACTOR_PIECE_BYTES / 4;
const bytesHeld = (views: readonly Float32Array[]) =>
  [...new Set(views.map(({ buffer }) => buffer))].reduce((sum, each) => sum + each.byteLength, 0);
const sum = (counts: readonly number[]) => counts.reduce((total, each) => total + each, 0);

test("factors that fill no piece take what they need", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: Math.floor(PIECE / 20) }), { maxLength: 20 }),
      (counts) => {
        const memory = new FactorMemory(sum(counts), () => expect.unreachable());
        const views = counts.map((count) => memory.take(count));
        expect(views.map(({ length }) => length)).toEqual(counts);
        expect(bytesHeld(views)).toBe(4 * sum(counts));
      },
    ),
  );
});

test("no two factors share a value, and pieces have little room left over", () => {
  const count = fc.oneof(fc.integer({ min: 1, max: PIECE / 4 }), fc.constant(PIECE + 1));
  fc.assert(
    fc.property(fc.array(count, { maxLength: 12 }), (counts) => {
      const memory = new FactorMemory(sum(counts));
      const views = counts.map((each, n) => memory.take(each).fill(n));
      expect(views.every((view, n) => view[0] === n && view.at(-1) === n)).toBe(true);
      expect(views.map(({ length }) => length)).toEqual(counts);
      const small = views.filter(({ length }) => length <= PIECE);
      expect(bytesHeld(small)).toBeLessThanOrEqual((4 / 3) * 4 * sum(counts) + FACTOR_PIECE_BYTES);
    }),
    { numRuns: 20 },
  );
});

test("whole pieces come from where they are ready, larger factors do not", () => {
  const ready = new Float32Array(PIECE);
  const memory = new FactorMemory(2 * PIECE + 2, () => ready);
  expect(memory.take(PIECE + 1).buffer.byteLength).toBe(4 * (PIECE + 1));
  expect(memory.take(2).buffer).toBe(ready.buffer);
  expect(memory.take(PIECE - 2).buffer).toBe(ready.buffer);
  expect(memory.take(1).buffer.byteLength).toBe(4);
});

test("a factor of NaN or infinity is none, nor one whose product overflows", () => {
  const memory = new FactorMemory(100);
  const tensor = (code: number) => ({
    dtype: "BF16" as const,
    shape: [1, 2],
    bytes: new Uint8Array(Uint16Array.of(0x3f80, code).buffer),
  });
  const largest = 0x7f7f;
  expect(readFactor(tensor(largest), memory)?.[0]).toBe(1);
  expect(readFactor(tensor(0x7f80), memory)).toBeUndefined();
  expect(readTransposed(tensor(largest), [1, 2], { factor: 0.5, memory })?.[0]).toBe(0.5);
  expect(readTransposed(tensor(0xffc0), [1, 2], { factor: 0.5, memory })).toBeUndefined();
  expect(readTransposed(tensor(largest), [1, 2], { factor: 2, memory })).toBeUndefined();
});
