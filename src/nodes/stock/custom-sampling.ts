import {
  createDiscreteSampling,
  isSamplerName,
  SAMPLER_NAMES,
  type SamplerName,
} from "../../sampling/index.ts";
import { defineNode, output } from "../node-definition.ts";
import { runCustomSampler } from "../run-sampler.ts";
import { KSAMPLER_INPUTS } from "./samplers.ts";

const CATEGORY = "sampling/custom_sampling";
const OUTPUTS = [output("LATENT", "output"), output("LATENT", "denoised_output")];

const samplerCustom = defineNode({
  name: "SamplerCustom",
  displayName: "SamplerCustom",
  category: CATEGORY,
  description: "KSampler with a schedule from a node of its own.",
  inputs: {
    model: { type: "MODEL" },
    add_noise: { type: "BOOLEAN", default: true, isAdvanced: true },
    noise_seed: { type: "SEED" },
    cfg: KSAMPLER_INPUTS.cfg,
    positive: { type: "CONDITIONING" },
    negative: { type: "CONDITIONING" },
    sampler: { type: "SAMPLER" },
    sigmas: { type: "SIGMAS" },
    latent_image: { type: "LATENT" },
  },
  outputs: OUTPUTS,
  async run({ add_noise, noise_seed, sampler, sigmas, latent_image: latent, ...guider }, context) {
    const noise = { seed: noise_seed, isEmpty: !add_noise };
    const run = { guider, noise, samplerName: sampler, sigmas, latent };
    const { result, denoised } = await runCustomSampler(run, context);
    return { outputs: [result, denoised] };
  },
});

const samplerCustomAdvanced = defineNode({
  name: "SamplerCustomAdvanced",
  displayName: "SamplerCustomAdvanced",
  category: CATEGORY,
  description: "Noise, guidance, sampler and schedule each from a node of its own.",
  inputs: {
    noise: { type: "NOISE" },
    guider: { type: "GUIDER" },
    sampler: { type: "SAMPLER" },
    sigmas: { type: "SIGMAS" },
    latent_image: { type: "LATENT" },
  },
  outputs: OUTPUTS,
  async run({ sampler, latent_image: latent, ...rest }, context) {
    const run = { ...rest, samplerName: sampler, latent };
    const { result, denoised } = await runCustomSampler(run, context);
    return { outputs: [result, denoised] };
  },
});

const kSamplerSelect = defineNode({
  name: "KSamplerSelect",
  displayName: "KSamplerSelect",
  category: `${CATEGORY}/samplers`,
  inputs: { sampler_name: { type: "COMBO", choices: SAMPLER_NAMES } },
  outputs: [output("SAMPLER")],
  run: ({ sampler_name }) => ({ outputs: [samplerNamed(sampler_name)] }),
});

/** Validation has checked the name against the list. */
function samplerNamed(name: string): SamplerName {
  return isSamplerName(name) ? name : "euler";
}

const basicGuider = defineNode({
  name: "BasicGuider",
  displayName: "BasicGuider",
  category: `${CATEGORY}/guiders`,
  description: "The prompt alone, without a negative one.",
  inputs: { model: { type: "MODEL" }, conditioning: { type: "CONDITIONING" } },
  outputs: [output("GUIDER")],
  run: ({ model, conditioning }) => ({
    outputs: [{ model, positive: conditioning, negative: [], cfg: 1 }],
  }),
});

const cfgGuider = defineNode({
  name: "CFGGuider",
  displayName: "CFGGuider",
  category: `${CATEGORY}/guiders`,
  inputs: {
    model: { type: "MODEL" },
    positive: { type: "CONDITIONING" },
    negative: { type: "CONDITIONING" },
    cfg: KSAMPLER_INPUTS.cfg,
  },
  outputs: [output("GUIDER")],
  run: (guider) => ({ outputs: [guider] }),
});

const randomNoise = defineNode({
  name: "RandomNoise",
  displayName: "RandomNoise",
  category: `${CATEGORY}/noise`,
  inputs: { noise_seed: { type: "SEED" } },
  outputs: [output("NOISE")],
  run: ({ noise_seed }) => ({ outputs: [{ seed: noise_seed, isEmpty: false }] }),
});

const disableNoise = defineNode({
  name: "DisableNoise",
  displayName: "DisableNoise",
  category: `${CATEGORY}/noise`,
  inputs: {},
  outputs: [output("NOISE")],
  run: () => ({ outputs: [{ seed: 0n, isEmpty: true }] }),
});

const modelSamplingDiscrete = defineNode({
  name: "ModelSamplingDiscrete",
  displayName: "ModelSamplingDiscrete",
  category: "advanced/model",
  description: "What a model predicts, where its file does not say it: v-prediction, LCM, ...",
  inputs: {
    model: { type: "MODEL" },
    sampling: { type: "COMBO", choices: ["eps", "v_prediction", "lcm", "x0"] },
    zsnr: { type: "BOOLEAN", default: false, isAdvanced: true },
  },
  outputs: [output("MODEL")],
  run({ model, sampling: name, zsnr }) {
    const predictions = { eps: "eps", v_prediction: "v", lcm: "lcm", x0: "x0" } as const;
    const prediction = predictions[name as keyof typeof predictions]; // One of the choices.
    const sampling = createDiscreteSampling({ prediction, isZeroTerminalSnr: zsnr });
    return { outputs: [{ ...model, sampling }] };
  },
});

const rescaleCfg = defineNode({
  name: "RescaleCFG",
  displayName: "RescaleCFG",
  category: "advanced/model",
  description: "Keeps strong guidance from overexposing a picture.",
  inputs: {
    model: { type: "MODEL" },
    multiplier: { type: "FLOAT", default: 0.7, min: 0, max: 1, step: 0.01 },
  },
  outputs: [output("MODEL")],
  run: ({ model, multiplier }) => ({ outputs: [{ ...model, rescaleCfg: multiplier }] }),
});

export const CUSTOM_SAMPLING_NODES = [
  samplerCustom,
  samplerCustomAdvanced,
  kSamplerSelect,
  basicGuider,
  cfgGuider,
  randomNoise,
  disableNoise,
  modelSamplingDiscrete,
  rescaleCfg,
];
