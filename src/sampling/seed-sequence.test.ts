import { expect, test } from "vitest";
import { generateSeeds } from "./seed-sequence.ts";

test("seeds are numpy's SeedSequence(...).generate_state", () => {
  expect(generateSeeds(42, { poolSize: 24, count: 3 })).toEqual([
    387750627, 2536650517, 4078839648,
  ]);
  expect(generateSeeds(2n ** 64n - 1n, { spawnKey: [5, 3], poolSize: 24, count: 4 })).toEqual([
    206752380, 1890374860, 654320852, 1710134239,
  ]);
  expect(generateSeeds(0, { poolSize: 4, count: 2 })).toEqual([2968811710, 3677149159]);
  // A key beyond 32 bits takes two words.
  expect(generateSeeds(7, { spawnKey: [2 ** 33 + 1, 34], poolSize: 24, count: 4 })).toEqual([
    2322157917, 469689532, 260121240, 3775338407,
  ]);
});
