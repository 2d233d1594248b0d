import { expect, test } from "vitest";
import { Mt19937 } from "./mt19937.ts";

test("the default seed gives the sequence of the C++ standard", () => {
  const engine = new Mt19937(5489);
  expect(engine.nextUint32()).toBe(3499211612);
  for (let index = 1; index < 9999; index++) engine.nextUint32();
  expect(engine.nextUint32()).toBe(4123659995);
});

test("only the low 32 bits of a seed count, as in PyTorch", () => {
  const words = (seed: number | bigint): number[] => {
    const engine = new Mt19937(seed);
    return [engine.nextUint32(), engine.nextUint32()];
  };
  expect(words(2n ** 40n + 17n)).toEqual(words(17));
});
