import { dpmpp2m, dpmpp2sAncestral, resMultistep } from "./dpm-solver.ts";
import { dpmpp2mSde, dpmpp3mSde, dpmppSde } from "./dpm-solver-sde.ts";
import { lms } from "./linear-multistep.ts";
import { ddpm, lcm } from "./renoise.ts";
import { dpm2, dpm2Ancestral, euler, eulerAncestral, heun } from "./runge-kutta.ts";
import type { Sampler } from "./sampler.ts";
import { uniPc, uniPcBh2 } from "./uni-pc.ts";

type SamplerEntry = Readonly<{
  sample: Sampler;
  /** Runs one step more and drops the second-to-last sigma. */
  isPenultimateDiscarded?: boolean;
  /** Inpainting noises the kept latent with noise of seed + 1 and not with the initial noise. */
  isInpaintNoiseFresh?: boolean;
}>;

/** ComfyUI's names; "_gpu" variants differ there only in where noise is drawn, on a CPU not at all. */
export const SAMPLERS = {
  euler: { sample: euler },
  euler_ancestral: { sample: eulerAncestral },
  heun: { sample: heun },
  dpm_2: { sample: dpm2, isPenultimateDiscarded: true },
  dpm_2_ancestral: { sample: dpm2Ancestral, isPenultimateDiscarded: true },
  lms: { sample: lms },
  dpmpp_2s_ancestral: { sample: dpmpp2sAncestral },
  dpmpp_sde: { sample: dpmppSde },
  dpmpp_sde_gpu: { sample: dpmppSde },
  dpmpp_2m: { sample: dpmpp2m },
  dpmpp_2m_sde: { sample: dpmpp2mSde },
  dpmpp_2m_sde_gpu: { sample: dpmpp2mSde },
  dpmpp_3m_sde: { sample: dpmpp3mSde },
  dpmpp_3m_sde_gpu: { sample: dpmpp3mSde },
  ddpm: { sample: ddpm },
  lcm: { sample: lcm },
  res_multistep: { sample: resMultistep },
  ddim: { sample: euler, isInpaintNoiseFresh: true },
  uni_pc: { sample: uniPc, isPenultimateDiscarded: true },
  uni_pc_bh2: { sample: uniPcBh2, isPenultimateDiscarded: true },
} as const satisfies Record<string, SamplerEntry>;

export type SamplerName = keyof typeof SAMPLERS;

export const SAMPLER_NAMES = Object.keys(SAMPLERS) as readonly SamplerName[];

export function isSamplerName(name: string): name is SamplerName {
  return Object.hasOwn(SAMPLERS, name);
}

export function samplerOf(name: SamplerName): SamplerEntry {
  return SAMPLERS[name];
}
