import type { TextEncoderKind } from "../checkpoint/index.ts";
import { LunaError } from "../kernel/index.ts";
import { elementCount, type Safetensors } from "../tensor/index.ts";
import { type AdapterGroup, groupAdapterKeys, type PartName } from "./adapter-keys.ts";
import { layerResolver, type NetName, type ResolvedLayer } from "./layer-names.ts";
import { buffersOf, bytesOfPatch, layerPatch } from "./layer-patch.ts";
import { ADAPTER_BYTES_MAX } from "./limits.ts";
import { type AdapterKind, sharedCountOf } from "./low-rank.ts";
import { FactorMemory, type PieceSource } from "./read-factor.ts";
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
  return joinLoras([parseShare(file, model, { index: 0, count: 1 })]);
}

/** One of `count` parts of a file that are read apart from each other; `joinLoras` makes them whole. */
export type Share = Readonly<{ index: number; count: number }>;

/** What `parseLora` gives, of a share of the layers; that some key fits is left to `joinLoras`. */
export function parseShare(
  file: Safetensors,
  model: LoraModel,
  { index, count, newPiece }: Share & Readonly<{ newPiece?: PieceSource }>,
): ParsedLora & Readonly<{ isForOthersToo: boolean }> {
  const resolve = layerResolver(model);
  const { groups: all, otherKeys } = groupAdapterKeys(file);
  const named = mergeSpellings(all.map((group) => ({ group, ...resolve(group.layer) })));
  const groups = shareOf(named, { index, count });
  const memory = factorMemory(groups, newPiece);
  const nets = new Map<NetName, Map<string, LayerPatch>>();
  const unmatchedKeys = index === 0 ? [...otherKeys] : [];
  const kinds = new Set<AdapterKind>();
  let bytes = 0;
  let isForOthersToo = false;
  for (const { group, net, target, isElsewhere } of groups) {
    if (isElsewhere) {
      isForOthersToo = true;
      continue;
    }
    if (net !== undefined && group.refused !== undefined) throw unsupported(group.refused);
    const found = target && layerPatch(group, target, memory);
    if (net === undefined || target === undefined || found === undefined) {
      unmatchedKeys.push(...group.keys);
      continue;
    }
    const layers = nets.get(net) ?? new Map<string, LayerPatch>();
    nets.set(net, layers);
    layers.set(target.name, found.patch);
    kinds.add(found.kind);
    bytes += bytesOfPatch(found.patch);
    if (bytes > ADAPTER_BYTES_MAX) throw tooLarge(group);
  }
  const unet = nets.get("unet") ?? new Map<string, LayerPatch>();
  const text = new Map<TextEncoderKind, ReadonlyMap<string, LayerPatch>>();
  for (const [net, layers] of nets) if (net !== "unet") text.set(net, layers);
  const format = [...kinds].sort().join("+");
  const heldBytes = buffersOf({ unet, text }).reduce((sum, { byteLength }) => sum + byteLength, 0);
  return { format, unet, text, unmatchedKeys, bytes: heldBytes, isForOthersToo };
}

/** Each layer goes to the share that has least so far. */
function shareOf(groups: readonly NamedGroup[], { index, count }: Share): readonly NamedGroup[] {
  const values = new Array<number>(count).fill(0);
  return groups.filter(({ group }) => {
    const least = values.indexOf(Math.min(...values));
    const own = [...group.parts.values()].map(({ tensor }) => elementCount(tensor.shape));
    values[least] = own.reduce((sum, each) => sum + each, values[least] ?? 0);
    return least === index;
  });
}

function factorMemory(groups: readonly NamedGroup[], newPiece?: PieceSource): FactorMemory {
  const counts = groups.map(({ group, target }) => (target ? sharedCountOf(group) : 0));
  return new FactorMemory(
    counts.reduce((sum, each) => sum + each, 0),
    newPiece,
  );
}

type NamedGroup = ResolvedLayer & Readonly<{ group: AdapterGroup }>;

/**
 * Where a file names one layer in several ways, ComfyUI takes the weight from the name that stands last
 * in its key map, and the bias from the last that has one; so do groups here. Of names that only this
 * project reads, the file's last counts.
 */
function mergeSpellings(groups: readonly NamedGroup[]): NamedGroup[] {
  const byLayer = new Map<string, NamedGroup[]>();
  for (const [at, each] of groups.entries()) {
    const key = each.target ? `${each.net} ${each.target.name}` : `unknown ${at}`;
    byLayer.set(key, [...(byLayer.get(key) ?? []), each]);
  }
  return [...byLayer.values()].flatMap((same) => {
    const sorted = same.toSorted((a, b) => (a.order ?? 0) - (b.order ?? 0));
    const last = sorted.at(-1);
    if (last === undefined || sorted.length === 1) return sorted;
    return { ...last, group: mergedGroup(sorted.map(({ group }) => group)) };
  });
}

const isBias = (name: PartName): boolean => name === "diff_b" || name === "b_norm";

function mergedGroup(groups: readonly AdapterGroup[]): AdapterGroup {
  const own = (group: AdapterGroup, isWanted: (name: PartName) => boolean) =>
    [...group.parts].filter(([name]) => isWanted(name));
  const isWeight = (name: PartName) => !isBias(name) && name !== "alpha" && name !== "dora_scale";
  const weight = groups.findLast((group) => own(group, isWeight).length > 0) ?? groups.at(-1);
  const bias = groups.findLast((group) => own(group, isBias).length > 0);
  const refused = groups.find((group) => group.refused !== undefined)?.refused;
  return {
    layer: weight?.layer ?? "",
    parts: new Map([
      ...(weight ? own(weight, (name) => !isBias(name)) : []),
      ...(bias ? own(bias, isBias) : []),
    ]),
    ...(refused && { refused }),
    keys: groups.flatMap(({ keys }) => keys),
  };
}

/** All shares of one file together. Throws what `parseLora` throws. */
export function joinLoras(shares: readonly ReturnType<typeof parseShare>[]): ParsedLora {
  const unmatchedKeys = shares.flatMap((share) => share.unmatchedKeys);
  const kinds = new Set(shares.flatMap(({ format }) => (format === "" ? [] : format.split("+"))));
  if (kinds.size === 0 && !shares.some(({ isForOthersToo }) => isForOthersToo)) {
    throw noMatch(unmatchedKeys);
  }
  const encoders = new Set(shares.flatMap(({ text }) => [...text.keys()]));
  return {
    format: [...kinds].sort().join("+"),
    unet: joinLayers(shares.map(({ unet }) => unet)),
    text: new Map(
      Array.from(encoders, (net) => [
        net,
        joinLayers(shares.flatMap(({ text }) => text.get(net) ?? [])),
      ]),
    ),
    unmatchedKeys,
    bytes: shares.reduce((sum, { bytes }) => sum + bytes, 0),
  };
}

function joinLayers(
  parts: readonly ReadonlyMap<string, LayerPatch>[],
): ReadonlyMap<string, LayerPatch> {
  return new Map(parts.flatMap((part) => [...part]));
}

function unsupported({ key, format }: NonNullable<AdapterGroup["refused"]>): LunaError {
  return new LunaError(
    "LORA_UNSUPPORTED",
    `LoRA key "${key}" is ${format}, which ComfyUI does not read either: merge the file into the ` +
      "checkpoint, or convert it to a plain LoRA.",
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
