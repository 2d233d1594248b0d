import fc from "fast-check";
import { expect, test } from "vitest";
import { linearTarget, loraFile, weightTarget } from "../../test/support/lora-models.ts";
import { LunaError } from "../kernel/index.ts";
import { fromFloat, type Tensor } from "../tensor/index.ts";
import { factorsFromTensors } from "./factors-from-tensors.ts";

const TARGETS = [weightTarget("a.b", [6, 4]), weightTarget("c", [8, 4, 3, 3])];

test("factors of linear and convolution layers, in any float type", () => {
  const { tensors } = loraFile({ "a.b.down": [2, 4], "a.b.up": [2, 6], "c.down": [3, 4, 3, 3] });
  const half = loraFile({ "c.up": [3, 8] }, "F16").tensors;
  const factors = factorsFromTensors(new Map([...tensors, ...half]), TARGETS);
  expect([...factors].map(([name, { rank }]) => [name, rank])).toEqual([
    ["a.b", 2],
    ["c", 3],
  ]);
  expect(factors.get("c")?.down.length).toBe(108);
  expect(factors.get("c")?.up.length).toBe(24);
  expect(factorsFromTensors(new Map(), TARGETS).size).toBe(0);
});

const nan: Tensor = fromFloat({ shape: [1, 6], data: new Float32Array(6).fill(Number.NaN) });

test.each([
  ["an unknown layer", { "x.down": [1, 4] }, /"x.down"/],
  ["an unknown side", { "a.b.alpha": [1] }, /"a.b.alpha"/],
  ["a missing side", { "a.b.down": [1, 4] }, /"a.b.up" is missing/],
  ["another rank", { "a.b.down": [1, 4], "a.b.up": [2, 6] }, /"a.b.up" is \[2, 6\], not \[1, 6\]/],
  ["another width", { "a.b.down": [1, 5], "a.b.up": [1, 6] }, /not \[1, 4\]/],
  ["rank 0", { "a.b.down": [0, 4], "a.b.up": [0, 6] }, /rank 0/],
  ["a huge rank", { "a.b.down": [1025, 4], "a.b.up": [1025, 6] }, /rank 1025/],
  ["NaN", { "a.b.down": [1, 4], "a.b.up": nan }, /NaN/],
] as const)("malformed: %s", (_, tensors, message) => {
  expect(() => factorsFromTensors(loraFile(tensors).tensors, TARGETS)).toThrow(
    expect.objectContaining({ code: "LORA_MALFORMED", message: expect.stringMatching(message) }),
  );
});

test("any tensors give factors or one LunaError", () => {
  const name = fc.constantFrom("a.b.down", "a.b.up", "c.down", "c.up", "a.b", ".up", "d.down");
  const shape = fc.array(fc.constantFrom(0, 1, 2, 3, 4, 6, 8), { maxLength: 4 });
  fc.assert(
    fc.property(fc.dictionary(name, shape), (tensors) => {
      try {
        factorsFromTensors(loraFile(tensors).tensors, TARGETS);
      } catch (error) {
        expect(error).toBeInstanceOf(LunaError);
      }
    }),
    { numRuns: 500 },
  );
});

test("parts beside up and down: DoRA, GLoRA, scales, shifts and whole weights", () => {
  const floats = (...shape: number[]): Tensor => {
    const data = new Float32Array(shape.reduce((product, axis) => product * axis, 1)).fill(0.5);
    return fromFloat({ shape, data });
  };
  const norm = { name: "n", kind: "layer-norm", inputs: 0, outputs: 4, kernel: [1, 1] } as const;
  const targets = [linearTarget("a", 6, 4), linearTarget("b", 6, 4), norm];
  const read = (tensors: Record<string, Tensor>) =>
    factorsFromTensors(new Map(Object.entries(tensors)), targets);
  const patches = read({
    "a.up": floats(2, 6),
    "a.down": floats(2, 4),
    "a.dora_column": floats(1, 4),
    "a.a1": floats(4, 3),
    "a.a2": floats(3, 4),
    "a.bias": floats(6),
    "b.multiply": floats(1),
    "b.oft": floats(2, 3, 3),
    "b.dora_row": floats(6),
    "b.dora_factor": floats(1),
    "n.gain": floats(4),
  });
  expect(patches.get("a")).toMatchObject({
    rank: 2,
    magnitude: { axis: "column" },
    inner: { rank: 3 },
  });
  expect(patches.get("a")?.bias).toHaveLength(6);
  expect(patches.get("b")).toMatchObject({
    rank: 0,
    multiply: 0.5,
    dense: { type: "oft", count: 2, size: 3 },
    magnitude: { axis: "row", deltaFactor: 0.5 },
  });
  expect(patches.get("n")?.gain).toHaveLength(4);
  for (const wrong of [
    { "a.dora_row": floats(4) },
    { "a.a1": floats(4, 3) },
    { "a.diff": floats(6, 5) },
    { "a.set": floats(6, 4), "a.dora_row": floats(6) },
    { "a.oft": floats(2, 2, 2) },
    { "a.boft": floats(3, 3, 2, 2) },
    { "n.up": floats(1, 4), "n.down": floats(1, 4) },
    { "a.other": floats(1) },
  ]) {
    expect(() => read(wrong)).toThrow(expect.objectContaining({ code: "LORA_MALFORMED" }));
  }
});
