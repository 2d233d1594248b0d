import { defineNode, output } from "../node-definition.ts";
import { LORA_NAME, STRENGTH } from "../stock/loras.ts";

/** One more LoRA on a stack for Luna Config Gateway; chain several for a longer stack. */
export const lunaLoraStack = defineNode({
  name: "LunaLoraStack",
  displayName: "Luna LoRA Stack",
  category: "Luna/workflow",
  inputs: {
    lora_name: LORA_NAME,
    strength_model: STRENGTH,
    strength_clip: STRENGTH,
    lora_stack: { type: "LORA_STACK", isOptional: true },
  },
  outputs: [output("LORA_STACK", "lora_stack")],
  run({ lora_name, strength_model, strength_clip, lora_stack = [] }) {
    const lora = { name: lora_name, strengthModel: strength_model, strengthClip: strength_clip };
    return { outputs: [[...lora_stack, lora]] };
  },
});
