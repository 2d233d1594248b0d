export { unetDiffusersNames, vaeDiffusersNames } from "./diffusers-names.ts";
export { type Layer, layerWeights } from "./layer.ts";
export type * from "./types.ts";
export { levelWidths, unetLayers } from "./unet-layers.ts";
export { vaeLayers } from "./vae-layers.ts";
