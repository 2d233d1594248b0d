/** An input as ComfyUI describes it to clients: [type or choices, options]. */
import type { ComboInput, InputSpec, NodeServices } from "../nodes/index.ts";
import { SEED_MAX, taesdNames } from "../nodes/index.ts";

export type InputConfig = readonly [
  type: string | readonly string[],
  options: Readonly<Record<string, unknown>>,
];

type Lists = Pick<NodeServices, "listFiles" | "listInputImages">;

/** Reads folders for combos that list files. */
export async function describeInput(spec: InputSpec, lists: Lists): Promise<InputConfig> {
  switch (spec.type) {
    case "COMBO":
      return [await listChoices(spec.choices, lists), options(spec)];
    case "SEED":
      return [
        "INT",
        { default: 0, min: 0, max: SEED_MAX, control_after_generate: true, ...options(spec) },
      ];
    default:
      return [spec.type, options(spec)];
  }
}

async function listChoices(
  choices: ComboInput["choices"],
  lists: Lists,
): Promise<readonly string[]> {
  if (typeof choices !== "string") return choices;
  if (choices === "input images") return lists.listInputImages();
  if (choices !== "VAEs") return lists.listFiles(choices);
  const taesds = taesdNames(await lists.listFiles("vae_approx"));
  return [...(await lists.listFiles("vae")), ...taesds];
}

/** Options under ComfyUI's names, present ones only. */
function options(spec: InputSpec): Record<string, unknown> {
  const from: Record<string, unknown> = { ...spec };
  const named: Record<string, unknown> = {
    default: from["default"],
    min: from["min"],
    max: from["max"],
    step: from["step"],
    round: from["round"],
    multiline: from["isMultiline"],
    dynamicPrompts: from["isMultiline"],
    image_upload: from["choices"] === "input images" ? true : undefined,
    advanced: from["isAdvanced"],
    lazy: from["isLazy"],
    tooltip: from["tooltip"],
  };
  return Object.fromEntries(Object.entries(named).filter(([, value]) => value !== undefined));
}
