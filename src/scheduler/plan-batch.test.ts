import fc from "fast-check";
import { expect, test } from "vitest";
import { planBatch } from "./plan-batch.ts";

const job = (rows: number, batchKey = "a", rowsMax = 8) => ({ rows, batchKey, rowsMax });
const anyJob = fc
  .tuple(fc.integer({ min: 1, max: 12 }), fc.constantFrom("a", "b", "c"))
  .map(([rows, key]) => job(rows, key));

test("an empty queue has no batch", () => {
  expect(planBatch([])).toEqual([]);
});

test("jobs of other keys are passed over, not waited for", () => {
  const [a, b, c] = [job(2, "a"), job(2, "b"), job(2, "a")];
  expect(planBatch([a, b, c])).toEqual([a, c]);
});

test("a job larger than a batch runs alone", () => {
  const large = job(12);
  expect(planBatch([large, job(1)])).toEqual([large]);
});

test("nothing overtakes a job of its own key", () => {
  const [first, large, small] = [job(4), job(6), job(1)];
  expect(planBatch([first, large, small])).toEqual([first]);
});

test("a batch starts at the head, keeps one key and the order, and stays within its rows", () => {
  const property = fc.property(fc.array(anyJob, { minLength: 1 }), (queue) => {
    const batch = planBatch(queue);
    expect(batch[0]).toBe(queue[0]);
    expect(new Set(batch.map(({ batchKey }) => batchKey)).size).toBe(1);
    const places = batch.map((picked) => queue.indexOf(picked));
    expect(places).toEqual([...places].sort((a, b) => a - b));
    const rows = batch.reduce((sum, picked) => sum + picked.rows, 0);
    expect(batch.length === 1 || rows <= 8).toBe(true);
  });
  fc.assert(property);
});
