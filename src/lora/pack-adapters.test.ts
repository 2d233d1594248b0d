import fc from "fast-check";
import { expect, test } from "vitest";
import { weightTarget } from "../../test/support/lora-models.ts";
import { seededValues } from "../../test/support/seeded.ts";
import type { OpChoices } from "../graph/index.ts";
import { activeAdapters, joinFactors, packAdapters, scaleRows } from "./pack-adapters.ts";
import type { Adapter, Applied, LowRank } from "./types.ts";

const CHOICES: OpChoices = { attention: "fused", compute: "float32", rankMin: 0 };
const LINEAR = weightTarget("a", [3, 2]);
const CONV = weightTarget("c", [2, 2, 3, 3]);
const TARGETS = [LINEAR, CONV];

function factorsOf(seed: string, rank: number, [outputs, inputs]: [number, number]): LowRank {
  return {
    rank,
    down: seededValues(`${seed}.down`, rank * inputs),
    up: seededValues(`${seed}.up`, rank * outputs),
  };
}

const onA: Adapter = { id: "1", factors: new Map([["a", factorsOf("1", 2, [3, 2])]]) };
const onBoth: Adapter = {
  id: "2",
  factors: new Map([
    ["a", factorsOf("2", 1, [3, 2])],
    ["c", factorsOf("3", 2, [2, 18])],
  ]),
};
const use = (adapter: Adapter, strength: number): Applied => ({ ...adapter, strength });
const shapes = (feeds: ReturnType<typeof packAdapters>) =>
  Object.fromEntries([...feeds].map(([name, { shape }]) => [name, shape]));

test("no adapter is rank 0, or one row of zeros where 0 is not legal", () => {
  expect(shapes(packAdapters(TARGETS, [[], []], CHOICES))).toEqual({
    "lora.a.down": [0, 2],
    "lora.a.up": [0, 3],
    "lora.a.scale": [2, 1, 0],
    "lora.c.down": [0, 2, 3, 3],
    "lora.c.up": [0, 2],
    "lora.c.scale": [2, 0, 1, 1],
  });
  const feeds = packAdapters(TARGETS, [[]], { ...CHOICES, rankMin: 1 });
  expect(shapes(feeds)["lora.c.down"]).toEqual([1, 2, 3, 3]);
  expect([...feeds.values()].every(({ data }) => data.every((value) => value === 0))).toBe(true);
});

test("rows of all adapters are joined, the strengths select them", () => {
  const rows = [[use(onBoth, 0.5)], [use(onA, 2), use(onBoth, -1)], []];
  const feeds = packAdapters(TARGETS, rows, CHOICES);
  const a1 = onA.factors.get("a");
  const a2 = onBoth.factors.get("a");
  expect(feeds.get("lora.a.down")).toEqual({
    shape: [3, 2],
    data: Float32Array.of(...(a1?.down ?? []), ...(a2?.down ?? [])),
  });
  expect(feeds.get("lora.a.up")?.data).toEqual(
    Float32Array.of(...(a1?.up ?? []), ...(a2?.up ?? [])),
  );
  expect(feeds.get("lora.a.scale")).toEqual({
    shape: [3, 1, 3],
    data: Float32Array.of(0, 0, 0.5, 2, 2, -1, 0, 0, 0),
  });
  expect(feeds.get("lora.c.scale")).toEqual({
    shape: [3, 2, 1, 1],
    data: Float32Array.of(0.5, 0.5, -1, -1, 0, 0),
  });
});

test("one adapter's factors are passed on without a copy", () => {
  const feeds = packAdapters(TARGETS, [[use(onBoth, 1)]], CHOICES);
  expect(feeds.get("lora.c.down")?.data).toBe(onBoth.factors.get("c")?.down);
});

test("strength 0, and strengths that cancel, are no adapter at all", () => {
  const none = packAdapters(TARGETS, [[]], CHOICES);
  expect(packAdapters(TARGETS, [[use(onA, 0)]], CHOICES)).toEqual(none);
  expect(packAdapters(TARGETS, [[use(onA, 0.25), use(onA, -0.25)]], CHOICES)).toEqual(none);
  const elsewhere: Adapter = { id: "3", factors: new Map() };
  const stack = [use(onA, 0), use(onBoth, 1), use(elsewhere, 1)];
  expect(activeAdapters([stack]).map(({ id }) => id)).toEqual(["2"]);
});

test("an adapter twice in a stack adds its strengths; the order of a stack does not matter", () => {
  const twice = packAdapters(TARGETS, [[use(onA, 1), use(onA, 0.5)]], CHOICES);
  expect(twice).toEqual(packAdapters(TARGETS, [[use(onA, 1.5)]], CHOICES));
  const stack = [use(onA, 1), use(onBoth, 0.5)];
  expect(packAdapters(TARGETS, [stack], CHOICES)).toEqual(
    packAdapters(TARGETS, [stack.toReversed()], CHOICES),
  );
});

test("layers with the same ranks share one array of strengths", () => {
  const targets = [LINEAR, weightTarget("b", [3, 2])];
  const factors = onA.factors.get("a");
  if (factors === undefined) throw new Error("no factors");
  const adapter: Adapter = {
    id: "x",
    factors: new Map([
      ["a", factors],
      ["b", factors],
    ]),
  };
  const feeds = scaleRows(targets, [adapter], { rows: [[use(adapter, 1)]], choices: CHOICES });
  expect(feeds.get("lora.a.scale")?.data).toBe(feeds.get("lora.b.scale")?.data);
});

/** (x down^T * scale) up of one batch row, the way the graph computes it. */
function side(feeds: ReturnType<typeof packAdapters>, row: number, x: readonly number[]): number[] {
  const down = feeds.get("lora.a.down");
  const up = feeds.get("lora.a.up");
  const scale = feeds.get("lora.a.scale");
  // Factors of its own, or those of all rows.
  const isOwn = down?.shape.length === 3;
  const rank = down?.shape[isOwn ? 1 : 0] ?? 0;
  const first = isOwn ? row * rank : 0;
  const y = [0, 0, 0];
  for (let r = 0; r < rank; r++) {
    let inner = 0;
    for (const [i, value] of x.entries()) inner += value * (down?.data[(first + r) * 2 + i] ?? 0);
    inner *= scale?.data[row * rank + r] ?? 0;
    for (let o = 0; o < 3; o++) y[o] = (y[o] ?? 0) + inner * (up?.data[(first + r) * 3 + o] ?? 0);
  }
  return y;
}

test("a row of a mixed batch is the row alone", () => {
  const adapters = ["p", "q", "r", "s"].map((id, index) => ({
    id,
    factors: new Map([["a", factorsOf(id, index + 1, [3, 2])]]),
  }));
  const applied = fc
    .tuple(fc.constantFrom(...adapters), fc.constantFrom(-1, 0, 0.5, 1, 2))
    .map(([adapter, strength]) => use(adapter, strength));
  const stacks = fc.array(fc.array(applied, { maxLength: 5 }), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(stacks, (rows) => {
      const mixed = packAdapters([LINEAR], rows, CHOICES);
      for (const [index, row] of rows.entries()) {
        const alone = packAdapters([LINEAR], [row], CHOICES);
        const expected = side(alone, 0, [0.3, -0.7]);
        for (const [o, value] of side(mixed, index, [0.3, -0.7]).entries()) {
          expect(value).toBeCloseTo(expected[o] ?? Number.NaN, 6);
        }
      }
    }),
  );
});

test("the joined factors depend on the adapters alone", () => {
  const first = joinFactors(TARGETS, [onA, onBoth], CHOICES);
  const feeds = packAdapters(TARGETS, [[use(onBoth, 3)], [use(onA, 9)]], CHOICES);
  for (const [name, feed] of first) expect(feeds.get(name)).toEqual(feed);
});
