import { expect, test } from "vitest";
import { fromFloat } from "../tensor/index.ts";
import type { RunItem } from "./port.ts";
import { embeddingOverrides, endPositions, hiddenIndex } from "./run-text.ts";

const floats = (shape: number[], ...values: number[]) => ({
  shape,
  data: Float32Array.from(values),
});

test("the text ends at the first of the highest ids", () => {
  const tokens = floats([2, 4], 49406, 5, 49407, 49407, 49406, 49407, 0, 0);
  expect(endPositions(tokens)).toEqual([2, 1]);
});

test("layers are counted from the end, the last is -1", () => {
  expect([-1, -2, -12, -13].map((layer) => hiddenIndex(layer, 12))).toEqual([12, 11, 1, 0]);
  for (const layer of [0, 1, -14, -1.5, Number.NaN]) {
    expect(() => hiddenIndex(layer, 12)).toThrow(/Layer/);
  }
});

test("embeddings stand at their place of their item, the others are left alone", () => {
  const inverted: RunItem = {
    loras: [],
    tensors: new Map([
      ["embeddings", fromFloat(floats([1, 2], 8, 9))],
      ["embedding_positions", fromFloat(floats([1, 2], 0, 1))],
    ]),
  };
  const plain: RunItem = { loras: [], tensors: new Map() };
  const tokens = [floats([1, 2], 1, 2), floats([1, 2], 3, 4)];
  expect(embeddingOverrides([plain, inverted], tokens, 2)).toEqual({
    override: floats([2, 2, 2], 0, 0, 0, 0, 0, 0, 8, 9),
    mask: floats([2, 2, 1], 0, 0, 0, 1),
  });
  expect(embeddingOverrides([plain], tokens.slice(0, 1), 2).mask).toEqual(floats([1, 1, 1], 0));
  expect(() => embeddingOverrides([inverted], [floats([1, 1], 1)], 2)).toThrow(/column 1/);
  expect(() => embeddingOverrides([inverted], tokens.slice(0, 1), 3)).toThrow(/\[n, 3\]/);
});
