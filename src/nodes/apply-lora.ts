/** LoRAs on models and text encoders: as entries of a request, wherever each of the two computes. */
import type { LoraRef } from "../client/index.ts";
import type { NodeContext } from "./node-context.ts";
import type { Clip, Location, Model } from "./values.ts";

/** Whatever of the two a workflow has. */
export type Target = Readonly<{ model?: Model; clip?: Clip }>;

const EXTENSION = ".safetensors";

/** "styles/blueprint.safetensors" to "blueprint": how people and log lines name a LoRA. */
export function shortName(name: string): string {
  const base = name.replaceAll("\\", "/").split("/").at(-1) ?? name;
  return base.endsWith(EXTENSION) ? base.slice(0, -EXTENSION.length) : base;
}

/**
 * The file that a name means: itself, with the extension, or the only part of the path that people
 * write in tags. Undefined when there is none.
 */
export function findLora(name: string, files: readonly string[]): string | undefined {
  const wanted = name.replaceAll("\\", "/");
  const exact = files.find((file) => file === wanted || file === wanted + EXTENSION);
  return exact ?? files.find((file) => shortName(file) === shortName(wanted));
}

export type ApplyOptions = Readonly<{
  context: NodeContext;
  /** Name of the node in its log lines: "LunaConfigGateway". */
  node: string;
}>;

/** Applies a stack in order. A LoRA that does not exist is a warning and is skipped. */
export async function applyLoras(
  target: Target,
  loras: readonly LoraRef[],
  options: ApplyOptions,
): Promise<Target> {
  if (loras.length === 0) return target;
  const files = await options.context.listFiles("loras");
  return loras.reduce((current, lora) => {
    const name = findLora(lora.name, files);
    if (name === undefined) {
      options.context.log(`[${options.node}] Warning: LoRA '${shortName(lora.name)}' not found`);
      return current;
    }
    return applyLora(current, { ...lora, name }, options);
  }, target);
}

/** Strength 0 leaves its side as it is: nothing to send, nothing to compute. */
function applyLora(
  { model, clip }: Target,
  lora: LoraRef,
  { context, node }: ApplyOptions,
): Target {
  const strengths = { model: model ? lora.strengthModel : 0, clip: clip ? lora.strengthClip : 0 };
  for (const location of ["daemon", "local"] as const) {
    const at = (side: { location: Location } | undefined, strength: number) =>
      side?.location === location ? strength : 0;
    const [toModel, toClip] = [at(model, strengths.model), at(clip, strengths.clip)];
    if (toModel === 0 && toClip === 0) continue;
    context.log(
      `[${node}] LoRA '${shortName(lora.name)}' → ${location} (model=${decimal(toModel)}, clip=${decimal(toClip)})`,
    );
  }
  return {
    ...(model && { model: strengths.model === 0 ? model : withModelLora(model, lora, context) }),
    ...(clip && {
      clip: strengths.clip === 0 ? clip : { ...clip, text: clip.text.withLora(lora) },
    }),
  };
}

function withModelLora(model: Model, lora: LoraRef, context: NodeContext): Model {
  const unet = model.unet.withLora(lora);
  if (model.location === "daemon") {
    context.log(
      `[DaemonModel] Added LoRA '${shortName(lora.name)}' (model_str=${decimal(lora.strengthModel)}), stack size: ${unet.loras.length}`,
    );
  }
  return { ...model, unet };
}

/** 1 to "1.0", 0.85 to "0.85": as Python prints floats. */
export function decimal(value: number): string {
  return Number.isInteger(value) ? value.toFixed(1) : String(value);
}
