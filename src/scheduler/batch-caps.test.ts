import fc from "fast-check";
import { expect, test } from "vitest";
import { BatchCaps } from "./batch-caps.ts";

type Device = Readonly<{
  msOf: (rows: number) => number;
  /** Rows that wait whenever all have been served. */
  waiting: number;
  rowsMax: number;
  /** What the machine makes of a run, 1 for nothing. */
  noise?: (nowMs: number) => number;
}>;

/** Serves rows in rounds; `spentMs` is what the same runs take on a quiet machine. */
function serve({ msOf, waiting, rowsMax, noise = () => 1 }: Device) {
  const caps = new BatchCaps();
  const sizes: number[] = [];
  let [nowMs, spentMs, rows] = [0, 0, 0];
  for (let left = waiting; rows < rowsMax; left = left || waiting) {
    const own = Math.min(left, caps.rowsFor("shape"));
    const ms = msOf(own) * noise(nowMs);
    left -= own;
    rows += own;
    nowMs += ms;
    spentMs += msOf(own);
    sizes.push(own);
    caps.record("shape", own, ms);
  }
  return { caps, sizes, cap: caps.status()[0]?.rows ?? 0, toAlone: spentMs / (rows * msOf(1)) };
}

/** mulberry32. */
function randomOf(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Each run takes 30 % more or less than it should, as in a browser beside a video call. */
const jitter = (seed: number) => {
  const random = randomOf(seed);
  return () => 0.7 + 0.6 * random();
};

/** Somebody else has the machine for half of each 4 s: runs take 2.5 times as long. */
const bursts = (seed: number) => {
  const [random, own] = [randomOf(seed), jitter(seed)];
  const shift = random() * 4000;
  return (nowMs: number) => own() * ((nowMs + shift) % 4000 < 2000 ? 2.5 : 1);
};

const anySeed = fc.integer({ min: 1, max: 1e9 });
const SEED = 5;
const RUNS = 15;

/** Rows together cost less, down to 1 / 1.3 at 16 rows. */
const gains = (rows: number) => (10 * rows) / (1 + 0.075 * Math.log2(rows));
const loses = (rows: number) => (rows === 1 ? 10 : 11 * rows);
const ties = (rows: number) => 10 * rows;

for (const [name, noise] of Object.entries({ jitter, bursts })) {
  test(`under ${name}, a gain of 1.3 is used to the full`, () => {
    let most = 0;
    const property = fc.property(anySeed, (seed) => {
      const { cap, toAlone } = serve({
        msOf: gains,
        waiting: 16,
        rowsMax: 8000,
        noise: noise(seed),
      });
      if (cap >= 16) most++;
      expect(toAlone).toBeLessThan(0.86);
    });
    fc.assert(property, { numRuns: RUNS, seed: SEED });
    expect(most / RUNS).toBeGreaterThan(0.8);
  });

  test(`under ${name}, a loss of 10 % ends at one row, and what finding out costs is bounded`, () => {
    let least = 0;
    const property = fc.property(anySeed, (seed) => {
      const { cap, toAlone } = serve({
        msOf: loses,
        waiting: 8,
        rowsMax: 8000,
        noise: noise(seed),
      });
      if (cap === 1) least++;
      expect(toAlone).toBeLessThan(1.08);
    });
    fc.assert(property, { numRuns: RUNS, seed: SEED });
    expect(least / RUNS).toBeGreaterThan(0.9);
  });

  test(`under ${name}, where rows gain nothing most runs are shared, at no cost`, () => {
    const property = fc.property(anySeed, fc.constantFrom(2, 4, 8, 16), (seed, waiting) => {
      const { sizes, toAlone } = serve({ msOf: ties, waiting, rowsMax: 2000, noise: noise(seed) });
      expect(toAlone).toBeCloseTo(1, 9);
      const shared = sizes.filter((rows) => rows > 1).reduce((sum, rows) => sum + rows, 0);
      expect(shared / 2000).toBeGreaterThan(0.3);
    });
    fc.assert(property, { numRuns: RUNS, seed: SEED });
  });
}

test("the first picture of four instances with two rows each is made in shared runs", () => {
  const { sizes } = serve({ msOf: ties, waiting: 8, rowsMax: 160, noise: jitter(1) });
  const shared = sizes.filter((rows) => rows > 2).reduce((sum, rows) => sum + rows, 0);
  expect(shared / 160).toBeGreaterThan(0.7);
});

test("a machine that changes its mind is followed", () => {
  const caps = new BatchCaps();
  const serveAs = (msOf: (rows: number) => number) => {
    for (let rows = 0; rows < 60_000; ) {
      const own = Math.min(16, caps.rowsFor("shape"));
      caps.record("shape", own, msOf(own));
      rows += own;
    }
    return caps.status()[0]?.rows;
  };
  expect(serveAs(loses)).toBe(1);
  expect(serveAs(gains)).toBeGreaterThanOrEqual(16);
  expect(serveAs(loses)).toBe(1);
});

test("a gain that ends is used up to its end", () => {
  const msOf = (rows: number) => 10 + Math.max(0, rows - 8) * 2;
  expect(serve({ msOf, waiting: 64, rowsMax: 4000 }).cap).toBe(8);
});

test("whatever a device's curve, the usual run costs no more than rows alone or half its size", () => {
  const curve = fc.array(fc.double({ min: 0.2, max: 1.2, noNaN: true }), {
    minLength: 5,
    maxLength: 5,
  });
  const property = fc.property(curve, (factors) => {
    const perRow = [10];
    for (const factor of factors) perRow.push((perRow.at(-1) ?? 1) * factor);
    const msOf = (rows: number) => rows * (perRow[Math.ceil(Math.log2(rows))] ?? 100);
    const { cap } = serve({ msOf, waiting: 32, rowsMax: 6000 });
    for (const less of [1, Math.max(1, cap / 2)]) {
      expect(msOf(cap) / cap).toBeLessThanOrEqual((msOf(less) / less) * 1.006);
    }
  });
  fc.assert(property, { numRuns: 50, seed: SEED });
});

test("what does not fit into memory is not tried again", () => {
  const { caps } = serve({ msOf: () => 10, waiting: 64, rowsMax: 1000 });
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

test("what a run will take is known from what rows took alone, on the safe side", () => {
  const { caps } = serve({ msOf: gains, waiting: 16, rowsMax: 4000 });
  for (const rows of [1, 16]) {
    const ms = caps.expectedMs("shape", rows) ?? 0;
    expect(ms / gains(rows)).toBeGreaterThan(0.95);
    expect(ms / gains(rows)).toBeLessThan(1.1);
  }
  expect(caps.expectedMs("other", 1)).toBeUndefined();
});
