import fc from "fast-check";
import { expect, test } from "vitest";
import { BatchCaps, type Kind } from "./batch-caps.ts";

type Device = Readonly<{
  msOf: (rows: number) => number;
  /** Rows that wait whenever all have been served. */
  waiting: number;
  rowsMax: number;
  kind?: Kind;
  /** What the machine makes of a run, 1 for nothing. */
  noise?: (nowMs: number) => number;
}>;

/** Requests of one row each. */
const ONE = { key: "shape", own: 1 };

/** Serves rows in rounds; `spentMs` is what the same runs take on a quiet machine. */
function serve({ msOf, waiting, rowsMax, noise = () => 1, kind = ONE }: Device) {
  const caps = new BatchCaps();
  const sizes: number[] = [];
  let [nowMs, spentMs, rows] = [0, 0, 0];
  for (let left = waiting; rows < rowsMax; left = left || waiting) {
    const own = Math.min(left, wholeRows(caps, kind));
    const ms = msOf(own) * noise(nowMs);
    left -= own;
    rows += own;
    nowMs += ms;
    spentMs += msOf(own);
    sizes.push(own);
    caps.record(kind, own, ms);
  }
  return { caps, sizes, cap: caps.status()[0]?.rows ?? 0, toAlone: spentMs / (rows * msOf(1)) };
}

/** As many whole requests as a run may have. */
const wholeRows = (caps: BatchCaps, kind: Kind): number =>
  caps.rowsFor(kind) - (caps.rowsFor(kind) % kind.own);

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
      const own = Math.min(16, caps.rowsFor(ONE));
      caps.record(ONE, own, msOf(own));
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
  caps.limit("shape", 8);
  expect(caps.rowsFor(ONE)).toBe(8);
  // A request of more rows is held to it too.
  expect([caps.rowsMost("shape"), caps.rowsFor({ key: "shape", own: 12 })]).toEqual([8, 8]);
  caps.limit("shape", 16);
  expect(caps.rowsMost("shape")).toBe(8);
  caps.limit("shape", 0);
  expect(caps.rowsFor(ONE)).toBe(1);
});

test("a run never has fewer rows than a request, and is compared with requests alone", () => {
  const anyKind = fc.integer({ min: 1, max: 8 }).map((own) => ({ key: "shape", own }));
  const property = fc.property(anyKind, fc.constantFrom(gains, loses, ties), (kind, msOf) => {
    const waiting = 4 * kind.own;
    const { caps, sizes, cap } = serve({ msOf, waiting, rowsMax: 600 * kind.own, kind });
    expect(sizes.every((rows) => rows >= kind.own && rows % kind.own === 0)).toBe(true);
    expect(caps.rowsFor(kind)).toBeGreaterThanOrEqual(kind.own);
    // Whatever is slower, no trial keeps requests from sharing runs where that gains.
    if (msOf === gains) {
      const shared = sizes.filter((rows) => rows > kind.own).length / sizes.length;
      expect(cap <= kind.own || shared > 0.5).toBe(true);
    }
  });
  fc.assert(property, { seed: SEED });
});

test("two rows a request: a loss of 10 % ends at requests alone, a gain at full runs", () => {
  const kind = { key: "shape", own: 2 };
  const lossOver2 = (rows: number) => (rows <= 2 ? 10 * rows : 11 * rows);
  const options = { waiting: 16, rowsMax: 8000, kind };
  expect(serve({ ...options, msOf: lossOver2, noise: jitter(3) }).cap).toBe(2);
  expect(serve({ ...options, msOf: gains, noise: jitter(3) }).cap).toBeGreaterThanOrEqual(16);
});

test("fixed rows are not measured", () => {
  const caps = new BatchCaps(4);
  caps.record(ONE, 1, 100);
  expect(caps.rowsFor(ONE)).toBe(4);
  expect(caps.status()).toMatchObject([{ requestRows: 1, rows: 4, rowsPerSecond: {} }]);
});

test("what a run will take is known from what rows took alone, on the safe side", () => {
  const { caps } = serve({ msOf: gains, waiting: 16, rowsMax: 4000 });
  for (const rows of [1, 16]) {
    const ms = caps.expectedMs(ONE, rows) ?? 0;
    expect(ms / gains(rows)).toBeGreaterThan(0.95);
    expect(ms / gains(rows)).toBeLessThan(1.1);
  }
  expect(caps.expectedMs({ key: "other", own: 1 }, 1)).toBeUndefined();
});
