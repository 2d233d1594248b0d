import { expect, test } from "vitest";
import { concatRows, controlRows, expandRows, NO_CONTROL, sliceRows } from "./batch.ts";

const tensor = (shape: number[], ...values: number[]) => ({
  shape,
  data: Float32Array.from(values),
});

test("one tensor is passed on without a copy, several are joined", () => {
  const one = tensor([1, 2], 1, 2);
  expect(concatRows([one], "x")).toBe(one);
  expect(concatRows([one, tensor([2, 2], 3, 4, 5, 6)], "x")).toEqual(
    tensor([3, 2], 1, 2, 3, 4, 5, 6),
  );
  expect(() => concatRows([one, tensor([1, 3], 1, 2, 3)], "x")).toThrow(/\[1, 3\].*\[1, 2\]/);
});

test("rows are taken apart as views", () => {
  const joined = tensor([3, 2], 1, 2, 3, 4, 5, 6);
  const part = sliceRows(joined, 1, 2);
  expect(part).toEqual(tensor([2, 2], 3, 4, 5, 6));
  expect(part.data.buffer).toBe(joined.data.buffer);
});

test("a single row stands for all, any other count is refused", () => {
  expect(expandRows(tensor([1, 2], 1, 2), 2, "x")).toEqual(tensor([2, 2], 1, 2, 1, 2));
  expect(() => expandRows(tensor([2, 1], 1, 2), 3, "x")).toThrow(/2 rows; 1 or 3/);
});

test("controls: none is one zero, a lone one is broadcast, in a mix the others get zeros", () => {
  const control = tensor([1, 1, 1, 2], 5, 6);
  expect(controlRows([undefined, undefined], [1, 2], "c")).toBe(NO_CONTROL);
  expect(controlRows([control], [3], "c")).toBe(control);
  expect(controlRows([control, undefined], [2, 1], "c")).toEqual(
    tensor([3, 1, 1, 2], 5, 6, 5, 6, 0, 0),
  );
});
