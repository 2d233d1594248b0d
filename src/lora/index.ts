export { factorsFromTensors } from "./factors-from-tensors.ts";
export { activeAdapters, joinFactors, packAdapters, scaleRows } from "./pack-adapters.ts";
export { parseLora } from "./parse-lora.ts";
export type * from "./types.ts";
