import type { Checkpoint, ComponentName, WeightTable } from "../checkpoint/index.ts";
import { elementCount } from "../tensor/index.ts";

/** The nets a checkpoint holds, in the order in which a picture needs them. */
export function componentsOf(checkpoint: Checkpoint): ComponentName[] {
  const components: ComponentName[] = checkpoint.textEncoders.map(({ config }) => config.kind);
  if (checkpoint.unet !== undefined) components.push("unet");
  if (checkpoint.vae?.config.hasDecoder) components.push("vae-decoder");
  if (checkpoint.vae?.config.hasEncoder) components.push("vae-encoder");
  return components;
}

function weightsOf(checkpoint: Checkpoint, component: ComponentName): WeightTable | undefined {
  if (component === "unet") return checkpoint.unet?.weights;
  if (component === "vae-encoder" || component === "vae-decoder") return checkpoint.vae?.weights;
  return checkpoint.textEncoders.find(({ config }) => config.kind === component)?.weights;
}

/** What a net is expected to take before the engine has said it: its weights in float32. */
export function estimateBytes(checkpoint: Checkpoint, component: ComponentName): number {
  let bytes = 0;
  for (const { shape } of weightsOf(checkpoint, component)?.values() ?? []) {
    bytes += elementCount(shape) * Float32Array.BYTES_PER_ELEMENT;
  }
  return bytes;
}
