import { expect, test } from "vitest";
import { digestTensor, type FloatTensor, fromFloat } from "../tensor/index.ts";
import { TensorMemory } from "./tensor-memory.ts";

const filled = (value: number, count = 2048): FloatTensor => ({
  shape: [count],
  data: new Float32Array(count).fill(value),
});
const slot = (tensor: FloatTensor) => new Map([["context", tensor]]);

test("an array goes inside the request once, is put when it comes again, and is named from then on", () => {
  const memory = new TensorMemory();
  const [era, context] = [{}, filled(1)];
  const digest = digestTensor(fromFloat(context));
  const first = memory.plan(era, slot(context));
  expect([...first.inline.keys()]).toEqual(["context"]);
  expect([first.refs, first.puts.size]).toEqual([{}, 0]);
  const second = memory.plan(era, slot(context));
  expect([second.inline.size, second.refs]).toEqual([0, { context: digest }]);
  expect([...second.puts.keys()]).toEqual([digest]);
  const third = memory.plan(era, slot(context));
  expect([third.refs, third.puts.size]).toEqual([{ context: digest }, 0]);
});

test("after a reconnect, or when told so, a tensor is put again", () => {
  const memory = new TensorMemory();
  const [era, context] = [{}, filled(1)];
  for (let n = 0; n < 3; n++) memory.plan(era, slot(context));
  const later = {};
  expect(memory.plan(later, slot(context)).puts.size).toBe(1);
  expect(memory.plan(later, slot(context)).puts.size).toBe(0);
  memory.forget([digestTensor(fromFloat(context))]);
  expect(memory.plan(later, slot(context)).puts.size).toBe(1);
});

test("one array in another shape is another tensor, small tensors are never named", () => {
  const memory = new TensorMemory();
  const era = {};
  const flat = filled(1);
  const square: FloatTensor = { shape: [2, 1024], data: flat.data };
  memory.plan(era, slot(flat));
  const digests = [flat, square, flat].map(
    (tensor) => memory.plan(era, slot(tensor)).refs["context"],
  );
  expect(digests).toEqual([flat, square, flat].map((tensor) => digestTensor(fromFloat(tensor))));
  const small = filled(1, 8);
  for (let n = 0; n < 3; n++) expect(memory.plan(era, slot(small)).inline.size).toBe(1);
});
