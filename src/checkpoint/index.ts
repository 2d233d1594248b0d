export { componentsOf, componentWeights } from "./components.ts";
export {
  blockPlaces,
  controlNetLayers,
  controlPlaces,
  HINT_CONVOLUTIONS,
  halvesAt,
  misfit,
  t2iAdapterLayers,
  UNION_TYPE_WIDTH,
} from "./control-layers.ts";
export { unetDiffusersNames, vaeDiffusersNames } from "./diffusers-names.ts";
export { type Layer, layerWeights } from "./layer.ts";
export { openCheckpoint, type ReadTensor } from "./open-checkpoint.ts";
export { openCheckpointFile } from "./open-checkpoint-file.ts";
export { TAESD_DECODER, TAESD_ENCODER, type TaesdStep, taesdLayers } from "./taesd-layers.ts";
export { textLayers } from "./text-layers.ts";
export type * from "./types.ts";
export { levelWidths, unetLayers } from "./unet-layers.ts";
export { vaeLayers } from "./vae-layers.ts";
