import fc from "fast-check";
import { expect, test } from "vitest";
import { ByteBudget, ByteCache } from "./byte-budget.ts";

const sized = (budget: ByteBudget) => new ByteCache<number>(budget, (bytes) => bytes);

test("what a run uses stays until the next one begins, even beyond the budget", () => {
  const budget = new ByteBudget(100);
  const cache = sized(budget);
  budget.startRun();
  for (const key of ["a", "b", "c"]) cache.set(key, 60);
  expect(cache.keys()).toEqual(["a", "b", "c"]);
  budget.startRun();
  expect(budget.facts).toEqual({ entries: 1, bytes: 60 });
});

test("caches share one budget, and each is told what it loses", () => {
  const budget = new ByteBudget(100);
  const lost: string[] = [];
  const first = new ByteCache<number>(
    budget,
    (bytes) => bytes,
    (_, key) => lost.push(key),
  );
  const second = sized(budget);
  budget.startRun();
  first.set("a", 60);
  budget.startRun();
  second.set("b", 60);
  expect(lost).toEqual(["a"]);
  expect(first.get("a")).toBeUndefined();
  expect(second.get("b")).toBe(60);
});

test("a limit that shrinks is kept at the next trim", () => {
  let limit = 100;
  const budget = new ByteBudget(() => limit);
  const cache = sized(budget);
  cache.set("a", 60);
  limit = 50;
  budget.startRun();
  expect(cache.size).toBe(0);
});

test("what is used by turns, more than fits, is found about as often as it fits", () => {
  const hitsOf = (fits: number, active: number): number => {
    const budget = new ByteBudget(fits);
    const cache = sized(budget);
    let hits = 0;
    for (let n = 0; n < active * 40; n++) {
      budget.startRun();
      const key = String(n % active);
      if (cache.get(key) !== undefined) hits += n >= active * 20 ? 1 : 0;
      else cache.set(key, 1);
    }
    return hits / (active * 20);
  };
  expect(hitsOf(100, 100)).toBe(1);
  const shares = [105, 110, 125, 150, 200].map((active) => hitsOf(100, active));
  // One more than fits costs some hits, not all of them.
  expect(shares[0]).toBeGreaterThan(0.85);
  expect(shares.at(-1)).toBeGreaterThan(0.15);
  expect(shares).toEqual(shares.toSorted((a, b) => b - a));
});

test("what nobody uses any more goes before what is used", () => {
  const budget = new ByteBudget(10);
  const cache = sized(budget);
  for (let n = 0; n < 5; n++) cache.set(`old ${n}`, 1);
  for (let turn = 0; turn < 100; turn++) {
    for (let n = 0; n < 5; n++) {
      budget.startRun();
      if (cache.get(`new ${n}`) === undefined) cache.set(`new ${n}`, 1);
    }
  }
  for (let n = 0; n < 5; n++) {
    budget.startRun();
    cache.set(`newer ${n}`, 1);
  }
  expect(cache.keys().filter((key) => key.startsWith("old"))).toEqual([]);
});

test("the bytes are those of what is there, whatever happens", () => {
  const step = fc.record({ key: fc.constantFrom("a", "b", "c", "d"), bytes: fc.nat(80) });
  fc.assert(
    fc.property(fc.array(step), fc.nat(100), (steps, limit) => {
      const budget = new ByteBudget(limit);
      const cache = sized(budget);
      for (const { key, bytes } of steps) {
        budget.startRun();
        if (bytes % 3 === 0) cache.delete(key);
        else cache.set(key, bytes);
        const held = cache.keys().map((each) => cache.get(each) ?? 0);
        expect(budget.facts).toEqual({
          entries: held.length,
          bytes: held.reduce((sum, each) => sum + each, 0),
        });
        expect(budget.facts.bytes).toBeLessThanOrEqual(Math.max(limit, bytes));
      }
    }),
  );
});
