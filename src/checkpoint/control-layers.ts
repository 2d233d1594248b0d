/** Every layer of a ControlNet and of a T2I-Adapter, and where their residuals go. */
import { conv, type Layer, type LayerNames, linear, norm } from "./layer.ts";
import type { ControlConfig, ControlNetConfig, EncoderConfig, T2IAdapterConfig } from "./types.ts";
import { encoderLayers, levelWidths } from "./unet-layers.ts";

/** Widths and strides of the convolutions over the hint; one more leads to the net's own width. */
export const HINT_CONVOLUTIONS = [
  [16, 1],
  [16, 1],
  [32, 2],
  [32, 1],
  [96, 2],
  [96, 1],
  [256, 2],
] as const;

/** Sines and cosines that tell a Union net whether a kind of hint is given. */
export const UNION_TYPE_WIDTH = 256;

function hintLayers({ encoder, hintChannels }: ControlNetConfig): Layer[] {
  let channels = hintChannels;
  const widths = [...HINT_CONVOLUTIONS.map(([width]) => width), encoder.modelChannels];
  return widths.map((width, index) => {
    const inner = index === widths.length - 1 ? "conv_out" : `blocks.${index - 1}`;
    const names: LayerNames = [
      `input_hint_block.${2 * index}`,
      `controlnet_cond_embedding.${index === 0 ? "conv_in" : inner}`,
    ];
    const layer = conv(names, width, channels);
    channels = width;
    return layer;
  });
}

const same = (name: string): LayerNames => [name, name];

/** What tells the kinds of hints apart in xinsir's ControlNet++, called Union. */
function unionLayers({ encoder: { modelChannels }, unionTypes }: ControlNetConfig): Layer[] {
  if (unionTypes === 0) return [];
  const block = "transformer_layes.0"; // The files' own spelling.
  const embedding = 4 * modelChannels;
  return [
    linear(same("task_embedding"), unionTypes, modelChannels, false),
    linear([`${block}.attn.in_proj`, `${block}.attn.in_proj`], 3 * modelChannels, modelChannels),
    linear(same(`${block}.attn.out_proj`), modelChannels, modelChannels),
    norm(same(`${block}.ln_1`), modelChannels),
    linear(same(`${block}.mlp.c_fc`), 4 * modelChannels, modelChannels),
    linear(same(`${block}.mlp.c_proj`), modelChannels, 4 * modelChannels),
    norm(same(`${block}.ln_2`), modelChannels),
    linear(same("spatial_ch_projs"), modelChannels, modelChannels),
    linear(same("control_add_embedding.linear_1"), embedding, UNION_TYPE_WIDTH * unionTypes),
    linear(same("control_add_embedding.linear_2"), embedding, embedding),
  ];
}

export function controlNetLayers(config: ControlNetConfig): Layer[] {
  const skips: number[] = [];
  const layers = encoderLayers(config.encoder, skips);
  const zeros = skips.map((width, index) =>
    conv([`zero_convs.${index}.0`, `controlnet_down_blocks.${index}`], width, width, 1),
  );
  const deepest = levelWidths(config.encoder).at(-1) ?? 0;
  return [
    ...layers,
    ...zeros,
    conv(["middle_block_out.0", "controlnet_mid_block"], deepest, deepest, 1),
    ...hintLayers(config),
    ...unionLayers(config),
  ];
}

/** Levels of a T2I-Adapter that halve the picture. */
export function halvesAt({ isLight, unshuffle }: T2IAdapterConfig, level: number): boolean {
  return unshuffle === 16 && !isLight ? level === 2 : level > 0;
}

export function t2iAdapterLayers(config: T2IAdapterConfig): Layer[] {
  const { isLight, unshuffle, hintChannels, widths, resBlocks, kernel, hasConvDown } = config;
  const inputs = hintChannels * unshuffle ** 2;
  const layers = isLight ? [] : [conv(["conv_in", "adapter.conv_in"], widths[0] ?? 0, inputs)];
  for (const [level, width] of widths.entries()) {
    const before = widths[level - 1] ?? (isLight ? inputs : width);
    const theirs = `adapter.body.${level}`;
    // A light adapter works at a quarter of the width between two 1x1 convolutions.
    const inner = isLight ? Math.floor(width / 4) : width;
    const block = (j: number): string =>
      isLight ? `body.${level}.body.${j}` : `body.${level * resBlocks + j}`;
    const first = isLight ? `body.${level}` : block(0);
    if (hasConvDown && halvesAt(config, level)) {
      layers.push(conv([`${first}.down_opt.op`, `${theirs}.downsample.conv`], before, before));
    }
    if (isLight || before !== width) {
      layers.push(
        conv([`${first}.in_conv`, `${theirs}.in_conv`], inner, before, isLight ? 1 : kernel),
      );
    }
    for (let j = 0; j < resBlocks; j++) {
      const second = isLight ? 3 : kernel;
      const names = (part: string): LayerNames => [
        `${block(j)}.${part}`,
        `${theirs}.resnets.${j}.${part}`,
      ];
      layers.push(conv(names("block1"), inner, inner), conv(names("block2"), inner, inner, second));
    }
    if (isLight) layers.push(conv([`${first}.out_conv`, `${theirs}.out_conv`], width, inner, 1));
  }
  return layers;
}

/** Where a residual is added: the UNet's input of that name (docs/protocol.md), and what stands there. */
export type ControlPlace = Readonly<{
  name: string;
  width: number;
  /** How often the latent is halved there. */
  level: number;
}>;

/** Width and level of each input block and, last, of the middle. */
export function blockPlaces(config: EncoderConfig): Readonly<{ width: number; level: number }>[] {
  const widths = levelWidths(config);
  const places = [{ width: config.modelChannels, level: 0 }];
  for (const [level, width] of widths.entries()) {
    for (let j = 0; j < (config.resBlocks[level] ?? 0); j++) places.push({ width, level });
    if (level < widths.length - 1) places.push({ width, level: level + 1 });
  }
  return [...places, { width: widths.at(-1) ?? 0, level: widths.length - 1 }];
}

/** Input blocks of a UNet that get the levels of a T2I-Adapter; the middle stands for the last. */
const ADAPTER_PLACES = {
  8: [
    ["control.input.2", 0],
    ["control.input.5", 1],
    ["control.input.8", 2],
    ["control.input.11", 3],
  ],
  16: [
    ["control.input.3", 1],
    ["control.input.5", 1],
    ["control.input.8", 2],
    ["control.middle.0", 2],
  ],
} as const;

/** The residuals a control net gives. */
export function controlPlaces(config: ControlConfig): ControlPlace[] {
  if (config.kind === "t2i-adapter") {
    return ADAPTER_PLACES[config.unshuffle].map(([name, level], index) => ({
      ...{ name, level },
      width: config.widths[index] ?? 0,
    }));
  }
  return blockPlaces(config.encoder).map((place, index, all) => ({
    ...place,
    name: index === all.length - 1 ? "control.middle.0" : `control.output.${index}`,
  }));
}

/** The first residual that a UNet has no place for; undefined where all fit. */
export function misfit(control: ControlConfig, unet: EncoderConfig): ControlPlace | undefined {
  const blocks = blockPlaces(unet);
  return controlPlaces(control).find(({ name, width, level }) => {
    const [, side, number] = name.split(".");
    const block = side === "middle" ? blocks.at(-1) : blocks.slice(0, -1)[Number(number)];
    return block?.width !== width || block.level !== level;
  });
}
