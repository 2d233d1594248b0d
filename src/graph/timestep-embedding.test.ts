import { expect, test } from "vitest";
import { timestepEmbedding } from "./timestep-embedding.ts";

test("cosines come first, frequencies fall from 1 to about 1 / 10,000", () => {
  const [a, b, c, d] = timestepEmbedding(Float32Array.of(2.5), 4);
  expect(a).toBeCloseTo(Math.cos(2.5), 6);
  expect(b).toBeCloseTo(Math.cos(0.025), 6);
  expect(c).toBeCloseTo(Math.sin(2.5), 6);
  expect(d).toBeCloseTo(Math.sin(0.025), 6);
});

test("an odd width ends with a zero; each timestep has its row", () => {
  const rows = timestepEmbedding(Float32Array.of(0, -1.5), 5);
  expect([...rows.slice(0, 5)]).toEqual([1, 1, 0, 0, 0]);
  expect(rows[5]).toBeCloseTo(Math.cos(1.5), 6);
  expect(rows[7]).toBeCloseTo(-Math.sin(1.5), 6);
});
