import { defineNode, output } from "../node-definition.ts";
import { decodeLatent, encodePixels, type Tile } from "../pixels.ts";

const vaeDecode = defineNode({
  name: "VAEDecode",
  displayName: "VAE Decode",
  category: "latent",
  inputs: { samples: { type: "LATENT" }, vae: { type: "VAE" } },
  outputs: [output("IMAGE")],
  run: async ({ samples, vae }, context) => ({
    outputs: [await decodeLatent(vae, samples.samples, { context })],
  }),
});

const vaeEncode = defineNode({
  name: "VAEEncode",
  displayName: "VAE Encode",
  category: "latent",
  inputs: { pixels: { type: "IMAGE" }, vae: { type: "VAE" } },
  outputs: [output("LATENT")],
  run: async ({ pixels, vae }, context) => ({
    outputs: [{ samples: await encodePixels(vae, pixels, { context }) }],
  }),
});

const tileInputs = (step: number) =>
  ({
    tile_size: { type: "INT", default: 512, min: 64, max: 4096, step, isAdvanced: true },
    overlap: { type: "INT", default: 64, min: 0, max: 4096, step: 32, isAdvanced: true },
    // For video, which is not served; exported prompts have them.
    temporal_size: { ...TEMPORAL, default: 64, min: 8 },
    temporal_overlap: { ...TEMPORAL, default: 8, min: 4 },
  }) as const;
const TEMPORAL = { type: "INT", max: 4096, step: 4, isAdvanced: true, isOptional: true } as const;

/** Tiles overlap by a quarter at most, as ComfyUI has it, or they would never end. */
function tileOf({ tile_size, overlap }: { tile_size: number; overlap: number }): Tile {
  return { size: tile_size, overlap: Math.min(overlap, Math.floor(tile_size / 4)) };
}

const vaeDecodeTiled = defineNode({
  name: "VAEDecodeTiled",
  displayName: "VAE Decode (Tiled)",
  category: "_for_testing",
  inputs: { samples: { type: "LATENT" }, vae: { type: "VAE" }, ...tileInputs(32) },
  outputs: [output("IMAGE")],
  run: async ({ samples, vae, ...tile }, context) => ({
    outputs: [await decodeLatent(vae, samples.samples, { context, tile: tileOf(tile) })],
  }),
});

const vaeEncodeTiled = defineNode({
  name: "VAEEncodeTiled",
  displayName: "VAE Encode (Tiled)",
  category: "_for_testing",
  inputs: { pixels: { type: "IMAGE" }, vae: { type: "VAE" }, ...tileInputs(64) },
  outputs: [output("LATENT")],
  run: async ({ pixels, vae, ...tile }, context) => ({
    outputs: [{ samples: await encodePixels(vae, pixels, { context, tile: tileOf(tile) }) }],
  }),
});

export const VAE_NODES = [vaeDecode, vaeEncode, vaeDecodeTiled, vaeEncodeTiled];
