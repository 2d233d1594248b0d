import { LunaError } from "../../kernel/index.ts";
import type { CheckpointPart, FileKind, NodeContext, OpenedCheckpoint } from "../node-context.ts";
import { defineNode, output } from "../node-definition.ts";
import { JoinedTextModel } from "../prompt-encoder.ts";
import { TaesdVae, taesdFile, taesdNames } from "../taesd-vae.ts";
import type { Vae } from "../values.ts";

/** A part that the node promises, or the error that says what the file is instead. */
export function requirePart<Part extends CheckpointPart>(
  opened: OpenedCheckpoint,
  part: Part,
  name: string,
): NonNullable<OpenedCheckpoint[Part]> {
  const found = opened[part];
  if (found === undefined) {
    const words = { model: "UNet", clip: "text encoder", vae: "VAE", control: "control net" }[part];
    throw new LunaError(
      "CHECKPOINT_UNSUPPORTED",
      `${name} holds no ${words}. Choose another file, or load the ${words} with its own loader.`,
    );
  }
  return found;
}

function open(kind: FileKind, name: string, part: CheckpointPart | "all", context: NodeContext) {
  const parts = part === "all" ? (["model", "clip", "vae"] as const) : [part];
  return context.openCheckpoint({ kind, name, mode: "auto", parts }, context.signal);
}

/** Outputs of a whole checkpoint; a part that the file lacks is undefined and fails where it is used. */
export function checkpointOutputs({ model, clip, vae, location }: OpenedCheckpoint): unknown[] {
  return [
    model && { unet: model, location },
    clip && { text: clip, location },
    vae && { vae, location },
  ];
}

const checkpointLoaderSimple = defineNode({
  name: "CheckpointLoaderSimple",
  displayName: "Load Checkpoint",
  category: "loaders",
  description: "UNet, text encoder and VAE of one file; from the daemon where one runs.",
  inputs: { ckpt_name: { type: "COMBO", choices: "checkpoints" } },
  outputs: [output("MODEL"), output("CLIP"), output("VAE")],
  run: async ({ ckpt_name }, context) => ({
    outputs: checkpointOutputs(await open("checkpoints", ckpt_name, "all", context)),
  }),
});

const unetLoader = defineNode({
  name: "UNETLoader",
  displayName: "Load Diffusion Model",
  category: "advanced/loaders",
  inputs: {
    unet_name: { type: "COMBO", choices: "diffusion_models" },
    weight_dtype: {
      type: "COMBO",
      choices: ["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"],
      isAdvanced: true,
    },
  },
  outputs: [output("MODEL")],
  async run({ unet_name, weight_dtype }, context) {
    if (weight_dtype !== "default") {
      context.log(`[UNETLoader] Warning: weights are served as stored, not as ${weight_dtype}`);
    }
    const opened = await open("diffusion_models", unet_name, "model", context);
    const unet = requirePart(opened, "model", unet_name);
    return { outputs: [{ unet, location: opened.location }] };
  },
});

const DEVICE = {
  type: "COMBO",
  choices: ["default", "cpu"],
  isOptional: true,
  isAdvanced: true,
} as const;

const clipLoader = defineNode({
  name: "CLIPLoader",
  displayName: "Load CLIP",
  category: "advanced/loaders",
  description: "A CLIP-L, OpenCLIP-H or OpenCLIP-G file; which one is read from its tensors.",
  inputs: {
    clip_name: { type: "COMBO", choices: "text_encoders" },
    type: { type: "COMBO", choices: ["stable_diffusion"] },
    device: DEVICE,
  },
  outputs: [output("CLIP")],
  async run({ clip_name }, context) {
    const opened = await open("text_encoders", clip_name, "clip", context);
    const text = requirePart(opened, "clip", clip_name);
    return { outputs: [{ text, location: opened.location }] };
  },
});

const dualClipLoader = defineNode({
  name: "DualCLIPLoader",
  displayName: "DualCLIPLoader",
  category: "advanced/loaders",
  description: "SDXL's CLIP-L and OpenCLIP-G from two files, in any order.",
  inputs: {
    clip_name1: { type: "COMBO", choices: "text_encoders" },
    clip_name2: { type: "COMBO", choices: "text_encoders" },
    type: { type: "COMBO", choices: ["sdxl"] },
    device: DEVICE,
  },
  outputs: [output("CLIP")],
  async run({ clip_name1, clip_name2 }, context) {
    const first = await open("text_encoders", clip_name1, "clip", context);
    const second = await open("text_encoders", clip_name2, "clip", context);
    const text = new JoinedTextModel([
      requirePart(first, "clip", clip_name1),
      requirePart(second, "clip", clip_name2),
    ]);
    // Each part computes where it was opened; LoRA lines name one place for both.
    return { outputs: [{ text, location: first.location }] };
  },
});

/** Undefined where the name is a file's. */
async function openTaesd(name: string, context: NodeContext): Promise<Vae | undefined> {
  const files = await context.listFiles("vae_approx");
  if (!taesdNames(files).includes(name)) return undefined;
  const openHalf = async (half: "encoder" | "decoder") => {
    const file = taesdFile(files, name, half) ?? name;
    const opened = await open("vae_approx", file, "vae", context);
    return { vae: requirePart(opened, "vae", file), location: opened.location };
  };
  const encoder = await openHalf("encoder");
  const decoder = await openHalf("decoder");
  const halves = { encoder: encoder.vae, decoder: decoder.vae };
  return { vae: new TaesdVae(name, halves), location: decoder.location };
}

const vaeLoader = defineNode({
  name: "VAELoader",
  displayName: "Load VAE",
  category: "loaders",
  inputs: { vae_name: { type: "COMBO", choices: "VAEs" } },
  outputs: [output("VAE")],
  async run({ vae_name }, context) {
    const small = await openTaesd(vae_name, context);
    if (small !== undefined) return { outputs: [small] };
    const opened = await open("vae", vae_name, "vae", context);
    const vae = requirePart(opened, "vae", vae_name);
    return { outputs: [{ vae, location: opened.location }] };
  },
});

const controlNetLoader = defineNode({
  name: "ControlNetLoader",
  displayName: "Load ControlNet Model",
  category: "loaders",
  description: "A ControlNet, Union ControlNet or T2I-Adapter; it runs where the model runs.",
  inputs: { control_net_name: { type: "COMBO", choices: "controlnet" } },
  outputs: [output("CONTROL_NET")],
  async run({ control_net_name }, context) {
    const opened = await open("controlnet", control_net_name, "control", context);
    return { outputs: [{ info: requirePart(opened, "control", control_net_name) }] };
  },
});

export const LOADERS = [
  checkpointLoaderSimple,
  unetLoader,
  clipLoader,
  dualClipLoader,
  vaeLoader,
  controlNetLoader,
];
