import type { Checkpoint, Component, ComponentName, ControlConfig, WeightTable } from "./types.ts";

/** The nets a checkpoint holds, in the order in which a picture needs them. */
export function componentsOf(checkpoint: Checkpoint): ComponentName[] {
  const components: ComponentName[] = checkpoint.textEncoders.map(({ config }) => config.kind);
  if (checkpoint.unet !== undefined) components.push("unet");
  if (checkpoint.vae?.config.hasDecoder) components.push("vae-decoder");
  if (checkpoint.vae?.config.hasEncoder) components.push("vae-encoder");
  if (checkpoint.control !== undefined) components.push("control-hint");
  if (checkpoint.control?.config.kind === "controlnet") components.push("control-net");
  return components;
}

/** The weights one net needs; undefined if the checkpoint lacks the net. */
export function componentWeights(
  checkpoint: Checkpoint,
  component: ComponentName,
): WeightTable | undefined {
  if (!componentsOf(checkpoint).includes(component)) return undefined;
  switch (component) {
    case "unet":
      return checkpoint.unet?.weights;
    case "vae-encoder":
      return vaeHalf(checkpoint, /^(encoder|quant_conv)\./);
    case "vae-decoder":
      return vaeHalf(checkpoint, /^(decoder|post_quant_conv)\./);
    case "control-hint":
    case "control-net":
      return checkpoint.control && controlHalf(checkpoint.control, component);
    default:
      return checkpoint.textEncoders.find(({ config }) => config.kind === component)?.weights;
  }
}

/** Layers over the hint of a ControlNet; of a T2I-Adapter they are all. */
const HINT = /^(input_hint_block|task_embedding|transformer_layes|spatial_ch_projs)\./;

function controlHalf(
  { config, weights }: Component<ControlConfig>,
  half: "control-hint" | "control-net",
): WeightTable {
  const isHint = (name: string): boolean => config.kind === "t2i-adapter" || HINT.test(name);
  return new Map([...weights].filter(([name]) => isHint(name) === (half === "control-hint")));
}

function vaeHalf({ vae }: Checkpoint, names: RegExp): WeightTable {
  return new Map([...(vae?.weights ?? [])].filter(([name]) => names.test(name)));
}
