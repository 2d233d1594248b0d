import type { Checkpoint, ComponentName, WeightTable } from "./types.ts";

/** The nets a checkpoint holds, in the order in which a picture needs them. */
export function componentsOf(checkpoint: Checkpoint): ComponentName[] {
  const components: ComponentName[] = checkpoint.textEncoders.map(({ config }) => config.kind);
  if (checkpoint.unet !== undefined) components.push("unet");
  if (checkpoint.vae?.config.hasDecoder) components.push("vae-decoder");
  if (checkpoint.vae?.config.hasEncoder) components.push("vae-encoder");
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
    default:
      return checkpoint.textEncoders.find(({ config }) => config.kind === component)?.weights;
  }
}

function vaeHalf({ vae }: Checkpoint, names: RegExp): WeightTable {
  return new Map([...(vae?.weights ?? [])].filter(([name]) => names.test(name)));
}
