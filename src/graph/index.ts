export { adapterInputs, adapterRankMin } from "./adapters.ts";
export { timestepEmbedding } from "./timestep-embedding.ts";
export type * from "./types.ts";
export { buildUNetGraph, type UNetGraphOptions } from "./unet.ts";
