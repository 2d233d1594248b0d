/** `npm run fuzz`: a million hostile inputs; LUNA_FUZZ_SEED and LUNA_FUZZ_CASES repeat a run. */
import { expect, test } from "vitest";
import { fuzz } from "../support/fuzz.ts";

test("hostile inputs are accepted or refused with a documented code", async () => {
  const { LUNA_FUZZ_SEED, LUNA_FUZZ_CASES } = process.env;
  const seed = Number(LUNA_FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31));
  const cases = Number(LUNA_FUZZ_CASES ?? 1_000_000);
  process.stdout.write(`fuzz: ${cases} cases, seed ${seed}\n`);
  const results = await fuzz(cases, seed);
  for (const result of results) process.stdout.write(`${JSON.stringify(result)}\n`);
  expect(results).toHaveLength(4);
});
