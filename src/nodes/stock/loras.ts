import { applyLoras } from "../apply-lora.ts";
import { LORA_STRENGTH_MAX } from "../limits.ts";
import { defineNode, output } from "../node-definition.ts";

/** Missing LoRAs are a warning and not an error: a shared workflow still runs. */
export const LORA_NAME = { type: "COMBO", choices: "loras", isOpen: true } as const;
export const STRENGTH = {
  type: "FLOAT",
  default: 1,
  min: -LORA_STRENGTH_MAX,
  max: LORA_STRENGTH_MAX,
  step: 0.01,
} as const;

const loraLoader = defineNode({
  name: "LoraLoader",
  displayName: "Load LoRA (Model and CLIP)",
  category: "loaders",
  description: "Adds a LoRA to this workflow's requests; the weights in memory stay as they are.",
  inputs: {
    model: { type: "MODEL" },
    clip: { type: "CLIP" },
    lora_name: LORA_NAME,
    strength_model: STRENGTH,
    strength_clip: STRENGTH,
  },
  outputs: [output("MODEL"), output("CLIP")],
  async run({ model, clip, lora_name, strength_model, strength_clip }, context) {
    const lora = {
      name: lora_name,
      strengthModel: strength_model,
      strengthClip: strength_clip,
    };
    const target = await applyLoras({ model, clip }, [lora], { context, node: "LoraLoader" });
    return { outputs: [target.model, target.clip] };
  },
});

const loraLoaderModelOnly = defineNode({
  name: "LoraLoaderModelOnly",
  displayName: "Load LoRA",
  category: "loaders",
  inputs: { model: { type: "MODEL" }, lora_name: LORA_NAME, strength_model: STRENGTH },
  outputs: [output("MODEL")],
  async run({ model, lora_name, strength_model }, context) {
    const lora = { name: lora_name, strengthModel: strength_model, strengthClip: 0 };
    const target = await applyLoras({ model }, [lora], { context, node: "LoraLoaderModelOnly" });
    return { outputs: [target.model] };
  },
});

export const LORA_NODES = [loraLoader, loraLoaderModelOnly];
