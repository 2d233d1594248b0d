import { expect, test } from "vitest";
import { floatTensor, fromFloat } from "../tensor/index.ts";
import type { RunItem } from "./port.ts";
import { RunClock } from "./run-clock.ts";

const itemOf = (shapes: Readonly<Record<string, number[]>>): RunItem => ({
  loras: [],
  tensors: new Map(
    Object.entries(shapes).map(([name, shape]) => [name, fromFloat(floatTensor(shape))]),
  ),
});

test("the limit grows with the rows, not with what control brings along", () => {
  const clock = new RunClock(1000);
  const step = itemOf({ x: [1, 4, 8, 8] });
  expect(clock.limitMs("net", [step])).toBe(600_000);
  const control = { "hint.0": [1, 3, 64, 64], "control.middle.0": [1, 64, 8, 8] };
  clock.record("net", [itemOf({ x: [1, 4, 8, 8], ...control })], 500);
  expect(clock.limitMs("net", [step])).toBe(10_000);
  expect(clock.limitMs("net", [step, step])).toBe(20_000);
});
