import { expect, test } from "vitest";
import { openGraph, relativeError, runGraph } from "../../test/support/graph-session.ts";
import { seededValues } from "../../test/support/seeded.ts";
import type { WeightRef } from "../checkpoint/index.ts";
import { floatTensor } from "../tensor/index.ts";
import { GraphBuilder, type Value } from "./graph-builder.ts";
import { attention, linear } from "./layers.ts";
import { ints } from "./onnx.ts";
import type { OpChoices } from "./types.ts";

const CHOICES: OpChoices = { attention: "fused", compute: "float32", rankMin: 0 };

function builder(weights: ReadonlyMap<string, WeightRef> = new Map(), choices = CHOICES) {
  const options = { name: "test", weights, choices, externalFile: "w.bin", hasAdapters: false };
  return new GraphBuilder(options);
}

test("a linear layer reads a slice of a fused tensor and a transposed weight in place", async () => {
  const values = seededValues("fused", 3 * 4 * 5);
  const bytes = new Uint8Array(values.buffer);
  const slice = { dtype: "F32", shape: [4, 5], begin: 80, end: 160 } as const;
  const weights = new Map<string, WeightRef>([
    ["slice.weight", slice],
    ["turned.weight", { ...slice, shape: [5, 4], isTransposed: true }],
  ]);
  const b = builder(weights);
  const x = b.input("x", ["batch", "time", 5]);
  const h = linear(b, x, { name: "slice" });
  b.output("out", linear(b, h, { name: "turned" }), { shape: ["batch", "time", 5] });
  const session = await openGraph(b.build(), bytes);
  const given = seededValues("x", 5);
  const out = (await runGraph(session, new Map([["x", floatTensor([1, 1, 5], given)]]))).get("out");
  const at = (row: number, column: number): number => values[20 + row * 5 + column] ?? 0;
  const inner = [0, 1, 2, 3].map((row) => given.reduce((sum, v, i) => sum + v * at(row, i), 0));
  const expected = [0, 1, 2, 3, 4].map((i) =>
    inner.reduce((sum, v, row) => sum + v * at(row, i), 0),
  );
  expect(out).toBeDefined();
  if (out !== undefined) {
    expect(relativeError(out, floatTensor([1, 1, 5], Float32Array.from(expected)))).toBeLessThan(
      1e-6,
    );
  }
});

test("equal constants are one; negative integers keep their value", async () => {
  const b = builder();
  expect(b.integers([0, -1])).toBe(b.integers([0, -1]));
  expect(b.integers([1], [])).not.toBe(b.integers([1]));
  expect(b.floats([1, 2])).not.toBe(b.floats([1, 2], [2, 1]));
  const x = b.input("x", ["batch", 6]);
  const wide = b.node("Reshape", [x, b.integers([-1, 2, 3])]);
  const turned = b.node("Transpose", [wide], { attributes: { perm: ints([0, 2, 1]) } });
  b.output("out", turned, { shape: ["batch", 3, 2] });
  const session = await openGraph(b.build(), new Uint8Array(1));
  const feed = floatTensor([1, 6], Float32Array.of(1, 2, 3, 4, 5, 6));
  const out = (await runGraph(session, new Map([["x", feed]]))).get("out");
  expect(out).toEqual(floatTensor([1, 3, 2], Float32Array.of(1, 4, 2, 5, 3, 6)));
});

test("causal attention: fused equals plain, and the first position sees only itself", async () => {
  const run = async (form: OpChoices["attention"]) => {
    const b = builder(new Map(), { ...CHOICES, attention: form });
    const shape = ["batch", "time", 8];
    const [query, key, value] = ["q", "k", "v"].map((name): Value => b.input(name, shape));
    if (query === undefined || key === undefined || value === undefined) throw new Error("inputs");
    const out = attention(b, { query, key, value, heads: 2, width: 8, isCausal: true });
    b.output("out", out, { shape });
    const session = await openGraph(b.build(), new Uint8Array(1));
    const feeds = ["q", "k", "v"].map(
      (name) => [name, floatTensor([2, 5, 8], seededValues(name, 80, 3))] as const,
    );
    const result = (await runGraph(session, new Map(feeds))).get("out");
    if (result === undefined) throw new Error("no output");
    return result;
  };
  const fused = await run("fused");
  expect(relativeError(await run("plain"), fused)).toBeLessThan(1e-6);
  const first = floatTensor([8], fused.data.slice(0, 8));
  expect(relativeError(first, floatTensor([8], seededValues("v", 80, 3).slice(0, 8)))).toBeLessThan(
    1e-6,
  );
});
