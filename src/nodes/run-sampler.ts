/** What all sampler nodes do: from a workflow's model, conditionings and latent to one sampling run. */
import type { ModelInfo, UNetModel } from "../client/index.ts";
import { LunaError } from "../kernel/index.ts";
import {
  createDiscreteSampling,
  type ForwardInput,
  isSamplerName,
  isSchedulerName,
  type ModelSampling,
  prepareNoise,
  type SampleOptions,
  type Conditioning as SamplerConditioning,
  type SamplerName,
  type StepReport,
  sample,
  sampleSigmas,
} from "../sampling/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { refinerVector, sdxlVector } from "../text/index.ts";
import { decimal, shortName } from "./apply-lora.ts";
import type { NodeContext } from "./node-context.ts";
import type { Conditioning, ConditioningPart, Guider, Latent, Model, Noise } from "./values.ts";

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
  if (!isSamplerName(sampler_name) || !isSchedulerName(scheduler)) {
    throw new LunaError("REQUEST_INVALID", `No sampler ${sampler_name} with ${scheduler}.`);
  }
  const samples = await sample({
    ...preparedRun(inputs, latent, context),
    ...(latent.batchIndex && {
      noise: prepareNoise(latent.samples.shape, seed, latent.batchIndex),
    }),
    seed,
    steps: inputs.steps,
    samplerName: sampler_name,
    schedulerName: scheduler,
    ...range,
  });
  reportLoras(model, context);
  return { ...latent, samples };
}

export type CustomRun = Readonly<{
  guider: Guider;
  noise: Noise;
  samplerName: SamplerName;
  sigmas: Float32Array;
  latent: Latent;
}>;

/** Samples down given sigmas; `denoised` is the last step's own estimate of the clean latent. */
export async function runCustomSampler(
  { guider, noise, samplerName, sigmas, latent }: CustomRun,
  context: NodeContext,
): Promise<Readonly<{ result: Latent; denoised: Latent }>> {
  const { shape } = latent.samples;
  const { latentScale } = guider.model.unet.info;
  const run = preparedRun(guider, latent, context);
  let estimate: FloatTensor | undefined;
  const samples = await sampleSigmas({
    ...run,
    ...(!noise.isEmpty && { noise: prepareNoise(shape, noise.seed, latent.batchIndex) }),
    disableNoise: noise.isEmpty,
    seed: noise.seed,
    sigmas,
    samplerName,
    onStep: (report) => {
      estimate = report.denoised;
      run.onStep(report);
    },
  });
  reportLoras(guider.model, context);
  const result = { ...latent, samples };
  if (estimate === undefined) return { result, denoised: result };
  const data = estimate.data.map((value) => value / latentScale);
  return { result, denoised: { ...latent, samples: { shape, data } } };
}

/** What a run takes from its model, prompts and latent. */
function preparedRun(
  { model, positive, negative, cfg }: Guider,
  latent: Latent,
  context: NodeContext,
) {
  const { unet } = model;
  const { shape } = latent.samples;
  const prepared = (conditioning: Conditioning, isNegative: boolean) =>
    conditioning.map((part) => toSampler(part, { info: unet.info, shape, isNegative }));
  const concat = concatKind(unet.info);
  return {
    forward: forwardOf(unet),
    modelSampling: samplingOf(model),
    latent: latent.samples,
    cfg,
    positive: prepared(positive, false),
    negative: prepared(negative, true),
    ...(model.rescaleCfg !== undefined && { rescaleCfg: model.rescaleCfg }),
    ...(model.pagScale !== undefined && {
      perturbed: { forward: forwardOf(unet.withFeatures(PERTURBED)), scale: model.pagScale },
    }),
    ...(latent.noiseMask && { noiseMask: latent.noiseMask }),
    ...(concat && { concat }),
    latentScale: unet.info.latentScale,
    onStep: ({ step, total, denoised }: StepReport) =>
      context.progress({
        value: step,
        max: total,
        preview: { latent: denoised, info: unet.info },
      }),
    signal: context.signal,
  };
}

/** ComfyUI's node perturbs the middle block. */
const PERTURBED = { pag: { blocks: ["middle.0"] } };

function forwardOf(unet: UNetModel) {
  return (input: ForwardInput, signal?: AbortSignal): Promise<FloatTensor> =>
    unet.forward(input, signal === undefined ? {} : { signal });
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

/** The noise levels and timesteps a model was trained on, unless a node says otherwise. */
export function samplingOf({ sampling, unet }: Model): ModelSampling {
  if (sampling !== undefined) return sampling;
  const { prediction, isZeroTerminalSnr, id } = unet.info;
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
