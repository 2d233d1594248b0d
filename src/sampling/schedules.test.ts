import fc from "fast-check";
import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { createDiscreteSampling } from "./model-sampling.ts";
import { calculateSigmas, planSigmas, SCHEDULER_NAMES } from "./schedules.ts";

const model = createDiscreteSampling({ prediction: "eps" });
const scheduler = fc.constantFrom(...SCHEDULER_NAMES);

test("every schedule descends through the trained range to 0", () => {
  const property = fc.property(scheduler, fc.integer({ min: 2, max: 200 }), (name, steps) => {
    const sigmas = calculateSigmas(model, name, steps);
    expect(sigmas.at(-1)).toBe(0);
    // Float32 rounds a few schedules a hair past the ends of the table.
    expect(sigmas[0]).toBeLessThanOrEqual(model.sigmaMax * 1.00001);
    for (const [index, sigma] of sigmas.subarray(1).entries()) {
      expect(sigma).toBeLessThan(sigmas[index] ?? 0);
    }
  });
  fc.assert(property);
});

test("a part of the steps visits a part of the sigmas", () => {
  const property = fc.property(
    scheduler,
    fc.integer({ min: 2, max: 60 }),
    fc.nat(60),
    (name, steps, cut) => {
      const all = planSigmas(model, name, { steps });
      const middle = Math.min(cut, all.length - 2);
      const head = planSigmas(model, name, { steps, lastStep: middle });
      const tail = planSigmas(model, name, { steps, startStep: middle });
      expect([...head.slice(0, -1), ...tail]).toEqual([...all]);
    },
  );
  fc.assert(property);
});

test("denoise keeps the last steps of a longer schedule", () => {
  const sigmas = planSigmas(model, "karras", { steps: 6, denoise: 0.5 });
  expect(sigmas).toEqual(calculateSigmas(model, "karras", 12).slice(-7));
  expect(planSigmas(model, "karras", { steps: 6, denoise: 0 })).toHaveLength(0);
});

test("a forced full denoise ends at 0, a start beyond the end leaves nothing to do", () => {
  const forced = planSigmas(model, "simple", { steps: 9, lastStep: 4, isFullDenoiseForced: true });
  expect(forced).toHaveLength(5);
  expect(forced.at(-1)).toBe(0);
  expect(planSigmas(model, "simple", { steps: 9, startStep: 9 })).toHaveLength(0);
});

test("the second-to-last sigma is left out on request", () => {
  const sigmas = planSigmas(model, "karras", { steps: 4, isPenultimateDiscarded: true });
  const longer = calculateSigmas(model, "karras", 5);
  expect([...sigmas]).toEqual([...longer.slice(0, 4), 0]);
});

test("one step of kl_optimal begins at the highest sigma", () => {
  expect(calculateSigmas(model, "kl_optimal", 1)[0]).toBeCloseTo(model.sigmaMax, 3);
});

test.each([0, -1, 2.5, Number.NaN, 10_001])("%s steps are refused", (steps) => {
  expect(() => planSigmas(model, "normal", { steps })).toThrow(LunaError);
});
