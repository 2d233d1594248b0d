import fc from "fast-check";
import { expect, test } from "vitest";
import { BatchCaps } from "./batch-caps.ts";

/** Serves `waiting` rows again and again on a device whose runs take `msOf(rows)`. */
function serve(msOf: (rows: number) => number, waiting: number, runs: number) {
  const caps = new BatchCaps();
  const sizes: number[] = [];
  for (let run = 0; run < runs; run++) {
    const rows = Math.min(waiting, caps.rowsFor("shape"));
    sizes.push(rows);
    caps.record("shape", rows, msOf(rows));
  }
  return { caps, sizes };
}
const usual = (sizes: readonly number[]) =>
  sizes.slice(-100).toSorted((a, b) => a - b)[Math.floor(sizes.length > 100 ? 50 : 0)];

test("a device that gains from rows gets them, up to where the gain ends", () => {
  const { sizes } = serve((rows) => 10 + Math.max(0, rows - 8) * 2, 64, 400);
  expect(usual(sizes)).toBe(8);
  expect(Math.max(...sizes)).toBe(16);
});

test("a device that gains nothing runs one row at a time, and loses little by looking", () => {
  const msOf = (rows: number) => 10 * rows + (rows - 1);
  const { sizes } = serve(msOf, 64, 1000);
  expect(usual(sizes)).toBe(1);
  const spent = sizes.reduce((sum, rows) => sum + msOf(rows), 0);
  const alone = sizes.reduce((sum, rows) => sum + rows * msOf(1), 0);
  expect(spent / alone).toBeLessThan(1.01);
});

test("what does not fit into memory is not tried again", () => {
  const { caps } = serve(() => 10, 64, 100);
  caps.limit("shape", 16);
  expect(caps.rowsFor("shape")).toBe(8);
  caps.limit("shape", 1);
  expect(caps.rowsFor("shape")).toBe(1);
});

test("fixed rows are not measured", () => {
  const caps = new BatchCaps(4);
  caps.record("shape", 1, 100);
  expect(caps.rowsFor("shape")).toBe(4);
  expect(caps.status()).toMatchObject([{ rows: 4, rowsPerSecond: {} }]);
});

test("whatever a device's curve, the usual run is within the margin of its best", () => {
  const curve = fc.array(fc.double({ min: 0.2, max: 1.2, noNaN: true }), {
    minLength: 5,
    maxLength: 5,
  });
  const property = fc.property(curve, (factors) => {
    const perRow = [10];
    for (const factor of factors) perRow.push((perRow.at(-1) ?? 1) * factor);
    const msOf = (rows: number) => rows * (perRow[Math.ceil(Math.log2(rows))] ?? 100);
    const rows = usual(serve(msOf, 32, 300).sizes) ?? 0;
    // Levels are tried one after another: a gain behind a loss is not looked for.
    expect(msOf(rows) / rows).toBeLessThanOrEqual(msOf(1) * 1.031);
  });
  fc.assert(property, { numRuns: 50 });
});
