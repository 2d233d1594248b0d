export { adapterInputs, adapterRankMin, vectorInputs, vectorShape } from "./adapters.ts";
export { buildClipGraph, type ClipGraphOptions } from "./clip.ts";
export { buildControlHintGraph, buildControlNetGraph } from "./controlnet.ts";
export { frequencyInputs, lowFrequencies } from "./freeu.ts";
export { buildT2IAdapterGraph, pixelUnshuffle } from "./t2i-adapter.ts";
export { timestepEmbedding } from "./timestep-embedding.ts";
export type * from "./types.ts";
export { buildUNetGraph, type UNetGraphOptions } from "./unet.ts";
export { buildVaeDecoderGraph, buildVaeEncoderGraph, type VaeGraphOptions } from "./vae.ts";
