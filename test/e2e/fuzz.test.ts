import { expect, test } from "vitest";
import { fuzz } from "../support/fuzz.ts";

test("20,000 hostile inputs are accepted or refused with a documented code", async () => {
  const seed = 20_261_124;
  const results = await fuzz(20_000, seed);
  expect(results.map(({ cases }) => cases)).toEqual([8000, 6000, 4000, 2000]);
  for (const { accepted, cases, refused, name } of results) {
    // Both sides of each parser are met.
    expect(accepted, name).toBeGreaterThan(cases / 100);
    const sum = Object.values(refused).reduce((total, count) => total + count, accepted);
    expect(sum, name).toBe(cases);
  }
});
