import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { SPARE_PIECES } from "./limits.ts";
import { SparePieces } from "./spare-pieces.ts";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function readyPieces(spares: SparePieces): Set<Float32Array> {
  const made = new Set<Float32Array>();
  const fill = vi.spyOn(Float32Array.prototype, "fill").mockImplementation(function (
    this: Float32Array,
  ) {
    made.add(this);
    return this;
  });
  spares.refill();
  vi.runAllTimers();
  fill.mockRestore();
  return made;
}

test("pieces are made ready up to the limit, taken once, and made again", () => {
  const spares = new SparePieces();
  const first = readyPieces(spares);
  expect(first.size).toBe(SPARE_PIECES);
  const taken = Array.from({ length: SPARE_PIECES + 1 }, () => spares.take());
  expect(new Set(taken).size).toBe(SPARE_PIECES + 1);
  expect(taken.filter((piece) => first.has(piece))).toHaveLength(SPARE_PIECES);
  expect(readyPieces(spares).size).toBe(SPARE_PIECES);
});

test("none is made while a file is read", () => {
  const spares = new SparePieces();
  spares.refill();
  spares.pause();
  expect(vi.getTimerCount()).toBe(0);
  spares.refill();
  expect(vi.getTimerCount()).toBe(1);
});
