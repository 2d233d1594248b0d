import type { ResultData } from "../protocol/index.ts";
import type { Model } from "../registry/index.ts";

type ModelInfo = ResultData<"preload">["model"];

/** What clients are told of a model; enough to sample, encode and decode. */
export function describeModel({ file, checkpoint, bytes }: Model): ModelInfo {
  const { family, prediction, isZeroTerminalSnr, latentScale, dtype, unet, vae } = checkpoint;
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
