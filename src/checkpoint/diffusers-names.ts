import type { UNetConfig, VaeConfig } from "./types.ts";
import { unetLayers } from "./unet-layers.ts";
import { vaeLayers } from "./vae-layers.ts";

/**
 * diffusers' name of every UNet layer to its canonical one, both without ".weight" or ".bias":
 * "down_blocks.0.resnets.0.conv1" to "input_blocks.1.0.in_layers.2". The label embedding has two
 * names there, `add_embedding` (SDXL) and `class_embedding`.
 */
export function unetDiffusersNames(config: UNetConfig): ReadonlyMap<string, string> {
  const names = new Map<string, string>();
  for (const { name, diffusers } of unetLayers(config)) {
    names.set(diffusers, name);
    if (diffusers.startsWith("add_embedding.")) {
      names.set(diffusers.replace("add_", "class_"), name);
    }
  }
  return names;
}

/** As diffusers has named the attention of its autoencoder before and since version 0.15. */
const OLD_ATTENTION: Readonly<Record<string, string>> = {
  to_q: "query",
  to_k: "key",
  to_v: "value",
  "to_out.0": "proj_attn",
};

/** The same for a KL autoencoder, with both generations of attention names. */
export function vaeDiffusersNames(config: VaeConfig): ReadonlyMap<string, string> {
  const names = new Map<string, string>();
  for (const { name, diffusers } of vaeLayers(config)) {
    names.set(diffusers, name);
    const [path, leaf] = diffusers.split(/(?<=mid_block\.attentions\.0\.)/);
    const old = leaf === undefined ? undefined : OLD_ATTENTION[leaf];
    if (old !== undefined) names.set(`${path}${old}`, name);
  }
  return names;
}
