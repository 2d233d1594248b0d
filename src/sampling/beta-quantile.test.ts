import fc from "fast-check";
import { expect, test } from "vitest";
import { betaCumulative, betaQuantile } from "./beta-quantile.ts";

test("quantiles of beta(0.6, 0.6) are scipy's", () => {
  const wanted = [
    0.012554456873611399, 0.17568037865269498, 0.5000000000000001, 0.9604155944112192,
    0.9999814412614826,
  ];
  for (const [index, probability] of [0.05, 0.25, 0.5, 0.9, 0.999].entries()) {
    expect(betaQuantile(probability, 0.6, 0.6)).toBeCloseTo(wanted[index] ?? Number.NaN, 11);
  }
});

test("the distribution function is scipy's", () => {
  const wanted = [0.004557756515081642, 0.5021762342620186];
  expect(betaCumulative(0.1, 2.5, 1.25)).toBeCloseTo(wanted[0] ?? Number.NaN, 12);
  expect(betaCumulative(0.7, 2.5, 1.25)).toBeCloseTo(wanted[1] ?? Number.NaN, 12);
});

test("a quantile has its probability below it, at any shape", () => {
  const shape = fc.double({ min: 0.5, max: 20, noNaN: true });
  const probability = fc.double({ min: 0.001, max: 0.999, noNaN: true });
  const property = fc.property(probability, shape, shape, (p, a, b) => {
    expect(betaCumulative(betaQuantile(p, a, b), a, b)).toBeCloseTo(p, 7);
  });
  fc.assert(property, { numRuns: 200 });
});
