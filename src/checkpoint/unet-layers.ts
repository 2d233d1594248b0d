/**
 * Every layer of an LDM UNet, in the order the forward pass meets them. The config decides the
 * numbering: `input_blocks.N` counts the first convolution, the residual blocks and the
 * downsamplers in one row, diffusers' `down_blocks.LEVEL.resnets.J` counts them by level.
 */
import { conv, type Layer, linear, norm, under } from "./layer.ts";
import type { EncoderConfig, UNetConfig } from "./types.ts";

function resBlock(inputs: number, outputs: number, embedding: number): Layer[] {
  const layers = [
    norm(["in_layers.0", "norm1"], inputs),
    conv(["in_layers.2", "conv1"], outputs, inputs),
    linear(["emb_layers.1", "time_emb_proj"], outputs, embedding),
    norm(["out_layers.0", "norm2"], outputs),
    conv(["out_layers.3", "conv2"], outputs, outputs),
  ];
  if (inputs !== outputs) {
    layers.push(conv(["skip_connection", "conv_shortcut"], outputs, inputs, 1));
  }
  return layers;
}

const same = (name: string): [string, string] => [name, name];

function transformerBlock(channels: number, contextDim: number): Layer[] {
  const attention = (name: string, keyInputs: number): Layer[] => [
    linear(same(`${name}.to_q`), channels, channels, false),
    linear(same(`${name}.to_k`), channels, keyInputs, false),
    linear(same(`${name}.to_v`), channels, keyInputs, false),
    linear(same(`${name}.to_out.0`), channels, channels),
  ];
  return [
    norm(same("norm1"), channels),
    ...attention("attn1", channels),
    norm(same("norm2"), channels),
    ...attention("attn2", contextDim),
    norm(same("norm3"), channels),
    linear(same("ff.net.0.proj"), 8 * channels, channels), // GEGLU: value and gate, 4x each.
    linear(same("ff.net.2"), channels, 4 * channels),
  ];
}

function transformer(config: EncoderConfig, channels: number, depth: number): Layer[] {
  const project = config.isLinearProjection
    ? (name: string) => linear(same(name), channels, channels)
    : (name: string) => conv(same(name), channels, channels, 1);
  const blocks = Array.from({ length: depth }, (_, i) =>
    under(same(`transformer_blocks.${i}`), transformerBlock(channels, config.contextDim)),
  );
  return [norm(same("norm"), channels), project("proj_in"), ...blocks.flat(), project("proj_out")];
}

function embeddings(config: EncoderConfig): Layer[] {
  const { modelChannels, admChannels } = config;
  const width = 4 * modelChannels;
  const layers = [
    linear(["time_embed.0", "time_embedding.linear_1"], width, modelChannels),
    linear(["time_embed.2", "time_embedding.linear_2"], width, width),
  ];
  if (admChannels === 0) return layers;
  return [
    ...layers,
    linear(["label_emb.0.0", "add_embedding.linear_1"], width, admChannels),
    linear(["label_emb.0.2", "add_embedding.linear_2"], width, width),
  ];
}

/** Widths of the levels in channels. */
export function levelWidths(config: EncoderConfig): number[] {
  return config.channelMult.map((multiple) => Math.round(multiple * config.modelChannels));
}

function downLayers(config: EncoderConfig, skips: number[]): Layer[] {
  const layers: Layer[] = [];
  const widths = levelWidths(config);
  const embedding = 4 * config.modelChannels;
  let channels = config.modelChannels;
  let block = 1;
  let attention = 0;
  for (const [level, width] of widths.entries()) {
    for (let j = 0; j < (config.resBlocks[level] ?? 0); j++) {
      const at = `input_blocks.${block++}`;
      const there = `down_blocks.${level}`;
      layers.push(
        ...under([`${at}.0`, `${there}.resnets.${j}`], resBlock(channels, width, embedding)),
      );
      const depth = config.transformerDepth[attention++] ?? 0;
      if (depth > 0) {
        const inner = transformer(config, width, depth);
        layers.push(...under([`${at}.1`, `${there}.attentions.${j}`], inner));
      }
      channels = width;
      skips.push(channels);
    }
    if (level === widths.length - 1) break;
    const names = [
      `input_blocks.${block++}.0.op`,
      `down_blocks.${level}.downsamplers.0.conv`,
    ] as const;
    layers.push(conv(names, channels, channels));
    skips.push(channels);
  }
  return layers;
}

/** Distilled SDXL nets keep only one residual block here (depth -1: SSD-1B) or nothing (-2: KOALA). */
function middleLayers(config: EncoderConfig, channels: number): Layer[] {
  const depth = config.transformerDepthMiddle;
  const inner = resBlock(channels, channels, 4 * config.modelChannels);
  const first = under(["middle_block.0", "mid_block.resnets.0"], inner);
  if (depth < 0) return depth === -1 ? first : [];
  const attention = transformer(config, channels, depth);
  return [
    ...first,
    ...under(["middle_block.1", "mid_block.attentions.0"], attention),
    ...under(["middle_block.2", "mid_block.resnets.1"], inner),
  ];
}

function upLayers(config: UNetConfig, skips: number[]): Layer[] {
  const layers: Layer[] = [];
  const widths = levelWidths(config);
  let channels = widths.at(-1) ?? config.modelChannels;
  let block = 0;
  for (let level = widths.length - 1; level >= 0; level--) {
    const width = widths[level] ?? 0;
    const there = `up_blocks.${widths.length - 1 - level}`;
    const last = config.resBlocks[level] ?? 0;
    for (let j = 0; j <= last; j++) {
      const inner = resBlock(channels + (skips.pop() ?? 0), width, 4 * config.modelChannels);
      layers.push(...under([`output_blocks.${block}.0`, `${there}.resnets.${j}`], inner));
      channels = width;
      const depth = config.transformerDepthOutput[block] ?? 0;
      if (depth > 0) {
        const names = [`output_blocks.${block}.1`, `${there}.attentions.${j}`] as const;
        layers.push(...under(names, transformer(config, width, depth)));
      }
      if (level > 0 && j === last) {
        const name = `output_blocks.${block}.${depth > 0 ? 2 : 1}.conv`;
        layers.push(conv([name, `${there}.upsamplers.0.conv`], width, width));
      }
      block++;
    }
  }
  return layers;
}

/** Everything up to the middle; `skips` gets the width of each input block. */
export function encoderLayers(config: EncoderConfig, skips: number[]): Layer[] {
  const { modelChannels } = config;
  skips.push(modelChannels);
  const down = downLayers(config, skips);
  return [
    ...embeddings(config),
    conv(["input_blocks.0.0", "conv_in"], modelChannels, config.inChannels),
    ...down,
    ...middleLayers(config, levelWidths(config).at(-1) ?? modelChannels),
  ];
}

/** All layers with their shapes; a checkpoint of this config has exactly these. */
export function unetLayers(config: UNetConfig): Layer[] {
  const { modelChannels } = config;
  const skips: number[] = [];
  return [
    ...encoderLayers(config, skips),
    ...upLayers(config, skips),
    norm(["out.0", "conv_norm_out"], levelWidths(config)[0] ?? modelChannels),
    conv(["out.2", "conv_out"], config.outChannels, modelChannels),
  ];
}
