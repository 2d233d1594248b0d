import { expect, test } from "vitest";
import {
  calculateDenoised,
  createContinuousSampling,
  createDiscreteSampling,
  inputDivisor,
  isMaxDenoise,
  scaleNoise,
} from "./model-sampling.ts";

const model = createDiscreteSampling({ prediction: "eps" });

test("whole timesteps survive the way to sigma and back, fractional ones lie between", () => {
  for (const timestep of [0, 1, 250, 500, 998, 999]) {
    expect(model.timestep(model.sigma(timestep))).toBe(timestep);
  }
  expect(model.sigma(10.5)).toBeGreaterThan(model.sigma(10));
  expect(model.sigma(10.5)).toBeLessThan(model.sigma(11));
  expect(model.sigma(-3)).toBe(model.sigma(0));
  expect(model.sigma(5000)).toBe(model.sigma(999));
});

test("the trained range is Stable Diffusion's, and zero terminal SNR raises only its end", () => {
  expect(model.sigmaMin).toBeCloseTo(0.029167, 6);
  expect(model.sigmaMax).toBeCloseTo(14.614642, 5);
  const rescaled = createDiscreteSampling({ prediction: "v", isZeroTerminalSnr: true });
  expect(rescaled.sigmaMin).toBeCloseTo(model.sigmaMin, 5);
  expect(rescaled.sigmaMax).toBeCloseTo(4518.76, 1);
});

test("a perfect eps or v prediction gives the clean latent back", () => {
  const latent = Float32Array.of(0.5, -1, 2);
  const noise = Float32Array.of(1, 0.25, -0.75);
  const sigma = 2.5;
  const x = scaleNoise(sigma, { noise, latent });
  const root = Math.hypot(1, sigma);
  const velocity = noise.map((value, index) => (value - sigma * (latent[index] ?? 0)) / root);
  const v = createDiscreteSampling({ prediction: "v" });
  for (const denoised of [
    calculateDenoised(model, sigma, { output: noise, x }),
    calculateDenoised(v, sigma, { output: velocity, x }),
  ]) {
    for (const [index, value] of latent.entries()) expect(denoised[index]).toBeCloseTo(value, 5);
  }
  expect(inputDivisor(model, sigma)).toBeCloseTo(root, 6);
});

test("continuous sampling maps sigma to a quarter of its logarithm", () => {
  const edm = createContinuousSampling({
    prediction: "edm",
    sigmaMin: 0.002,
    sigmaMax: 80,
    sigmaData: 0.5,
  });
  expect(edm.timestep(80)).toBeCloseTo(Math.log(80) / 4, 6);
  expect(edm.sigma(edm.timestep(3))).toBeCloseTo(3, 5);
  expect(edm.percentToSigma(0.5)).toBeCloseTo(Math.sqrt(0.002 * 80), 4);
});

test("only a start at the highest sigma is full denoising", () => {
  expect(isMaxDenoise(model, model.sigmaMax)).toBe(true);
  expect(isMaxDenoise(model, 20)).toBe(true);
  expect(isMaxDenoise(model, 14)).toBe(false);
});
