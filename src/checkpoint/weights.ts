import type { DType, TensorEntry } from "../tensor/index.ts";
import { type Layer, layerWeights } from "./layer.ts";
import { AXIS_MAX } from "./limits.ts";
import type { WeightRef } from "./types.ts";
import { unsupported } from "./unsupported.ts";

export type Entries = ReadonlyMap<string, TensorEntry>;
/** Where a canonical weight lies; undefined where the file has none. */
export type Find = (name: string) => WeightRef | undefined;

const WEIGHT_TYPES: readonly DType[] = ["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"];

/** The entries below a prefix, by the rest of their names. */
export function below(entries: Entries, prefix: string): Entries {
  if (prefix === "") return entries;
  const rest = new Map<string, TensorEntry>();
  for (const [name, entry] of entries) {
    if (name.startsWith(prefix)) rest.set(name.slice(prefix.length), entry);
  }
  return rest;
}

/** The names a canonical weight may be stored under. */
export type StoredNames = (name: string) => readonly string[];

export const ldmNames: StoredNames = (name) => [name];

/** Turns a map of diffusers' layer names to canonical ones around. */
export function storedNames(diffusersNames: ReadonlyMap<string, string>): StoredNames {
  const layers = new Map<string, string[]>();
  for (const [diffusers, layer] of diffusersNames) {
    layers.set(layer, [...(layers.get(layer) ?? []), diffusers]);
  }
  return (name) => {
    const dot = name.lastIndexOf(".");
    return (layers.get(name.slice(0, dot)) ?? []).map((layer) => layer + name.slice(dot));
  };
}

/** Looks a weight up under each of its stored names. */
export function finder(entries: Entries, stored: StoredNames): Find {
  return (name) => {
    const there = stored(name).find((candidate) => entries.has(candidate));
    return there === undefined ? undefined : entries.get(there);
  };
}

/** How many of marker(0), marker(1), ... exist in a row. */
export function countRow(
  entries: Entries,
  marker: (index: number) => string,
  limit: { max: number; what: string },
): number {
  let count = 0;
  while (entries.has(marker(count))) {
    if (++count > limit.max) throw unsupported(`more than ${limit.max} ${limit.what}`);
  }
  return count;
}

/** One axis of a tensor, from which a config value follows. */
export function axisOf(entries: { get: Find }, name: string, axis: number): number {
  const size = entries.get(name)?.shape[axis];
  if (size === undefined) throw unsupported(`no "${name}" with at least ${axis + 1} axes`);
  if (size < 1 || size > AXIS_MAX) throw unsupported(`"${name}" with an axis of ${size}`);
  return size;
}

/** A weight without the axes of length 1 at its end: 1x1 convolutions are linear layers. */
function core(shape: readonly number[]): string {
  let length = shape.length;
  while (length > 1 && shape[length - 1] === 1) length--;
  return shape.slice(0, length).join(",");
}

/**
 * The table of all weights of the layers, each checked: it exists, its shape is what the layer
 * needs, its element type is a float. Throws CHECKPOINT_UNSUPPORTED naming the first that fails.
 */
export function takeWeights(
  what: string,
  layers: readonly Layer[],
  find: Find,
): Map<string, WeightRef> {
  const table = new Map<string, WeightRef>();
  for (const [name, shape] of layerWeights(layers)) {
    const found = find(name);
    if (found === undefined) throw unsupported(`an incomplete ${what}: "${name}" is missing`);
    if (core(found.shape) !== core(shape)) {
      const shapes = `[${found.shape.join(", ")}], expected [${shape.join(", ")}]`;
      throw unsupported(`an unknown kind of ${what}: "${name}" is ${shapes}`);
    }
    if (!WEIGHT_TYPES.includes(found.dtype)) {
      throw unsupported(`a ${what} whose "${name}" is stored as ${found.dtype}`);
    }
    table.set(name, { ...found, shape });
  }
  return table;
}
