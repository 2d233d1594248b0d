import { LunaError } from "../kernel/index.ts";
import { LORA_TAGS_MAX } from "./limits.ts";

/** A LoRA that a prompt names. */
export type LoraTag = Readonly<{ name: string; strengthModel: number; strengthClip: number }>;

const TAG = /<lora:([^:<>]+)(?::([^:<>]*))?(?::([^:<>]*))?>/g;

/**
 * Takes `<lora:name>`, `<lora:name:w>` and `<lora:name:w:clip_w>` out of a prompt. A missing weight
 * is 1, a missing text encoder weight the same as the model's. What is no number is no tag and stays.
 */
export function extractLoraTags(prompt: string): { text: string; loras: LoraTag[] } {
  const loras: LoraTag[] = [];
  const text = prompt.replace(TAG, (tag, name: string, model = "1", clip = model) => {
    const strengthModel = parseStrength(model);
    const strengthClip = parseStrength(clip);
    if (strengthModel === undefined || strengthClip === undefined) return tag;
    loras.push({ name: name.trim(), strengthModel, strengthClip });
    return "";
  });
  if (loras.length > LORA_TAGS_MAX) {
    throw new LunaError(
      "LIMIT_EXCEEDED",
      `A prompt names ${loras.length} LoRAs, limit ${LORA_TAGS_MAX}.`,
    );
  }
  return { text, loras };
}

function parseStrength(text: string): number | undefined {
  const value = Number(text);
  return text.trim() !== "" && Number.isFinite(value) ? value : undefined;
}
