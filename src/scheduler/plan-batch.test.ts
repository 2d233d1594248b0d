import fc from "fast-check";
import { expect, test } from "vitest";
import type { Job, Range } from "./job.ts";
import { commonTokens, planBatch, without } from "./plan-batch.ts";

type TestEntry = { job: Job; ranges: readonly Range[] };
const entry = (rows: number, extra: Partial<Job> = {}): TestEntry => ({
  job: { batchKey: "a", rows, rowsMax: 8, client: "c", rowCost: 1, ...extra },
  ranges: [{ begin: 0, rows }],
});
const any = () => Number.POSITIVE_INFINITY;
const all = { rowsMost: any, rowsFor: any };
const rowsOf = (entries: readonly TestEntry[], limits: Partial<typeof all> = {}) =>
  planBatch(entries, { ...all, ...limits }).map((slice) => [
    entries.indexOf(slice.entry),
    slice.range.rows,
  ]);

test("an empty queue has no batch", () => {
  expect(planBatch([], all)).toEqual([]);
});

test("jobs of other keys are passed over, not waited for", () => {
  expect(rowsOf([entry(2), entry(2, { batchKey: "b" }), entry(2)])).toEqual([
    [0, 2],
    [2, 2],
  ]);
});

test("a job too large for any run is cut where it may be, and runs alone where not", () => {
  expect(rowsOf([entry(12), entry(1)])).toEqual([[0, 12]]);
  expect(rowsOf([entry(12, { isSplittable: true }), entry(1)])).toEqual([[0, 8]]);
  expect(rowsOf([entry(12, { isSplittable: true })], { rowsMost: () => 1 })).toEqual([[0, 1]]);
});

test("a job that fits is not cut, neither for what runs gain from nor to fill a run", () => {
  const large = { isSplittable: true };
  expect(rowsOf([entry(4, large), entry(1)], { rowsFor: () => 1 })).toEqual([[0, 4]]);
  expect(rowsOf([entry(1), entry(4, large)], { rowsFor: () => 4 })).toEqual([[0, 1]]);
  expect(rowsOf([entry(1), entry(12, large)])).toEqual([[0, 1]]);
});

test("a job that fits no more is left whole, smaller ones behind it join", () => {
  const small = { isSplittable: true };
  expect(rowsOf([entry(6, small), entry(4, small), entry(2, small)])).toEqual([
    [0, 6],
    [2, 2],
  ]);
});

test("contexts join where a common length costs little", () => {
  expect([commonTokens(77, 154), commonTokens(154, 231), commonTokens(231, 308)]).toEqual([
    154,
    462,
    undefined,
  ]);
  const lengths = [77, 154, 100, 77];
  expect(rowsOf(lengths.map((tokens) => entry(1, { tokens })))).toEqual([
    [0, 1],
    [1, 1],
    [3, 1],
  ]);
});

const anyEntry = fc
  .record({
    rows: fc.integer({ min: 1, max: 20 }),
    batchKey: fc.constantFrom("a", "b"),
    isSplittable: fc.boolean(),
    tokens: fc.constantFrom(77, 154, 231),
  })
  .map(({ rows, ...extra }) => entry(rows, extra));

test("a run begins with the first, has one key, and cuts only what fits into no run", () => {
  const property = fc.property(
    fc.array(anyEntry, { minLength: 1 }),
    fc.integer({ min: 1, max: 16 }),
    (entries, cap) => {
      const slices = planBatch(entries, { rowsMost: any, rowsFor: () => cap });
      expect(slices[0]?.entry).toBe(entries[0]);
      expect(new Set(slices.map(({ entry: { job } }) => job.batchKey)).size).toBe(1);
      const rows = slices.reduce((sum, { range }) => sum + range.rows, 0);
      const fits = rows <= (slices.length === 1 ? 8 : Math.min(8, cap));
      expect(fits || (slices.length === 1 && !entries[0]?.job.isSplittable)).toBe(true);
      const places = slices.map((slice) => entries.indexOf(slice.entry));
      expect(places).toEqual([...new Set(places)].sort((a, b) => a - b));
      for (const { entry: own, range } of slices) {
        const left = without(own.ranges, range).reduce((sum, each) => sum + each.rows, 0);
        expect(left).toBe(own.job.rows - range.rows);
        expect(left === 0 || own.job.rows > 8).toBe(true);
      }
    },
  );
  fc.assert(property);
});
