import { SAMPLER_NAMES, SCHEDULER_NAMES } from "../../sampling/index.ts";
import { STEPS_MAX } from "../limits.ts";
import { defineNode, output } from "../node-definition.ts";
import { runSampler } from "../run-sampler.ts";

const STEPS = { type: "INT", default: 20, min: 1, max: STEPS_MAX } as const;
const CFG = { type: "FLOAT", default: 8, min: 0, max: 100, step: 0.1, round: 0.01 } as const;

/** Inputs of KSampler, in its order. */
export const KSAMPLER_INPUTS = {
  model: { type: "MODEL" },
  seed: { type: "SEED" },
  steps: STEPS,
  cfg: CFG,
  sampler_name: { type: "COMBO", choices: SAMPLER_NAMES },
  scheduler: { type: "COMBO", choices: SCHEDULER_NAMES },
  positive: { type: "CONDITIONING" },
  negative: { type: "CONDITIONING" },
  latent_image: { type: "LATENT" },
  denoise: { type: "FLOAT", default: 1, min: 0, max: 1, step: 0.01 },
} as const;

const kSampler = defineNode({
  name: "KSampler",
  displayName: "KSampler",
  category: "sampling",
  description: "Turns noise into a latent, step by step, guided by two prompts.",
  inputs: KSAMPLER_INPUTS,
  outputs: [output("LATENT")],
  run: async ({ denoise, ...inputs }, context) => ({
    outputs: [await runSampler(inputs, { denoise }, context)],
  }),
});

const step = (initial: number) =>
  ({ type: "INT", default: initial, min: 0, max: STEPS_MAX, isAdvanced: true }) as const;

const kSamplerAdvanced = defineNode({
  name: "KSamplerAdvanced",
  displayName: "KSampler (Advanced)",
  category: "sampling",
  description: "KSampler over a part of the steps, so that several nodes share one picture.",
  inputs: {
    model: { type: "MODEL" },
    add_noise: { type: "COMBO", choices: ["enable", "disable"], isAdvanced: true },
    noise_seed: { type: "SEED" },
    steps: STEPS,
    cfg: CFG,
    sampler_name: KSAMPLER_INPUTS.sampler_name,
    scheduler: KSAMPLER_INPUTS.scheduler,
    positive: { type: "CONDITIONING" },
    negative: { type: "CONDITIONING" },
    latent_image: { type: "LATENT" },
    start_at_step: step(0),
    end_at_step: step(STEPS_MAX),
    return_with_leftover_noise: { type: "COMBO", choices: ["disable", "enable"], isAdvanced: true },
  },
  outputs: [output("LATENT")],
  async run(inputs, context) {
    const range = {
      denoise: 1,
      disableNoise: inputs.add_noise === "disable",
      startStep: inputs.start_at_step,
      lastStep: inputs.end_at_step,
      forceFullDenoise: inputs.return_with_leftover_noise === "disable",
    };
    const latent = await runSampler({ ...inputs, seed: inputs.noise_seed }, range, context);
    return { outputs: [latent] };
  },
});

export const SAMPLER_NODES = [kSampler, kSamplerAdvanced];
