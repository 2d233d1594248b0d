import { LunaError } from "../../kernel/index.ts";
import {
  betaSigmas,
  calculateSigmas,
  exponentialSigmas,
  isSchedulerName,
  karrasSigmas,
  polyexponentialSigmas,
  SCHEDULER_NAMES,
  vpSigmas,
} from "../../sampling/index.ts";
import { STEPS_MAX } from "../limits.ts";
import { defineNode, output } from "../node-definition.ts";
import { samplingOf } from "../run-sampler.ts";
import { roundHalfEven } from "../upscale.ts";

const SCHEDULERS = "sampling/custom_sampling/schedulers";
const SIGMAS = "sampling/custom_sampling/sigmas";
const STEPS = { type: "INT", default: 20, min: 1, max: STEPS_MAX } as const;
const DENOISE = { type: "FLOAT", default: 1, min: 0, max: 1, step: 0.01 } as const;
const advanced = (initial: number, max: number, step = 0.01) =>
  ({ type: "FLOAT", default: initial, min: 0, max, step, round: false, isAdvanced: true }) as const;
/** SD1's highest and lowest noise level. */
const RANGE = {
  sigma_max: advanced(14.614642, 5000),
  sigma_min: advanced(0.0291675, 5000),
} as const;
/** Stands for a sigma of 0 where sampling begins at one: nothing may be divided by it. */
const FLIPPED_ZERO = 0.0001;

const basicScheduler = defineNode({
  name: "BasicScheduler",
  displayName: "BasicScheduler",
  category: SCHEDULERS,
  inputs: {
    model: { type: "MODEL" },
    scheduler: { type: "COMBO", choices: SCHEDULER_NAMES },
    steps: STEPS,
    denoise: DENOISE,
  },
  outputs: [output("SIGMAS")],
  run({ model, scheduler, steps, denoise }) {
    if (!isSchedulerName(scheduler)) {
      throw new LunaError("REQUEST_INVALID", `No scheduler ${scheduler}.`);
    }
    if (denoise <= 0) return { outputs: [new Float32Array(0)] };
    const total = denoise < 1 ? Math.trunc(steps / denoise) : steps;
    const sigmas = calculateSigmas(samplingOf(model), scheduler, total);
    return { outputs: [sigmas.slice(-(steps + 1))] };
  },
});

const karrasScheduler = defineNode({
  name: "KarrasScheduler",
  displayName: "KarrasScheduler",
  category: SCHEDULERS,
  inputs: { steps: STEPS, ...RANGE, rho: advanced(7, 100) },
  outputs: [output("SIGMAS")],
  run: ({ steps, sigma_max: sigmaMax, sigma_min: sigmaMin, rho }) => ({
    outputs: [karrasSigmas({ steps, sigmaMin, sigmaMax, rho })],
  }),
});

const exponentialScheduler = defineNode({
  name: "ExponentialScheduler",
  displayName: "ExponentialScheduler",
  category: SCHEDULERS,
  inputs: { steps: STEPS, ...RANGE },
  outputs: [output("SIGMAS")],
  run: ({ steps, sigma_max: sigmaMax, sigma_min: sigmaMin }) => ({
    outputs: [exponentialSigmas({ steps, sigmaMin, sigmaMax })],
  }),
});

const polyexponentialScheduler = defineNode({
  name: "PolyexponentialScheduler",
  displayName: "PolyexponentialScheduler",
  category: SCHEDULERS,
  inputs: { steps: STEPS, ...RANGE, rho: advanced(1, 100) },
  outputs: [output("SIGMAS")],
  run: ({ steps, sigma_max: sigmaMax, sigma_min: sigmaMin, rho }) => ({
    outputs: [polyexponentialSigmas({ steps, sigmaMin, sigmaMax, rho })],
  }),
});

const vpScheduler = defineNode({
  name: "VPScheduler",
  displayName: "VPScheduler",
  category: SCHEDULERS,
  inputs: {
    steps: STEPS,
    beta_d: advanced(19.9, 5000),
    beta_min: advanced(0.1, 5000),
    eps_s: advanced(0.001, 1, 0.0001),
  },
  outputs: [output("SIGMAS")],
  run: ({ steps, beta_d: betaD, beta_min: betaMin, eps_s: epsilon }) => ({
    outputs: [vpSigmas({ steps, betaD, betaMin, epsilon })],
  }),
});

const betaScheduler = defineNode({
  name: "BetaSamplingScheduler",
  displayName: "BetaSamplingScheduler",
  category: SCHEDULERS,
  inputs: {
    model: { type: "MODEL" },
    steps: STEPS,
    alpha: advanced(0.6, 50),
    beta: advanced(0.6, 50),
  },
  outputs: [output("SIGMAS")],
  run: ({ model, steps, ...shape }) => ({
    outputs: [betaSigmas(samplingOf(model), steps, shape)],
  }),
});

const TURBO_STEPS_MAX = 10;

const turboScheduler = defineNode({
  name: "SDTurboScheduler",
  displayName: "SDTurboScheduler",
  category: SCHEDULERS,
  description: "The ten timesteps that SD-Turbo and SDXL-Turbo were distilled for.",
  inputs: {
    model: { type: "MODEL" },
    steps: { type: "INT", default: 1, min: 1, max: TURBO_STEPS_MAX },
    denoise: DENOISE,
  },
  outputs: [output("SIGMAS")],
  run({ model, steps, denoise }) {
    const start = TURBO_STEPS_MAX - Math.trunc(TURBO_STEPS_MAX * denoise);
    const timesteps = Array.from({ length: TURBO_STEPS_MAX }, (_, i) => 999 - 100 * i);
    const sampling = samplingOf(model);
    const sigmas = timesteps.slice(start, start + steps).map((time) => sampling.sigma(time));
    return { outputs: [Float32Array.from([...sigmas, 0])] };
  },
});

const HIGH_AND_LOW = [output("SIGMAS", "high_sigmas"), output("SIGMAS", "low_sigmas")];

const splitSigmas = defineNode({
  name: "SplitSigmas",
  displayName: "SplitSigmas",
  category: SIGMAS,
  inputs: {
    sigmas: { type: "SIGMAS" },
    step: { type: "INT", default: 0, min: 0, max: STEPS_MAX },
  },
  outputs: HIGH_AND_LOW,
  run: ({ sigmas, step }) => ({ outputs: [sigmas.slice(0, step + 1), sigmas.slice(step)] }),
});

const splitSigmasDenoise = defineNode({
  name: "SplitSigmasDenoise",
  displayName: "SplitSigmasDenoise",
  category: SIGMAS,
  inputs: { sigmas: { type: "SIGMAS" }, denoise: DENOISE },
  outputs: HIGH_AND_LOW,
  run({ sigmas, denoise }) {
    const low = roundHalfEven(Math.max(sigmas.length - 1, 0) * denoise);
    // No low steps leave no high ones either: Python's sigmas[:-0] is empty.
    return { outputs: [sigmas.slice(0, low === 0 ? 0 : -low), sigmas.slice(-(low + 1))] };
  },
});

const flipSigmas = defineNode({
  name: "FlipSigmas",
  displayName: "FlipSigmas",
  category: SIGMAS,
  inputs: { sigmas: { type: "SIGMAS" } },
  outputs: [output("SIGMAS")],
  run({ sigmas }) {
    const flipped = sigmas.toReversed();
    if (flipped[0] === 0) flipped[0] = FLIPPED_ZERO;
    return { outputs: [flipped] };
  },
});

const setFirstSigma = defineNode({
  name: "SetFirstSigma",
  displayName: "SetFirstSigma",
  category: SIGMAS,
  inputs: {
    sigmas: { type: "SIGMAS" },
    sigma: { type: "FLOAT", default: 136, min: 0, max: 20_000, step: 0.001, round: false },
  },
  outputs: [output("SIGMAS")],
  run: ({ sigmas, sigma }) => ({ outputs: [Float32Array.from([sigma, ...sigmas.slice(1)])] }),
});

export const SIGMA_NODES = [
  basicScheduler,
  karrasScheduler,
  exponentialScheduler,
  polyexponentialScheduler,
  vpScheduler,
  betaScheduler,
  turboScheduler,
  splitSigmas,
  splitSigmasDenoise,
  flipSigmas,
  setFirstSigma,
];
