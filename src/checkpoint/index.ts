export { unetDiffusersNames, vaeDiffusersNames } from "./diffusers-names.ts";
export { type Layer, layerWeights } from "./layer.ts";
export { openCheckpoint, type ReadTensor } from "./open-checkpoint.ts";
export { TAESD_DECODER, TAESD_ENCODER, type TaesdStep, taesdLayers } from "./taesd-layers.ts";
export { textLayers } from "./text-layers.ts";
export type * from "./types.ts";
export { levelWidths, unetLayers } from "./unet-layers.ts";
export { vaeLayers } from "./vae-layers.ts";
