import { RESOLUTION_MAX } from "../limits.ts";
import { defineNode, output } from "../node-definition.ts";
import { conditionWith } from "../prompt-encoder.ts";

const clipTextEncode = defineNode({
  name: "CLIPTextEncode",
  displayName: "CLIP Text Encode (Prompt)",
  category: "conditioning",
  inputs: { text: { type: "STRING", isMultiline: true }, clip: { type: "CLIP" } },
  outputs: [output("CONDITIONING")],
  run: async ({ text, clip }, context) => ({
    outputs: [await conditionWith(clip, text, { context })],
  }),
});

const size = (initial: number) =>
  ({ type: "INT", default: initial, min: 0, max: RESOLUTION_MAX }) as const;

const clipTextEncodeSdxl = defineNode({
  name: "CLIPTextEncodeSDXL",
  displayName: "CLIPTextEncodeSDXL",
  category: "advanced/conditioning",
  description: "A prompt for each of SDXL's text encoders, and the size its training pictures had.",
  inputs: {
    clip: { type: "CLIP" },
    width: size(1024),
    height: size(1024),
    crop_w: { ...size(0), isAdvanced: true },
    crop_h: { ...size(0), isAdvanced: true },
    target_width: size(1024),
    target_height: size(1024),
    text_g: { type: "STRING", isMultiline: true },
    text_l: { type: "STRING", isMultiline: true },
  },
  outputs: [output("CONDITIONING")],
  async run(inputs, context) {
    const part = {
      size: {
        width: inputs.width,
        height: inputs.height,
        cropWidth: inputs.crop_w,
        cropHeight: inputs.crop_h,
        targetWidth: inputs.target_width,
        targetHeight: inputs.target_height,
      },
    };
    const texts = { l: inputs.text_l, g: inputs.text_g };
    return { outputs: [await conditionWith(inputs.clip, texts, { context, part })] };
  },
});

const clipTextEncodeSdxlRefiner = defineNode({
  name: "CLIPTextEncodeSDXLRefiner",
  displayName: "CLIPTextEncodeSDXLRefiner",
  category: "advanced/conditioning",
  inputs: {
    ascore: { type: "FLOAT", default: 6, min: 0, max: 1000, step: 0.01 },
    width: size(1024),
    height: size(1024),
    text: { type: "STRING", isMultiline: true },
    clip: { type: "CLIP" },
  },
  outputs: [output("CONDITIONING")],
  async run({ ascore, width, height, text, clip }, context) {
    const part = { size: { width, height, aestheticScore: ascore } };
    return { outputs: [await conditionWith(clip, text, { context, part })] };
  },
});

const clipSetLastLayer = defineNode({
  name: "CLIPSetLastLayer",
  displayName: "CLIP Set Last Layer",
  category: "conditioning",
  inputs: {
    clip: { type: "CLIP" },
    stop_at_clip_layer: { type: "INT", default: -1, min: -24, max: -1, step: 1, isAdvanced: true },
  },
  outputs: [output("CLIP")],
  run: ({ clip, stop_at_clip_layer }) => ({ outputs: [{ ...clip, layer: stop_at_clip_layer }] }),
});

export const TEXT_NODES = [
  clipTextEncode,
  clipTextEncodeSdxl,
  clipTextEncodeSdxlRefiner,
  clipSetLastLayer,
];
