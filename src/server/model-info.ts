import type { ResultData } from "../protocol/index.ts";
import type { Model } from "../registry/index.ts";
import { CELL_PIXELS } from "./controls.ts";

type ModelInfo = ResultData<"preload">["model"];

/** What clients are told of a model; enough to sample, encode and decode. */
export function describeModel({ file, checkpoint, bytes }: Model): ModelInfo {
  const { family, prediction, isZeroTerminalSnr, latentScale, dtype, unet, vae, control } =
    checkpoint;
  return {
    id: file.id,
    ...(family === undefined ? {} : { family }),
    ...{ prediction, isZeroTerminalSnr, latentScale, dtype, bytes },
    ...(unet === undefined ? {} : { unet: pickUnet(unet.config) }),
    textEncoders: checkpoint.textEncoders.map(({ config }) => {
      const { kind, width, layers, projection } = config;
      return { kind, width, layers, projection };
    }),
    ...(vae === undefined ? {} : { vae: pickVae(vae.config) }),
    ...(control === undefined ? {} : { control: pickControl(control.config) }),
  };
}

function pickUnet(config: NonNullable<Model["checkpoint"]["unet"]>["config"]) {
  const { inChannels, outChannels, contextDim, admChannels, modelChannels } = config;
  return { inChannels, outChannels, contextDim, admChannels, modelChannels };
}

function pickVae(config: NonNullable<Model["checkpoint"]["vae"]>["config"]) {
  const { kind, latentChannels, downscale, hasEncoder, hasDecoder } = config;
  return { kind, latentChannels, downscale, hasEncoder, hasDecoder };
}

/** Hints are 8 pixels a latent cell, rounded up to the multiple. */
function pickControl(config: NonNullable<Model["checkpoint"]["control"]>["config"]) {
  const { kind, hintChannels } = config;
  const isNet = config.kind === "controlnet";
  return {
    ...{ kind, hintChannels },
    hintMultiple: isNet ? CELL_PIXELS : config.unshuffle,
    unionTypes: isNet ? config.unionTypes : 0,
  };
}
