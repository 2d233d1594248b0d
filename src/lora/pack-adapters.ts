/**
 * The adapter inputs of a graph for one batch (design in src/graph/adapters.ts): the factors of
 * all adapters in the batch joined row by row, and per batch row the strength of each. Factors
 * depend on the ordered list of adapters alone, so a caller may keep `joinFactors`' result while
 * strengths change each step.
 */
import {
  type AdapterTarget,
  adapterInputs,
  adapterRankMin,
  type OpChoices,
  vectorInputs,
  vectorShape,
} from "../graph/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import type { Adapter, Applied, LowRank } from "./types.ts";

/**
 * The distinct adapters a batch needs, by id: those that act on the net, with a strength other than
 * 0 in some row. Without them a run at strength 0 is bit-equal to one without the adapter.
 */
export function activeAdapters(rows: readonly (readonly Applied[])[]): readonly Adapter[] {
  const active = new Map<string, Adapter>();
  for (const row of rows) {
    for (const [id, strength] of strengthsById(row)) {
      const adapter = strength === 0 ? undefined : row.find((applied) => applied.id === id);
      if (adapter !== undefined && adapter.factors.size > 0) active.set(id, adapter);
    }
  }
  // Sorted, so that the order of a stack changes neither the sums nor the cache key.
  return [...active.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** An adapter twice in one stack acts with the sum of its strengths. */
function strengthsById(row: readonly Applied[]): ReadonlyMap<string, number> {
  const strengths = new Map<string, number>();
  for (const { id, strength } of row) strengths.set(id, (strengths.get(id) ?? 0) + strength);
  return strengths;
}

function factorsOf(target: AdapterTarget, adapters: readonly Adapter[]): LowRank[] {
  return adapters.flatMap(({ factors }) => factors.get(target.name) ?? []);
}

/** Rows joined in order; one adapter's alone are passed on without a copy. */
function joinRows(parts: readonly Float32Array[], length: number): Float32Array {
  const [first] = parts;
  if (first !== undefined && first.length === length) return first;
  const joined = new Float32Array(length);
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += part.length;
  }
  return joined;
}

/**
 * `lora.NAME.down` [rank, inputs] (convolution: [rank, inputs, kh, kw]) and `lora.NAME.up`
 * [rank, outputs] of every target; rank is the sum over the adapters, at least the graph's minimum.
 */
export function joinFactors(
  targets: readonly AdapterTarget[],
  adapters: readonly Adapter[],
  choices: OpChoices,
): ReadonlyMap<string, FloatTensor> {
  const feeds = new Map<string, FloatTensor>();
  for (const target of targets) {
    const factors = factorsOf(target, adapters);
    const { inputs, outputs, kernel, kind } = target;
    const rank = rankOf(target, factors, choices);
    const axes = kind === "conv" ? [inputs, ...kernel] : [inputs];
    const names = adapterInputs(target.name);
    const columns = inputs * kernel[0] * kernel[1];
    const down = joinRows(
      factors.map(({ down }) => down),
      rank * columns,
    );
    const up = joinRows(
      factors.map(({ up }) => up),
      rank * outputs,
    );
    feeds.set(names.down, { shape: [rank, ...axes], data: down });
    feeds.set(names.up, { shape: [rank, outputs], data: up });
  }
  return feeds;
}

function rankOf(target: AdapterTarget, factors: readonly LowRank[], choices: OpChoices): number {
  const rank = factors.reduce((sum, factor) => sum + factor.rank, 0);
  return Math.max(rank, adapterRankMin(target, choices));
}

/**
 * `lora.NAME.scale` [batch, 1, rank] (convolution: [batch, rank, 1, 1]) of every target: each batch
 * row's strength on the rows of each adapter, 0 where it does not use it. Adapters as given to
 * `joinFactors`. Targets with the same ranks share one array.
 */
export function scaleRows(
  targets: readonly AdapterTarget[],
  adapters: readonly Adapter[],
  options: Readonly<{ rows: readonly (readonly Applied[])[]; choices: OpChoices }>,
): ReadonlyMap<string, FloatTensor> {
  const batch = options.rows.length;
  const strengths = options.rows.map((row) => {
    const byId = strengthsById(row);
    return adapters.map(({ id }) => byId.get(id) ?? 0);
  });
  const shared = new Map<string, Float32Array>();
  const feeds = new Map<string, FloatTensor>();
  for (const target of targets) {
    const ranks = adapters.map(({ factors }) => factors.get(target.name)?.rank ?? 0);
    const rank = rankOf(target, factorsOf(target, adapters), options.choices);
    const key = `${rank}:${ranks.join()}`;
    const data = shared.get(key) ?? scaleData(strengths, ranks, rank);
    shared.set(key, data);
    const shape = target.kind === "conv" ? [batch, rank, 1, 1] : [batch, 1, rank];
    feeds.set(adapterInputs(target.name).scale, { shape, data });
  }
  return feeds;
}

function scaleData(
  strengths: readonly (readonly number[])[],
  ranks: readonly number[],
  rank: number,
): Float32Array {
  const data = new Float32Array(strengths.length * rank);
  for (const [row, values] of strengths.entries()) {
    let at = row * rank;
    for (const [index, value] of values.entries()) {
      const end = at + (ranks[index] ?? 0);
      data.fill(value, at, end);
      at = end;
    }
  }
  return data;
}

const ranks = new WeakMap<Adapter["factors"], number>();

function largestRank(factors: Adapter["factors"]): number {
  const known = ranks.get(factors);
  if (known !== undefined) return known;
  const rank = [...factors.values()].reduce((most, each) => Math.max(most, each.rank), 0);
  ranks.set(factors, rank);
  return rank;
}

/**
 * True where each row should have factors of its own: joined, every row would be multiplied by the
 * adapters of all others too. For two sets of adapters that costs about what the copies cost.
 */
export function isMixed(rows: readonly (readonly Applied[])[], choices: OpChoices): boolean {
  if (choices.rankMin > 0) return false; // Not tried on the provider that needs that.
  const total = (adapters: readonly Adapter[]) =>
    adapters.reduce((sum, { factors }) => sum + largestRank(factors), 0);
  const most = Math.max(...rows.map((row) => total(activeAdapters([row]))));
  return total(activeAdapters(rows)) > 2 * most;
}

/**
 * The factors of linear targets row by row: `down` [batch, rank, inputs] and `up` [batch, rank,
 * outputs], rank that of the row with the most, zeros elsewhere. They depend on which adapters each row
 * has, not on strengths. A convolution cannot have weights for each row: see `joinFactors`.
 */
export function rowFactors(
  targets: readonly AdapterTarget[],
  rows: readonly (readonly Applied[])[],
): ReadonlyMap<string, FloatTensor> {
  const adapters = rows.map((row) => activeAdapters([row]));
  const feeds = new Map<string, FloatTensor>();
  for (const target of targets) {
    if (target.kind !== "linear") continue;
    const own = adapters.map((list) => factorsOf(target, list));
    const rank = mostRank(own);
    const names = adapterInputs(target.name);
    for (const [side, channels] of [
      ["down", target.inputs],
      ["up", target.outputs],
    ] as const) {
      const data = new Float32Array(rows.length * rank * channels);
      for (const [row, list] of own.entries()) {
        let at = row * rank * channels;
        for (const factors of list) {
          data.set(factors[side], at);
          at += factors[side].length;
        }
      }
      feeds.set(names[side], { shape: [rows.length, rank, channels], data });
    }
  }
  return feeds;
}

/** `scale` [batch, 1, rank] beside `rowFactors`. */
export function rowScales(
  targets: readonly AdapterTarget[],
  rows: readonly (readonly Applied[])[],
): ReadonlyMap<string, FloatTensor> {
  const adapters = rows.map((row) => activeAdapters([row]));
  const strengths = rows.map(strengthsById);
  const feeds = new Map<string, FloatTensor>();
  for (const target of targets) {
    if (target.kind !== "linear") continue;
    const rank = mostRank(adapters.map((list) => factorsOf(target, list)));
    const data = new Float32Array(rows.length * rank);
    for (const [row, list] of adapters.entries()) {
      let at = row * rank;
      for (const { id, factors } of list) {
        const end = at + (factors.get(target.name)?.rank ?? 0);
        data.fill(strengths[row]?.get(id) ?? 0, at, end);
        at = end;
      }
    }
    feeds.set(adapterInputs(target.name).scale, { shape: [rows.length, 1, rank], data });
  }
  return feeds;
}

const mostRank = (rows: readonly (readonly LowRank[])[]): number =>
  Math.max(0, ...rows.map((list) => list.reduce((sum, { rank }) => sum + rank, 0)));

/** All adapter inputs of a batch, one entry of `rows` for each batch row. */
export function packAdapters(
  targets: readonly AdapterTarget[],
  rows: readonly (readonly Applied[])[],
  choices: OpChoices,
): ReadonlyMap<string, FloatTensor> {
  const adapters = activeAdapters(rows);
  const isOwn = isMixed(rows, choices);
  return new Map([
    ...joinFactors(targets, adapters, choices),
    ...scaleRows(targets, adapters, { rows, choices }),
    ...(isOwn ? [...rowFactors(targets, rows), ...rowScales(targets, rows)] : []),
  ]);
}

const PARTS = ["row", "column", "bias", "gain"] as const;

/** True where adapters of the batch need a full graph: they do more than add low-rank factors. */
export function needsFullGraph(applied: readonly Applied[]): boolean {
  return applied.some(
    ({ strength, factors }) => strength !== 0 && [...factors.values()].some(hasVectors),
  );
}

const hasVectors = (factors: LowRank): boolean => PARTS.some((part) => factors[part] !== undefined);

/**
 * The vectors of a full graph (graph/adapters.ts) for every layer and norm: row and column are
 * 1 + the sum of strength * change, bias and gain the sum alone. Layers nobody changes share arrays.
 */
export function vectorRows(
  targets: readonly AdapterTarget[],
  rows: readonly (readonly Applied[])[],
): ReadonlyMap<string, FloatTensor> {
  const neutral = new Map<string, Float32Array>();
  const feeds = new Map<string, FloatTensor>();
  for (const target of targets) {
    const names = vectorInputs(target.name);
    const isNorm = target.kind === "layer-norm" || target.kind === "group-norm";
    for (const part of isNorm
      ? (["gain", "bias"] as const)
      : (["row", "column", "bias"] as const)) {
      const channels = part === "column" ? target.inputs : target.outputs;
      const start = part === "row" || part === "column" ? 1 : 0;
      const key = `${start}:${channels}`;
      const size = rows.length * channels;
      const shared = neutral.get(key) ?? new Float32Array(size).fill(start);
      neutral.set(key, shared);
      const data = sumVectors({ rows, part, layer: target.name, channels, shared });
      feeds.set(names[part], { shape: vectorShape(target, rows.length, channels), data });
    }
  }
  return feeds;
}

/** The neutral vectors with each row's changes; `shared` itself where there are none. */
function sumVectors(
  options: Readonly<{
    rows: readonly (readonly Applied[])[];
    part: (typeof PARTS)[number];
    layer: string;
    channels: number;
    shared: Float32Array;
  }>,
): Float32Array {
  const { rows, part, layer, channels, shared } = options;
  let own: Float32Array | undefined;
  for (const [index, row] of rows.entries()) {
    for (const { strength, factors } of row) {
      const change = factors.get(layer)?.[part];
      if (change === undefined || strength === 0) continue;
      own ??= shared.slice();
      const begin = index * channels;
      for (let i = 0; i < channels; i++) {
        own[begin + i] = (own[begin + i] as number) + strength * (change[i] as number);
      }
    }
  }
  return own ?? shared;
}
