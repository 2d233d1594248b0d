import { vaeDiffusersNames } from "./diffusers-names.ts";
import { LEVELS_MAX, RES_BLOCKS_MAX } from "./limits.ts";
import { taesdLayers } from "./taesd-layers.ts";
import type { Component, VaeConfig } from "./types.ts";
import { unsupported } from "./unsupported.ts";
import { vaeLayers } from "./vae-layers.ts";
import {
  axisOf,
  below,
  countRow,
  type Entries,
  type Find,
  finder,
  ldmNames,
  storedNames,
  takeWeights,
} from "./weights.ts";

const GROUPS = 32;
const LATENT_CHANNELS = 4;
const IMAGE_CHANNELS = 3;

function checkChannels(config: VaeConfig): void {
  const { latentChannels, imageChannels } = config;
  if (latentChannels !== LATENT_CHANNELS) {
    const who = latentChannels === 16 ? " (Stable Diffusion 3 or Flux)" : "";
    throw unsupported(`a VAE of ${latentChannels} latent channels${who}, not ${LATENT_CHANNELS}`);
  }
  if (imageChannels !== IMAGE_CHANNELS) {
    throw unsupported(`a VAE of ${imageChannels} image channels, not ${IMAGE_CHANNELS}`);
  }
}

type Half = Readonly<{ widths: readonly number[]; resBlocks: number }>;

/** Levels of one half, finest first; undefined where the file lacks it. */
function readHalf(entries: Entries, half: "encoder" | "decoder", isLdm: boolean): Half | undefined {
  if (!entries.has(`${half}.conv_in.weight`)) return undefined;
  const side = half === "encoder" ? "down" : "up";
  const block = (level: number, j: number): string =>
    isLdm ? `${half}.${side}.${level}.block.${j}` : `${half}.${side}_blocks.${level}.resnets.${j}`;
  const levels = countRow(entries, (i) => `${block(i, 0)}.norm1.weight`, {
    max: LEVELS_MAX,
    what: `levels in the VAE's ${half}`,
  });
  if (levels === 0) throw unsupported(`a VAE ${half} without levels`);
  const count = countRow(entries, (j) => `${block(0, j)}.norm1.weight`, {
    max: RES_BLOCKS_MAX,
    what: `residual blocks in a level of the VAE's ${half}`,
  });
  const widths = Array.from({ length: levels }, (_, level) =>
    axisOf(entries, `${block(level, 0)}.conv2.weight`, 0),
  );
  if (half === "decoder" && !isLdm) widths.reverse();
  return { widths, resBlocks: half === "encoder" ? count : count - 1 };
}

function readKl(entries: Entries, isLdm: boolean): Component<VaeConfig> {
  const encoder = readHalf(entries, "encoder", isLdm);
  const decoder = readHalf(entries, "decoder", isLdm);
  const half = decoder ?? encoder;
  if (half === undefined) throw unsupported("a VAE without encoder and decoder");
  const base =
    encoder === undefined ? half.widths[0] : axisOf(entries, "encoder.conv_in.weight", 0);
  const config: VaeConfig = {
    kind: "kl",
    latentChannels:
      decoder === undefined
        ? axisOf(entries, "encoder.conv_out.weight", 0) / 2
        : axisOf(entries, "decoder.conv_in.weight", 1),
    imageChannels:
      decoder === undefined
        ? axisOf(entries, "encoder.conv_in.weight", 1)
        : axisOf(entries, "decoder.conv_out.weight", 0),
    downscale: 2 ** (half.widths.length - 1),
    widths: [base ?? 0, ...half.widths],
    resBlocks: half.resBlocks,
    hasEncoder: encoder !== undefined,
    hasDecoder: decoder !== undefined,
  };
  checkChannels(config);
  const uneven = config.widths.find((width) => width % GROUPS !== 0);
  if (uneven !== undefined) {
    throw unsupported(`a VAE level of ${uneven} channels; a multiple of ${GROUPS} is needed`);
  }
  const stored = isLdm ? ldmNames : storedNames(vaeDiffusersNames(config));
  const weights = takeWeights("VAE", vaeLayers(config), finder(entries, stored));
  const known = new Set([...weights.keys()].flatMap(stored));
  for (const name of entries.keys()) {
    if (/^(encoder|decoder)\./.test(name) && !known.has(name)) {
      throw unsupported(`a VAE with the unknown layer "${name}"`);
    }
  }
  return { config, weights };
}

/** Where each half of a TAESD lies: as ComfyUI, the author's single files and diffusers name it. */
const TAESD_HALVES = {
  encoder: ["taesd_encoder.", "encoder.layers.", "encoder.", ""],
  decoder: ["taesd_decoder.", "decoder.layers.", "decoder.", ""],
};

/** diffusers' decoder has no module for the clamp that is number 0 in the author's. */
const indexShift = (prefix: string): number => (prefix === "decoder.layers." ? 1 : 0);

function readTaesd(entries: Entries): Component<VaeConfig> | undefined {
  const has = (prefix: string, index: number, rest: string) =>
    entries.has(`${prefix}${index - indexShift(prefix)}.${rest}`);
  const encoder = TAESD_HALVES.encoder.find(
    (prefix) => has(prefix, 0, "weight") && has(prefix, 1, "conv.0.weight"),
  );
  const decoder = TAESD_HALVES.decoder.find(
    (prefix) => has(prefix, 1, "weight") && has(prefix, 3, "conv.0.weight"),
  );
  const first = encoder === undefined ? undefined : `${encoder}0.weight`;
  const find: Find = (name) => {
    const [half, index = "", ...rest] = name.split(".");
    const prefix = half === "encoder" ? encoder : decoder;
    if (prefix === undefined) return undefined;
    return entries.get(`${prefix}${Number(index) - indexShift(prefix)}.${rest.join(".")}`);
  };
  const sample = find("decoder.1.weight") ?? (first === undefined ? undefined : entries.get(first));
  if (sample === undefined) return undefined;
  const config: VaeConfig = {
    kind: "taesd",
    latentChannels: find("decoder.1.weight")?.shape[1] ?? find("encoder.14.weight")?.shape[0] ?? 0,
    imageChannels: IMAGE_CHANNELS,
    downscale: 8,
    widths: [sample.shape[0] ?? 0],
    resBlocks: 3,
    hasEncoder: encoder !== undefined,
    hasDecoder: decoder !== undefined,
  };
  checkChannels(config);
  return { config, weights: takeWeights("TAESD", taesdLayers(config), find) };
}

/** Finds and checks the autoencoder of a file; undefined where there is none. */
export function detectVae(file: Entries): Component<VaeConfig> | undefined {
  for (const prefix of ["first_stage_model.", "vae.", ""]) {
    const entries = below(file, prefix);
    const has = (rest: string) => entries.has(`decoder.${rest}`) || entries.has(`encoder.${rest}`);
    if (has("mid.block_1.norm1.weight")) return readKl(entries, true);
    if (has("mid_block.resnets.0.norm1.weight")) return readKl(entries, false);
    const taesd = readTaesd(entries);
    if (taesd !== undefined) return taesd;
  }
  return undefined;
}
