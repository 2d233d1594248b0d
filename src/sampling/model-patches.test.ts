/** LCM's schedule and boundary, rescaled guidance: goldens of test/reference/node-tools.py. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { createDiscreteSampling } from "./index.ts";
import { calculateDenoised } from "./model-sampling.ts";
import { combineRescaled } from "./rescale-cfg.ts";

const { lcm, rescaled } = JSON.parse(
  readFileSync(new URL("../../test/fixtures/goldens/node-tools.json", import.meta.url), "utf8"),
) as {
  lcm: {
    sigmas: number[];
    rows: { sigma: number; timestep: number; denoised: number[] }[];
    times: number[];
    sigmaOf: number[];
    percent: number[];
  };
  rescaled: { share: number; out: number[] }[];
};

function wave(length: number, scale = 1, offset = 0): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin(i * 0.7 + 0.01 * i * i) * scale + offset);
}

function expectNear(actual: ArrayLike<number>, expected: readonly number[]) {
  expect(actual.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) {
    const distance = Math.abs(value - (actual[i] ?? Number.NaN));
    expect(distance).toBeLessThanOrEqual(5e-6 * Math.max(1, Math.abs(value)));
  }
}

test("a consistency model has 50 timesteps and its boundary condition", () => {
  const model = createDiscreteSampling({ prediction: "lcm" });
  expectNear(model.sigmas, lcm.sigmas);
  const [x, output] = [wave(16, 3), wave(16, 1, 0.1)];
  for (const { sigma, timestep, denoised } of lcm.rows) {
    expect(model.timestep(Math.fround(sigma))).toBe(timestep);
    expectNear(calculateDenoised(model, Math.fround(sigma), { output, x }), denoised);
  }
  expectNear(lcm.times.map(model.sigma), lcm.sigmaOf);
  expectNear([0.25, 0.5].map(model.percentToSigma), lcm.percent);
});

test("an x0 model's output is the denoised latent", () => {
  const model = createDiscreteSampling({ prediction: "x0" });
  const output = wave(4);
  expect(calculateDenoised(model, 2, { output, x: wave(4, 3) })).toEqual(output);
});

test.each(rescaled)("guidance rescaled by $share", ({ share, out }) => {
  const sides = { positive: wave(32, 1, 0.2), negative: wave(32, 0.5) };
  const options = { x: wave(32, 3), sigma: 2.5, rows: 2, cfg: 6, share };
  expectNear(combineRescaled(sides, options), out);
});
