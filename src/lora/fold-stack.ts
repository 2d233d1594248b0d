/**
 * A stack of adapters in their order, on one net. Most add up, whatever their order: they stay apart,
 * each with its strength. Where a patch depends on the weight that others have changed before it, the
 * layer's patches are folded into one, in order, for the strengths at hand; where one is dense, into
 * a whole new weight.
 */
import type { AdapterTarget } from "../graph/index.ts";
import { applyDense, denseDelta } from "./dense-patch.ts";
import {
  applyLowRank,
  applyMagnitude,
  isOrderDependent,
  resolvePatch,
  scaleInputs,
  scaleOutputs,
} from "./resolve-patch.ts";
import type { Applied, DensePatch, LayerPatch, LowRank } from "./types.ts";

export type Patches = ReadonlyMap<string, LayerPatch>;

export type StackItem = Readonly<{ id: string; strength: number; patches: Patches }>;

/** The net's layers by name, and their weights as the checkpoint has them, [outputs, inputs * taps]. */
export type FoldBase = Readonly<{
  target: (layer: string) => AdapterTarget | undefined;
  weight: (layer: string) => Promise<Float32Array>;
  /** `applyLowRank`, or what computes it faster. */
  apply?: ApplyChange;
}>;

export type ApplyChange = (
  ...args: Parameters<typeof applyLowRank>
) => Float32Array | Promise<Float32Array>;

export type FoldedStack = Readonly<{
  applied: readonly Applied[];
  /** Layers whose whole weight changes, and the weights, each computed when it is asked for. */
  dense: ReadonlyMap<string, () => Promise<Float32Array>>;
}>;

type Entry = Readonly<{ patch: LayerPatch; strength: number }>;

const NOTHING: LowRank = { rank: 0, down: new Float32Array(0), up: new Float32Array(0) };

/** Patches resolved against the checkpoint's weight; a patch belongs to one net. */
const resolved = new WeakMap<LayerPatch, LowRank>();
const plain = new WeakMap<Patches, boolean>();

/** True where the patches add up with any others. */
export function isAdditive(patches: Patches): boolean {
  const known = plain.get(patches) ?? ![...patches.values()].some(isOrderDependent);
  plain.set(patches, known);
  return known;
}

export async function foldStack(stack: readonly StackItem[], base: FoldBase): Promise<FoldedStack> {
  const active = stack.filter(({ strength }) => strength !== 0);
  const entries = new Map<string, Entry[]>();
  for (const { strength, patches } of active) {
    for (const [layer, patch] of patches) {
      const list = entries.get(layer) ?? [];
      entries.set(layer, list);
      list.push({ patch, strength });
    }
  }
  const folded = [...entries].filter(([, list]) => mustFold(list));
  const names = new Set(folded.map(([layer]) => layer));
  // Which layers are left to an adapter depends on the others of the stack.
  const rest = names.size === 0 ? "" : ` in ${JSON.stringify(active.map(({ id }) => id))}`;
  const applied: Applied[] = [];
  for (const { id, strength, patches } of active) {
    const factors = new Map<string, LowRank>();
    for (const [layer, patch] of patches) {
      if (!names.has(layer)) factors.set(layer, await resolveFirst(layer, patch, base));
    }
    applied.push({ id: `${id}${rest}`, strength, factors });
  }
  if (names.size === 0) return { applied, dense: new Map() };
  const dense = new Map<string, () => Promise<Float32Array>>();
  const factors = new Map<string, LowRank>();
  for (const [layer, list] of folded) {
    const target = base.target(layer);
    if (target === undefined) continue;
    if (list.every(({ patch }) => patch.dense === undefined)) {
      factors.set(layer, (await foldLayer(list, layer, { target, base })).change);
      continue;
    }
    factors.set(layer, { ...NOTHING, ...vectorsOf(list) });
    dense.set(layer, async () => {
      const { weight } = await foldLayer(list, layer, { target, base });
      return weight ?? (await base.weight(layer));
    });
  }
  const id = `fold ${JSON.stringify(active.map(({ id: own, strength }) => [own, strength]))}`;
  return { applied: [...applied, { id, strength: 1, factors }], dense };
}

function mustFold(list: readonly Entry[]): boolean {
  return list.some(
    ({ patch }, index) =>
      patch.dense !== undefined ||
      patch.multiply !== undefined || // It heeds no strength.
      (index > 0 && isOrderDependent(patch)),
  );
}

async function resolveFirst(layer: string, patch: LayerPatch, base: FoldBase): Promise<LowRank> {
  if (!isOrderDependent(patch)) return patch;
  const target = base.target(layer);
  const known = resolved.get(patch);
  if (known !== undefined || target === undefined) return known ?? patch;
  const change = resolvePatch(patch, await base.weight(layer), target);
  resolved.set(patch, change);
  return change;
}

/** All patches of a layer as one of strength 1, and the new weight where one of them is dense. */
async function foldLayer(
  list: readonly Entry[],
  layer: string,
  { target, base }: Readonly<{ target: AdapterTarget; base: FoldBase }>,
): Promise<{ change: LowRank; weight?: Float32Array }> {
  const { apply = applyLowRank } = base;
  const start = await base.weight(layer);
  let change: LowRank = NOTHING;
  let weight: Float32Array | undefined;
  for (const { patch: whole, strength } of list) {
    const { multiply, ...patch } = whole;
    if (multiply !== undefined) {
      const row = new Float32Array(target.outputs).fill(multiply - 1);
      const next = { ...NOTHING, row };
      if (weight === undefined) change = compose(change, next, { strength: 1, target });
      else weight = await apply(weight, next, { strength: 1, target });
    }
    if (patch.dense !== undefined) {
      weight ??= await apply(start, change, { strength: 1, target });
      weight = applyWhole(
        weight,
        { dense: patch.dense, magnitude: patch.magnitude },
        { strength, target },
      );
      continue;
    }
    const current = isOrderDependent(patch)
      ? (weight ?? (await apply(start, change, { strength: 1, target })))
      : start;
    const next = isOrderDependent(patch) ? resolvePatch(patch, current, target) : patch;
    if (weight === undefined) change = compose(change, next, { strength, target });
    else weight = await apply(weight, next, { strength, target });
  }
  if (weight === undefined) return { change: { ...change, ...vectorsOf(list) } };
  return { change: { ...NOTHING, ...vectorsOf(list) }, weight };
}

function vectorsOf(list: readonly Entry[]): Pick<LowRank, "bias" | "gain"> {
  const bias = sumOf(list, "bias");
  const gain = sumOf(list, "gain");
  return { ...(bias && { bias }), ...(gain && { gain }) };
}

function applyWhole(
  weight: Float32Array,
  { dense, magnitude }: Readonly<{ dense: DensePatch; magnitude: LayerPatch["magnitude"] }>,
  { strength, target }: Readonly<{ strength: number; target: AdapterTarget }>,
): Float32Array {
  if (magnitude === undefined || dense.type === "replacement") {
    return applyDense(weight, dense, strength);
  }
  const delta = denseDelta(weight, dense, strength);
  return applyMagnitude(weight, delta, { magnitude, strength, target });
}

function sumOf(list: readonly Entry[], part: "bias" | "gain"): Float32Array | undefined {
  let sum: Float32Array | undefined;
  for (const { patch, strength } of list) {
    const values = patch[part];
    if (values === undefined) continue;
    const before = sum;
    sum = values.map((value, i) => strength * value + (before?.[i] ?? 0));
  }
  return sum;
}

/** `next` at its strength after `first` at strength 1, as one change of strength 1. */
function compose(
  first: LowRank,
  next: LowRank,
  { strength, target }: Readonly<{ strength: number; target: AdapterTarget }>,
): LowRank {
  const taps = target.kernel[0] * target.kernel[1];
  const row = next.row?.map((value) => 1 + strength * value);
  const column = next.column?.map((value) => 1 + strength * value);
  const up = row === undefined ? first.up : scaleOutputs(first.up, row);
  const down = column === undefined ? first.down : scaleInputs(first.down, column, taps);
  const joinedRow = product(first.row, row);
  const joinedColumn = product(first.column, column);
  return {
    rank: first.rank + next.rank,
    up: join(
      up,
      next.up.map((value) => strength * value),
    ),
    down: join(down, next.down),
    ...(joinedRow && { row: joinedRow }),
    ...(joinedColumn && { column: joinedColumn }),
  };
}

/** (1 + change) * factor - 1. */
function product(
  change: Float32Array | undefined,
  factor: Float32Array | undefined,
): Float32Array | undefined {
  if (factor === undefined) return change;
  return factor.map((value, i) => (1 + (change?.[i] ?? 0)) * value - 1);
}

function join(a: Float32Array, b: Float32Array): Float32Array {
  const joined = new Float32Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}
