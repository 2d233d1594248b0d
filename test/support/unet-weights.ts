import type { UNetConfig } from "../../src/checkpoint/index.ts";

type Shapes = Map<string, readonly number[]>;

function addLayer(shapes: Shapes, name: string, weight: readonly number[], hasBias = true): void {
  shapes.set(`${name}.weight`, weight);
  if (hasBias) shapes.set(`${name}.bias`, weight.slice(0, 1));
}

function addResBlock(
  shapes: Shapes,
  name: string,
  width: { inputs: number; outputs: number; time: number },
): void {
  const { inputs, outputs, time } = width;
  addLayer(shapes, `${name}.in_layers.0`, [inputs]);
  addLayer(shapes, `${name}.in_layers.2`, [outputs, inputs, 3, 3]);
  addLayer(shapes, `${name}.emb_layers.1`, [outputs, time]);
  addLayer(shapes, `${name}.out_layers.0`, [outputs]);
  addLayer(shapes, `${name}.out_layers.3`, [outputs, outputs, 3, 3]);
  if (inputs !== outputs) addLayer(shapes, `${name}.skip_connection`, [outputs, inputs, 1, 1]);
}

function addTransformer(
  shapes: Shapes,
  name: string,
  options: { width: number; context: number; depth: number; isLinear: boolean },
): void {
  const { width, context, depth, isLinear } = options;
  const projection = isLinear ? [width, width] : [width, width, 1, 1];
  addLayer(shapes, `${name}.norm`, [width]);
  addLayer(shapes, `${name}.proj_in`, projection);
  for (let index = 0; index < depth; index++) {
    const block = `${name}.transformer_blocks.${index}`;
    for (const norm of ["norm1", "norm2", "norm3"]) addLayer(shapes, `${block}.${norm}`, [width]);
    for (const [attention, source] of [
      ["attn1", width],
      ["attn2", context],
    ] as const) {
      addLayer(shapes, `${block}.${attention}.to_q`, [width, width], false);
      addLayer(shapes, `${block}.${attention}.to_k`, [width, source], false);
      addLayer(shapes, `${block}.${attention}.to_v`, [width, source], false);
      addLayer(shapes, `${block}.${attention}.to_out.0`, [width, width]);
    }
    addLayer(shapes, `${block}.ff.net.0.proj`, [width * 8, width]);
    addLayer(shapes, `${block}.ff.net.2`, [width, width * 4]);
  }
  addLayer(shapes, `${name}.proj_out`, projection);
}

/** Canonical names and shapes of the LDM UNet a config describes, without its prefix. */
export function unetWeightShapes(config: UNetConfig): Map<string, readonly number[]> {
  const shapes: Shapes = new Map();
  const { modelChannels, channelMult, resBlocks } = config;
  const time = modelChannels * 4;
  const res = (name: string, inputs: number, outputs: number): void =>
    addResBlock(shapes, name, { inputs, outputs, time });
  const transformer = (name: string, width: number, depth: number): void =>
    addTransformer(shapes, name, {
      width,
      context: config.contextDim,
      depth,
      isLinear: config.isLinearProjection,
    });
  addLayer(shapes, "time_embed.0", [time, modelChannels]);
  addLayer(shapes, "time_embed.2", [time, time]);
  if (config.admChannels > 0) {
    addLayer(shapes, "label_emb.0.0", [time, config.admChannels]);
    addLayer(shapes, "label_emb.0.2", [time, time]);
  }
  addLayer(shapes, "input_blocks.0.0", [modelChannels, config.inChannels, 3, 3]);
  const skips = [modelChannels];
  const depths = [...config.transformerDepth];
  let width = modelChannels;
  for (const [level, mult] of channelMult.entries()) {
    for (let index = 0; index < (resBlocks[level] ?? 0); index++) {
      const block = `input_blocks.${skips.length}`;
      res(`${block}.0`, width, modelChannels * mult);
      width = modelChannels * mult;
      const depth = depths.shift() ?? 0;
      if (depth > 0) transformer(`${block}.1`, width, depth);
      skips.push(width);
    }
    if (level === channelMult.length - 1) continue;
    addLayer(shapes, `input_blocks.${skips.length}.0.op`, [width, width, 3, 3]);
    skips.push(width);
  }
  if (config.transformerDepthMiddle >= -1) res("middle_block.0", width, width);
  if (config.transformerDepthMiddle >= 0) {
    transformer("middle_block.1", width, config.transformerDepthMiddle);
    res("middle_block.2", width, width);
  }
  const depthsOutput = [...config.transformerDepthOutput];
  let index = 0;
  for (const [level, mult] of [...channelMult.entries()].reverse()) {
    const count = resBlocks[level] ?? 0;
    for (let part = 0; part <= count; part++, index++) {
      const block = `output_blocks.${index}`;
      res(`${block}.0`, width + (skips.pop() ?? 0), modelChannels * mult);
      width = modelChannels * mult;
      const depth = depthsOutput.shift() ?? 0;
      if (depth > 0) transformer(`${block}.1`, width, depth);
      if (level > 0 && part === count) {
        addLayer(shapes, `${block}.${depth > 0 ? 2 : 1}.conv`, [width, width, 3, 3]);
      }
    }
  }
  addLayer(shapes, "out.0", [width]);
  addLayer(shapes, "out.2", [config.outChannels, modelChannels, 3, 3]);
  return shapes;
}
