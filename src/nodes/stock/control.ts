import type { Control } from "../../sampling/index.ts";
import { type FloatTensor, floatTensor } from "../../tensor/index.ts";
import { defineNode, output } from "../node-definition.ts";
import type { Size } from "../resample.ts";
import { toPlanes, upscale } from "../upscale.ts";
import type { Conditioning, ControlNet } from "../values.ts";

const CATEGORY = "conditioning/controlnet";
const STRENGTH = { type: "FLOAT", default: 1, min: 0, max: 10, step: 0.01 } as const;
const CELL_PIXELS = 8;

/** The pictures at the size that the net wants for a latent; the same tensor for the same size. */
function hintOf({ info }: ControlNet, image: FloatTensor): Control["hint"] {
  const planes = toPlanes(image);
  const made = new Map<string, FloatTensor>();
  const side = (cells: number): number =>
    Math.ceil((cells * CELL_PIXELS) / info.hintMultiple) * info.hintMultiple;
  return ({ height, width }: Size) => {
    const to = { height: side(height), width: side(width) };
    const key = `${to.height}x${to.width}`;
    const known = made.get(key) ?? withChannels(scaled(planes, to), info.hintChannels);
    made.set(key, known);
    return known;
  };
}

const scaled = (planes: FloatTensor, to: Size): FloatTensor =>
  upscale(planes, to, { method: "nearest-exact", isCropped: true });

/** Adapters for sketches take one channel: the mean of the picture's. */
function withChannels(planes: FloatTensor, channels: number): FloatTensor {
  const [rows = 1, own = 1, height = 1, width = 1] = planes.shape;
  if (channels !== 1 || own === 1) return planes;
  const size = height * width;
  const mean = new Float32Array(rows * size);
  for (let i = 0; i < planes.data.length; i++) {
    const at = Math.floor(i / (own * size)) * size + (i % size);
    mean[at] = (mean[at] as number) + (planes.data[i] as number);
  }
  return floatTensor(
    [rows, 1, height, width],
    mean.map((sum) => sum / own),
  );
}

type Use = Readonly<{ strength: number; startPercent: number; endPercent: number }>;

function controlOf(net: ControlNet, image: FloatTensor, use: Use): Control {
  const { type, info } = net;
  const hint = hintOf(net, image);
  return { model: info.id, hint, ...use, ...(type !== undefined && { type }) };
}

/** Every part with one more control net, after those it has. */
function withControl(
  conditioning: Conditioning,
  control: Control,
  isControlShared: boolean,
): Conditioning {
  return conditioning.map((part) => {
    return { ...part, controls: [...(part.controls ?? []), control], isControlShared };
  });
}

const controlNetApply = defineNode({
  name: "ControlNetApply",
  displayName: "Apply ControlNet (OLD)",
  category: CATEGORY,
  description: "A control net for a prompt, and for negative prompts that have none of their own.",
  inputs: {
    conditioning: { type: "CONDITIONING" },
    control_net: { type: "CONTROL_NET" },
    image: { type: "IMAGE" },
    strength: STRENGTH,
  },
  outputs: [output("CONDITIONING")],
  run({ conditioning, control_net, image, strength }) {
    if (strength === 0) return { outputs: [conditioning] };
    const control = controlOf(control_net, image, { strength, startPercent: 0, endPercent: 1 });
    return { outputs: [withControl(conditioning, control, true)] };
  },
});

const percent = (initial: number) =>
  ({ type: "FLOAT", default: initial, min: 0, max: 1, step: 0.001 }) as const;

const controlNetApplyAdvanced = defineNode({
  name: "ControlNetApplyAdvanced",
  displayName: "Apply ControlNet",
  category: CATEGORY,
  description: "A control net for both prompts, during a part of the sampling.",
  inputs: {
    positive: { type: "CONDITIONING" },
    negative: { type: "CONDITIONING" },
    control_net: { type: "CONTROL_NET" },
    image: { type: "IMAGE" },
    strength: STRENGTH,
    start_percent: percent(0),
    end_percent: percent(1),
    // For nets over latents, which Stable Diffusion and SDXL do not have.
    vae: { type: "VAE", isOptional: true },
  },
  outputs: [output("CONDITIONING", "positive"), output("CONDITIONING", "negative")],
  run({ positive, negative, control_net, image, strength, start_percent, end_percent }) {
    if (strength === 0) return { outputs: [positive, negative] };
    const use = { strength, startPercent: start_percent, endPercent: end_percent };
    const control = controlOf(control_net, image, use);
    return {
      outputs: [positive, negative].map((side) => withControl(side, control, false)),
    };
  },
});

/** Kinds of hints in the order in which Union nets number them. */
const UNION_TYPES = [
  "openpose",
  "depth",
  "hed/pidi/scribble/ted",
  "canny/lineart/anime_lineart/mlsd",
  "normal",
  "segment",
  "tile",
  "repaint",
];

const setUnionControlNetType = defineNode({
  name: "SetUnionControlNetType",
  displayName: "SetUnionControlNetType",
  category: CATEGORY,
  description: "Tells a Union ControlNet what kind of picture its hint is.",
  inputs: {
    control_net: { type: "CONTROL_NET" },
    type: { type: "COMBO", choices: ["auto", ...UNION_TYPES] },
  },
  outputs: [output("CONTROL_NET")],
  run({ control_net: { info }, type }) {
    const number = UNION_TYPES.indexOf(type);
    return { outputs: [number < 0 ? { info } : { info, type: number }] };
  },
});

export const CONTROL_NODES = [controlNetApply, controlNetApplyAdvanced, setUnionControlNetType];
