/**
 * Control nets of a batch. Rows of all items that use one net share its run; strengths are its inputs,
 * so each row has its own. What a net makes of the hint alone is kept, and computed once a picture.
 */
import assert from "node:assert";
import { LRUCache } from "lru-cache";
import {
  type ComponentName,
  type ControlConfig,
  type ControlNetConfig,
  controlPlaces,
  type T2IAdapterConfig,
  UNION_TYPE_WIDTH,
} from "../checkpoint/index.ts";
import { pixelUnshuffle, timestepEmbedding } from "../graph/index.ts";
import { LunaError } from "../kernel/index.ts";
import { digestTensor, type FloatTensor, type Tensor, toFloat } from "../tensor/index.ts";
import { concatRows, gatherRows, rowsOf, sliceRows, tensorOf } from "./batch.ts";
import type { ControlUse, RunItem } from "./port.ts";
import { ResidualSum } from "./residual-sum.ts";
import {
  type Compute,
  type Feeds,
  fromOrt,
  type InferenceSession,
  type OrtTensor,
  type Runtime,
  runRaw,
  runSession,
  toOrt,
} from "./runtime.ts";

/** An open net of a control file. */
export type ControlSession = Readonly<{
  key: string;
  config: ControlConfig;
  session: InferenceSession;
}>;

export type ControlRunnerOptions = Readonly<{
  runtime: Runtime;
  compute: Compute;
  /** Throws MODEL_UNKNOWN when it is not loaded. */
  open: (path: string, component: ComponentName) => Promise<ControlSession>;
  /** Bytes of kept features. */
  bytesMax: number;
}>;

/** The UNet's inputs for the whole batch, and the batch rows of each item. */
export type ControlledBatch = Readonly<{
  feeds: ReadonlyMap<string, FloatTensor>;
  rows: readonly number[];
  timesteps: Float32Array;
}>;

/** One row of the batch under one control net. */
type Pair = Readonly<{ row: number; hintRow: number; use: ControlUse; item: RunItem }>;
/** What a net made of a hint, by name; axis 0 are the hint's rows. */
type Features = ReadonlyMap<string, FloatTensor>;
type Residuals = Readonly<{ residuals: ReadonlyMap<string, OrtTensor>; ms: number }>;

const NOTHING: Residuals = { residuals: new Map(), ms: 0 };

export class ControlRunner {
  readonly #options: ControlRunnerOptions;
  readonly #features: LRUCache<string, Features>;

  constructor(options: ControlRunnerOptions) {
    this.#options = options;
    this.#features = new LRUCache({ maxSize: options.bytesMax, sizeCalculation: bytesOf });
  }

  /** Drops what was made by a net that is unloaded. */
  forget(netKey: string): void {
    for (const key of [...this.#features.keys()]) {
      if (key.startsWith(`${netKey}\n`)) this.#features.delete(key);
    }
  }

  /** The residuals of a batch by name, with those that its items brought along. */
  async run(items: readonly RunItem[], batch: ControlledBatch): Promise<Residuals> {
    const groups = groupByNet(items, batch.rows);
    if (groups.size === 0) return NOTHING;
    const { runtime, compute } = this.#options;
    const total = batch.rows.reduce((sum, count) => sum + count, 0);
    const given = [...batch.feeds].filter(([name]) => name.startsWith("control."));
    const sum = new ResidualSum(total, given);
    let ms = 0;
    for (const [path, pairs] of groups) {
      const hint = await this.#options.open(path, "control-hint");
      const made = await this.#hintFeatures(hint, pairs);
      ms += made.ms;
      const { config } = hint;
      if (config.kind === "t2i-adapter") {
        addAdapter(sum, config, { pairs, features: made.features });
        continue;
      }
      const feeds = this.#netFeeds(config, batch, { pairs, features: made.features });
      const net = await this.#options.open(path, "control-net");
      const { results, ms: own } = await runRaw(net.session, feeds);
      ms += own;
      const isWhole = pairs.length === total && pairs.every(({ row }, index) => row === index);
      const isPooled = pairs.some(({ use }) => use.isPooled === true);
      // The usual batch: every row under one net. Nothing is to be added, nothing copied.
      if (groups.size === 1 && given.length === 0 && isWhole && !isPooled) {
        return { residuals: results, ms };
      }
      for (const [name, residual] of results)
        addNet(sum, { name, residual: fromOrt(residual) }, pairs);
    }
    const residuals = Array.from(sum.sums, ([name, tensor]) => {
      return [name, toOrt(runtime, tensor, compute)] as const;
    });
    return { residuals: new Map(residuals), ms };
  }

  /** Features of each pair's hint. */
  async #hintFeatures(
    net: ControlSession,
    pairs: readonly Pair[],
  ): Promise<{ features: readonly Features[]; ms: number }> {
    const byUse = new Map<ControlUse, Features>();
    const features: Features[] = [];
    let ms = 0;
    for (const { use, item } of pairs) {
      let own = byUse.get(use);
      if (own === undefined) {
        const made = await this.#featuresOf(net, tensorOf(item, use.slot), {
          digest: item.digests?.get(use.slot),
          type: use.type,
        });
        own = made.features;
        ms += made.ms;
        byUse.set(use, own);
      }
      features.push(own);
    }
    return { features, ms };
  }

  /** Kept, or computed now. */
  async #featuresOf(
    net: ControlSession,
    hint: Tensor,
    { digest = digestTensor(hint), type }: { digest: string | undefined; type: number | undefined },
  ): Promise<{ features: Features; ms: number }> {
    const key = `${net.key}\n${digest}\n${type ?? ""}`;
    const known = this.#features.get(key);
    if (known !== undefined) return { features: known, ms: 0 };
    const feeds = this.#hintFeeds(net.config, toFloat(hint), type);
    const { outputs, ms } = await runSession(net.session, feeds);
    this.#features.set(key, outputs);
    return { features: outputs, ms };
  }

  #hintFeeds(config: ControlConfig, hint: FloatTensor, type: number | undefined): Feeds {
    const { runtime, compute } = this.#options;
    if (config.kind === "t2i-adapter") {
      return { hint: toOrt(runtime, pixelUnshuffle(hint, config.unshuffle), compute) };
    }
    const feeds: Feeds = { hint: toOrt(runtime, hint, compute) };
    if (config.unionTypes > 0) {
      const types = new Array<number | undefined>(rowsOf(hint)).fill(type);
      feeds["control_type"] = toOrt(runtime, oneHot(config, types), compute);
    }
    return feeds;
  }

  #netFeeds(
    config: ControlNetConfig,
    { feeds, timesteps }: ControlledBatch,
    { pairs, features }: Readonly<{ pairs: readonly Pair[]; features: readonly Features[] }>,
  ): Feeds {
    const { runtime, compute } = this.#options;
    const rows = pairs.map(({ row }) => row);
    const { inChannels, modelChannels, contextDim, admChannels } = config.encoder;
    const times = Float32Array.from(rows, (row) => timesteps[row] ?? 0);
    const strengths = Float32Array.from(pairs, ({ use }) => use.strength);
    const own = new Map<string, FloatTensor>([
      ["x", gatherRows(firstChannels(feedOf(feeds, "x"), inChannels), rows)],
      ["features", joinFeatures(pairs, features)],
      ["strength", { shape: [rows.length, 1, 1, 1], data: strengths }],
      ["timestep_embedding", embed(times, modelChannels)],
    ]);
    if (contextDim > 0) own.set("context", gatherRows(feedOf(feeds, "context"), rows));
    if (admChannels > 0) own.set("y", gatherRows(feedOf(feeds, "y"), rows));
    if (config.unionTypes > 0) {
      const { data } = oneHot(
        config,
        pairs.map(({ use }) => use.type),
      );
      const { shape, data: waves } = embed(data, UNION_TYPE_WIDTH);
      const width = (shape[1] ?? 0) * config.unionTypes;
      own.set("control_type_embedding", { shape: [rows.length, width], data: waves });
    }
    return Object.fromEntries(
      Array.from(own, ([name, tensor]) => [name, toOrt(runtime, tensor, compute)]),
    );
  }
}

function groupByNet(items: readonly RunItem[], rows: readonly number[]): Map<string, Pair[]> {
  const groups = new Map<string, Pair[]>();
  let begin = 0;
  for (const [index, item] of items.entries()) {
    const count = rows[index] ?? 0;
    for (const use of item.controls ?? []) {
      const pairs = groups.get(use.path) ?? [];
      groups.set(use.path, pairs);
      for (let row = 0; row < count; row++) {
        const hintRow = use.hintRows[row] ?? -1;
        if (hintRow >= 0) pairs.push({ row: begin + row, hintRow, use, item });
      }
    }
    begin += count;
  }
  for (const [path, pairs] of groups) if (pairs.length === 0) groups.delete(path);
  return groups;
}

function feedOf(feeds: ReadonlyMap<string, FloatTensor>, name: string): FloatTensor {
  const feed = feeds.get(name);
  if (feed !== undefined) return feed;
  throw new LunaError("TENSOR_MALFORMED", `A control net of the request needs "${name}".`);
}

const embed = (values: Float32Array, channels: number): FloatTensor => ({
  shape: [values.length, channels],
  data: timestepEmbedding(values, channels),
});

function oneHot(
  { unionTypes }: ControlNetConfig,
  types: readonly (number | undefined)[],
): FloatTensor {
  const data = new Float32Array(types.length * unionTypes);
  for (const [row, type] of types.entries()) {
    if (type !== undefined) data[row * unionTypes + type] = 1;
  }
  return { shape: [types.length, unionTypes], data };
}

/** What an inpainting net gets beside the latent is nothing for a ControlNet. */
function firstChannels(x: FloatTensor, channels: number): FloatTensor {
  const [rows = 0, own = 0, ...size] = x.shape;
  if (own === channels) return x;
  const planes = Array.from({ length: rows * channels }, (_, index) => {
    return Math.floor(index / channels) * own + (index % channels);
  });
  const flat = gatherRows({ shape: [rows * own, ...size], data: x.data }, planes);
  return { shape: [rows, channels, ...size], data: flat.data };
}

/** Features row by row; one row for all pairs as it is, since the graph repeats it. */
function joinFeatures(pairs: readonly Pair[], features: readonly Features[]): FloatTensor {
  const rows = pairs.map(({ hintRow }, index) => {
    const own = features[index]?.get("features");
    assert(own !== undefined, "A ControlNet's hint gives features.");
    return { own, hintRow };
  });
  const [first] = rows;
  const isOne = rows.every(({ own, hintRow }) => own === first?.own && hintRow === first.hintRow);
  return concatRows(
    (isOne ? rows.slice(0, 1) : rows).map(({ own, hintRow }) => sliceRows(own, hintRow, 1)),
    "features",
  );
}

function addAdapter(
  sum: ResidualSum,
  config: T2IAdapterConfig,
  { pairs, features }: Readonly<{ pairs: readonly Pair[]; features: readonly Features[] }>,
): void {
  for (const [index, { row, hintRow, use }] of pairs.entries()) {
    for (const { name } of controlPlaces(config)) {
      const residual = features[index]?.get(name);
      assert(residual !== undefined, "An adapter gives all of its residuals.");
      sum.add(name, row, {
        residual,
        from: hintRow,
        scale: use.strength,
        isPooled: use.isPooled === true,
      });
    }
  }
}

function addNet(
  sum: ResidualSum,
  { name, residual }: Readonly<{ name: string; residual: FloatTensor }>,
  pairs: readonly Pair[],
): void {
  for (const [index, { row, use }] of pairs.entries()) {
    sum.add(name, row, { residual, from: index, scale: 1, isPooled: use.isPooled === true });
  }
}

function bytesOf(features: Features): number {
  let bytes = 1;
  for (const { data } of features.values()) bytes += data.byteLength;
  return bytes;
}
