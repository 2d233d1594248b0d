import type { TextEncoderKind } from "../checkpoint/index.ts";
import { LunaError } from "../kernel/index.ts";
import type { Safetensors } from "../tensor/index.ts";
import { type AdapterGroup, groupAdapterKeys } from "./adapter-keys.ts";
import { createLayerResolver, type NetName } from "./layer-names.ts";
import { bytesOfPatch, layerPatch } from "./layer-patch.ts";
import { ADAPTER_BYTES_MAX } from "./limits.ts";
import type { AdapterKind } from "./low-rank.ts";
import type { LayerPatch, LoraModel, ParsedLora } from "./types.ts";

/**
 * Reads an adapter file for one model: which layers its keys mean, and each layer's exact patch
 * with alpha / rank folded in, 1 without an alpha (as ComfyUI, which reads no PEFT metadata).
 * Pure; the patches keep nothing of the file's bytes alive.
 *
 * Throws LORA_UNSUPPORTED for what ComfyUI does not read either (PEFT's DoRA, IA3, biases of LoRAs),
 * for too high a rank, and when no key names a layer of the model; LORA_MALFORMED for tensors that are
 * missing, do not fit the layer, or hold NaN or infinity.
 */
export function parseLora(file: Safetensors, model: LoraModel): ParsedLora {
  const resolve = createLayerResolver(model);
  const { groups, otherKeys } = groupAdapterKeys(file);
  const nets = new Map<NetName, Map<string, LayerPatch>>();
  const unmatchedKeys = [...otherKeys];
  const kinds = new Set<AdapterKind>();
  let bytes = 0;
  let isForOthersToo = false;
  for (const group of groups) {
    const { net, target, isElsewhere } = resolve(group.layer);
    if (isElsewhere) {
      isForOthersToo = true;
      continue;
    }
    if (net !== undefined && group.refused !== undefined) throw unsupported(group.refused);
    const found = target && layerPatch(group, target);
    if (net === undefined || target === undefined || found === undefined) {
      unmatchedKeys.push(...group.keys);
      continue;
    }
    const layers = nets.get(net) ?? new Map<string, LayerPatch>();
    nets.set(net, layers);
    if (layers.has(target.name)) throw twice(group, target.name);
    layers.set(target.name, found.patch);
    kinds.add(found.kind);
    bytes += bytesOfPatch(found.patch);
    if (bytes > ADAPTER_BYTES_MAX) throw tooLarge(group);
  }
  if (kinds.size === 0 && !isForOthersToo) throw noMatch(unmatchedKeys);
  const unet = nets.get("unet") ?? new Map<string, LayerPatch>();
  const text = new Map<TextEncoderKind, ReadonlyMap<string, LayerPatch>>();
  for (const [net, layers] of nets) if (net !== "unet") text.set(net, layers);
  return { format: [...kinds].sort().join("+"), unet, text, unmatchedKeys, bytes };
}

function unsupported({ key, format }: NonNullable<AdapterGroup["refused"]>): LunaError {
  return new LunaError(
    "LORA_UNSUPPORTED",
    `LoRA key "${key}" is ${format}, which ComfyUI does not read either: merge the file into the ` +
      "checkpoint, or convert it to a plain LoRA.",
  );
}

function twice({ keys }: AdapterGroup, layer: string): LunaError {
  return new LunaError(
    "LORA_MALFORMED",
    `LoRA key "${keys[0]}" names layer "${layer}", which another key of the file names too.`,
  );
}

function tooLarge({ keys }: AdapterGroup): LunaError {
  return new LunaError(
    "LORA_UNSUPPORTED",
    `LoRA factors exceed ${ADAPTER_BYTES_MAX} bytes at key "${keys[0]}": resize the file to a ` +
      "lower rank or merge it into the checkpoint.",
  );
}

function noMatch(keys: readonly string[]): LunaError {
  return new LunaError(
    "LORA_UNSUPPORTED",
    `None of the LoRA's ${keys.length} keys names a layer of this model ` +
      `(first: ${JSON.stringify(keys[0] ?? "")}): it was made for another model family.`,
  );
}
