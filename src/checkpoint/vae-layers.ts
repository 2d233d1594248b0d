/**
 * Every layer of an AutoencoderKL (LDM naming) or of TAESD. In the LDM decoder `up.N` counts from
 * the finest level, in diffusers `up_blocks.N` from the coarsest.
 */
import { conv, type Layer, norm, under } from "./layer.ts";
import type { VaeConfig } from "./types.ts";

function resBlock(inputs: number, outputs: number): Layer[] {
  const layers = [
    norm(["norm1", "norm1"], inputs),
    conv(["conv1", "conv1"], outputs, inputs),
    norm(["norm2", "norm2"], outputs),
    conv(["conv2", "conv2"], outputs, outputs),
  ];
  if (inputs !== outputs) {
    layers.push(conv(["nin_shortcut", "conv_shortcut"], outputs, inputs, 1));
  }
  return layers;
}

/** Two residual blocks around one self-attention over all positions. */
function middle(channels: number): Layer[] {
  const project = (name: string, diffusers: string): Layer => ({
    name: `mid.attn_1.${name}`,
    diffusers: `mid_block.attentions.0.${diffusers}`,
    weight: [channels, channels],
    hasBias: true,
  });
  return [
    ...under(["mid.block_1", "mid_block.resnets.0"], resBlock(channels, channels)),
    norm(["mid.attn_1.norm", "mid_block.attentions.0.group_norm"], channels),
    project("q", "to_q"),
    project("k", "to_k"),
    project("v", "to_v"),
    project("proj_out", "to_out.0"),
    ...under(["mid.block_2", "mid_block.resnets.1"], resBlock(channels, channels)),
  ];
}

function encoderLayers(config: VaeConfig): Layer[] {
  const [base = 0, ...widths] = config.widths;
  const layers = [conv(["conv_in", "conv_in"], base, config.imageChannels)];
  let channels = base;
  for (const [level, width] of widths.entries()) {
    for (let j = 0; j < config.resBlocks; j++) {
      const names = [`down.${level}.block.${j}`, `down_blocks.${level}.resnets.${j}`] as const;
      layers.push(...under(names, resBlock(channels, width)));
      channels = width;
    }
    if (level === widths.length - 1) break;
    const there = `down_blocks.${level}.downsamplers.0.conv`;
    layers.push(conv([`down.${level}.downsample.conv`, there], channels, channels));
  }
  return [
    ...layers,
    ...middle(channels),
    norm(["norm_out", "conv_norm_out"], channels),
    conv(["conv_out", "conv_out"], 2 * config.latentChannels, channels),
  ];
}

function decoderLayers(config: VaeConfig): Layer[] {
  const widths = config.widths.slice(1);
  let channels = widths.at(-1) ?? 0;
  const layers = [
    conv(["conv_in", "conv_in"], channels, config.latentChannels),
    ...middle(channels),
  ];
  for (let level = widths.length - 1; level >= 0; level--) {
    const width = widths[level] ?? 0;
    const there = `up_blocks.${widths.length - 1 - level}`;
    for (let j = 0; j <= config.resBlocks; j++) {
      const names = [`up.${level}.block.${j}`, `${there}.resnets.${j}`] as const;
      layers.push(...under(names, resBlock(channels, width)));
      channels = width;
    }
    if (level === 0) break;
    const names = [`up.${level}.upsample.conv`, `${there}.upsamplers.0.conv`] as const;
    layers.push(conv(names, channels, channels));
  }
  return [
    ...layers,
    norm(["norm_out", "conv_norm_out"], channels),
    conv(["conv_out", "conv_out"], config.imageChannels, channels),
  ];
}

/** All layers of a KL autoencoder with their shapes; attention projections are [c, c]. */
export function vaeLayers(config: VaeConfig): Layer[] {
  const layers: Layer[] = [];
  const latent = config.latentChannels;
  if (config.hasEncoder) {
    layers.push(...under(["encoder", "encoder"], encoderLayers(config)));
    layers.push(conv(["quant_conv", "quant_conv"], 2 * latent, 2 * latent, 1));
  }
  if (config.hasDecoder) {
    layers.push(conv(["post_quant_conv", "post_quant_conv"], latent, latent, 1));
    layers.push(...under(["decoder", "decoder"], decoderLayers(config)));
  }
  return layers;
}
