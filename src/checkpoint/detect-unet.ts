/**
 * Reads a UNet's config from its keys and shapes, in LDM or diffusers naming. What the shapes do
 * not tell follows the families: SD1 projects with 1x1 convolutions and has 8 heads, SD2 and SDXL
 * project with linear layers and have heads of 64 channels, SDXL has a label embedding.
 */
import { unetDiffusersNames } from "./diffusers-names.ts";
import { LEVELS_MAX, RES_BLOCKS_MAX, TRANSFORMER_DEPTH_MAX } from "./limits.ts";
import type { Component, EncoderConfig, Family, UNetConfig } from "./types.ts";
import { levelWidths, unetLayers } from "./unet-layers.ts";
import { unsupported } from "./unsupported.ts";
import {
  axisOf,
  below,
  countRow,
  type Entries,
  finder,
  ldmNames,
  storedNames,
  takeWeights,
} from "./weights.ts";

type Level = { width: number; depths: number[] };
type Outline = Readonly<{
  levels: readonly Level[];
  middleDepth: number;
  /** In the order of output_blocks. */
  upDepths: readonly number[];
  names: Readonly<Record<"convIn" | "convOut" | "label", string>>;
}>;

const GROUPS = 32;
const HEAD_CHANNELS = 64;
const HEAD_COUNT_SD1 = 8;

function transformerDepth(entries: Entries, prefix: string): number {
  return countRow(entries, (i) => `${prefix}.transformer_blocks.${i}.norm1.weight`, {
    max: TRANSFORMER_DEPTH_MAX,
    what: `transformer blocks in "${prefix}"`,
  });
}

/** Depth of the middle; -1 where only its first residual block is left, -2 where nothing is. */
function middleDepth(entries: Entries, attention: string, firstNorm: string): number {
  if (entries.has(`${attention}.proj_in.weight`)) return transformerDepth(entries, attention);
  return entries.has(firstNorm) ? -1 : -2;
}

function outlineLdm(entries: Entries): Outline {
  const levels: Level[] = [{ width: 0, depths: [] }];
  for (let block = 1; levels.length <= LEVELS_MAX; block++) {
    const at = `input_blocks.${block}`;
    const level = levels.at(-1);
    if (entries.has(`${at}.0.op.weight`)) levels.push({ width: 0, depths: [] });
    else if (level !== undefined && entries.has(`${at}.0.in_layers.0.weight`)) {
      level.width = axisOf(entries, `${at}.0.out_layers.3.weight`, 0);
      if (level.depths.push(transformerDepth(entries, `${at}.1`)) > RES_BLOCKS_MAX) {
        throw unsupported(`more than ${RES_BLOCKS_MAX} residual blocks in a level of the UNet`);
      }
    } else break;
  }
  const count = countRow(entries, (i) => `output_blocks.${i}.0.in_layers.0.weight`, {
    max: LEVELS_MAX * RES_BLOCKS_MAX,
    what: "output blocks",
  });
  return {
    levels,
    middleDepth: middleDepth(entries, "middle_block.1", "middle_block.0.in_layers.0.weight"),
    upDepths: Array.from({ length: count }, (_, i) =>
      transformerDepth(entries, `output_blocks.${i}.1`),
    ),
    names: {
      convIn: "input_blocks.0.0",
      convOut: "out.2",
      label: "label_emb.0.0",
    },
  };
}

function outlineDiffusers(entries: Entries): Outline {
  const block = (place: string): Level[] => {
    const marker = (level: number, j: number) => `${place}.${level}.resnets.${j}.norm1.weight`;
    const limit = { max: LEVELS_MAX, what: place };
    const count = countRow(entries, (i) => marker(i, 0), limit);
    return Array.from({ length: count }, (_, level) => {
      const res = { max: RES_BLOCKS_MAX, what: `residual blocks in "${place}.${level}"` };
      const length = countRow(entries, (j) => marker(level, j), res);
      const depths = Array.from({ length }, (_, j) =>
        transformerDepth(entries, `${place}.${level}.attentions.${j}`),
      );
      return { width: axisOf(entries, `${place}.${level}.resnets.0.conv2.weight`, 0), depths };
    });
  };
  const hasClass = entries.has("class_embedding.linear_1.weight");
  return {
    levels: block("down_blocks"),
    middleDepth: middleDepth(entries, "mid_block.attentions.0", "mid_block.resnets.0.norm1.weight"),
    upDepths: block("up_blocks").flatMap((level) => level.depths),
    names: {
      convIn: "conv_in",
      convOut: "conv_out",
      label: `${hasClass ? "class" : "add"}_embedding.linear_1`,
    },
  };
}

const KEYS_OF_CONTEXT = ".transformer_blocks.0.attn2.to_k.weight";

/** What a way down and a middle say of themselves; a net without cross-attention has contextDim 0. */
function encoderOf(entries: Entries, { levels, names, middleDepth }: Outline): EncoderConfig {
  if (levels.length > LEVELS_MAX) throw unsupported(`a UNet of more than ${LEVELS_MAX} levels`);
  const keys = [...entries.keys()];
  const context = keys.find((name) => name.endsWith(KEYS_OF_CONTEXT));
  const projection = entries.get(keys.find((name) => name.endsWith(".proj_in.weight")) ?? "");
  const modelChannels = axisOf(entries, `${names.convIn}.weight`, 0);
  const isLinearProjection = projection?.shape.length === 2;
  const isLabelled = entries.has(`${names.label}.weight`);
  return {
    inChannels: axisOf(entries, `${names.convIn}.weight`, 1),
    modelChannels,
    channelMult: levels.map(({ width }) => width / modelChannels),
    resBlocks: levels.map(({ depths }) => depths.length),
    transformerDepth: levels.flatMap(({ depths }) => depths),
    transformerDepthMiddle: middleDepth,
    contextDim: context === undefined ? 0 : axisOf(entries, context, 1),
    admChannels: isLabelled ? axisOf(entries, `${names.label}.weight`, 1) : 0,
    heads: isLinearProjection ? { channels: HEAD_CHANNELS } : { count: HEAD_COUNT_SD1 },
    isLinearProjection,
  };
}

/** The way down and the middle of a net; `upDepths` are transformer depths of its way up, if any. */
export function readEncoder(
  entries: Entries,
  isLdm: boolean,
): { encoder: EncoderConfig; upDepths: readonly number[]; convOut: string } {
  const outline = isLdm ? outlineLdm(entries) : outlineDiffusers(entries);
  const encoder = encoderOf(entries, outline);
  checkEncoder(encoder, outline.upDepths);
  return { encoder, upDepths: outline.upDepths, convOut: outline.names.convOut };
}

function checkEncoder(config: EncoderConfig, upDepths: readonly number[]): void {
  const { inChannels, channelMult } = config;
  if (![4, 8, 9].includes(inChannels)) {
    throw unsupported(
      `a UNet of ${inChannels} input channels; text to image has 4, pix2pix 8, inpainting 9`,
    );
  }
  if (config.transformerDepthMiddle < 0 && config.admChannels === 0) {
    throw unsupported("a distilled Stable Diffusion 1.x or 2.x UNet without its middle attention");
  }
  const widths = levelWidths(config);
  const uneven = widths.find((width) => width === 0 || width % GROUPS !== 0);
  if (uneven !== undefined) {
    throw unsupported(`a UNet level of ${uneven} channels; a multiple of ${GROUPS} is needed`);
  }
  if (!config.isLinearProjection) return;
  for (const [level, width] of widths.entries()) {
    if (width % HEAD_CHANNELS === 0 || !hasAttention(config, upDepths, level)) continue;
    throw unsupported(
      `attention over ${width} channels (multiple ${channelMult[level]}); heads have 64`,
    );
  }
}

function hasAttention(config: EncoderConfig, up: readonly number[], level: number): boolean {
  const { resBlocks, transformerDepth: down } = config;
  const begin = resBlocks.slice(0, level).reduce((sum, count) => sum + count, 0);
  const count = resBlocks[level] ?? 0;
  const end = up.length - begin - level;
  const depths = [...down.slice(begin, begin + count), ...up.slice(end - count - 1, end)];
  const isDeepest = level === resBlocks.length - 1;
  return (isDeepest && config.transformerDepthMiddle > 0) || depths.some((depth) => depth > 0);
}

/** SDXL's label embedding takes 6 size numbers, the refiner's 5, each as 256 sines and cosines. */
const SIZE_NUMBERS = { sdxl: 6 * 256, "sdxl-refiner": 5 * 256 };

/** The family a UNet belongs to; throws CHECKPOINT_UNSUPPORTED for another label embedding. */
export function familyOf(config: UNetConfig): Family {
  const { admChannels, contextDim, isLinearProjection } = config;
  if (admChannels === 0) return isLinearProjection ? "sd2" : "sd1";
  // The refiner's label is OpenCLIP-G's pooled output, as wide as its context, and the numbers.
  if (admChannels === contextDim + SIZE_NUMBERS["sdxl-refiner"]) return "sdxl-refiner";
  const pooled = admChannels - SIZE_NUMBERS.sdxl;
  const isUnclip = contextDim === 1024 && (admChannels === 1536 || admChannels === 2048);
  if (isUnclip || pooled <= 0 || !isLinearProjection) {
    throw unsupported(`a UNet with a label embedding of ${admChannels} (SD 2.1 unCLIP or similar)`);
  }
  return "sdxl";
}

/** What may lie beside a UNet without a prefix. */
const BESIDE =
  /^(first_stage_model|cond_stage_model|conditioner|model_ema|denoiser|edm_vpred|vae|text_encoder\w*)\./;

const PREFIXES = ["model.diffusion_model.", "diffusion_model.", "unet.", ""];

/** Finds and checks the UNet of a file; undefined where there is none. */
export function detectUNet(file: Entries): Component<UNetConfig> | undefined {
  for (const prefix of PREFIXES) {
    const isLdm = file.has(`${prefix}input_blocks.0.0.weight`);
    const isDiffusers = file.has(`${prefix}down_blocks.0.resnets.0.norm1.weight`);
    if (isLdm || isDiffusers) return readUNet(below(file, prefix), isLdm);
  }
  return undefined;
}

function readUNet(entries: Entries, isLdm: boolean): Component<UNetConfig> {
  const { encoder, upDepths, convOut } = readEncoder(entries, isLdm);
  if (encoder.contextDim === 0) throw unsupported("a UNet without cross-attention");
  const outChannels = axisOf(entries, `${convOut}.weight`, 0);
  if (outChannels !== 4) throw unsupported(`a UNet of ${outChannels} output channels, not 4`);
  const ups = encoder.resBlocks.reduce((sum, count) => sum + count + 1, 0);
  if (upDepths.length !== ups) {
    throw unsupported(`a UNet of ${upDepths.length} output blocks, ${ups} expected`);
  }
  const config: UNetConfig = { ...encoder, outChannels, transformerDepthOutput: upDepths };
  const stored = isLdm ? ldmNames : storedNames(unetDiffusersNames(config));
  const weights = takeWeights("UNet", unetLayers(config), finder(entries, stored));
  const known = new Set([...weights.keys()].flatMap(stored));
  for (const name of entries.keys()) {
    // An unknown layer would change what the net computes; a name without a dot is a mark.
    if (!known.has(name) && name.includes(".") && !BESIDE.test(name)) {
      throw unsupported(`a UNet with the unknown layer "${name}"`);
    }
  }
  return { config, weights };
}
