import { extractLoraTags } from "../../text/index.ts";
import { applyLoras } from "../apply-lora.ts";
import { defineNode, output } from "../node-definition.ts";
import { conditionWith } from "../prompt-encoder.ts";

const NODE = "LunaConfigGateway";

/**
 * Prompts, LoRAs and clip skip in one place. LoRAs come from `lora_stack` first, then from the tags
 * of the prompts; each goes where the model and the text encoder compute, which may be two places.
 */
export const lunaConfigGateway = defineNode({
  name: NODE,
  displayName: "Luna Config Gateway",
  category: "Luna/workflow",
  description:
    "Encodes prompts that may hold <lora:name:weight> or <lora:name:weight:clip_weight>.",
  inputs: {
    model: { type: "MODEL" },
    clip: { type: "CLIP" },
    positive_prompt: { type: "STRING", default: "", isMultiline: true },
    negative_prompt: { type: "STRING", default: "", isMultiline: true },
    clip_skip: { type: "INT", default: -1, min: -24, max: -1, step: 1, isOptional: true },
    lora_stack: { type: "LORA_STACK", isOptional: true },
  },
  outputs: [
    output("MODEL", "model"),
    output("CLIP", "clip"),
    output("CONDITIONING", "positive"),
    output("CONDITIONING", "negative"),
    output("STRING", "positive_prompt"),
    output("STRING", "negative_prompt"),
    output("LORA_STACK", "lora_stack"),
  ],
  async run(inputs, context) {
    const positive = extractLoraTags(inputs.positive_prompt);
    const negative = extractLoraTags(inputs.negative_prompt);
    const stack = [...(inputs.lora_stack ?? []), ...positive.loras, ...negative.loras];
    const { model, clip: bare } = inputs;
    if (stack.length > 0 && model.location === "daemon") {
      context.log(`[${NODE}] DaemonModel detected - UNet LoRAs via daemon`);
    }
    const target = await applyLoras({ model, clip: bare }, stack, { context, node: NODE });
    const clip = {
      ...(target.clip ?? bare),
      ...(inputs.clip_skip === undefined ? {} : { layer: inputs.clip_skip }),
    };
    return {
      outputs: [
        target.model ?? model,
        clip,
        await conditionWith(clip, positive.text, { context }),
        await conditionWith(clip, negative.text, { context }),
        positive.text,
        negative.text,
        stack,
      ],
    };
  },
});
