import { expect, test } from "vitest";
import { fromFloat } from "../tensor/index.ts";
import { SharedTensors } from "./shared-tensors.ts";

const tensor = (fill: number) => fromFloat({ shape: [2], data: new Float32Array(2).fill(fill) });

test("what was used longest ago is forgotten first, and asked for again", () => {
  const kept = new SharedTensors(16);
  kept.keep("a", tensor(1));
  kept.keep("b", tensor(2));
  expect(kept.recall("a")).toEqual(tensor(1));
  kept.keep("c", tensor(3));
  expect(() => kept.recall("b")).toThrow(expect.objectContaining({ code: "TENSOR_UNKNOWN" }));
  expect([kept.recall("a"), kept.recall("c")]).toEqual([tensor(1), tensor(3)]);
});
