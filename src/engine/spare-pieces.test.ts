import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { SPARE_PIECES_MAX } from "./limits.ts";
import { SparePieces } from "./spare-pieces.ts";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** Reads a file of so many pieces; how many were made ready after it. */
function read(spares: SparePieces, pieces: number): number {
  spares.begin();
  const taken = new Set(Array.from({ length: pieces }, () => spares.take()));
  expect(taken.size).toBe(pieces);
  spares.end();
  let made = 0;
  for (; vi.getTimerCount() > 0; made++) vi.runOnlyPendingTimers();
  return made;
}

test("as many pieces are ready as the largest file took, up to a limit", () => {
  const spares = new SparePieces();
  expect(read(spares, 0)).toBe(0);
  expect(read(spares, 2)).toBe(2);
  expect(read(spares, 1)).toBe(1);
  expect(read(spares, 3)).toBe(3);
  expect(read(spares, SPARE_PIECES_MAX + 1)).toBe(SPARE_PIECES_MAX);
});

test("a piece that was ready is handed out once", () => {
  const spares = new SparePieces();
  read(spares, 2);
  const handed = Array.from({ length: 3 }, () => spares.take());
  expect(new Set(handed).size).toBe(3);
});

test("none is made while a file is read", () => {
  const spares = new SparePieces();
  spares.begin();
  spares.take();
  spares.end();
  expect(vi.getTimerCount()).toBe(1);
  spares.begin();
  expect(vi.getTimerCount()).toBe(0);
  spares.end();
  expect(vi.getTimerCount()).toBe(1);
});
