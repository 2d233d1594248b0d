import type { Prompt } from "../workflow/index.ts";

/** The node a link points to: links are [node id, slot]. */
function linkedNode(value: unknown): string | undefined {
  return Array.isArray(value) && typeof value[0] === "string" ? value[0] : undefined;
}

/** Walks up from a `positive` input to the texts it was made of. */
function collect(prompt: Prompt, id: string, seen: Set<string>): string[] {
  const node = prompt.get(id);
  if (node === undefined || seen.has(id)) return [];
  seen.add(id);
  for (const name of ["text", "positive_prompt", "positive", "text_g", "text_l"]) {
    const value = node.inputs.get(name);
    if (typeof value === "string") return [value];
  }
  return [...node.inputs.values()].flatMap((value) => {
    const next = linkedNode(value);
    return next === undefined ? [] : collect(prompt, next, seen);
  });
}

/** The positive prompts of a workflow, for captions. */
export function promptTexts(prompt: Prompt): string[] {
  const texts = [...prompt.values()].flatMap((node) => {
    const next = linkedNode(node.inputs.get("positive"));
    return next === undefined ? [] : collect(prompt, next, new Set());
  });
  return [...new Set(texts)];
}
