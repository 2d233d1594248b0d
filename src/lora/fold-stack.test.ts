import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { loraFile, weightTarget } from "../../test/support/lora-models.ts";
import { seededValues } from "../../test/support/seeded.ts";
import type { AdapterTarget } from "../graph/index.ts";
import { parseSafetensors, type Tensor, toFloat } from "../tensor/index.ts";
import { type FoldedStack, foldStack, type StackItem } from "./fold-stack.ts";
import { parseLora } from "./parse-lora.ts";
import { applyLowRank } from "./resolve-patch.ts";
import type { LayerPatch, LowRank } from "./types.ts";

const goldens = parseSafetensors(
  readFileSync(new URL("../../test/fixtures/goldens/lora/patches.safetensors", import.meta.url)),
);
const names = Object.keys(goldens.metadata);

function golden(name: string): Tensor {
  const tensor = goldens.tensors.get(name);
  if (tensor === undefined) throw new Error(`no golden ${name}`);
  return tensor;
}

function patchesOf(name: string, index: number, target: AdapterTarget) {
  const prefix = `${name}|${index}|x`;
  const parts = [...goldens.tensors].filter(([key]) => key.startsWith(prefix));
  const file = loraFile(
    Object.fromEntries(
      parts.map(([key, tensor]) => [key.replace(prefix, "text_encoder.x"), tensor]),
    ),
  );
  const { text } = parseLora(file, { text: new Map([["clip-l", [target]]]) });
  return text.get("clip-l") ?? new Map<string, LayerPatch>();
}

function stackOf(name: string, target: AdapterTarget): StackItem[] {
  const pairs: [number, number][] = JSON.parse(goldens.metadata[name] ?? "[]");
  return pairs.map(([strength, multiply], index) => {
    const id = `${index}`;
    if (multiply === 1) return { id, strength, patches: patchesOf(name, index, target) };
    const none = { rank: 0, down: new Float32Array(0), up: new Float32Array(0) };
    return { id, strength: 1, patches: new Map([["x", { ...none, multiply }]]) };
  });
}

/** The weight that the graph has in effect: additive changes add up beside the base or the overlay. */
async function effective(
  folded: FoldedStack,
  base: Float32Array,
  target: AdapterTarget,
): Promise<Float32Array> {
  let [row, column] = [new Float32Array(target.outputs), new Float32Array(target.inputs)];
  const changes: LowRank[] = [];
  for (const { strength, factors } of folded.applied) {
    const change = factors.get("x");
    if (change === undefined) continue;
    row = row.map((value, i) => value + strength * (change.row?.[i] ?? 0));
    column = column.map((value, i) => value + strength * (change.column?.[i] ?? 0));
    changes.push({ ...change, up: change.up.map((value) => value * strength) });
  }
  const none = { rank: 0, down: new Float32Array(0), up: new Float32Array(0) };
  const start = (await folded.dense.get("x")?.()) ?? base;
  let weight = applyLowRank(start, { ...none, row, column }, { strength: 1, target });
  for (const { rank, up, down } of changes) {
    weight = applyLowRank(weight, { rank, up, down }, { strength: 1, target });
  }
  return weight;
}

test.each(names)("%s is the weight ComfyUI makes", async (name) => {
  const { shape } = golden(`${name}|weight`);
  const count = shape.reduce((product, axis) => product * axis, 1);
  const base = { shape, data: seededValues(`${name}|base`, count, 0.5) };
  const target = weightTarget("x", shape);
  const folded = await foldStack(stackOf(name, target), {
    target: () => target,
    weight: async () => base.data,
  });
  const expected = toFloat(golden(`${name}|weight`)).data;
  const actual = await effective(folded, base.data, target);
  const largest = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  const error = expected.reduce(
    (max, value, i) => Math.max(max, Math.abs(value - (actual[i] ?? Number.NaN))),
    0,
  );
  expect(error / largest).toBeLessThan(2e-6);
  expect(folded.dense.size).toBe(/oft|diff|set/.test(name) ? 1 : 0);
});

test("every kind is there", () => {
  expect(names.length).toBe(36);
});

test("a strength of 0 is no adapter, and adapters that add up stay apart", async () => {
  const target = weightTarget("x", [24, 16]);
  const base = { target: () => target, weight: async () => new Float32Array(24 * 16) };
  const patches = patchesOf("dora-then-lora", 1, target);
  const dora = patchesOf("dora-then-lora", 0, target);
  const folded = await foldStack(
    [
      { id: "a", strength: 0, patches: dora },
      { id: "b", strength: 2, patches },
      { id: "c", strength: -1, patches },
    ],
    base,
  );
  expect(folded.applied.map(({ id, strength }) => [id, strength])).toEqual([
    ["b", 2],
    ["c", -1],
  ]);
  expect(folded.applied[0]?.factors.get("x")).toBe(patches.get("x"));
});
