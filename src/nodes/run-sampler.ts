/** What all sampler nodes do: from a workflow's model, conditionings and latent to one sampling run. */
import type { ModelInfo } from "../client/index.ts";
import { LunaError } from "../kernel/index.ts";
import {
  createDiscreteSampling,
  isSamplerName,
  isSchedulerName,
  type ModelSampling,
  prepareNoise,
  type SampleOptions,
  type Conditioning as SamplerConditioning,
  sample,
} from "../sampling/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { refinerVector, sdxlVector } from "../text/index.ts";
import { decimal, shortName } from "./apply-lora.ts";
import type { NodeContext } from "./node-context.ts";
import type { Conditioning, ConditioningPart, Latent, Model } from "./values.ts";

export type SamplerInputs = Readonly<{
  model: Model;
  seed: bigint;
  steps: number;
  cfg: number;
  sampler_name: string;
  scheduler: string;
  positive: Conditioning;
  negative: Conditioning;
  latent_image: Latent;
}>;

export type SamplerRange = Pick<
  SampleOptions,
  "denoise" | "startStep" | "lastStep" | "forceFullDenoise" | "disableNoise"
>;

/** Samples; the result keeps the latent's mask and batch numbers, as ComfyUI's does. */
export async function runSampler(
  inputs: SamplerInputs,
  range: SamplerRange,
  context: NodeContext,
): Promise<Latent> {
  const { model, seed, latent_image: latent, sampler_name, scheduler } = inputs;
  const { unet } = model;
  if (!isSamplerName(sampler_name) || !isSchedulerName(scheduler)) {
    throw new LunaError("REQUEST_INVALID", `No sampler ${sampler_name} with ${scheduler}.`);
  }
  const { shape } = latent.samples;
  const prepared = (conditioning: Conditioning, isNegative: boolean) =>
    conditioning.map((part) => toSampler(part, { info: unet.info, shape, isNegative }));
  const concat = concatKind(unet.info);
  const samples = await sample({
    forward: (input, signal) => unet.forward(input, signal === undefined ? {} : { signal }),
    modelSampling: samplingOf(unet.info),
    latent: latent.samples,
    ...(latent.batchIndex && { noise: prepareNoise(shape, seed, latent.batchIndex) }),
    seed,
    steps: inputs.steps,
    cfg: inputs.cfg,
    samplerName: sampler_name,
    schedulerName: scheduler,
    positive: prepared(inputs.positive, false),
    negative: prepared(inputs.negative, true),
    ...range,
    ...(latent.noiseMask && { noiseMask: latent.noiseMask }),
    ...(concat && { concat }),
    latentScale: unet.info.latentScale,
    onStep: ({ step, total, denoised }) =>
      context.progress({ value: step, max: total, preview: { latent: denoised, info: unet.info } }),
    signal: context.signal,
  });
  reportLoras(model, context);
  return { ...latent, samples };
}

/** The base is never written: LoRAs were inputs of each step. */
function reportLoras({ unet, location }: Model, context: NodeContext): void {
  if (unet.loras.length === 0) return;
  const prefix = location === "daemon" ? "[DaemonModel]" : "[LocalModel]";
  for (const { name, strengthModel } of unet.loras) {
    context.log(`${prefix} Applied LoRA '${shortName(name)}' (strength=${decimal(strengthModel)})`);
  }
  context.log(`${prefix} Base weights were not touched (LoRAs are inputs of each step)`);
}

function samplingOf({ prediction, isZeroTerminalSnr, id }: ModelInfo): ModelSampling {
  if (prediction === "edm") {
    throw new LunaError(
      "CHECKPOINT_UNSUPPORTED",
      `${id} was trained on continuous sigmas (EDM), which the sampler nodes do not know yet.`,
    );
  }
  return createDiscreteSampling({ prediction, isZeroTerminalSnr });
}

/** Inpainting nets take 9 channels (latent, mask, masked latent), pix2pix nets 8. */
function concatKind({ unet }: ModelInfo): "inpaint" | "pix2pix" | undefined {
  const extra = (unet?.inChannels ?? 0) - (unet?.outChannels ?? 0);
  if (extra === 5) return "inpaint";
  return extra === 4 ? "pix2pix" : undefined;
}

type Target = Readonly<{ info: ModelInfo; shape: readonly number[]; isNegative: boolean }>;

function toSampler(part: ConditioningPart, target: Target): SamplerConditioning {
  const { pooled: _pooled, size: _size, ...rest } = part;
  const y = vectorOf(part, target);
  return { ...rest, ...(y && { y }) };
}

/** SDXL's `y`; the picture's own size where the conditioning names none. */
function vectorOf(
  { pooled, size }: Pick<ConditioningPart, "pooled" | "size">,
  { info, shape, isNegative }: Target,
): FloatTensor | undefined {
  if ((info.unet?.admChannels ?? 0) === 0) return undefined;
  if (pooled === undefined) {
    throw new LunaError(
      "REQUEST_INVALID",
      `${info.id} needs a pooled prompt, and this conditioning has none. Encode it with this model's CLIP.`,
    );
  }
  const scale = info.vae?.downscale ?? 8;
  const [height, width] = [(shape[2] ?? 1) * scale, (shape[3] ?? 1) * scale];
  const known = { height, width, ...size };
  return info.family === "sdxl-refiner"
    ? refinerVector(pooled, known, isNegative)
    : sdxlVector(pooled, known);
}
